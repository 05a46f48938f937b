# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Through the layers
#
# A nudge can be given to a token when it enters the model, or half-way up, or just before the
# answer. **Where in the model does the fact that the Eiffel Tower is in Paris change its place, and
# what can a picture of all layers tell you about it?** On the way you meet three things that make
# such pictures hard to read: units that grow, a first token that soaks up attention, and a last
# token that ends up with everything. And a fourth that makes one scope meaningless.
#
# It needs tutorial 1, or the idea in a sentence: the score of a token is how far the answer moves,
# per unit of a small nudge to what the model holds at that token. About a minute, on two small models.

# %%
import matplotlib.pyplot as plt
import torch

import tl_scopes as ts
from tl_scopes import models
from tl_scopes.errors import ProcessedWeightsError

model = models.load(progress=False)  # Gemma-3 270M
n_layers = model.cfg.n_layers

prompt = "The Eiffel Tower is located in the city of"
tokens = model.to_str_tokens(prompt)
eiffel, last = tokens.index(" Eiffel"), len(tokens) - 1
print(tokens)
assert n_layers == 18 and last == 9

# %% [markdown]
# ## 1. Every layer at once
#
# Between the blocks each token carries a list of 640 numbers, its *residual stream*. `resid(0)` enters
# the first block, `resid(18)` leaves the last. `sites="all"` scores a nudge at each of these places,
# and at the embedding, for the price of one backward pass.
#
# **Predict.** Sketch the picture: tokens from left to right, layers from top to bottom. Where is the
# influence at the top, and where at the bottom? Somewhere between, *Eiffel* has to hand over.

# %%
layers = ts.attribute(model, prompt, ts.SemanticScope(" Paris"), sites="all")
layers.plot()

# %% [markdown]
# Up to `resid(12)` there are two dark columns, *Eiffel* and the last token, *of*. Then *Eiffel*
# fades within one block, and the last token takes the rest.

# %%
without_bos = layers.scores[:, 1:]
share = without_bos / without_bos.sum(1, keepdim=True)  # of each site, BOS aside
row = {site: i for i, site in enumerate(layers.sites)}
for site in ("resid(0)", "resid(6)", "resid(12)", "resid(13)", "resid(18)"):
    at = share[row[site]]
    print(f"{site:>9}: Eiffel {at[eiffel - 1]:.0%}, last {at[last - 1]:.0%}")

fall = share[row["resid(12)"], eiffel - 1] - share[row["resid(13)"], eiffel - 1]
falls = share[1:-1, eiffel - 1] - share[2:, eiffel - 1]
assert layers.prediction[0].text == " Paris" and layers.prediction[0].probability > 0.6
assert fall == falls.max() and fall > 0.15  # the steepest step is block 12
assert share[row["resid(12)"], eiffel - 1] > 0.25 and share[row["resid(13)"], eiffel - 1] < 0.2

# %% [markdown]
# ## 2. Is it true?
#
# Score and truth are two things, so move the fact by hand. Take the stream of the same sentence about
# the *Tokyo Tower*, and put it in the place of ours, at one token and one layer only. This is called
# *patching*. How far does the answer go, from Paris (0) to Tokyo (1)?
#
# **Predict.** Patch *Eiffel* at `resid(4)`, and at `resid(14)`. Then the last token at both.

# %%
other = prompt.replace("Eiffel", "Tokyo")
paris, tokyo = (model.to_single_token(word) for word in (" Paris", " Tokyo"))
hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
hooks.append(f"blocks.{n_layers - 1}.hook_resid_post")

with torch.no_grad():
    ours, theirs = model(prompt)[0, -1], model(other)[0, -1]
    _, streams = model.run_with_cache(other, names_filter=lambda name: name in hooks)


def gap(logits):
    return float(logits[paris] - logits[tokyo])


def patched(hook_name, position):
    """How far the answer goes to Tokyo when one token carries Tokyo's stream at one place."""

    def swap(stream, hook):
        stream = stream.clone()
        stream[0, position] = streams[hook_name][0, position]
        return stream

    with torch.no_grad(), model.hooks(fwd_hooks=[(hook_name, swap)]):
        logits = model(prompt)[0, -1]
    return (gap(ours) - gap(logits)) / (gap(ours) - gap(theirs))


moved = {at: [patched(name, at) for name in hooks] for at in (eiffel, last)}

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained", sharex=True)
for at, colour, mark in ((eiffel, "#0072b2", "o-"), (last, "#d55e00", "s--")):
    label = tokens[at].strip()
    axes[0].plot(moved[at], mark, color=colour, label=label, markersize=4)
    axes[1].plot(share[1:, at - 1], mark, color=colour, label=label, markersize=4)
axes[0].set(title="patching: how far the answer goes to Tokyo", ylabel="0: Paris, 1: Tokyo")
axes[1].set(title="scope: share of the influence at this layer", ylabel="share, BOS aside")
for ax in axes:
    ax.set_xlabel("resid(layer)")
    ax.set_xticks(range(0, n_layers + 1, 3))
    ax.axvspan(12, 13, color="#e9ebee")
    ax.legend(frameon=False)
plt.close(figure)
figure

# %%
assert tokens.index(" Tower") == model.to_str_tokens(other).index(" Tower")
assert min(moved[eiffel][:13]) > 0.8 and max(map(abs, moved[eiffel][13:])) < 0.2
assert max(map(abs, moved[last][:13])) < 0.15 and min(moved[last][13:]) > 0.7

# %% [markdown]
# The place agrees: **block 12 carries the fact from *Eiffel* to the last token.** Patching *Eiffel*
# decides everything before that block and nothing after it; the last token the other way round.
#
# The amounts do not agree, and that is the lesson of the right-hand picture. Below block 12 the last
# token has a quarter to a half of the influence, and patching it does nothing at all. **A share of
# influence is not a share of the information.** The scope says how far the answer *would* move if
# you nudged this token in the worst direction. The last token can always be nudged, since the answer
# is read from it. Patching says what this one other sentence would do, and below block 12 it leaves
# the last token nearly as it was.

# %%
early = slice(1, 14)  # resid(0) to resid(12)
assert share[early, last - 1].min() > 0.15 and share[early, last - 1].max() < 0.55

# %% [markdown]
# ## 3. Units that grow
#
# **Predict.** The largest score at `resid(0)` is 3.2 logits per unit. At `resid(17)`: more, or less?

# %%
_, own = model.run_with_cache(prompt, names_filter=lambda name: name in hooks)
length = torch.stack([own[name][0].norm(dim=-1) for name in hooks])  # [layer, token]
largest = without_bos.max(1).values[1:]
for layer in (0, 4, 12, 17):
    print(
        f"resid({layer:>2}): largest score {largest[layer]:.3f},"
        f" length of the last token {length[layer, last]:>6.0f}"
    )

assert largest[0] > 30 * largest[17] and length[17, last] > 500 * length[0, last]

# %% [markdown]
# Fifty times less, because the stream is a thousand times longer up there, and a nudge of one unit is
# nothing to it. So **scores are compared within a layer, not between layers**, and a picture gives
# each layer its own scale. Here is the same picture with one scale for all:

# %%
layers.plot(normalise="all")

# %%
assert largest[:4].min() > 5 * largest[6:].max()  # the rows above drown the rest
assert largest[4] < largest[:4].min() / 2

# %% [markdown]
# Four rows and nothing else. It is not wrong. It answers another question: *where is one unit worth
# most?*
#
# ## 4. A token that soaks up attention
#
# `<bos>` stands before every text, says nothing, and is grey in the pictures, without a colour.
#
# **Predict.** Over all layers, how much of its attention does the last token spend on `<bos>`? And
# how does the score of `<bos>` compare with the largest of the others, at the embedding, and one
# block later?

# %%
patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layers)]
_, cache = model.run_with_cache(prompt, names_filter=lambda name: name in patterns)
on_bos = torch.stack([cache[name][0, :, last, 0].mean() for name in patterns])
relative = layers.scores[:, 0] / without_bos.max(1).values

figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
axes[0].bar(range(n_layers), on_bos, color="#0072b2")
axes[0].set(title="attention of the last token on <bos>", xlabel="block", ylim=(0, 1))
axes[1].semilogy(length[:, 0], "o-", color="#d55e00", markersize=4, label="<bos>")
axes[1].semilogy(length[:, last], "s--", color="#0072b2", markersize=4, label="last token")
axes[1].set(title="length of the stream", xlabel="resid(layer)")
axes[1].legend(frameon=False)
axes[2].bar(range(n_layers + 1), relative[1:], color="#d55e00")
axes[2].set(title="score of <bos> over the largest other", xlabel="resid(layer)", ylim=(0, 1))
plt.close(figure)
figure

# %%
print(f"attention on <bos>: {on_bos.mean():.0%} over all blocks, up to {on_bos.max():.0%}")
assert 0.4 < on_bos.mean() < 0.6 and on_bos.max() > 0.85
assert length[1, 0] > 20 * length[1, last]
assert relative[0] > 0.7 and relative[2:].max() < 0.4

# %% [markdown]
# Half of the attention goes to a token without a meaning. Such a token is called an *attention sink*:
# a head that has nothing to do must look somewhere, and it looks there. The first block makes its
# stream more than twenty times as long as the others, so that it is recognised.
#
# At the embedding its score is large, as every head depends on it. One block later it is small: a
# unit is nothing to a stream that long. Neither number says that `<bos>` has anything to do with
# Paris. That is why it is left out of the colours (`include_bos=True` puts it back).
#
# ## 5. What the share of the last token means
#
# At `resid(18)` the last token has all of the influence. **Predict**: is that a fact about this
# sentence? What would it be for a sentence about something else, and for another scope?

# %%
prompts = [prompt, "Two plus two is", "Tom plays the piano and Anna plays the"]
scopes = [ts.SemanticScope(), ts.TemperatureScope(), ts.FisherScope(rank=1)]
figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
curves = []
for text, mark in zip(prompts, ("o", "s", "^")):
    for scope, colour in zip(scopes, ("#0072b2", "#d55e00", "#009e73")):
        found = ts.attribute(model, text, scope, sites="all").scores[1:, 1:]
        curves.append(found[:, -1] / found.sum(1))
        label = type(scope).__name__ if text == prompt else None
        ax.plot(curves[-1], color=colour, marker=mark, markersize=3, linewidth=1, label=label)
ax.set(xlabel="resid(layer)", ylabel="share of the last token, BOS aside", ylim=(0, 1.05))
ax.set_xticks(range(0, n_layers + 1, 3))
ax.legend(frameon=False)
plt.close(figure)
figure

# %%
curves = torch.stack(curves)
print("at resid(0): ", curves[:, 0].numpy().round(2))
print("at resid(16):", curves[:, 16].numpy().round(2))
assert (curves[:, 18] == 1).all()
assert (curves[:, 16] > 0.6).all() and (curves[:, 0] < 0.5).all()

# %% [markdown]
# All nine curves end at one, and have to: after the last block nothing moves between tokens, so only
# the last one can matter. It is the shape of the machine, not a finding. What differs is where a
# curve climbs, and that is worth looking at. To see the other tokens of the upper layers, take the
# last one out of the colours:

# %%
layers.plot(include_read=False)

# %%
second = [tokens[i] for i in (without_bos[:-1, :-1].argmax(1) + 1).tolist()]
print(dict(zip(layers.sites, second)))
assert second[:14].count(" Eiffel") >= 13  # embed to resid(12); " city" is close at resid(4)

# %% [markdown]
# ## 6. Where Temperature breaks
#
# Many tutorials load models with *processed* weights: the gain of the final norm is multiplied into
# the unembedding, which then is centred. The predictions stay the same. The Temperature scope asks
# about the length of `y`, the list from which the answer is read.
#
# **Predict.** A norm gives every list the same length, and then its gain stretches some numbers more
# than others. Take the gain away: what is left for the length of `y` to tell?

# %%
small = models.load("smollm2-135m-instruct", progress=False)


def final_state(text, scope_by_hand=False):
    """y and the log-probabilities; with the scope by hand, also the gradient norms of ‖y‖."""
    caught = {}

    def start(embedding, hook):
        caught["r"] = embedding.detach().requires_grad_()
        return caught["r"]

    catch = small.unembed.register_forward_pre_hook(lambda _, x: caught.update(y=x[0][0, -1]))
    with catch, small.hooks(fwd_hooks=[("hook_embed", start)]):
        logits = small(text)[0, -1].detach()
    (gradient,) = torch.autograd.grad(caught["y"].norm(), caught["r"])
    return caught["y"].detach(), logits.log_softmax(-1), gradient[0].norm(dim=-1)


raw = [final_state(text) for text in prompts]
by_package = ts.attribute(small, prompt, ts.TemperatureScope()).scores[0]
torch.testing.assert_close(raw[0][2], by_package, rtol=1e-3, atol=1e-5)
city = ts.LogitDifferenceScope(" Paris", " London")
difference_raw = ts.attribute(small, prompt, city)

if hasattr(small, "enable_compatibility_mode"):  # a TransformerBridge
    small.enable_compatibility_mode(disable_warnings=True)
else:  # a HookedTransformer
    small.process_weights_()
processed = [final_state(text) for text in prompts]

for (y, *_), (z, *_) in zip(raw, processed):
    print(f"length of y: raw {y.norm():.3f}, processed {z.norm():.3f}")
print(
    f"largest Temperature score: raw {raw[0][2].max():.3f}, processed {processed[0][2].max():.1e}"
)

for before, after in zip(raw, processed):
    torch.testing.assert_close(before[1], after[1], rtol=1e-3, atol=1e-3)  # same predictions
assert all(abs(y.norm() - small.cfg.d_model**0.5) < 0.01 for y, *_ in processed)
assert max(y.norm() for y, *_ in raw) - min(y.norm() for y, *_ in raw) > 5
assert processed[0][2].max() < 1e-4 * raw[0][2].max()

# %% [markdown]
# The length is 24, the root of 576, for every prompt. Its gradient is rounding noise, and noise makes
# a picture too. So the package refuses:

# %%
try:
    ts.attribute(small, prompt, ts.TemperatureScope())
    refused = None
except ProcessedWeightsError as error:
    refused = str(error)
print(refused)
assert refused is not None and "Load raw weights" in refused

# %% [markdown]
# `models.load` always loads raw weights. The logits are still logits of the same predictions, and so
# a logit difference is still right on this model:

# %%
difference = ts.attribute(small, prompt, city)
torch.testing.assert_close(difference.scores, difference_raw.scores, rtol=1e-3, atol=1e-3)
difference

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: does the other question move at the same place?
#
# Draw all layers of *Eiffel* with the Fisher scope (rank 1) and with Temperature. At which block does
# each lose *Eiffel*?

# %% [markdown]
# <details><summary>Solution</summary>
#
# At the same one. Block 12 carries the fact, whatever you ask about the answer. Fisher is the
# steepest, as its scores are squares.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
for scope in (ts.FisherScope(rank=1), ts.TemperatureScope()):
    found = ts.attribute(model, prompt, scope, sites="all").scores[1:, 1:]
    part = found[:, eiffel - 1] / found.sum(1)
    steps = part[:-1] - part[1:]
    print(
        type(scope).__name__, part[12:14].numpy().round(2), "steepest: block", int(steps.argmax())
    )
    assert steps.argmax() == 12

# %% [markdown]
# ### Exercise 2: which heads
#
# A site can be any hook. `sites="blocks.12.attn.hook_z"` gives a row to each head of block 12, and
# scores what each head writes. Only one position of it can matter for what block 12 hands on to the
# last token. Which? Check it at block 17, where there is no later block.

# %% [markdown]
# <details><summary>Solution</summary>
#
# The last one. A head writes to the position that looks, not to the one that is looked at. At block
# 17 nothing comes after, so the scores of all other positions are exactly zero. (Which head carries
# what is the subject of tutorial 5.)
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
heads = ts.attribute(model, prompt, ts.SemanticScope(" Paris"), sites="blocks.17.attn.hook_z")
print(heads.sites)

assert len(heads.sites) == model.cfg.n_heads
assert (heads.scores[:, :-1] == 0).all() and (heads.scores[:, -1] > 0).all()

# %% [markdown]
# ### Exercise 3: a relative nudge
#
# To compare layers you need a nudge that means the same everywhere. Try one per cent of the length of
# the token's own stream: multiply each score by `length / 100`. Where is *Eiffel* strongest now, in
# logits?

# %% [markdown]
# <details><summary>Solution</summary>
#
# From `resid(2)` to `resid(12)`, nearly all the way to where it is handed over: there a nudge of
# one per cent is worth 8 to 21 logits at first order, and less than one at `resid(0)`. (It would not
# really move the logit that far: first order is for small nudges.) After block 12 it is worth two or
# three. Which nudge is fair is a choice, and no picture makes it for you.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
worth = layers.scores[1:, eiffel] * length[:, eiffel] / 100
for layer in range(n_layers + 1):
    print(f"resid({layer:>2}): {worth[layer]:.2f}")

assert worth[0] < 1 and worth[2:13].min() > 5 and worth[13:].max() < 4

# %% [markdown]
# ## Next
#
# - `04_time_series`: the same scopes on numbers.
# - `05_tokens_to_circuits`: which head of block 12 did it.
