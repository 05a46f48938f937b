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
# # Three questions, three scopes
#
# Ask three people *why did the model say that?*, and each may mean something else. **Which question
# does each scope answer, and when do the answers differ?** You put the same three questions to three
# kinds of prompt: a sentence about Tom, two translations, and an instruction.
#
# | scope | its question | its answer is in |
# |---|---|---|
# | `SemanticScope(" word")` | what moves the score of this one token? | logits per unit |
# | `FisherScope(rank=k)` | what moves the whole bet? | nats per squared unit |
# | `TemperatureScope()` | what makes the model more sure, or less? | length of `y` per unit |
#
# Tutorial 1 says what a score is: how far the answer moves, per unit of a small nudge to a token.
# Every claim is checked by an `assert`, and where the models do not do what one would hope, it says
# so. About a minute, on two small models: Gemma-3 270M for the first half, SmolLM2-135M-Instruct for
# the second.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import tl_scopes as ts
from tl_scopes import models, render

model = models.load(progress=False)  # Gemma-3 270M

# %% [markdown]
# ## 1. Tom
#
# The prompt is the one of the [Jacobian Scopes paper](https://arxiv.org/abs/2601.16407) that hints at
# politics without naming it.
#
# **Predict.** The three scopes read the same pass of the same model. How alike will their pictures
# be? And which one will be led by the end of the sentence?

# %%
tom = "Tom loves Korean food. He grew up in the South and goes to Columbia. Tom is a"
semantic = ts.attribute(model, tom, ts.SemanticScope(" liberal"))
fisher = ts.attribute(model, tom, ts.FisherScope(rank=1))
temperature = ts.attribute(model, tom, ts.TemperatureScope())
names = ["semantic: liberal", "Fisher, rank 1", "temperature"]

render.compare([semantic, fisher, temperature], labels=names)


# %%
def leaders(found, k=3):
    """The k tokens with the highest scores, BOS aside."""
    return [text for _, text, _ in found.top(k + 1) if text != "<bos>"][:k]


for name, found in zip(names, [semantic, fisher, temperature]):
    print(f"{name:>18}: {leaders(found)}")

ranks = (
    torch.stack([x.scores[0, 1:] for x in (semantic, fisher, temperature)]).argsort(1).argsort(1)
)
agreement = torch.corrcoef(ranks.double())
assert agreement.min() > 0.9  # the three rank the words much alike,
assert leaders(temperature, 2) == [" a", " is"]  # but the end leads one,
others = [
    fisher.scores[0, i] for i, text in enumerate(fisher.str_tokens) if text not in (" a", " Korean")
]
assert leaders(fisher, 1) == [" Korean"] and fisher.scores[0, 3] > 1.2 * max(others)

# %% [markdown]
# All three rank the words much alike: what is read at all is read by every question. They differ in
# what stands out. Temperature is led by *is* and *a*, Fisher by *Korean*, and the picture of Fisher
# is the steepest, since its scores are squares.
#
# Why *Korean*? Fisher asks about the bet as it is, and here is the bet:

# %%
render.prediction(semantic)

# %%
assert semantic.prediction[0].text == " Korean"
assert " liberal" not in [candidate.text for candidate in semantic.prediction]

# %% [markdown]
# *liberal* is not among the first ten. The model is about to say *Korean* again, and Fisher explains
# that. The semantic scope explains a token that we chose. **Choose it with care: it is a question
# about your word, even if the model would never say it.**
#
# ### What separates two words
#
# Much of what moves *liberal* moves every other adjective too. The difference of two logits drops
# what they share: `LogitDifferenceScope(a, b)` has `v = W_U[:, a] - W_U[:, b]`.
#
# **Predict.** Which words decide between *liberal* and *conservative*? And which of these edits will
# change the balance most: *Columbia* to *church*, or *South* to *North*?

# %%
balance = ts.attribute(model, tom, ts.LogitDifferenceScope(" liberal", " conservative"))
balance

# %%
liberal, conservative = (model.to_single_token(w) for w in (" liberal", " conservative"))


def tilt(text):
    """By how much the logit of liberal is above that of conservative."""
    with torch.no_grad():
        logits = model(text)[0, -1]
    return float(logits[liberal] - logits[conservative])


edits = [(" Columbia", " church"), (" Columbia", " Harvard"), (" South", " North")]
moved = {new: tilt(tom.replace(old, new)) - tilt(tom) for old, new in edits}
print(f"as it is: {tilt(tom):+.2f}")
for (old, new), change in zip(edits, moved.values()):
    print(f"{old} ->{new}: {change:+.2f}")

score = {text: float(s) for text, s in zip(balance.str_tokens, balance.scores[0])}
assert tilt(tom) < 0  # conservative is ahead
assert leaders(balance, 4)[1:3] == [" Korean", " Columbia"]
assert score[" Columbia"] > 1.5 * score[" South"]
assert moved[" church"] < -0.7 and moved[" Harvard"] > 0.2 and abs(moved[" North"]) < 0.2

# %% [markdown]
# The scope puts *Columbia* at twice *South*, and the edits agree: without the university the balance
# falls by a whole logit, while *North* for *South* changes next to nothing. A reader who expects the
# South to be heard as conservative will not find it in this small model. (It is one sentence and one
# pair of words: a reason to look further, not a measurement of bias.)

# %% [markdown]
# ## 2. Translation
#
# The prompt holds a German sentence and its English translation, and each English word is a
# prediction of its own. `attribute_sequence` explains them all at once: one row for each predicted
# word, with `NEXT_TOKEN` as the target. German words are cut into pieces (*G*, *estern*), so
# `group(by="word")` joins the scores of the pieces. For norms that is the root of the sum of their
# squares: what a nudge of the whole word could do.
#
# The sentence is chosen to be hard: the German verb, *gekauft*, stands at the very end.
#
# **Predict.** Draw the grid of German against English words, and mark the cells that should be
# bright. What will the row of *bought* look like?

# %%
german = (
    "German: Gestern habe ich meinem Bruder ein neues Fahrrad gekauft. "
    "English: Yesterday I bought my brother a new bicycle."
)
french = (
    "French: La maison blanche est près de la rivière froide. "
    "English: The white house is near the cold river."
)


def align(text, scope):
    """Rows: predicted English words. Columns: source words. Scores of the source, by word."""
    tokens = model.to_str_tokens(text)
    start, end = tokens.index(":") + 1, tokens.index(" English")
    found = ts.attribute_sequence(model, text, scope, positions=range(end + 1, len(tokens) - 1))
    words = found.group(by="word")
    source = [i for i, (a, b) in enumerate(words.spans) if a >= start and b <= end]
    source = [i for i in source if words.str_tokens[i] != "."]
    rows = [tokens[p + 1].strip() for p in words.positions]
    keep = [i for i, row in enumerate(rows) if row != "."]
    scores = words.scores[keep, 0][:, source].numpy()
    return [rows[i] for i in keep], [words.str_tokens[i].strip() for i in source], scores, found


def draw(rows, columns, scores, ax, title):
    """Each row by itself: bright is the source word that moves this prediction most."""
    ax.imshow(scores / scores.max(1, keepdims=True), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_title(title, fontsize=10)
    for r, best in enumerate(scores.argmax(1)):
        ax.plot(best, r, "o", color="white", markeredgecolor="black", markersize=6)


next_token = ts.SemanticScope(ts.NEXT_TOKEN)
aligned = {name: align(text, next_token) for name, text in (("DE", german), ("FR", french))}

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
for ax, (name, found) in zip(axes, aligned.items()):
    draw(*found[:3], ax, f"{name}-EN, semantic scope of each next word")
plt.close(figure)
figure

# %% [markdown]
# A dot marks the largest of each row. The content words line up: *Bruder* moves *brother*,
# *Fahrrad* moves *bicycle*, and *froide* and *rivière* cross over to *cold* and *river*. But it is
# no dictionary. The articles look to the noun or the adjective that they will stand before. *white*
# leans to *maison*, since French puts the noun first and the model would rather begin with *house*.
# And *bought* has no clear dot at all: *Gestern*, *habe* and *gekauft* share it.
#
# **Predict.** Do Fisher and Temperature, which are not told the next word, find the same pairs?

# %%
pairs = {
    "DE": "Yesterday=Gestern I=ich bought=gekauft my=meinem brother=Bruder new=neues bicycle=Fahrrad",
    "FR": "white=blanche house=maison is=est near=près cold=froide river=rivière",
}
scopes = {
    "semantic": next_token,
    "Fisher, rank 1": ts.FisherScope(rank=1),
    "temperature": ts.TemperatureScope(),
}
maps = {
    (language, name): aligned[language] if name == "semantic" else align(text, scope)
    for language, text in (("DE", german), ("FR", french))
    for name, scope in scopes.items()
}
hits = dict.fromkeys(scopes, 0)
for (language, name), (rows, columns, scores, _) in maps.items():
    best = dict(zip(rows, (columns[i] for i in scores.argmax(1))))
    known = dict(pair.split("=") for pair in pairs[language].split())
    hits[name] += sum(best[english] == source for english, source in known.items())
for name, found in hits.items():
    print(f"{name:>15}: {found} of 13 words lead back to their translation")

rows, columns, scores, _ = maps["DE", "semantic"]
bought = dict(zip(columns, scores[rows.index("bought")] / scores[rows.index("bought")].max()))
print({word: round(float(share), 2) for word, share in bought.items()})

assert hits["semantic"] >= 9 and hits["Fisher, rank 1"] >= 9 and hits["temperature"] >= 8
for word, source in (("Yesterday", "Gestern"), ("brother", "Bruder"), ("bicycle", "Fahrrad")):
    for name in scopes:
        rows, columns, scores, _ = maps["DE", name]
        row = scores[rows.index(word)]
        assert row.argmax() == columns.index(source) and np.sort(row)[-1] > 1.2 * np.sort(row)[-2]
assert set(sorted(bought, key=bought.get)[-3:]) == {"Gestern", "habe", "gekauft"}
assert min(bought[word] for word in ("Gestern", "habe", "gekauft")) > 0.85
articles = {"DE": {"a": "neues Fahrrad"}, "FR": {"The": "maison blanche", "the": "froide rivière"}}
for language, wanted in articles.items():
    rows, columns, scores, _ = maps[language, "semantic"]
    for article, ahead in wanted.items():
        assert columns[scores[rows.index(article)].argmax()] in ahead.split()
rows, columns, scores, found = maps["FR", "semantic"]
assert found.predictions[rows.index("white")][0].text == " house"

# %% [markdown]
# About ten of thirteen, for all three, where a blind guess among eight or nine words would get one
# or two. **Agreement between questions is the rule, once the model is sure what to say**: a bet with
# one horse is moved by what moves that horse. The largest difference is in sharpness:

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for ax, name in zip(axes, scopes):
    draw(*maps["DE", name][:3], ax, f"DE-EN, {name}")
plt.close(figure)
figure

# %% [markdown]
# ## 3. An instruction
#
# SmolLM2-Instruct was trained on dialogues with a fixed form, its *chat template*. The template
# brings its own first token, hence `prepend_bos=False`.
#
# **Predict.** The answer must be about Italy, and it must be French. Three tokens carry the task:
# *French*, *capital* and *Italy*. Which of them leads when you ask what moves *La*, what decides
# between *La* and *The*, and what makes the model sure?

# %%
chat = models.load("smollm2-135m-instruct", progress=False)


def dialogue(language):
    messages = [
        {"role": "system", "content": f"Answer in {language}."},
        {"role": "user", "content": "What is the capital of Italy?"},
    ]
    return chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


questions = {
    "semantic: La": ts.SemanticScope("La"),
    "difference: La over The": ts.LogitDifferenceScope("La", "The"),
    "Fisher, rank 1": ts.FisherScope(rank=1),
    "temperature": ts.TemperatureScope(),
}
answers = {
    name: ts.attribute(chat, dialogue("French"), scope, prepend_bos=False)
    for name, scope in questions.items()
}
render.compare(list(answers.values()), labels=list(answers))

# %%
task = {" French": "language", " capital": "question", " Italy": "country"}
values = {
    name: {text: float(s) for text, s in zip(x.str_tokens, x.scores[0]) if text in task}
    for name, x in answers.items()
}
for name, found in values.items():
    ordered = sorted(found, key=found.get, reverse=True)
    print(f"{name:>24}:", ", ".join(f"{text.strip()} {found[text]:.1f}" for text in ordered))

for name in ("temperature", "difference: La over The"):
    assert leaders(answers[name], 1) == [" French"]
    assert values[name][" French"] > 1.15 * values[name][" capital"]
assert leaders(answers["Fisher, rank 1"], 1) == [" capital"]
near = values["semantic: La"]
assert set(leaders(answers["semantic: La"], 2)) == {" French", " capital"}
assert abs(near[" French"] / near[" capital"] - 1) < 0.1

# %% [markdown]
# Here the questions part. What moves *La* at all is *French* and *capital*, side by side. What
# decides for *La* and against *The* is *French*, clearly, and *French* is also what makes the model
# sure or unsure. Fisher is led by *capital*: its strongest direction is about which answer to begin.
# The model has in fact not decided on a language:

# %%
render.prediction(answers["temperature"])


# %%
def probability(language, word):
    with torch.no_grad():
        logits = chat(dialogue(language), prepend_bos=False)[0, -1]
    return float(logits.softmax(-1)[chat.to_single_token(word)])


for language in ("French", "English"):
    print(
        f"{language}: The {probability(language, 'The'):.2f}, La {probability(language, 'La'):.2f}"
    )
assert probability("English", "The") > 1.7 * probability("French", "The")
assert probability("French", "La") > 1.7 * probability("English", "La")
assert answers["temperature"].prediction[0].probability < 0.3

# %% [markdown]
# The instruction is heard all the same: with *English* in its place, *The* becomes more than
# twice as likely, and *La* less than half.
#
# ## Exercises
#
# ### Exercise 1: does the instruction always lead?
#
# Put the same question with *Spanish*, *Italian*, *German* and *English* in place of *French*.
# **Predict** for which of them the name of the language leads the Temperature scope.

# %% [markdown]
# <details><summary>Solution</summary>
#
# For all but *English*, where *capital* leads. One way to read it: English is what this model
# speaks anyway, so the word changes little. Change it to *French*, and you have seen what happens.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
first = {}
for language in ("Spanish", "Italian", "German", "English"):
    found = ts.attribute(chat, dialogue(language), ts.TemperatureScope(), prepend_bos=False)
    first[language] = found.top(1)[0][1].strip()
print(first)

assert all(first[language] == language for language in ("Spanish", "Italian", "German"))
assert first["English"] == "capital"

# %% [markdown]
# ### Exercise 2: the paper's sentence
#
# The repository of the paper has this pair: *Dies ist ein Aufsatz über kausale Zuschreibung.*
# *This is a paper on causal attribution.* Align it. Which words find their translation, and where
# does *on* look?

# %% [markdown]
# <details><summary>Solution</summary>
#
# *This*, *paper*, *causal* and *attribution* find theirs. *on* looks at *Aufsatz*, four times as much
# as at *über*, its dictionary entry: whether a paper is *on*, *about* or *of* something depends on
# the paper.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
paper = (
    "German: Dies ist ein Aufsatz über kausale Zuschreibung. "
    "English: This is a paper on causal attribution."
)
rows, columns, scores, _ = align(paper, next_token)
best = dict(zip(rows, (columns[i] for i in scores.argmax(1))))
print(best)

for pair in "This=Dies paper=Aufsatz causal=kausale attribution=Zuschreibung on=Aufsatz".split():
    assert best[pair.split("=")[0]] == pair.split("=")[1]
looked = dict(zip(columns, scores[rows.index("on")]))
assert looked["Aufsatz"] > 3 * looked["über"]

# %% [markdown]
# ### Exercise 3: one direction, or sixteen
#
# In section 1 Fisher had rank 1: one direction of change. Draw ranks 1 and 16 of Tom side by side.
# What happens to *Korean*? How much of the Fisher information does each hold? (`render.spectrum`
# draws it.)

# %% [markdown]
# <details><summary>Solution</summary>
#
# With sixteen directions *a* is above *Korean*. The first direction is the one in which food words
# trade with the rest, and it holds a seventh of the information. The other fifteen are about other
# things, and together the sixteen hold not quite two thirds.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
wide = ts.attribute(model, tom, ts.FisherScope(rank=16))
print(leaders(fisher), f"{fisher.fisher.share:.0%}", leaders(wide), f"{wide.fisher.share:.0%}")

assert leaders(wide, 2) == [" a", " Korean"] and wide.scores[0, -1] > 1.2 * wide.scores[0, 3]
assert 0.12 < fisher.fisher.share < 0.16 and 0.5 < wide.fisher.share < 0.67
render.compare([fisher, wide], labels=["rank 1", "rank 16"])

# %% [markdown]
# ## Next
#
# - `03_through_the_layers`: where in the model the influence passes.
# - Tutorial 6: how to check a picture like these.
