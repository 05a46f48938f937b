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
# Not all of it goes well for the scopes. You need tutorial 1, which says what a hook and a score are
# and what the Temperature and Fisher scopes ask; tutorial 2 has more on those two. Where it says
# **Predict**, write your answer down before you go on. It takes about two minutes.

# %%
from dataclasses import dataclass
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr, wilcoxon

import tl_scopes as ts
from tl_scopes import baselines, circuits, evaluation, models, render
from tl_scopes.results import statistics

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
# much per unit. That can be measured: run the model with the token nudged forth, and nudged back.

# %%
# no target: the model's own first choice
semantic = ts.attribute(model, prompt, ts.SemanticScope())
target = semantic.target.id
print("explained:", semantic.target.text)
semantic

# %%
ids, columbia = model.to_tokens(prompt), tokens.index(" Columbia")
_, cache = model.run_with_cache(ids, names_filter=lambda name: name == "hook_embed")
r = cache["hook_embed"].detach()


def final_states(ids, edit):
    """What the last position hands to the unembedding, [row, d_model], embeddings edited."""
    caught = {}

    def end_here(unembed, inputs):
        caught["y"] = inputs[0][:, -1]
        return (inputs[0][:, -1:],)  # to unembed every position costs more than all the rest

    catch = model.unembed.register_forward_pre_hook(end_here)
    with catch, model.hooks(fwd_hooks=[("hook_embed", edit)]):
        model(ids)
    return caught["y"]


def gradient_of(answer):
    """Gradient [pos, d_model] at the embeddings of a number that is made of the final state."""
    at = r.clone().requires_grad_()
    (found,) = torch.autograd.grad(answer(final_states(ids, lambda _, hook: at)[0]), at)
    return found[0]


def slope(answer, t, direction, size):
    """Change of the answer, per unit, between token t nudged forth and back along a direction."""
    nudge = torch.zeros_like(r)
    nudge[0, t] = size * direction / direction.norm()
    both = torch.cat([r + nudge, r - nudge])
    with torch.no_grad():
        forth, back = final_states(ids.repeat(2, 1), lambda _, hook: both)
        return float(answer(forth) - answer(back)) / (2 * size)


def logit(y):
    return y @ model.W_U[:, target]


gradient = gradient_of(logit)
promised, length = float(semantic.scores[0, columbia]), float(r[0, columbia].norm())
sizes = [1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1, 3, 10, length]
kept = {size: slope(logit, columbia, gradient[columbia], size) / promised for size in sizes}

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
# From 0.01 to 0.1 the promise is kept to a hundredth. Below that, rounding begins to show: the logit
# is 23, where single precision counts in steps of 0.000002, and at a nudge of 0.00001 the two logits
# should lie 0.000013 apart. From 1 on the model curves away, and at the length of an embedding less
# than a tenth is left. So **the number is right, and it is about small nudges.** What you would like
# to know is not small: what if the word had not been there?

# %%
torch.testing.assert_close(gradient.norm(dim=-1), semantic.scores[0], rtol=1e-4, atol=1e-5)
assert all(abs(kept[size] - 1) < 0.01 for size in (1e-2, 0.03, 0.1))
with torch.no_grad():
    intact = float(logit(final_states(ids, lambda embedding, hook: embedding))[0])
assert 22.9 < intact < 23.3 and 1.9e-6 < np.spacing(np.float32(intact)) < 2e-6
assert 1.2e-5 < 2e-5 * promised < 1.4e-5 and 0.02 < abs(kept[1e-5] - 1) < 0.9
assert 0.75 < kept[1] < 0.9 and 0.05 < kept[length] < 0.1 and 26 < length < 26.2

# %% [markdown]
# ## 2. Predict, then intervene
#
# So take every token away, one at a time: its embedding becomes zero. `verify` does that, and holds
# the scores against it.
#
# **Predict.** How well will the scores rank the real changes? (A *rank correlation* compares two
# orders: 1 is the same order, 0 no relation, -1 the reverse.) Which token does most harm when it goes?

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
# *a*, the last word, costs more than 20 logits, then comes *Korean*. Both lead the map too, `<bos>`
# aside. But the first-order change (the gradient times the whole step) has no value here: taking a
# token away is a nudge of 26. It does not rank the tokens, and for *a* it has the wrong sign.
#
# And look at the interval of the rank agreement. **One prompt of 20 tokens tells you next to
# nothing**: anything from "no relation" to "rather good" fits. Never judge a method by a picture.

# %%
changes = {name: (predicted, measured) for name, predicted, measured in checked.top(20)}
assert [name for name, *_ in checked.top(2)] == ["19: ' a'", "3: ' Korean'"]
assert {text for _, text, _ in semantic.top(2, include_bos=False)} == {" a", " Korean"}
assert -26 < changes["19: ' a'"][1] < -20 and 0.4 < changes["19: ' a'"][0] < 0.8
assert -10 < changes["3: ' Korean'"][1] < -7
assert checked.prediction_agreement.value < 0.1  # the first-order changes do not even rank
assert -0.5 < ranks.low < 0 and 0.55 < ranks.high < 0.85

# %% [markdown]
# ## 3. Against what?
#
# So use twelve passages, and a number that does not need signs. **Comprehensiveness**: replace the
# highest-scored 5, 10 and 20% of the tokens by zero, and note by how many nats the log-probability
# of the model's answer falls; the area over the three shares is the *AOPC*. The higher, the better
# the map found what mattered. (The area is 0.15 wide: 0.9 is a mean fall of 6 nats, to a 400th of
# the probability.)
#
# A number needs something to compare it with. Random scores, of course. *Attention rollout*, which
# follows attention back through the layers. *Gradient x input*: each number of an embedding times
# its gradient, and the length of these products. And one more, of your own: *recency*, by which a
# token is the more important the later it stands. It does not read the text.


# %%
@dataclass(frozen=True)
class Recency(baselines.Method):
    """The later a token, the higher its score."""

    name = "recency"
    units = "none"

    def scores(self, prompt_run, site):
        return baselines.Scored(torch.arange(len(prompt_run.ids)))


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
lean = {"stability": False, "spectra": False, "progress": False}  # a card can hold more
card = evaluation.faithfulness_card(
    model,
    passages,
    methods,
    settings=evaluation.Settings(leave_one_out="zero", sufficiency=False),
    randomised=False,
    **lean,
)
card.plot("aopc")

# %%
table = card.to_frame().set_index(["metric", "method"])["mean"]
aopc, agrees = table["aopc_comprehensiveness"], table["loo_spearman"]
for name in methods:
    print(f"{name:>17}: AOPC {aopc[name]:.2f}, agreement with leave-one-out {agrees[name]:+.2f}")

tests = card.comparisons("recency", metrics=["aopc_comprehensiveness"]).set_index("method")
print(tests[["difference", "low", "high", "p", "p_holm", "better"]].round(4).to_string())

# %% [markdown]
# Recency comes first. A rule that never saw the text has the best mean, and the tests put it before
# each of the other five. `p` says how often chance alone gives a difference as clear as this one;
# `p_holm` is corrected for the number of tests, since who asks often gets lucky. Here it counts five.
# You ranked all six, which makes 15 pairs, and the five still hold. The ≈ in the figure corrects for
# all pairs on all measures of the card, and so cannot tell semantic from recency. Say which you use.
#
# Why recency? Perhaps because the last tokens are where the answer is read: without their embeddings
# the model does not know what to say about anything. Then this number mostly asks whether a method
# puts the end of the prompt first, and says little about the words before. That can be tested below.
#
# Two more things to note. Rollout is not better than random: it puts its trust in the beginning of
# the prompt. And between the two scopes and gradient x input, twelve passages cannot tell.

# %%
between = card.comparisons(metrics=["aopc_comprehensiveness"]).set_index(["method", "reference"])
with_recency = between[["recency" in pair for pair in between.index]]
assert len(tests) == len(with_recency) == 5 and len(between) == 15
assert (tests["better"] == "recency").all() and (with_recency["better"] == "recency").all()
tied = card.leaders().set_index("metric").loc["aopc_comprehensiveness", "method"]
assert {"recency", "semantic"} <= set(tied) and aopc.idxmax() == "recency"
assert between.loc[("rollout", "random"), "better"] != "rollout" and aopc["rollout"] < 0.1
alike = ["semantic", "temperature", "gradient x input"]
assert all(between.loc[pair, "p_holm"] > 0.05 for pair in combinations(alike, 2))
assert aopc["semantic"] > 2 * aopc["random"] and 5.3 < aopc["semantic"] / 0.15 < 6.5

# %% [markdown]
# ### A fairer question
#
# What you want to know is which of the *words before* matter. So leave the last four tokens alone,
# whatever their scores, and measure the others. By hand; with none left alone it must give what the
# card gave. Random scores are drawn five times and averaged: one draw may be lucky.
#
# **Predict.** What is left of recency? And of the others?


# %%
def taken(scores, spare):
    """The best 5, 10 and 20% of the tokens, the last `spare` left alone."""
    last = len(scores) - spare
    order = [int(t) for t in scores[:last].argsort(descending=True, stable=True) if t > 0]
    counts = [max(1, int((len(scores) - 1) * share)) for share in (0.05, 0.1, 0.2)]
    return [frozenset(order[:count]) for count in counts]


def aopc_by_hand(text, answer, asked):
    """AOPC of each map, {key: (scores, spare)}, the last `spare` tokens left alone."""
    sets = {key: taken(scores, spare) for key, (scores, spare) in asked.items()}
    distinct = [frozenset(), *set().union(*sets.values())]  # with nothing taken away first

    def zero(embedding, hook):
        embedding = embedding.clone()
        for row, gone in enumerate(distinct):
            embedding[row, list(gone)] = 0
        return embedding

    with torch.no_grad():
        y = final_states(model.to_tokens(text).repeat(len(distinct), 1), zero)
        log_p = (y @ model.W_U).log_softmax(-1)[:, answer]
    fall = dict(zip(distinct, (log_p[0] - log_p).tolist()))
    return {
        key: 0.05 * (fall[a] + fall[b]) / 2 + 0.1 * (fall[b] + fall[c]) / 2
        for key, (a, b, c) in sets.items()
    }


maps = {name: [] for name in methods if name != "random"}
measured = []
for text in passages:
    for name in maps:
        method = methods[name]
        own = isinstance(method, baselines.Method)
        found = method.attribute(model, text) if own else ts.attribute(model, text, method)
        maps[name].append(found.scores[0])
    asked = {(name, 4): (maps[name][-1], 4) for name in maps}
    for name in ("semantic", "recency"):
        asked |= {(name, spare): (maps[name][-1], spare) for spare in (2, 6)}
    asked["semantic", 0] = maps["semantic"][-1], 0
    draws = torch.rand(5, len(found.tokens), generator=torch.Generator().manual_seed(0))
    asked |= {("random", f"draw {i}"): (draw, 4) for i, draw in enumerate(draws)}
    measured.append(aopc_by_hand(text, found.prediction[0].id, asked))

by_hand = pd.DataFrame(measured)
spared = {name: by_hand[name, 4] for name in maps}
spared["random"] = by_hand[[key for key in by_hand if key[0] == "random"]].mean(axis=1)
rows = card.rows[card.rows["metric"] == "aopc_comprehensiveness"]
everything = rows.pivot(index="index", columns="method", values="value")
assert np.allclose(by_hand["semantic", 0], everything["semantic"], atol=0.01)

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharex=True, sharey=True)
panels = {"all tokens": everything, "the last four left alone": spared}
for ax, (title, values) in zip(axes, panels.items()):
    for name in spared:
        ax.plot(values[name], [name] * len(passages), "o", color="0.7", markersize=4)
        ax.plot(
            values[name].mean(), name, "|", color="tab:blue", markersize=16, markeredgewidth=2.5
        )
    ax.set(title=title, xlabel="AOPC (nats × share)", ylim=(len(spared) - 0.4, -0.6))
    ax.spines[["top", "right"]].set_visible(False)
plt.close(figure)
figure

# %%
mean = {name: float(values.mean()) for name, values in spared.items()}
others = [name for name in spared if name != "semantic"]
p_values = [wilcoxon(spared["semantic"], spared[name]).pvalue for name in others]
p_holm = dict(zip(others, statistics.holm(p_values)))
print(f"semantic: {mean['semantic']:.2f}; against it, corrected for five tests:")
for name in others:
    print(f"{name:>17}: {mean[name]:.2f}, p_holm {p_holm[name]:.3f}")
print(by_hand[[(name, k) for k in (2, 6) for name in ("semantic", "recency")]].mean().round(2))

# %% [markdown]
# *One dot a passage, bars are means; random is one draw on the left, the mean of five on the
# right.* Without the end of the prompt, recency is left with next to nothing: its lead was the end.
# The semantic scope still finds something, and the tests put it before recency, random, rollout and
# temperature (which was not asked about the answer). **So the scope finds something in the words
# before that recency does not**, and the plain number did not show it. Gradient x input may find as
# much: here too, the test cannot tell. And four was our choice: with two or six left alone, the
# mean of semantic is still more than twice that of recency.

# %%
assert 0.3 < mean["semantic"] < 0.45 and abs(mean["recency"]) < 0.07
assert p_holm.pop("gradient x input") > 0.05 and max(p_holm.values()) < 0.03
assert all(by_hand["semantic", k].mean() > 2 * by_hand["recency", k].mean() for k in (2, 6))
for scores in maps["rollout"]:  # the later a token, the lower rollout puts it
    assert spearmanr(scores[1:], range(len(scores) - 1)).statistic < -0.7

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
    **lean,
)
print(broken.verdicts()[["method", "similarity", "low", "high", "verdict"]].round(2).to_string())
broken.plot("randomisation")

# %% [markdown]
# Recency, of course, does not notice: similarity 1. Rollout hardly does: with every block random, its
# ranking still agrees with the old one at 0.9. What it shows is mostly where tokens stand. The
# scopes' maps are gone. This check does not make a method good. It unmasks one that cannot be.

# %%
verdict = broken.verdicts().set_index("method")
assert verdict.loc["recency", "similarity"] > 0.999
assert 0.83 < verdict.loc["rollout", "similarity"] < 0.95
assert (verdict.loc[["rollout", "recency"], "verdict"] == "fail").all()
assert (verdict.loc[["semantic", "temperature"], "similarity"] < 0.35).all()
assert (verdict.loc[["semantic", "temperature"], "verdict"] == "pass").all()

# %% [markdown]
# ## 5. How much of the answer does it show?
#
# The Fisher scope of rank `k` looks at the `k` directions that move the predicted distribution
# most. Are one or four enough? An eigenvalue is the weight of a direction, and the sum of all of them
# is the *trace*, the weight of the full Fisher scope. Each result says what share of it is held.
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
print("rank correlation of rank 1 and rank 64:", [round(float(value), 2) for value in same])

# %% [markdown]
# Here the open prediction spreads over many directions, the settled one over few: one direction
# holds a seventh of the first and more than half of the second. Not even 64 of 640 hold all. The
# maps of each prompt rank the tokens nearly alike, and still the first one is led by another token,
# `<bos>` aside: *Korean* at rank 1, *a* at rank 64. A low rank gets most of the order for little
# money. To name a winner or to compare sizes between prompts, look at the share first, or take
# `rank="full"`.

# %%
assert 0.12 < shares[0][0] < 0.16 and 0.5 < shares[1][0] < 0.6
assert 0.78 < shares[0][63] < 0.87 and 0.9 < shares[1][63] < 0.96
assert min(same) > 0.85
leaders = [found.top(1, include_bos=False)[0][1] for found in (narrow[0], wide[0])]
assert leaders == [" Korean", " a"]
paris = wide[1].prediction[0]
assert paris.text == " Paris" and 0.75 < paris.probability < 0.85
render.compare([narrow[0], wide[0]], labels=["rank 1", "rank 64"])

# %% [markdown]
# ## 6. What would change the prediction?
#
# A norm asks about every direction of an embedding. A text can only change to other tokens. The
# same gradient says, to first order, what another token would do: multiply it by the difference of
# the two embeddings. `substitutions` lists the strongest among the tokens that the model itself
# expected in a place, and with `verified=True` it runs the prompt with each of them.
#
# **Predict.** The model says *Korean*. Which words in the place of *Columbia* would make it surer?
# And how often will first order be right about the sign?

# %%
ask = ts.SemanticScope(target)
korean = tokens.index(" Korean")
others = ts.substitutions(model, prompt, ask, [korean, columbia], k=5, verified=True)
listed = others.to_frame()[["token", "other", "probability", "effect", "measured"]]
print(listed.round(3).to_string(index=False))

everywhere = ts.substitutions(model, prompt, ask, k=5, verified=True)
print(f"all tokens: rank correlation {everywhere.rank_agreement:.2f}, ", end="")
print(f"the sign is right in {everywhere.sign_agreement:.0%}")

# %% [markdown]
# In the place of *Columbia*, *Korea* and *Seoul* speak for *Korean*, *university* and *college*
# against it. Real runs agree on eight of the ten signs, and those changes are smaller by half at least. In
# the place of *Korean* the list is of no use: it promises that *seeing* adds 2 logits, and each of
# its ten tokens costs 6 or more. Over the whole prompt the sign is right in two thirds, where a coin
# has half. Another token is a large nudge, and section 1 showed how far those go. **Take the list for
# experiments that are worth running, and believe what was measured.**

# %%
by_place = {t: others.at(t) for t in (korean, columbia)}
agreeing = [each for each in by_place[columbia] if each.effect * each.measured > 0]
assert len(agreeing) == 8 and len(by_place[columbia]) == 10
assert all(abs(each.measured) < abs(each.effect) / 2 for each in agreeing)
changed = {each.text: each for t in by_place for each in by_place[t]}
assert all(changed[word].measured > 0 for word in (" Korea", " Seoul"))
assert all(changed[word].measured < 0 for word in (" university", " college"))
assert 1.9 < changed[" seeing"].effect < 2.2 and len(by_place[korean]) == 10
assert all(each.measured < -6 for each in by_place[korean])
assert 0.58 < everywhere.sign_agreement < 0.72 and 0.15 < everywhere.rank_agreement < 0.4

# %% [markdown]
# A whole map can ask that way too. `measure="tokens"` scores a token by the root mean square of what
# the tokens that the model expected there would change.
#
# **Predict.** Which token of *He grew up in the South* loses most?

# %%
over_tokens = ts.attribute(model, prompt, ask, measure="tokens")
render.compare([semantic, over_tokens], labels=["any direction", "likely tokens"])

# %% [markdown]
# *up*. After *grew* the model expects it, and hardly anything else could stand there. *Columbia* now
# leads, where much else could have been said, and `<bos>`, which nothing predicts, has none. It is
# another question, and the answer is still of first order.

# %%
kept_share = (over_tokens.scores[0] / semantic.scores[0])[1:]
assert tokens[1 + int(kept_share.argmin())] == " up" and kept_share.min() < 0.1
assert over_tokens.top(1)[0][1] == " Columbia" and over_tokens.scores[0, 0] == 0

# %% [markdown]
# ## What to write under a map
#
# 1. It is about small nudges, and within that it is exact.
# 2. Its order of the tokens agrees with taking them away at 0.6 over these passages, not at 1.
# 3. It depends on the weights.
# 4. Compare it with recency, or leave the end of the prompt out.
# 5. Say the share, if it is a Fisher map.
# 6. Where it matters, put another token there and run it.

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
# It is ahead, by less than half as much, and the test cannot tell (p is about 0.2). A result that
# depends on the replacement is a result about the replacement. Report more than one.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
gentle = evaluation.faithfulness_card(
    model,
    passages,
    {name: methods[name] for name in ("semantic", "recency")},
    settings=evaluation.Settings(replacements="mean", sufficiency=False),
    randomised=False,
    **lean,
)
difference = gentle.comparisons("recency", metrics=["aopc_comprehensiveness"]).iloc[0]
print(difference[["difference", "low", "high", "p"]].to_dict())

assert 0.2 < difference["difference"] / tests.loc["semantic", "difference"] < 0.5
assert 0.1 < difference["p"] < 0.4

# %% [markdown]
# ### Exercise 2: a scope without a logit
#
# Check the Temperature score of *Columbia* as section 1 checked the semantic one. Its number is the
# length of the final state, and the functions of section 1 take any answer that is made of that state.

# %% [markdown]
# <details><summary>Solution</summary>
#
# The answer is the length in place of the logit. Its gradient gives the direction, and the lengths at
# both ends of a small nudge give the slope. It is the score to within a hundredth.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}


def length_of(y):
    return y.norm(dim=-1)


got = slope(length_of, columbia, gradient_of(length_of)[columbia], 0.05)
said = float(ts.attribute(model, prompt, ts.TemperatureScope()).scores[0, columbia])
print(f"promised {said:.3f}, measured {got:.3f}")

assert abs(got / said - 1) < 0.01

# %% [markdown]
# ### Exercise 3: a rank for nine tenths
#
# How many directions hold 90% of the Fisher information of each of the first three passages?
# (`evaluation.fisher_spectrum` with `top=256` and `tail=1e-3`, then `evaluation.ranks_holding`.) Does
# a more open bet need more of them? Its entropy says how open it is: 0 nats if one token is sure.

# %% [markdown]
# <details><summary>Solution</summary>
#
# More than 100 for *Tom is a*, a few dozen for *in the city of* and about 20 for the fridge. It differs
# by prompt, and openness does not settle it: the bet on what is opened after the fridge is more open
# than the one on the city (2.2 nats against 1.3), and needs fewer.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
spectrum = evaluation.fisher_spectrum(model, passages[:3], top=256, tail=1e-3)
ranks_needed = evaluation.ranks_holding(spectrum, [0.9])["k"].tolist()
with torch.no_grad():
    bets = [torch.distributions.Categorical(logits=model(text)[0, -1]) for text in passages[:3]]
entropy = [float(bet.entropy()) for bet in bets]
print(ranks_needed, [round(nats, 2) for nats in entropy])

tom, city, fridge = ranks_needed
assert 105 < tom < 140 and 30 < city < 45 and 15 < fridge < 25
assert entropy[0] > 4.5 and 1.1 < entropy[1] < 1.4 and 2.1 < entropy[2] < 2.35

# %% [markdown]
# ## Next
#
# - `card.to_html("card.html")` is the whole report; `tl-scopes evaluate` makes it of a data set.
# - [07_your_own_explanandum](07_your_own_explanandum.ipynb): questions that nobody has asked yet.
