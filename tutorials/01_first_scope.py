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
# # Your first scope
#
# A language model reads a sentence and bets on the next token. **Which of the tokens it read moved
# the bet?** Here you answer that three times: by hand in a dozen lines of PyTorch, then with
# `tl_scopes`, then with two other questions in place of the first.
#
# You need to have seen a neural network and a line of PyTorch. You do not need to know what a
# Jacobian is. Every number and every ranking in the text is checked by an `assert` below it: if one
# were wrong, the notebook would stop. It takes about a minute on a laptop, without a GPU and without
# an internet connection. Where it says **Predict**, write your answer down before you go on. At the
# end stand three exercises, with solutions to unfold (in JupyterLab, the code of a solution is in
# the collapsed cell below its text).

# %%
import torch

import tl_scopes as ts
from tl_scopes import models

# Gemma-3 270M; the very first load takes about a minute more, in silence
model = models.load(progress=False)

prompt = "Tom loves Korean food. He grew up in the South and goes to Columbia. Tom is a"
tokens = model.to_str_tokens(prompt)
target = model.to_single_token(" liberal")
print(tokens)

# %% [markdown]
# A text is cut into **tokens**: words, or pieces of them. Most begin with their space: `" liberal"`
# is one token, and pictures show its space as a dot. The first is always `<bos>`, *beginning of
# sequence*. The place of a token is its *position*, counted from 0.

# %% [markdown]
# ## 1. The question
#
# The prompt comes from the [Jacobian Scopes paper](https://arxiv.org/abs/2601.16407). It says
# nothing about politics, and yet a reader hears some in it. Suppose the next token were *liberal*.
#
# **Predict.** Write down the three words of the prompt that you expect to move the score of
# *liberal* most. Where do *Columbia*, *South* and *Korean* stand in your list?

# %% [markdown]
# ## 2. Influence is the answer to a nudge
#
# First a machine so small that you can see all of it: two numbers go in, two come out.


# %%
def machine(r):
    return torch.stack([r[0] * r[1], r[0] + 3 * r[1]])


at = torch.tensor([2.0, 5.0])
hair = 0.001
columns = []
for i in range(2):
    nudge = torch.zeros(2)
    nudge[i] = hair
    columns.append((machine(at + nudge) - machine(at)) / hair)
table = torch.stack(columns, dim=1)
print(table.numpy().round(2))

assert torch.allclose(table, torch.tensor([[5.0, 2.0], [1.0, 3.0]]), atol=0.01)

# %% [markdown]
# Think of the two inputs as knobs. Turn the first by a hair, and the first output moves 5 times as
# far, the second exactly as far as you turned: that is the first column. The second column is what
# the second input does. The table of such rates is called the **Jacobian** `J`, and it says all there
# is to say about small nudges: nudge the input by a small `d`, and the output moves by `J d`.
#
# Now suppose that you care about one number only, the first output minus the second: `v = (1, -1)`.
# Then you do not need the table, only `v` times it: one rate for each input.

# %%
v = torch.tensor([1.0, -1.0])
rates = v @ table
print("rates:", rates.numpy().round(2), " length:", round(float(rates.norm()), 2))

start = at.clone().requires_grad_()
(by_backprop,) = torch.autograd.grad(v @ machine(start), start)
assert torch.allclose(rates, by_backprop, atol=0.01)
assert abs(rates.norm() - 17**0.5) < 0.01

# %% [markdown]
# The list of rates is the **vector-Jacobian product**, `vᵀJ`. The last lines got it another way:
# backpropagation computes it in one sweep and never builds the table. The length of the list as an
# arrow, `√(4² + 1²) = 4.12`, is written `‖ ‖` and computed by `norm`. It is how much your number
# changes, per unit of nudge, when the input is nudged in the direction that changes it most: that
# of the list itself.

# %%
along = hair * rates / rates.norm()
steepest = v @ (machine(at + along) - machine(at)) / hair
print("per unit of nudge, along the list:", round(float(steepest), 2))
assert abs(steepest - rates.norm()) < 0.01

# %% [markdown]
#
# Now the language model. Take one token, say *Columbia*. The model holds it as a list of 640 numbers,
# its embedding `r`. At the other end of the network, the last position holds another list of 640
# numbers, `y`, and the next token is read off from there: the score of *liberal*, its *logit*, is `y`
# multiplied number by number with a fixed list `v` that belongs to *liberal*, and summed. In between
# lie 18 blocks. In each of them a position may fetch from itself and from the positions before it,
# never from later ones (that is *attention*; each block has several *heads* that do so), and then
# goes on computing by itself.
#
# It is the same machine, with 640 numbers in and 640 out. The table of one token has 640 by 640
# entries, there is one table for each token, and nobody wants to read 20 of them. But we asked about
# one number only, the logit. So multiply the table by `v`, as above: *fold* it. What is left is a
# list of 640 numbers, how the logit answers to each number of `r`, and its length is our score: how
# much the logit changes, per unit of nudge, when token `t` is nudged in the direction that changes it
# most.
#
# > **influence of token t  =  ‖ vᵀ Jₜ ‖,  where  Jₜ = ∂y / ∂rₜ**
#
# (`∂y / ∂rₜ` is the table of rates of `y` when only `rₜ` is nudged; `ᵀ` lays `v` down as a row.)
#
# Change `v`, and you ask another question. Choosing `v` is what a *scope* does.

# %% [markdown]
# ## 3. By hand
#
# A *hook* is a function of yours that the model calls on its way; it may look at what passes, or
# replace it. `model` is a [TransformerLens](https://github.com/TransformerLensOrg/TransformerLens)
# model: it has names for the places inside it, such as `hook_embed` for the embedding. Two hooks: one
# makes the embedding the place where gradients are taken, the other catches `y` on its way into the
# unembedding `W_U`, the table whose columns are the lists `v`, one for each token. Then
# `torch.autograd.grad(number, where)` gives the rate of the number for each entry there: what
# `.backward()` would leave in `.grad`.

# %%
caught = {}


def start_here(embedding, hook):
    caught["r"] = embedding.detach().requires_grad_()
    return caught["r"]


def end_here(unembed, inputs):
    caught["y"] = inputs[0][0, -1]  # of the one prompt, the last position


catch = model.unembed.register_forward_pre_hook(end_here)
with catch, model.hooks(fwd_hooks=[("hook_embed", start_here)]):
    logits = model(prompt)[0, -1].detach()

v = model.W_U[:, target].detach()
(vjp,) = torch.autograd.grad(caught["y"] @ v, caught["r"])
by_hand = vjp[0].norm(dim=-1)
print({text: round(score, 2) for text, score in zip(tokens[1:], by_hand[1:].tolist())})

r, y = caught["r"].detach(), caught["y"].detach()
assert r.shape == (1, len(tokens), 640) and y.shape == v.shape == (640,)
assert len(model.blocks) == 18
torch.testing.assert_close(y @ v, logits[target])  # v does read the logit off y

# %% [markdown]
# `vjp` holds a list of 640 rates for each token, `by_hand` the length of each list: our scores. (Of the
# two full stops only the second is printed.)
#
# **Predict.** `by_hand` makes a promise for *Columbia*. If you nudge its embedding by 0.1 in the
# direction of its list of rates, does the logit keep it? (As an arrow, the embedding of every token of
# this prompt is 26 long.) And how do directions picked at random compare with that one?


# %%
def logit_at(embedding):
    """The logit of the target when the model is fed this embedding instead of its own."""
    with model.hooks(fwd_hooks=[("hook_embed", lambda _, hook: embedding)]), torch.no_grad():
        return float(model(prompt)[0, -1, target])


def answer(t, direction, size=0.1):
    """Change of the logit, per unit. The nudge goes both ways, which is more exact than one."""
    nudge = torch.zeros_like(r)
    nudge[0, t] = size * direction / direction.norm()
    return (logit_at(r + nudge) - logit_at(r - nudge)) / (2 * size)


columbia = tokens.index(" Columbia")
best = answer(columbia, vjp[0, columbia])
torch.manual_seed(0)
others = [abs(answer(columbia, torch.randn(640))) for _ in range(3)]
print(f"promised {by_hand[columbia]:.4f}, measured {best:.4f}")
print("in three random directions:", ", ".join(f"{other:.4f}" for other in others))

assert ((r.norm(dim=-1) - 26.1).abs() < 0.1).all()
assert abs(best / by_hand[columbia] - 1) < 0.01  # the promise holds to 1%
assert max(others) < best / 10  # none of the three does a tenth as well

# %% [markdown]
# It does, to less than a percent. Directions at random do next to nothing: among 640 dimensions nearly
# all of them stand at right angles to the list.
#
# ## 4. With the package
#
# `SemanticScope` is the scope you have just built. It is called so because it asks about a meaning
# you choose, given as a target token.

# %%
semantic = ts.attribute(model, prompt, ts.SemanticScope(" liberal"))

torch.testing.assert_close(semantic.scores[0], by_hand, rtol=1e-4, atol=1e-5)
semantic

# %% [markdown]
# Colour is influence, in logits per unit of nudge. Point at a token to see its number. *At embed*:
# the embedding was nudged. *Read at 19*: the prediction after token 19. *Residual* in the units is
# what was nudged (section 6 says why). Beside the text or below it stand the model's own bets;
# *liberal* is not among the ten best.
#
# The numbers are in `semantic.scores`: a row for each place that was nudged (here one, `embed`), a
# column for each token. `semantic.top(5)` lists the largest.
#
# Was your list right? The last token, *a*, leads: the answer is read there. Among the words before
# *Tom is a*, this small model puts *Korean* first and *Columbia* second. *South* stands below the
# full stop after *Columbia*.

# %%
words = dict(zip(tokens[1:-3], semantic.scores[0, 1:-3].tolist()))  # "." keeps its second score

assert sorted(words, key=words.get, reverse=True)[:2] == [" Korean", " Columbia"]
assert words[" South"] < words["."]
assert [text for _, text, _ in semantic.top(2)] == [tokens[0], " a"]

# %% [markdown]
# **What about the first token?** `<bos>` stands before every text. Here it has the highest score of
# all, and it is left out of the colours. Look where the last position pays its attention: half of
# it is parked on `<bos>`, in this prompt and in one that has nothing to do with it. What is looked
# at so much has influence, but that may be more habit than sentence, and its score would pale the
# words. (`include_bos=True` puts it back.)


# %%
def attention_on_bos(text):
    """Share of the last position's attention that goes to the first, over all layers and heads."""
    _, cache = model.run_with_cache(text, names_filter=lambda name: name.endswith("hook_pattern"))
    layers = range(model.cfg.n_layers)
    patterns = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in layers])
    return float(patterns[:, :, -1, 0].mean())


shares = [attention_on_bos(text) for text in (prompt, "The Eiffel Tower is in the city of")]
print(f"attention on <bos>: {shares[0]:.0%} here, {shares[1]:.0%} in another prompt")
print(f"an even share would be {1 / len(tokens):.0%} here")
assert all(0.4 < share < 0.6 for share in shares)

# %% [markdown]
# ## 5. Two more questions
#
# *liberal* was our idea, not the model's. Two scopes need no target.
#
# - **Temperature** asks: *what makes the model more sure, or less?* Logits are `y` times a fixed
#   matrix, so a longer `y` stretches all of them and sharpens the bet. You may know *temperature* as
#   the setting that makes a chatbot wilder: logits are divided by it. The length of `y` multiplies
#   them, the opposite: it is an *inverse* temperature. Here `v` is the direction of `y` itself,
#   `y / ‖y‖`. Unit: length of `y` per unit of nudge.
# - **Fisher** asks: *what moves the whole bet?* That is all you need to read its maps. How it is
#   computed, for the curious (skip it if eigenvectors are new to you): how far apart two bets are is
#   told by their *KL divergence*, in nats; it is 0 for equal ones. Nudge `y` a little, and twice the
#   divergence grows with the square of the nudge, faster in some directions than in others: the
#   *Fisher matrix* `F` holds these rates. The fastest direction is its leading eigenvector `u₁` (of
#   length 1), its rate the eigenvalue `λ₁`. Now nudge token `t` instead. Along `u₁`, `y` moves by at
#   most `‖u₁ᵀJₜ‖` per unit, so the bet changes by `λ₁ ‖u₁ᵀJₜ‖²`. That is the score: `v = u₁`, squared,
#   times `λ₁`. Unit: nats per squared unit of nudge.
#
# **Predict.** One of the two maps is led by the last two words, *is* and *a* (`<bos>` aside). In the
# other a single word of the prompt outshines everything, the last token and even `<bos>` included.
# Which is which, and which word?

# %%
temperature = ts.attribute(model, prompt, ts.TemperatureScope())
temperature

# %%
fisher = ts.attribute(model, prompt, ts.FisherScope(rank=1))
fisher

# %%
# Entropy: how spread the bet is, 0 when the model is sure of one token.
entropy = [float(torch.distributions.Categorical(logits=s * logits).entropy()) for s in (1, 1.2)]
print(f"entropy of the bet: {entropy[0]:.2f} nats; with y a fifth longer: {entropy[1]:.2f}")

assert entropy[1] < entropy[0]
assert [text for _, text, _ in temperature.top(3)] == [" a", tokens[0], " is"]
assert fisher.top(1)[0][1] == " Korean"

# %% [markdown]
# Temperature is led by the end of the sentence, Fisher by *Korean*. Why that word? Build `F` from
# its definition: it is the spread (the covariance) of the unembedding's columns under the predicted
# probabilities. Then see which tokens its leading direction pulls apart. (If this is new to you, run
# the cell and read the two lines that it prints.)

# %%
p, likely = logits.softmax(-1).topk(20_000)  # of 262,144 tokens; these hold 99.9% of the bet
columns = model.W_U.detach()[:, likely].T
columns = columns - p @ columns / p.sum()
strengths, directions = torch.linalg.eigh((columns.T * p) @ columns)  # weakest first
u1 = directions[:, -1]

pull = columns @ u1
pull = pull * pull[pull.abs().argmax()].sign()
order = (p * pull).argsort(descending=True).tolist()
texts = [model.tokenizer.decode([int(likely[i])]) for i in order[:4] + order[-4:]]
print(texts[:4], "against", texts[4:])

before, after = ((y + d) @ model.W_U.detach() for d in (0 * u1, 0.1 * u1))
kl = torch.distributions.kl_divergence(
    *(torch.distributions.Categorical(logits=bet.double()) for bet in (before, after))
)
print(f"λ₁ = {strengths[-1]:.4f}; twice the KL, per squared unit: {2 * kl / 0.1**2:.4f}")

assert abs(2 * kl / 0.1**2 / strengths[-1] - 1) < 0.05
assert p.sum() > 0.999 and len(logits) == 262_144
assert texts[0] == " Korean" and " foodie" in texts[:4] and {" big", " great"} < set(texts[4:])
assert logits.argmax() == model.to_single_token(" Korean")
# DirectionScope: you give v yourself.
fisher_by_hand = strengths[-1] * ts.attribute(model, prompt, ts.DirectionScope(u1)).scores ** 2
torch.testing.assert_close(fisher_by_hand, fisher.scores, rtol=0.01, atol=1e-4)

# %% [markdown]
# The direction sets food words against *big* and *great*, and *Korean* is the model's best guess.
# Nobody told the scope to look there. The last two lines are the Fisher scope by hand.
#
# **How much of `F` does that one direction hold?** Predict a share before you read it off the
# result.

# %%
fisher_16 = ts.attribute(model, prompt, ts.FisherScope(rank=16))
for found in (fisher, fisher_16):
    print(f"{found.scope}: {found.fisher.share:.0%} of the Fisher information")

assert 0.12 < fisher.fisher.share < 0.15 and 0.55 < fisher_16.fisher.share < 0.65
assert (fisher_16.scores >= fisher.scores).all()  # more directions only add

# %% [markdown]
# A seventh with one direction, and still not two thirds with 16. `rank="full"` takes all of them
# and `samples=n` estimates them; both cost more. A map of rank 1 is the strongest part of the
# answer, not all of it.

# %% [markdown]
# ## 6. Through the layers
#
# The same nudge can be given anywhere: to the *residual stream*, the 640 numbers that each token
# carries from block to block; each block adds to them. `resid(0)` enters the first block, `resid(18)`
# leaves the last one. The embedding is the stream's first state; that is why the unit above was called
# *residual*. One pass forward (from the prompt to the logits) and one backward give all of them.
#
# **Predict.** After the last block, nothing more moves between positions. What must the last row
# look like? And half-way, do you expect influence to stay with the words?

# %%
layers = ts.attribute(model, prompt, ts.SemanticScope(" liberal"), sites="all")
layers.plot()

# %% [markdown]
# Each row has its own scale. Two things happen on the way down the picture, which is the way up the
# model.
#
# 1. **For a while influence gathers at the full stops, and it ends at the last token.** At `resid(6)`
#    the two full stops come right after the last position: there, nudging a full stop does more than
#    nudging any word before the last. By `resid(11)` *Korean* and *food* are ahead of them again. The last column is
#    the darkest in every row: look how the others fade. The answer is read there, so whatever
#    matters has to arrive there.
# 2. **The last row is one cell.** Only the last position is left, and its Jacobian is that of the
#    final norm alone, the step that rescales the 640 numbers into `y`.

# %%
share = layers.scores[:, -1] / layers.scores.sum(1)
for site in ("embed", "resid(6)", "resid(14)", "resid(18)"):
    print(f"{site:>10}: the last position holds {share[layers.sites.index(site)]:.0%}")

assert [t for t, _, _ in layers.top(3, site="resid(6)")] == [len(tokens) - 1, 16, 5]
assert tokens[16] == tokens[5] == "."
at_11 = dict(enumerate(layers.scores[layers.sites.index("resid(11)"), 1:-2].tolist(), 1))
assert {tokens[t] for t in sorted(at_11, key=at_11.get)[-2:]} == {" Korean", " food"}
assert (layers.scores[:, 1:].argmax(1) == len(tokens) - 2).all()
assert share[0] < 0.2 and share[layers.sites.index("resid(14)")] > 0.5
assert (layers.scores[-1, :-1] == 0).all() and layers.scores[-1, -1] > 0
torch.testing.assert_close(layers.scores[0], layers.scores[1])  # nothing lies between these two

# %% [markdown]
# That one Jacobian is cheap enough to write out whole. Here it is, the table of section 2, 640 by
# 640. Fold it with `v`, and you have the last number of the picture.

# %%
last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
_, cache = model.run_with_cache(prompt, names_filter=lambda name: name == last)
stream = cache[last][0, -1]
jacobian = torch.autograd.functional.jacobian(lambda x: model.ln_final(x[None, None])[0, 0], stream)

assert jacobian.shape == (640, 640)
torch.testing.assert_close((v @ jacobian).norm(), layers.scores[-1, -1], rtol=1e-3, atol=0)

# %% [markdown]
# At depth the last position drowns the rest. `include_read=False` takes it out of the colours, as
# here for Fisher (the last row is empty now: that position was all it had):

# %%
fisher_layers = ts.attribute(model, prompt, ts.FisherScope(rank=1), sites="all")
fisher_layers.plot(include_read=False)

# %%
leaders = [tokens[1 + i] for i in fisher_layers.scores[:-1, 1:-1].argmax(1).tolist()]
print(f"Korean leads at {leaders.count(' Korean')} of {len(leaders)} sites")
print("elsewhere:", sorted(set(leaders) - {" Korean"}))

assert leaders.count(" Korean") >= 14
assert leaders[fisher_layers.sites.index("resid(6)")] == "."

# %% [markdown]
# The full stops have their moment here too, and still *Korean* leads nearly everywhere. As a web
# view you can point at the layers; Temperature, for a change:

# %%
temperature_layers = ts.attribute(model, prompt, ts.TemperatureScope(), sites="all")
temperature_layers.show(sites=["embed", "resid(3)", "resid(6)", "resid(12)", "resid(17)"])

# %% [markdown]
# ## 7. What you can trust
#
# **Small nudges, not large ones.** You measured the small one in section 3. Another word in the
# place of *Columbia* is no small nudge: *Korean* lies further from it than an embedding is long. And a
# swap goes in some direction of its own. So go as far as that, but in the direction of section 3, to
# which the promise belongs. **Predict**: how much of it is kept?

# %%
swap = float((r[0, tokens.index(" Korean")] - r[0, columbia]).norm())
reached = {size: answer(columbia, vjp[0, columbia], size) for size in (1, 3, 10, swap)}
print(f"promised per unit: {by_hand[columbia]:.2f}")
for size, change in reached.items():
    print(f"measured over a nudge of {size:4.1f}: {change:.2f}")

assert swap > r[0, columbia].norm() and reached[swap] < reached[10] < by_hand[columbia] / 2
assert reached[1] > 0.8 * by_hand[columbia] and reached[swap] < 0.2 * by_hand[columbia]

# %% [markdown]
# A nudge of 1 nearly keeps the promise, one as long as a swap less than a fifth of it. Do not read a
# score as what would happen if the word were another.
#
# **Within a row, not between rows.** A unit is a unit of the stream *at that site*, and that of the
# last position grows more than a thousandfold on its way up: what is a real nudge at the bottom is
# nothing at the top.

# %%
print(f"length of the last position: {r[0, -1].norm():.0f} at embed")
print(f"                             {stream.norm():.0f} at resid(18)")
assert stream.norm() > 1000 * r[0, -1].norm()

# %% [markdown]
# **Strength, not sign.** A length is never negative. A high score says that a token can move the
# logit, not that it raises it now. **And not this logit alone.** Maps of very different questions
# rank the words of a prompt much alike, so compare two scopes before you call a word special to
# one. (A rank correlation of 1 is the same order of words, 0 no relation.)

# %%
maps = torch.stack([found.scores[0, 1:] for found in (semantic, temperature, fisher)])
agreement = torch.corrcoef(maps.argsort(1).argsort(1).double())
print("rank correlations between semantic, temperature and Fisher, <bos> aside:")
print(agreement.numpy().round(2))
assert agreement.min() > 0.9

# %% [markdown]
# ## Exercises
#
# Try each before you unfold the solution. Add a cell wherever you like.
#
# ### Exercise 1: another target
#
# Ask for *conservative* in place of *liberal*. Which word's score falls by the largest factor (divide one
# row of `scores` by the other)? Is it *South* that gains? Mind the space: without it `"conservative"` is
# another token, and nobody will tell you.

# %% [markdown]
# <details><summary>Solution</summary>
#
# *Columbia*: it moves the logit of *liberal* a third more than that of *conservative*. For all other
# words the two scores are within a quarter of each other. *South* does not gain: its ratio is about
# one. Most of what moves *liberal* moves *conservative* too.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
other = ts.attribute(model, prompt, ts.SemanticScope(" conservative"))
ratio = semantic.scores[0, 1:] / other.scores[0, 1:]
for i in ratio.argsort(descending=True)[:3].tolist():
    print(tokens[1 + i], round(float(ratio[i]), 2))

assert tokens[1 + int(ratio.argmax())] == " Columbia" and ratio.max() > 1.25
assert 0.95 < ratio[tokens.index(" South") - 1] < 1.15
assert ((ratio > 0.75) & (ratio < 1.25)).sum() == len(ratio) - 1

# %% [markdown]
# ### Exercise 2: temperature by hand
#
# Change one line of section 3, and you have the Temperature scope. Which line? Copy what stands there
# from `catch =` to `by_hand =` into a new cell, do it, and compare with the package:
# `torch.allclose(mine, temperature.scores[0], rtol=1e-3)`. (Give your `v` and your results other names,
# since later cells use the old ones; the last position's list is `caught["y"]`. A gradient can be taken
# once: to try again, run the whole block.)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The line that chooses `v`. For Temperature it is `y / ‖y‖`: the scope asks about the length of `y`,
# and that is the direction in which the length grows. (It is held fixed by `detach`; without it the
# product is the length of `y` itself, and its gradient is the same.)
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
catch = model.unembed.register_forward_pre_hook(end_here)
with catch, model.hooks(fwd_hooks=[("hook_embed", start_here)]):
    model(prompt)

direction = (caught["y"] / caught["y"].norm()).detach()
(vjp_of_length,) = torch.autograd.grad(caught["y"] @ direction, caught["r"])
torch.testing.assert_close(
    vjp_of_length[0].norm(dim=-1), temperature.scores[0], rtol=1e-3, atol=1e-4
)

# %% [markdown]
# ### Exercise 3: stop earlier
#
# `ts.attribute(model, prompt, ts.TemperatureScope(), position=15)` reads the prediction after
# *Columbia* in place of the last one. **Predict** the scores of the four tokens that come after it,
# and how the others compare with those of a prompt that ends there. Then see.

# %% [markdown]
# <details><summary>Solution</summary>
#
# The four are exactly zero: a token cannot move a prediction that was made before it was read. And
# the others are those of the shorter prompt, for the same reason.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
earlier = ts.attribute(model, prompt, ts.TemperatureScope(), position=columbia)
cut = ts.attribute(model, prompt[: prompt.index(" Columbia") + 9], ts.TemperatureScope())

assert columbia == 15 and len(cut.str_tokens) == 16
assert (earlier.scores[0, 16:] == 0).all()
torch.testing.assert_close(earlier.scores[0, :16], cut.scores[0], rtol=1e-3, atol=1e-4)

# %% [markdown]
# ## Next: a prompt of your own
#
# With your prediction on paper first. Leave the prompt at the top as it is, since the asserts belong to
# it. Without a target the scope explains the model's best guess; a target of yours must be one token,
# with its space, such as `" cat"`.

# %%
mine = ts.attribute(model, "My dog loves to chase the", ts.SemanticScope())
mine

# %% [markdown]
# - Keep what you find: `mine.to_html("mine.html")` writes a page that works anywhere, without a
#   network, and `mine.save("mine.safetensors")` what `ts.Attribution.load("mine.safetensors")` reads
#   again. Both files appear beside this notebook.
# - Click in place of typing: `make app`, in a terminal, opens the explorer.
# - [02_three_scopes](02_three_scopes.ipynb): the same three questions on translations and on
#   an instruction.
