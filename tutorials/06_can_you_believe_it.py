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
# # Can you believe it?
#
# A map of coloured tokens always looks like an explanation. **How would you notice if it were
# wrong?** Here you put the maps of the first tutorials on trial: is the gradient right, does it
# predict what happens when a token is taken away, does it beat a rule that never looked at the
# text, does it depend on what the model has learnt, and how much of the answer does it show?
#
# Not all of it goes well for the scopes. Where it says **Predict**, write your answer down before
# you go on. It takes about two minutes.

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr

import tl_scopes as ts
from tl_scopes import baselines, circuits, evaluation, models, render
from tl_scopes.method import Method, Scored

model = models.load(progress=False)  # Gemma-3 270M

passages = [
    "Tom loves Korean food. He grew up in the South and goes to Columbia. Tom is a",
    "The Eiffel Tower is the most famous monument in France. Every year millions of tourists come "
    "to see it in the city of",
    "Anna put the milk back into the fridge and closed the door. When her brother came home he was "
    "thirsty, so he opened the",
    "The recipe asks for two eggs, a cup of sugar, some butter and three cups of flour. First mix "
    "the eggs with the",
    "My grandmother was born in Berlin in 1931. She never learned English, and to the end of her "
    "life she spoke only",
    "The dog barked at the postman all morning. The postman was afraid and ran away from the",
    "Water boils at one hundred degrees Celsius. If you keep heating it, the liquid turns into",
    "The violin, the cello and the piano stood on the stage. The audience was quiet, and then the "
    "musicians began to",
    "He had lost his keys again. He looked under the bed, behind the sofa and in every drawer, but "
    "he could not find his",
    "In winter the days are short and the nights are long. In summer it is the other way round: "
    "the nights are short and the days are",
    "Paul wrote a letter to his sister in Madrid. He folded it, put it into an envelope and wrote "
    "her address in",
    "The teacher asked the class a difficult question. Nobody raised a hand, until a girl in the "
    "last row gave the right",
]
prompt = passages[0]
tokens = model.to_str_tokens(prompt)

# %% [markdown]
# ## 1. Is the gradient right?
#
# A score promises a slope: nudge a token by a hair in its best direction, and the logit moves by so
# much per unit. That can be measured with two runs of the model and no gradient at all.

# %%
semantic = ts.attribute(
    model, prompt, ts.SemanticScope()
)  # no target: the model's own first choice
target = semantic.target.id
print("explained:", semantic.target.text)
semantic

# %%
caught = {}


def start_here(embedding, hook):
    caught["r"] = embedding.detach().requires_grad_()
    return caught["r"]


with model.hooks(fwd_hooks=[("hook_embed", start_here)]):
    logit = model(prompt)[0, -1, target]
(gradient,) = torch.autograd.grad(logit, caught["r"])
r, columbia = caught["r"].detach(), tokens.index(" Columbia")
best = gradient[0, columbia] / gradient[0, columbia].norm()


def logits_at(embedding):
    """Logits when the model is fed these embeddings [row, pos, d_model] in place of its own."""
    ids = model.to_tokens(prompt).repeat(len(embedding), 1)
    with torch.no_grad(), model.hooks(fwd_hooks=[("hook_embed", lambda _, hook: embedding)]):
        return model(ids)[:, -1]


def nudged(size):
    both = r.repeat(2, 1, 1)
    both[0, columbia] += size * best
    both[1, columbia] -= size * best
    up, down = logits_at(both)[:, target].tolist()
    return (up - down) / (2 * size)


promised = float(semantic.scores[0, columbia])
sizes = [1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1, 3, 10, float(r[0, columbia].norm())]
kept = {size: nudged(size) / promised for size in sizes}

# %% [markdown]
# **Predict.** An embedding here is 26 long. For which nudges does the promise hold: down to how
# small, and up to how large? Draw the curve.

# %%
figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
ax.axhline(1, color="0.7", linewidth=1)
ax.semilogx(list(kept), list(kept.values()), "o-", color="tab:blue")
ax.set(xlabel="size of the nudge", ylabel="measured over promised", ylim=(0, None))
ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %% [markdown]
# The promise is kept to a thousandth at 0.01. Below that the two logits differ by less than single
# precision can tell. Above 1 the model curves away, and at the length of an embedding less than a
# sixth is left. So **the number is right, and it is about small nudges.** What you would like to
# know is not small: what if the word had not been there?

# %%
torch.testing.assert_close(gradient[0].norm(dim=-1), semantic.scores[0], rtol=1e-4, atol=1e-5)
assert abs(kept[1e-2] - 1) < 0.005 and abs(kept[0.1] - 1) < 0.02
assert kept[1] < 0.9 and kept[3] < 0.65 and kept[sizes[-1]] < 1 / 6

# %% [markdown]
# ## 2. Predict, then intervene
#
# So take every token away, one at a time: its embedding becomes zero. `verify` does that, and holds
# the scores against it.
#
# **Predict.** The scores of the tokens and the real changes: what rank correlation would content
# you? And which token does most harm when it goes?

# %%
checked = circuits.verify(
    model, prompt, semantic, by="token", top=len(tokens), random=0, steps=(0.1, 1.0)
)
for name, predicted, measured in checked.top(4):
    print(f"{name:>13}: first order says {predicted:+.1f} logits, measured {measured:+.1f}")
ranks = checked.rank_agreement
print(
    f"rank agreement of the scores {ranks.value:.2f}, "
    f"95% interval {ranks.low:.2f} to {ranks.high:.2f}"
)
checked.plot()

# %% [markdown]
# *a*, the last word, costs more than 20 logits, then comes *Korean*. Both lead the map too. But the
# first-order change has no value here: taking a token away is a nudge of 26, and for *a* it does
# not even have the sign.
#
# And look at the interval of the rank agreement. **One prompt of 20 tokens tells you next to
# nothing**: anything from "no relation" to "rather good" fits. Never judge a method by a picture.

# %%
changes = {name: (predicted, measured) for name, predicted, measured in checked.top(20)}
assert [name for name, *_ in checked.top(2)] == ["19: ' a'", "3: ' Korean'"]
assert changes["19: ' a'"][1] < -15 and changes["19: ' a'"][0] > 0
assert changes["3: ' Korean'"][1] < -5
assert ranks.low < 0.1 and ranks.high > 0.5

# %% [markdown]
# ## 3. Against what?
#
# So use twelve passages, and a number that does not need signs. **Comprehensiveness**: replace the
# highest-scored 5, 10 and 20% of the tokens by zero, and note by how many nats the log-probability
# of the model's answer falls; the area over the three shares is the *AOPC*. The higher, the better
# the map found what mattered.
#
# A number needs something to compare it with. Random scores, of course. Attention rollout, which
# follows attention back through the layers. Gradient times embedding. And one more, of your own:
# *recency*, by which a token is the more important the later it stands. It does not read the text.


# %%
@dataclass(frozen=True)
class Recency(Method):
    """The later a token, the higher its score."""

    name = "recency"

    @property
    def units(self):
        return "none"

    def scores(self, prompted, site):
        return Scored(torch.arange(prompted.activation(site).shape[1], dtype=torch.float64))


methods = {
    "semantic": ts.SemanticScope(),
    "temperature": ts.TemperatureScope(),
    "gradient x input": baselines.InputXGradient(),
    "rollout": baselines.AttentionRollout(),
    "recency": Recency(),
    "random": baselines.Random(),
}

# %% [markdown]
# **Predict.** Put the six in order.

# %%
card = evaluation.faithfulness_card(
    model,
    passages,
    methods,
    settings=evaluation.Settings(leave_one_out="zero", sufficiency=False),
    randomised=False,
    stability=False,
    spectra=False,
    progress=False,
)
card.plot("aopc")

# %%
table = card.to_frame().set_index(["metric", "method"])["mean"]
aopc, agrees = table["aopc_comprehensiveness"], table["loo_spearman"]
for name in methods:
    print(f"{name:>17}: AOPC {aopc[name]:.2f}, agreement with leave-one-out {agrees[name]:+.2f}")

tests = card.comparisons("recency", metrics=["aopc_comprehensiveness"]).set_index("method")
print(tests[["difference", "low", "high", "p_holm", "better"]].round(3).to_string())

# %% [markdown]
# Recency wins. A rule that never saw the text beats every method, and the tests of the differences
# leave no doubt (`p_holm` is corrected for their number). The ≈ in the figure is stricter: it marks
# what cannot be told from the leader after a correction for all pairs of methods and all measures.
# You asked one question, and asked it beforehand.
#
# The reason is not that the scopes are useless. The last tokens are where the answer is read, and
# without their embeddings the model does not know what to say about anything. So this number mostly
# asks whether a method puts the end of the prompt first. The scopes do so in part, and score in
# part.
#
# Two more things to note. Rollout is worse than random: it puts its trust in the beginning of the
# prompt. And between the two scopes and gradient x input, twelve passages cannot tell.

# %%
assert aopc.idxmax() == "recency" and aopc.idxmin() == "rollout"
assert (tests.loc[["semantic", "temperature"], "better"] == "recency").all()
between = card.comparisons(metrics=["aopc_comprehensiveness"]).set_index(["method", "reference"])
assert between.loc[("semantic", "gradient x input"), "p_holm"] > 0.05
assert between.loc[("temperature", "gradient x input"), "p_holm"] > 0.05
assert aopc["semantic"] > 2 * aopc["random"]
for text in passages[:4]:
    early = methods["rollout"].attribute(model, text).scores[0, 1:]
    print(round(float(spearmanr(early, range(len(early))).statistic), 2))
    assert spearmanr(early, range(len(early))).statistic < 0

# %% [markdown]
# ### A fairer question
#
# What you want to know is which of the *words before* matter. So leave the last few tokens alone,
# whatever their scores, and measure the others. That is a dozen lines by hand; with none left alone
# it must give what the card gave.


# %%
def hand_aopc(text, scores, answer, intact, spare):
    """AOPC by hand: the fall when the best 5, 10, 20% go, the last `spare` tokens left alone."""
    ids = model.to_tokens(text)
    last = ids.shape[1] - spare
    order = [int(i) for i in scores[:last].argsort(descending=True, stable=True) if i > 0]
    takes = [order[: max(1, int((ids.shape[1] - 1) * share))] for share in (0.05, 0.1, 0.2)]

    def zero(embedding, hook):
        embedding = embedding.clone()
        for row, gone in enumerate(takes):
            embedding[row, gone] = 0
        return embedding

    with torch.no_grad(), model.hooks(fwd_hooks=[("hook_embed", zero)]):
        out = model(ids.repeat(3, 1))[:, -1].log_softmax(-1)[:, answer]
    a, b, c = (intact - out).tolist()
    return 0.05 * (a + b) / 2 + 0.1 * (b + c) / 2


rows = card.rows[card.rows["metric"] == "aopc_comprehensiveness"]
everything = {name: rows[rows["method"] == name].sort_values("index")["value"] for name in methods}
spared = {name: [] for name in ("semantic", "recency", "random")}
for index, text in enumerate(passages):
    maps = {
        "semantic": ts.attribute(model, text, methods["semantic"]),
        "recency": methods["recency"].attribute(model, text),
        "random": methods["random"].attribute(model, text),
    }
    choice = maps["semantic"].prediction[0]
    intact = np.log(choice.probability)
    for name, found in maps.items():
        spared[name].append(hand_aopc(text, found.scores[0], choice.id, intact, 4))
    if index < 3:  # by hand and by the package
        by_hand = hand_aopc(text, maps["semantic"].scores[0], choice.id, intact, 0)
        assert abs(by_hand - everything["semantic"].iloc[index]) < 0.01

figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
panels = {"all tokens": everything, "the last four left alone": spared}
for ax, (title, measured) in zip(axes, panels.items()):
    values = [list(measured[name]) for name in spared]
    ax.plot(range(3), np.array(values), "o", color="0.7", markersize=4)
    ax.plot(range(3), np.mean(values, 1), "_", color="tab:blue", markersize=30, markeredgewidth=2)
    ax.set(xticks=range(3), xticklabels=list(spared), xlim=(-0.5, 2.5))
    ax.set_title(title)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("AOPC (nats)")
plt.close(figure)
figure

# %% [markdown]
# *One dot a passage, bars are means.* With the last four tokens left alone, recency finds nothing,
# and the semantic scope still finds what matters. **So the scope knows something about the words
# that no rule of thumb knows**, and the plain number did not show it.

# %%
mean = {name: np.mean(values) for name, values in spared.items()}
wins = sum(a > b for a, b in zip(spared["semantic"], spared["recency"]))
print({name: round(float(value), 2) for name, value in mean.items()})
print(f"semantic is ahead of recency on {wins} of {len(passages)}")

assert mean["semantic"] > 3 * mean["recency"] and mean["semantic"] > 1.7 * mean["random"]
assert wins >= 9

# %% [markdown]
# ## 4. Does the map depend on what the model knows?
#
# A map could come from the text alone: from where a token stands, and how large its embedding is.
# To see that, destroy the model. `randomisation` fills its blocks with random numbers, from the
# output down, and compares the maps with those of the intact model. A map of what the model has
# learnt must become another one.
#
# **Predict.** Which of semantic, rollout and recency will not notice that the model is gone?

# %%
names = ("semantic", "temperature", "rollout", "recency")
broken = evaluation.faithfulness_card(
    model,
    passages[:4],
    {name: methods[name] for name in names},
    settings=evaluation.Settings(sufficiency=False),
    randomised=[3, 9, 18],
    stability=False,
    spectra=False,
    progress=False,
)
print(broken.verdicts()[["method", "similarity", "low", "high", "verdict"]].round(2).to_string())
broken.plot("randomisation")

# %% [markdown]
# Recency, of course, does not notice: similarity 1. Rollout hardly does: with every block random,
# 0.9 of its ranking is still there. What it shows is mostly where tokens stand. The scopes' maps
# are gone. This check does not make a method good. It unmasks one that cannot be.

# %%
verdict = broken.verdicts().set_index("method")
assert verdict.loc["recency", "similarity"] > 0.999 and verdict.loc["rollout", "similarity"] > 0.8
assert (verdict.loc[["rollout", "recency"], "verdict"] == "fail").all()
assert (verdict.loc[["semantic", "temperature"], "similarity"] < 0.35).all()
assert (verdict.loc[["semantic", "temperature"], "verdict"] == "pass").all()

# %% [markdown]
# ## 5. How much of the answer does it show?
#
# The Fisher scope of rank `k` looks at the `k` directions that move the predicted distribution
# most. Are one or four enough? That differs by prompt, and each result says how much of the whole
# it holds.
#
# **Predict.** After *Tom is a* anything may come. After *in the city of*, *Paris* has four fifths
# of the bet. Of which prediction does a single direction hold more?

# %%
wide = [ts.attribute(model, text, ts.FisherScope(rank=64)) for text in passages[:2]]
render.spectrum(wide, labels=["Tom is a", "in the city of"])

# %%
shares = []
for found in wide:
    eigenvalues = np.array(found.fisher.eigenvalues)
    shares.append(eigenvalues.cumsum() / found.fisher.trace)
    first, four, most = (shares[-1][k - 1] for k in (1, 4, 64))
    print(f"{found.str_tokens[-1]!r}: {first:.0%} in one, {four:.0%} in four, {most:.0%} in 64")
narrow = [ts.attribute(model, text, ts.FisherScope(rank=1)) for text in passages[:2]]
same = [spearmanr(a.scores[0, 1:], b.scores[0, 1:]).statistic for a, b in zip(narrow, wide)]
print(
    "rank correlation of the maps of rank 1 and rank 64:",
    [round(float(value), 2) for value in same],
)

# %% [markdown]
# An open prediction spreads over many directions, a settled one over few: one direction holds a
# seventh of the first and more than half of the second. Not even 64 of 640 hold all. The maps of
# each prompt rank the tokens nearly alike, and still the first one is led by another token:
# *Korean* at rank 1, *a* at rank 64. A low rank gets most of the order for little money. To name a
# winner or to compare sizes between prompts, look at the share first, or take `rank="full"`.

# %%
assert 0.12 < shares[0][0] < 0.16 and 0.5 < shares[1][0] < 0.6
assert 0.78 < shares[0][63] < 0.87 and 0.9 < shares[1][63] < 0.96
assert min(same) > 0.85
leaders = [
    found.str_tokens[1 + int(found.scores[0, 1:].argmax())] for found in (narrow[0], wide[0])
]
assert leaders == [" Korean", " a"]
render.compare([narrow[0], wide[0]], labels=["rank 1", "rank 64"])

# %% [markdown]
# ## What to write under a map
#
# 1. It is about small nudges, and within that it is exact.
# 2. Its order of the tokens agrees with taking them away at 0.6 over these passages, not at 1.
# 3. It depends on the weights.
# 4. Compare it with recency, or leave the end of the prompt out.
# 5. Say the share, if it is a Fisher map.

# %%
assert 0.5 < agrees["semantic"] < 0.68 and agrees["recency"] < agrees["semantic"] - 0.15

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: another replacement
#
# Zero is no embedding that the model has ever seen. `evaluation.Settings(replacements="mean")` puts
# the mean embedding of the vocabulary in its place. Is recency still ahead of semantic, and can
# twelve passages tell?

# %% [markdown]
# <details><summary>Solution</summary>
#
# It is ahead, by less than half as much, and the interval of the difference holds zero: they cannot
# tell. A result that depends on the replacement is a result about the replacement. Report more than
# one.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
gentle = evaluation.faithfulness_card(
    model,
    passages,
    {name: methods[name] for name in ("semantic", "recency")},
    settings=evaluation.Settings(replacements="mean", sufficiency=False),
    randomised=False,
    stability=False,
    spectra=False,
    progress=False,
)
difference = gentle.comparisons("recency", metrics=["aopc_comprehensiveness"]).iloc[0]
print(difference[["difference", "low", "high", "p"]].to_dict())

assert -0.3 < difference["difference"] < -0.05 and difference["p"] > 0.05

# %% [markdown]
# ### Exercise 2: a scope without a logit
#
# Check the Temperature score of *Columbia* as section 1 checked the semantic one. Its number is the
# length of the final state, which you can catch with a hook on the way into `model.unembed`.

# %% [markdown]
# <details><summary>Solution</summary>
#
# The gradient of the length gives the direction; the length at both ends of a small nudge gives the
# slope. It is the score to within a hundredth.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}


def length_at(embedding):
    def note(unembed, inputs):
        caught["y"] = inputs[0][0, -1]

    catch = model.unembed.register_forward_pre_hook(note)
    with catch, model.hooks(fwd_hooks=[("hook_embed", lambda _, hook: embedding)]):
        model(prompt)
    return caught["y"].norm()


at = r.clone().requires_grad_()
(slope,) = torch.autograd.grad(length_at(at), at)
step = torch.zeros_like(r)
step[0, columbia] = 0.05 * slope[0, columbia] / slope[0, columbia].norm()
with torch.no_grad():
    got = float(length_at(r + step) - length_at(r - step)) / 0.1
said = float(ts.attribute(model, prompt, ts.TemperatureScope()).scores[0, columbia])
print(f"promised {said:.3f}, measured {got:.3f}")

assert abs(got / said - 1) < 0.03

# %% [markdown]
# ### Exercise 3: a rank for nine tenths
#
# How many directions hold 90% of the Fisher information of each of the first three passages?
# (`evaluation.fisher_spectrum` with `top=256` and `tail=1e-3`, then `evaluation.ranks_holding`.)

# %% [markdown]
# <details><summary>Solution</summary>
#
# More than 100 for *Tom is a*, a few dozen for *in the city of* and about 20 for the fridge: the
# more open the prediction, the more directions.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
spectrum = evaluation.fisher_spectrum(model, passages[:3], top=256, tail=1e-3)
ranks_needed = evaluation.ranks_holding(spectrum, [0.9])["k"].tolist()
print(ranks_needed)

assert ranks_needed[0] > 100 and 20 < ranks_needed[1] < 70 and ranks_needed[2] < 40

# %% [markdown]
# ## Next
#
# - `card.to_html("card.html")` is the whole report; `tl-scopes evaluate` makes it of a data set.
# - `07_your_own_explanandum`: questions that nobody has asked yet.
