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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
cuisines = "Korean Chinese Japanese Italian Mexican Thai French Indian".split()
ids = [model.to_single_token(f" {name}") for name in cuisines]


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
# Leave out `<bos>`, as the pictures do, and the last word *a*, where the bet is read. Then *Korean*
# leads in all three. The margin is a logit difference, of first and second choice, and the scope of
# that name gives the very same scores:

# %%
first, second = found["margin"].prediction[:2]
print(f"the margin is that of {first.text!r} over {second.text!r}")
difference = ts.attribute(model, prompt, ts.LogitDifferenceScope(first.id, second.id))
torch.testing.assert_close(difference.scores, found["margin"].scores, rtol=1e-4, atol=1e-5)

for name, own in found.items():
    ((_, leader, _),) = own.top(1, include_bos=False, include_read=False)
    assert leader == " Korean", name

# %% [markdown]
# ### Is it right?
#
# `circuits.verify` shrinks one embedding at a time, here by a third of a percent, and measures the
# entropy. Is the change what the gradient says? (Section 1 of the sixth tutorial does it by hand.)

# %%
step = 0.003
scope = ts.FunctionScope(entropy)
checked = circuits.verify(
    model, prompt, found["entropy"], scope=scope, top=4, random=0, steps=[step]
)
promised, measured = step * checked.predicted, checked.step_measured[0]
for token, small, real in zip(checked.labels, promised, measured):
    print(f"{token:>12}: promised {small:+.6f} nats, measured {real:+.6f}")
torch.testing.assert_close(measured, promised, rtol=0.05, atol=0)

# %% [markdown]
# Before you call a word special to your question, compare with another question. The three maps
# rank the tokens much alike, as maps of one prompt do:

# %%
rows = torch.stack([own.scores[0, 1:] for own in found.values()])
alike = spearmanr(rows.T).statistic
print(alike.round(2))
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


def streams(sentences, layers=(LAYER,)):
    """By layer and sentence, the stream [pos, d_model] that enters the block."""
    names = {layer: f"blocks.{layer}.hook_resid_pre" for layer in layers}
    made = {layer: {} for layer in layers}
    for sentence in sentences:
        with torch.no_grad():
            _, cache = model.run_with_cache(
                sentence, names_filter=list(names.values()), stop_at_layer=max(layers) + 1
            )
        for layer, name in names.items():
            made[layer][sentence] = cache[name][0]
    return made


train = streams(praise + blame, (3, 6, LAYER))
held = streams(held_out_praise + held_out_blame, (3, 6, LAYER))
label = np.repeat([1, 0], [len(praise), len(blame)])
held_label = np.repeat([1, 0], [len(held_out_praise), len(held_out_blame)])


def fit(layer, labels):
    """A probe of one layer, and the share of the held-out sentences that it gets right."""
    x, held_x = (
        np.stack([stream[-1] for stream in part[layer].values()]) for part in (train, held)
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    classifier.fit(x, labels)
    return classifier, classifier.score(held_x, held_label)


# %% [markdown]
# **Predict.** How many of the 16 held-out sentences will the probe get right? Will a probe of an
# earlier layer do as well? And a probe trained on labels that were dealt out at random?

# %%
classifier, accuracy = fit(LAYER, label)
_, at_6 = fit(6, label)
_, at_3 = fit(3, label)
print(f"layer {LAYER}: {accuracy:.0%}; layer 6: {at_6:.0%}; layer 3: {at_3:.0%}")
rng = np.random.default_rng(0)
shuffled, by_chance = zip(*(fit(LAYER, rng.permutation(label)) for _ in range(20)))
print(
    f"20 times random labels: {np.mean(by_chance):.0%} on average, "
    f"from {min(by_chance):.0%} to {max(by_chance):.0%}"
)

assert accuracy == 1 and at_6 > 0.85 and 0.6 < at_3 < 0.9
assert 0.4 < np.mean(by_chance) < 0.7
assert 0.2 < min(by_chance) < 0.45 and 0.75 < max(by_chance) < 1


# %%
def verdict(sentence):
    """What the probe says of a sentence: the log-odds of praise."""
    stream = streams([sentence])[LAYER][sentence]
    return float(classifier.decision_function(stream[-1:].numpy())[0])


said = {
    sentence: verdict(sentence)
    for sentence in (
        "The film was good.",
        "The film was bad.",
        "The film was not good.",
        "The film was not bad.",
        "The film was long.",
    )
}
for sentence, value in said.items():
    print(f"{value:+.1f}  {sentence}")
assert said["The film was good."] > 1 and said["The film was not good."] < -1
assert said["The film was bad."] < -1 and said["The film was not bad."] > 0.5
assert said["The film was long."] < -0.5

# %% [markdown]
# The probe gets all 16. At layer 6 a probe does nearly as well, at layer 3 it gets about a quarter
# wrong. With random labels, probes get about half on average, as by guessing, but a single one gets
# anything from a third to nearly all: 16 sentences are few. The probe is no list of words: *not*
# turns the verdict around. It has an opinion on length, too: *long* is blame.
#
# ## 3. Which words move the probe?
#
# A probe is a list of weights and a place: a `DirectionScope`. The scaler in front of it divides the
# weights; what is added moves nothing.
#
# **Predict.** In *The film was not bad at all.*, which word moves the probe most?


# %%
def direction_of(classifier):
    """The weights as they apply to the raw stream."""
    scaler, regression = classifier
    return torch.tensor(regression.coef_[0] / scaler.scale_).float()


text = "The film was not bad at all."
v = direction_of(classifier)
probe = ts.DirectionScope(v, site=LAYER, label="praise")
moved = ts.attribute(model, text, probe)
moved

# %% [markdown]
# The full stop, where the probe reads, then *bad*. Now the control that everybody should run: **a
# direction that knows nothing of praise**. You have 20, the probes of the random labels. They come
# from the same recipe and the same sentences; call them *probes of nothing*.
#
# **Predict.** What do their maps look like?

# %%
sentences = {  # and the word that carries the verdict
    "The lemon cake was heavenly.": " heavenly",
    "The view from the tower is depressing.": " depressing",
    "The food was wonderful but the service was terrible.": " terrible",
    "The service was terrible but the food was wonderful.": " wonderful",
    "The film was not good at all.": " good",
    text: " bad",
}


def maps(direction):
    """The scores of the words of each sentence, <bos> aside."""
    scope = ts.DirectionScope(direction, site=LAYER)
    found = ts.attribute_batch(model, list(sentences), scope)
    return {sentence: one.scores[0, 1:] for sentence, one in zip(sentences, found)}


of_praise = maps(v)
of_nothing = [maps(direction_of(other)) for other in shuffled]
like = {
    sentence: [spearmanr(scores, other[sentence]).statistic for other in of_nothing]
    for sentence, scores in of_praise.items()
}
for sentence, values in like.items():
    print(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})  {sentence}")

assert [token for _, token, _ in moved.top(2, include_bos=False)] == [".", " bad"]
assert all(scores.argmax() == len(scores) - 1 for scores in of_praise.values())
means = [np.mean(values) for values in like.values()]
assert np.mean(means) > 0.75 and min(means) > 0.5

# %% [markdown]
# Mean rank correlations with the maps of the 20 probes of nothing, and their range. **The map of the
# probe is, for the most part, the map of a probe of nothing**: tokens near the read, and tokens on
# which many things depend, move everything. The full stop leads all six maps. The scores are right,
# and most of what you see is not about praise.
#
# What is special to the probe is what is left when you divide by what the probes of nothing get
# (their root mean square). **Predict.** Will the word that carries the verdict stand out?


# %%
def special_to(one, others):
    """Each word's score over what others give it; 1 is the mean of the sentence."""
    ratios = {}
    for sentence, scores in one.items():
        usual = torch.stack([other[sentence] for other in others]).square().mean(0).sqrt()
        ratio = (scores / usual)[:-1]  # without the full stop, where the probe reads
        ratios[sentence] = ratio / ratio.mean()
    return ratios


def place(sentence):
    """Where the verdict stands among the words."""
    return model.to_str_tokens(sentence)[1:].index(sentences[sentence])


special = special_to(of_praise, of_nothing)
by_luck = [
    special_to(one, of_nothing[:i] + of_nothing[i + 1 :]) for i, one in enumerate(of_nothing)
]
figure, axes = plt.subplots(3, 2, figsize=(10, 7.5), layout="constrained", sharey=True)
for ax, (sentence, ratio) in zip(axes.flat, special.items()):
    for other in by_luck:
        ax.plot(other[sentence], "o", color="0.75", markersize=3, zorder=1)
    colours = ["tab:orange" if i == place(sentence) else "tab:blue" for i in range(len(ratio))]
    ax.scatter(range(len(ratio)), ratio, s=50, color=colours, zorder=2)
    shown = [word.strip() for word in model.to_str_tokens(sentence)[1:-1]]
    ax.set_xticks(range(len(shown)), shown, rotation=30, ha="right")
    ax.spines[["top", "right"]].set_visible(False)
figure.supylabel("score over that of probes of nothing")
plt.close(figure)
figure

# %% [markdown]
# Large dots: the probe, orange at the verdict of each sentence (the last, where it has two). Small
# dots: each of the 20 probes of nothing, over the other 19. At 1 stands the mean of the words. Now one
# number for every probe: its height at the verdict, averaged over the six sentences.


# %%
def at_verdict(ratios):
    return np.mean([float(ratio[place(sentence)]) for sentence, ratio in ratios.items()])


height, luck = at_verdict(special), [at_verdict(other) for other in by_luck]
as_high = sum(other >= height for other in luck)
print(f"the probe {height:.2f}; probes of nothing {min(luck):.2f} to {max(luck):.2f}")
print(f"as high as the probe: {as_high} of 20")
assert 1.03 < height < 1.2 and 2 <= as_high <= 7

# %% [markdown]
# The verdict stands a little higher than the mean word. But so it does, by luck, for about a fifth of
# the probes of nothing. **That is weak evidence.** Without the small dots it would have looked like a
# finding.
#
# **Take words away instead.** Set each embedding to zero and ask the probe again.

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
for scores in (of_praise[text], special[text]):
    assert scores[words.index(" not") - 1] < scores[words.index(" bad") - 1]

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
# 581 tokens of the sentences above (nothing is held out), without labels. It is far too small to be
# a good one, and made of the same parts.

# %%
stream_of = train[LAYER] | held[LAYER]
in_twins = praise + held_out_praise + blame + held_out_blame
spots = [
    (sentence, position)
    for sentence in in_twins
    for position in range(1, len(stream_of[sentence]))  # <bos>'s stream is unlike any other
]
x = torch.stack([stream_of[sentence][position] for sentence, position in spots])
assert len(spots) == 581

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

features, W_enc = features.detach(), W_enc.detach()
unexplained = float(loss.detach() / z.square().sum(-1).mean())
print(f"four features a token leave {unexplained:.0%} of the variance unexplained")
assert unexplained < 0.2

# %% [markdown]
# **Predict.** Nobody told it about praise and blame. Will one of the 64 features fire in one kind
# of sentence only?

# %%
often = [i for i in range(64) if (features[:, i] > 0).sum() >= 15]
lengths = [len(stream_of[sentence]) - 1 for sentence in in_twins]
per_sentence = torch.stack([part[:, often].sum(0) for part in features.split(lengths)])
activity = per_sentence.unflatten(0, (2, -1))  # [praise or blame, twin, feature]


def shares(activity):
    """Of each feature's activity, what lies in praise."""
    return activity[0].sum(0) / activity.sum((0, 1))


def strongest(feature, k):
    return [spots[i] for i in features[:, feature].topk(k).indices.tolist()]


in_praise = dict(zip(often, shares(activity).tolist()))
lean = {i: abs(share - 0.5) for i, share in in_praise.items()}
one_sided = sorted((i for i in often if lean[i] > 0.3), key=lean.get, reverse=True)
favourites = {
    i: [model.to_str_tokens(sentence)[position] for sentence, position in strongest(i, 8)]
    for i in one_sided
}
for i, tokens in favourites.items():
    print(f"feature {i}: {in_praise[i]:.0%} of its activity lies in praise; strongest on {tokens}")

swaps = torch.tensor(rng.random((1000, len(praise + held_out_praise), 1)) < 0.5)
by_swap = [
    float((shares(torch.where(swap, activity.flip(0), activity)) - 0.5).abs().max())
    for swap in swaps
]
print(f"most one-sided with the true labels: 50 ± {100 * max(lean.values()):.0f}%;")
print(f"with labels swapped at random: at most 50 ± {100 * max(by_swap):.0f}%")

feature = one_sided[0]
assert 40 < len(often) < 60 and in_praise[feature] < 0.15 and in_praise[one_sided[1]] > 0.8
assert {" bland", " ugly"} <= set(favourites[feature]) and max(by_swap) < lean[feature]

# %% [markdown]
# Two do, nearly: one speaks in blame, on words such as *bland* and *ugly*, one in praise. (Another
# seed may find others.) But you used the labels to pick them, out of about 50 that fire often, and
# of many, some always look one-sided. So the last lines swap praise and blame at random within the
# twins and pick again, 1,000 times. The true labels beat every draw: the pick alone does not make it.
#
# What moves the feature of blame? Its direction is the column of the encoder. What that reads is the
# *pre-activation*, the number before all but four are silenced and what is negative is cut to zero
# (the ReLU). `position` puts the read where the feature fires, on the strongest of its words.

# %%
((sentence, position),) = strongest(feature, 1)


def map_of(i):
    scope = ts.DirectionScope(W_enc[:, i] / scale, site=LAYER, label=f"feature {i}")
    return ts.attribute(model, sentence, scope, position=position)


fires = map_of(feature)
print("read at", fires.str_tokens[position])
fires

# %%
others = [map_of(i) for i in often if i != feature][:20]
leads = [other.top(1, include_bos=False)[0][0] == position for other in (fires, *others)]
print(f"read at the same place, the word leads the maps of {sum(leads[1:])} of 20 other features")

stream = stream_of[sentence][position]
pre_activation = float((stream - b_dec) @ W_enc[:, feature] / scale + b_enc[feature].detach())
fired = float(features[spots.index((sentence, position)), feature])
torch.testing.assert_close(pre_activation, fired, rtol=1e-2, atol=1e-2)
assert leads[0] and sum(leads[1:]) >= 18
assert (fires.scores[0, position + 1 :] == 0).all()

# %% [markdown]
# The word itself moves it most. Is this a feature of words, then? The map does not say so: the word
# leads the maps of nearly all of 20 other features, too, when they are read there. Any read sees its
# own token first. The scores after it are zero, since the future moves nothing.
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
    # Two log-probabilities subtract the same normaliser: in the difference it cancels.
    return logits[jobs].logsumexp(-1) - logits[ids].logsumexp(-1)


job = ts.attribute(model, prompt, ts.FunctionScope(job_or_taste))
((_, leader, _),) = job.top(1, include_bos=False, include_read=False)
print(leader)
assert leader == " Korean"

# %% [markdown]
# ### Exercise 2: where the probe's number comes from
#
# Everything that is written into the stream before layer 9 adds up to the number that the probe
# reads. `circuits.components(model, text, probe)` splits it; `.direct` holds what each part writes
# in the probe's direction. Do the parts add up to `verdict(text)`, less what the probe says of a
# stream of zeros (its bias)? Which one is the largest?

# %% [markdown]
# <details><summary>Solution</summary>
#
# They add up. The MLPs of layers 8 and 7, right before the probe reads, write the most, and
# together nearly the whole sum. That does not mean that the others write little: they write more
# than the two together, with both signs (head 0 of layer 8 takes away a quarter of the sum), and
# nearly cancel.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
parts = circuits.components(model, text, probe)
total = float(parts.direct.sum())
bias = float(classifier.decision_function(np.zeros((1, len(v))))[0])
print(f"sum of the parts {total:.2f}, the probe reads {whole - bias:.2f}")
written_by = dict(parts.top(len(parts.direct), what="direct"))
print({name: round(value, 2) for name, value in list(written_by.items())[:6]})
largest = written_by["8_mlp_out"] + written_by["7_mlp_out"]
gross = sum(map(abs, written_by.values())) - largest
print(f"the two MLPs {largest:.2f}, the rest {total - largest:.2f} net, {gross:.2f} without signs")

assert abs(total - (whole - bias)) < 0.05 * abs(whole - bias) + 0.05
assert list(written_by)[:2] == ["8_mlp_out", "7_mlp_out"]
assert 0.85 * total < largest < 1.1 * total < gross
assert -0.35 * total < written_by["L8H0"] < -0.15 * total

# %% [markdown]
# ### Exercise 3: does the model use it?
#
# A probe can read what the model never uses. Add the probe's direction to the stream that enters
# block 9, at all tokens but `<bos>`, so that the probe reads 10 more, and 10 less. What happens to
# the logit of *great* less that of *terrible* after *Overall, I thought the film was*? And what do
# pushes of the same length along the 20 probes of nothing do?

# %% [markdown]
# <details><summary>Solution</summary>
#
# It rises and falls with the probe, by about 7 logits each way. Probes of nothing move it by about 2,
# and none of the 20 as far. So the direction is not only readable: a push along it works, though it
# has only about 3% of the length of the stream. It does not follow that the model uses this
# direction when nobody pushes.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
opinion = "Overall, I thought the film was"
great, terrible = model.to_single_token(" great"), model.to_single_token(" terrible")


def steered(push):
    def add(stream, hook):
        stream = stream.clone()
        stream[:, 1:] += push
        return stream

    hooks = [(f"blocks.{LAYER}.hook_resid_pre", add)]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        out = model(opinion)[0, -1]
    return float(out[great] - out[terrible])


size = float(10 / v.norm())
unpushed = steered(torch.zeros_like(v))
less, more = (steered(sign * size * v / v.norm()) - unpushed for sign in (-1, 1))
directions = [direction_of(other) for other in shuffled]
by_nothing = [
    abs(steered(sign * size * d / d.norm()) - unpushed) for d in directions for sign in (-1, 1)
]
print(f"great over terrible: {unpushed:.1f}; pushed along the probe {less:+.1f} and {more:+.1f}")
print(f"probes of nothing: {np.mean(by_nothing):.1f} on average, at most {max(by_nothing):.1f}")
norms = streams([opinion])[LAYER][opinion][1:].norm(dim=-1)
print(f"the push is {size:.0f} long, the stream {norms.min():.0f} to {norms.max():.0f}")

assert -9 < less < -6 and 6 < more < 9
assert 1 < np.mean(by_nothing) < 3 and max(by_nothing) < min(-less, more)
assert 0.015 < size / norms.mean() < 0.04

# %% [markdown]
# ## Next
#
# - Any scope works with `tl_scopes.circuits`: which heads move your probe?
# - And with `tl_scopes.evaluation`. Do not skip the control of section 3.
# - [08_whole_answers](08_whole_answers.ipynb): when the explanandum is all that a model said.
