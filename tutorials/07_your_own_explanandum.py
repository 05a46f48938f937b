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
# # Your own explanandum
#
# An *explanandum* is what is to be explained. So far it was a logit, the length of the final state,
# or the whole bet. **What if you care about something else?** How undecided the model is, whether
# it will name a dish from anywhere, whether it takes a sentence for a complaint. Anything that you
# can write down as a differentiable number of the logits is a `FunctionScope`. Anything that you
# can read off an activation with a list of weights is a `DirectionScope`: here a probe that you
# train, and a feature of a sparse autoencoder that you train too.
#
# You need the first tutorial. Where it says **Predict**, write your answer down before you go on.
# It takes about two minutes.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

import tl_scopes as ts
from tl_scopes import circuits, models, render

model = models.load(progress=False)  # Gemma-3 270M
prompt = "Tom loves Korean food. He grew up in the South and goes to Columbia. Tom is a"

# %% [markdown]
# ## 1. Any number of the logits
#
# Give `FunctionScope` a function from the logits of the read position to one number. Three of them:
# the *entropy* of the bet, the *margin* between first and second choice, and the log-probability
# that the next token is one of eight cuisines.

# %%
cuisines = " Korean, Chinese, Japanese, Italian, Mexican, Thai, French, Indian".split(",")
ids = [model.to_single_token(name) for name in cuisines]


def entropy(logits):
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum()


def margin(logits):
    first, second = logits.topk(2).values
    return first - second


def any_cuisine(logits):
    return logits.log_softmax(-1)[ids].logsumexp(-1)


functions = (entropy, margin, any_cuisine)
found = {fn.__name__: ts.attribute(model, prompt, ts.FunctionScope(fn)) for fn in functions}
with torch.no_grad():
    logits = model(prompt)[0, -1]
for fn in functions:
    print(f"{fn.__name__}: {float(fn(logits)):.2f}")

# %% [markdown]
# **Predict.** Which word moves each of the three most? One of the three you have met before under
# another name: which?

# %%
render.compare(list(found.values()), labels=list(found))

# %% [markdown]
# *Korean* is ahead of every other word in all three, narrowly for the entropy. The margin is a
# logit difference, of first and second choice, and the scope of that name gives the very same
# scores:

# %%
first, second = (candidate.text for candidate in found["margin"].prediction[:2])
print(f"the margin is that of {first!r} over {second!r}")
difference = ts.attribute(model, prompt, ts.LogitDifferenceScope(first, second))
torch.testing.assert_close(difference.scores, found["margin"].scores, rtol=1e-4, atol=1e-5)

for name, own in found.items():
    scores = own.scores[0].clone()
    scores[[0, -1]] = 0  # <bos>, and the position that is read
    assert own.str_tokens[int(scores.argmax())] == " Korean", name

# %% [markdown]
# ### Is it right?
#
# Nudge *Korean* by a hundredth of a unit in the best direction for the entropy, both ways, and
# measure the entropy.

# %%
caught = {}


def start_here(embedding, hook):
    caught["r"] = embedding.detach().requires_grad_()
    return caught["r"]


with model.hooks(fwd_hooks=[("hook_embed", start_here)]):
    (slope,) = torch.autograd.grad(entropy(model(prompt)[0, -1]), caught["r"])
korean = found["entropy"].str_tokens.index(" Korean")
nudge = torch.zeros_like(slope)
nudge[0, korean] = 0.01 * slope[0, korean] / slope[0, korean].norm()


def entropy_at(embedding):
    with torch.no_grad(), model.hooks(fwd_hooks=[("hook_embed", lambda _, hook: embedding)]):
        return float(entropy(model(prompt)[0, -1]))


r = caught["r"].detach()
measured = (entropy_at(r + nudge) - entropy_at(r - nudge)) / 0.02
promised = float(found["entropy"].scores[0, korean])
print(f"promised {promised:.4f} nats per unit, measured {measured:.4f}")
assert abs(measured / promised - 1) < 0.03

# %% [markdown]
# Before you call a word special to your question, compare with another question. The three maps
# rank the tokens much alike, as maps of one prompt do:

# %%
rows = torch.stack([own.scores[0, 1:] for own in found.values()])
alike = torch.corrcoef(rows.argsort(1).argsort(1).double())
print(alike.numpy().round(2))
assert alike.min() > 0.75

# %% [markdown]
# ## 2. A probe
#
# Now something that is no number of the logits. Does the model, half-way up, know whether a
# sentence is praise or complaint, and **which words tell it**? First find out whether it knows:
# take the activation of the last token as it enters block 9, and train a linear probe on 48
# sentences. Each sentence has a twin with the opposite verdict and nearly the same words.

# %%
praise = """The soup was delicious and the bread was warm.
I loved every minute of the film.
Our room was clean, quiet and bright.
The staff were kind and helped us with everything.
This is the best phone I have ever owned.
The concert was wonderful and the crowd was happy.
She wrote a brilliant book that I could not put down.
The coffee is excellent and the cakes are fresh.
We had a great time at the beach.
The garden looks beautiful in the morning.
My new bicycle is fast and comfortable.
The teacher was patient and explained it well.
What a lovely evening we spent with them.
The train was on time and the seats were soft.
The pasta tasted amazing and the wine was superb.
He is a generous friend who always helps.
The game is fun and the children enjoy it.
The hotel gave us a perfect view of the sea.
I am delighted with the new kitchen.
The doctor was gentle and very careful.
The song is charming and the voice is clear.
It was a pleasure to work with this team.
The museum was fascinating from start to end.
The shop is friendly and the prices are fair.""".split("\n")
blame = """The soup was disgusting and the bread was stale.
I hated every minute of the film.
Our room was dirty, loud and dark.
The staff were rude and ignored us completely.
This is the worst phone I have ever owned.
The concert was terrible and the crowd was angry.
She wrote a boring book that I could not finish.
The coffee is awful and the cakes are dry.
We had a horrible time at the beach.
The garden looks ugly in the morning.
My new bicycle is slow and uncomfortable.
The teacher was impatient and explained it badly.
What a miserable evening we spent with them.
The train was late and the seats were broken.
The pasta tasted bland and the wine was sour.
He is a selfish man who never helps.
The game is dull and the children avoid it.
The hotel gave us a dreadful view of the car park.
I am disappointed with the new kitchen.
The doctor was rough and very careless.
The song is annoying and the voice is harsh.
It was a nightmare to work with this team.
The museum was tedious from start to end.
The shop is unfriendly and the prices are unfair.""".split("\n")
held_out_praise = """The lemon cake was heavenly.
Her speech was inspiring and warm.
The view from the tower is stunning.
I really like the colour of the curtains.
The repair was quick and it works well now.
Their dog is sweet and well behaved.
The novel is gripping and funny.
We felt welcome from the first day.""".split("\n")
held_out_blame = """The lemon cake was inedible.
Her speech was confusing and cold.
The view from the tower is depressing.
I really dislike the colour of the curtains.
The repair was slow and it fails again now.
Their dog is vicious and badly behaved.
The novel is predictable and lifeless.
We felt unwanted from the first day.""".split("\n")
LAYER = 9


def states(sentences, layers=(LAYER,)):
    """Per sentence the streams [layer, pos, d_model] that enter some blocks."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    made = []
    for sentence in sentences:
        with torch.no_grad():
            _, cache = model.run_with_cache(
                sentence, names_filter=lambda name: name in names, stop_at_layer=LAYER + 1
            )
        made.append(torch.stack([cache[name][0] for name in names]))
    return made


train, held = (
    states(praise + blame, (3, 6, LAYER)),
    states(held_out_praise + held_out_blame, (3, 6, LAYER)),
)
label = np.array([1] * 24 + [0] * 24)
held_label = np.array([1] * 8 + [0] * 8)


def fit(which, labels):
    """Accuracy on the held-out sentences; weights and bias as they apply to the raw stream."""
    x, held_x = (torch.stack([s[which, -1] for s in own]).numpy() for own in (train, held))
    mean, spread = x.mean(0), x.std(0)
    probe = LogisticRegression(C=0.01, max_iter=2000).fit((x - mean) / spread, labels)
    weights = probe.coef_[0] / spread
    accuracy = probe.score((held_x - mean) / spread, held_label)
    return accuracy, torch.tensor(weights).float(), float(probe.intercept_[0] - weights @ mean)


# %% [markdown]
# **Predict.** How many of the 16 held-out sentences will the probe get right? Will a probe of an
# earlier layer do as well? And a probe trained on labels that were dealt out at random?

# %%
accuracy, v, bias = fit(2, label)
print(
    f"layer {LAYER}: {accuracy:.0%}; layer 6: {fit(1, label)[0]:.0%}; "
    f"layer 3: {fit(0, label)[0]:.0%}"
)
rng = np.random.default_rng(0)
by_chance = [fit(2, rng.permutation(label))[0] for _ in range(20)]
print(f"random labels, 20 times: {np.mean(by_chance):.0%} on average")

assert accuracy == 1 and fit(0, label)[0] < 0.9
assert 0.3 < np.mean(by_chance) < 0.7


# %%
def verdict(text):
    """What the probe says of a sentence: the log-odds of praise."""
    return float(states([text])[0][0, -1] @ v + bias)


said = {
    text: verdict(text)
    for text in (
        "The film was good.",
        "The film was bad.",
        "The film was not good.",
        "The film was not bad.",
        "The film was long.",
    )
}
for text, value in said.items():
    print(f"{value:+.1f}  {text}")
assert said["The film was good."] > 1 and said["The film was not good."] < -1
assert said["The film was bad."] < -1 and said["The film was not bad."] > 0.5

# %% [markdown]
# The probe gets all 16, and at layer 3 a quarter is still wrong. It is no list of words: *not*
# turns the verdict around. It has an opinion on length, too.
#
# ## 3. Which words move the probe?
#
# A probe is a list of weights and a place: a `DirectionScope`. (A scaler in front of it divides the
# weights, as `fit` does; the bias moves nothing.)
#
# **Predict.** In *The film was not bad at all.*, which word moves the probe most?

# %%
text = "The film was not bad at all."
probe = ts.DirectionScope(v, site=LAYER, label="praise")
moved = ts.attribute(model, text, probe)
moved

# %% [markdown]
# The full stop, where the probe reads, then *bad*. Now the control that everybody should run: **a
# direction drawn at random**. It knows nothing of praise. What does its map look like?

# %%
sentences = [
    "The lemon cake was heavenly.",
    "The view from the tower is depressing.",
    "The food was wonderful but the service was terrible.",
    "The service was terrible but the food was wonderful.",
    "The film was not good at all.",
    text,
]
drawn = torch.randn(8, len(v), generator=torch.Generator().manual_seed(1))


def sizes(sentence, direction):
    """Scores of a direction of length 1."""
    scope = ts.DirectionScope(direction / direction.norm(), site=LAYER)
    return ts.attribute(model, sentence, scope).scores[0]


maps = {s: (sizes(s, v), torch.stack([sizes(s, d) for d in drawn])) for s in sentences}
for s, (own, random) in maps.items():
    like = [float(spearmanr(own[1:], other[1:]).statistic) for other in random]
    print(f"{np.mean(like):.2f} ({min(like):.2f} to {max(like):.2f})  {s}")

# %% [markdown]
# Mean rank correlations with the maps of eight random directions, and their range. **The map of the
# probe is, for the most part, the map of any direction**: tokens near the read, and tokens on which
# many things depend, move everything. The scores are right, and most of what you see is not about
# praise.
#
# What is special to the probe is what is left when you divide by what random directions get.

# %%
likeness = [
    np.mean([spearmanr(own[1:], other[1:]).statistic for other in random])
    for own, random in maps.values()
]
assert np.mean(likeness) > 0.75 and min(likeness) > 0.5

special = {s: own / random.square().mean(0).sqrt() for s, (own, random) in maps.items()}
figure, axes = plt.subplots(3, 2, figsize=(10, 7), layout="constrained")
for ax, (s, ratio) in zip(axes.flat, special.items()):
    shown = model.to_str_tokens(s)[1:]
    best = int(ratio[1:].argmax())
    ax.bar(
        range(len(shown)),
        ratio[1:],
        color=["tab:blue" if i == best else "0.75" for i in range(len(shown))],
    )
    ax.set_xticks(range(len(shown)), [word.strip() for word in shown], rotation=60, ha="right")
    ax.spines[["top", "right"]].set_visible(False)
for ax in axes[:, 0]:
    ax.set_ylabel("probe over random")
plt.close(figure)
figure

# %% [markdown]
# *Score of the probe over the root mean square of eight random directions.* In five of the six
# sentences the tallest bar is the word that carries the verdict: *depressing*, *terrible*,
# *wonderful* (the last verdict of each sentence, not the first), *good*, *bad*. In the sixth, *The*
# is ahead of *heavenly*. The full
# stops, which led every plain map, come last in each.

# %%
named = {s: model.to_str_tokens(s)[1 + int(ratio[1:].argmax())] for s, ratio in special.items()}
verdict_words = [" heavenly", " depressing", " terrible", " wonderful", " good", " bad"]
hits = [named[s] == word for s, word in zip(sentences, verdict_words)]
assert sum(hits) >= 4
plain = [model.to_str_tokens(s)[1 + int(own[1:].argmax())] for s, (own, _) in maps.items()]
assert plain.count(".") == 6
assert all(ratio[1:].argmin() == len(ratio) - 2 for ratio in special.values())

# %% [markdown]
# **Then take words away.** Set each embedding to zero and ask the probe again.

# %%
words = model.to_str_tokens(text)


def without(position):
    def zero(embedding, hook):
        embedding = embedding.clone()
        embedding[0, position] = 0
        return embedding

    with model.hooks(fwd_hooks=[("hook_embed", zero)]):
        return verdict(text)


whole = verdict(text)
fell = torch.tensor([without(t) - whole for t in range(1, len(words))])
for i in fell.abs().argsort(descending=True)[:4].tolist():
    print(f"without {words[1 + i]!r}: {whole:+.1f} becomes {whole + fell[i]:+.1f}")

assert words[1 + int(fell.abs().argmax())] == " not" and whole > 1 and whole + fell.min() < -1
for scores in (moved.scores[0], special[text]):
    assert scores[words.index(" not")] < scores[words.index(" bad")]

# %% [markdown]
# It is *not*: without it, praise turns into blame. On both maps *bad* stands higher than *not*. A
# score tells how sensitive the probe is to a small nudge of a word; it does not tell what the word
# is there for.

# %% [markdown]
# ## 4. A feature nobody asked for
#
# A probe finds what you have labels for. A *sparse autoencoder* (SAE) finds its own directions: it
# writes each activation as a sum of a few out of many *features*. Published SAEs have tens of
# thousands of features, trained on billions of tokens. Here is one with 64 features, trained on the
# 581 tokens of the sentences above, without labels. It is far too small to be a good one, and made
# of the same parts.

# %%
sentences_all = praise + blame + held_out_praise + held_out_blame
streams = [
    state[-1, 1:] for state in [*train, *held]
]  # without <bos>, whose stream is unlike any other
x = torch.cat(streams)
token_texts = [t for s in sentences_all for t in model.to_str_tokens(s)[1:]]
is_praise = torch.cat(
    [torch.full((len(own),), i < 24 or 48 <= i < 56) for i, own in enumerate(streams)]
)
assert len(token_texts) == len(x) == 581

torch.manual_seed(2)
b_dec = x.mean(0)
scale = (x - b_dec).norm(dim=-1).mean()
z = (x - b_dec) / scale
W_dec = torch.nn.functional.normalize(torch.randn(64, x.shape[1]), dim=-1).requires_grad_()
W_enc = W_dec.detach().T.clone().requires_grad_()
b_enc = torch.zeros(64, requires_grad=True)
optimiser = torch.optim.Adam([W_enc, W_dec, b_enc], lr=3e-3)
for _ in range(300):
    before = z @ W_enc + b_enc
    top = before.topk(4, dim=-1)  # only the four strongest features of each token may speak
    features = torch.zeros_like(before).scatter(-1, top.indices, top.values.relu())
    loss = (z - features @ W_dec).square().sum(-1).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        W_dec /= W_dec.norm(dim=-1, keepdim=True)

features, W_enc, loss = features.detach(), W_enc.detach(), float(loss.detach())
unexplained = loss / float(z.square().sum(-1).mean())
print(f"four features a token leave {unexplained:.0%} of the variance unexplained")
assert unexplained < 0.2

# %% [markdown]
# **Predict.** Nobody told it about praise and blame. Will one of the 64 features fire in one kind
# of sentence only?

# %%
often = [i for i in range(64) if (features[:, i] > 0).sum() >= 15]
in_praise = {i: float(features[is_praise, i].sum() / features[:, i].sum()) for i in often}
feature = max(in_praise, key=lambda i: abs(in_praise[i] - 0.5))
strongest = features[:, feature].argsort(descending=True)[:10].tolist()
print(f"feature {feature}: {in_praise[feature]:.0%} of its activity lies in praise")
print("strongest on:", [token_texts[i] for i in strongest])

cosine = float(torch.cosine_similarity(W_enc[:, feature], v, dim=0))
usual = float(torch.cosine_similarity(drawn, v[None], dim=1).abs().max())
print(f"cosine with the probe: {cosine:.2f}; of the random directions at most {usual:.2f}")

assert abs(in_praise[feature] - 0.5) > 0.3
assert cosine * (in_praise[feature] - 0.5) > 0  # it points the way of the probe

# %% [markdown]
# One does. Where this was written it is a feature of blame, *bland*, *ugly*, *lifeless*; on another
# machine the training may end elsewhere. Its direction is the column of the encoder, and what it
# fires on can be asked of the tokens like anything else. `position` puts the read where the feature
# fires, on the strongest of its words.

# %%
place = strongest[0]
lengths = np.cumsum([len(own) for own in streams])
which = int(np.searchsorted(lengths, place, side="right"))
at = 1 + place - (int(lengths[which - 1]) if which else 0)
direction = W_enc[:, feature] / scale
fires = ts.attribute(
    model,
    sentences_all[which],
    ts.DirectionScope(direction, site=LAYER, label=f"feature {feature}"),
    position=at,
)
print("read at", fires.str_tokens[at])
fires

# %%
pre_activation = float((x[place] - b_dec) @ direction + b_enc[feature].detach())
torch.testing.assert_close(pre_activation, float(features[place, feature]), rtol=1e-2, atol=1e-2)
assert fires.str_tokens[at] == token_texts[place]
assert int(fires.scores[0, 1:].argmax()) + 1 == at  # the word itself moves it most

# %% [markdown]
# Mostly the word itself moves it: at layer 9 this is still a feature of words. The scores after the
# read are zero, since the future moves nothing.
#
# **A published SAE** takes the place of the training loop, and the rest stays (needs `pip install
# tl-scopes[sae]` and a download):
#
# ```python
# from sae_lens import SAE
#
# sae = SAE.from_pretrained("gemma-scope-2-270m-pt-res", "layer_12_width_16k_l0_medium")
# hook = sae.cfg.metadata.hook_name
# scope = ts.DirectionScope(sae.W_enc[:, feature], site=hook)
# ```
#
# The docstring of `DirectionScope` says what to multiply the column with for other kinds of SAEs.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: a question of your own
#
# Write a function for "Tom's job rather than his taste": the log-probability of any of *student*,
# *teacher*, *doctor*, *lawyer*, *writer* minus that of any cuisine. Which word of the prompt moves
# it most?

# %% [markdown]
# <details><summary>Solution</summary>
#
# Still *Korean*, since it moves the cuisines.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
jobs = [model.to_single_token(f" {job}") for job in "student teacher doctor lawyer writer".split()]


def job_or_taste(logits):
    return logits[jobs].logsumexp(-1) - logits[ids].logsumexp(-1)


job = ts.attribute(model, prompt, ts.FunctionScope(job_or_taste))
print(job.top(6))

ahead = job.scores[0].clone()
ahead[[0, -1]] = 0
assert job.str_tokens[int(ahead.argmax())] == " Korean"

# %% [markdown]
# ### Exercise 2: where the probe's number comes from
#
# Everything that is written into the stream before layer 9 adds up to the number that the probe
# reads. `circuits.components(model, text, probe)` splits it; `.direct` holds what each part writes
# in the probe's direction. Do the parts add up to `verdict(text)`, less the bias? Which one is the
# largest?

# %% [markdown]
# <details><summary>Solution</summary>
#
# They add up. Nearly all of it is written by the MLPs of layers 8 and 7, right before the probe
# reads; heads and earlier layers write little, and some of it with the other sign.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
parts = circuits.components(model, text, probe)
total = float(parts.direct.sum())
print(f"sum of the parts {total:.2f}, the probe reads {whole - bias:.2f}")
named_parts = dict(parts.top(5, what="direct"))
print({name: round(value, 2) for name, value in named_parts.items()})

assert abs(total - (whole - bias)) < 0.05 * abs(whole - bias) + 0.05
assert list(named_parts)[:2] == ["8_mlp_out", "7_mlp_out"]
assert 0.8 * total < named_parts["8_mlp_out"] + named_parts["7_mlp_out"] < 1.15 * total

# %% [markdown]
# ### Exercise 3: does the model use it?
#
# A probe can read what the model never uses. Add the probe's direction to the stream that enters
# block 9, at all tokens but `<bos>`, so that the probe reads 10 more, and 10 less. What happens to
# the logit of *great* less that of *terrible* after *Overall, I thought the film was*? And what
# does a push of the same length in a random direction do?

# %% [markdown]
# <details><summary>Solution</summary>
#
# It rises and falls with the probe, by 7 logits each way; random pushes of the same length do far
# less. So the direction is not only readable, the model acts on it.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
great, terrible = model.to_single_token(" great"), model.to_single_token(" terrible")


def steered(push):
    def add(stream, hook):
        stream = stream.clone()
        stream[:, 1:] += push
        return stream

    hooks = [(f"blocks.{LAYER}.hook_resid_pre", add)]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        out = model("Overall, I thought the film was")[0, -1]
    return float(out[great] - out[terrible])


unit = v / v.norm()
size = float(10 / v.norm())
plain = steered(0 * unit)
by_probe = {sign: steered(sign * size * unit) - plain for sign in (-1, 1)}
at_random = [steered(size * d / d.norm()) - plain for d in drawn]
print(f"great over terrible: {plain:.1f}")
print("pushed along the probe:", {sign: round(value, 1) for sign, value in by_probe.items()})
print("pushed at random:", [round(value, 1) for value in at_random])

assert by_probe[-1] < -3 and by_probe[1] > 3
assert max(map(abs, at_random)) < min(-by_probe[-1], by_probe[1]) / 2

# %% [markdown]
# ## Next
#
# - Any scope works with `tl_scopes.circuits`: which heads move your probe?
# - And with `tl_scopes.evaluation`. Do not skip the control of section 3.
