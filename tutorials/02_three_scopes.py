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
# kinds of prompt: a sentence about Tom, translations, and an instruction.
#
# | scope | its question | its answer is in |
# |---|---|---|
# | `SemanticScope(" word")` | what moves the score of this one token? | logits per unit |
# | `FisherScope(rank="full")` | what moves the whole bet? | nats per squared unit |
# | `FisherScope(rank=1)` | what moves the bet along its strongest single direction of change? | same |
# | `TemperatureScope()` | what makes the model more sure, or less? | length of `y` per unit |
#
# Tutorial 1 says what a score is: how far the answer moves, per unit of a small nudge to a token.
# Claims are checked by an `assert`, and where the models do not do what one would hope, it says so.
# One or two minutes, on two small models: Gemma-3 270M for sections 1 and 2, SmolLM2-135M-Instruct
# for section 3. The full Fisher scope would take a minute by itself, so here it has rank 1.

# %%
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
# be? And which one will be led by the last *two* words, *is* and *a*?

# %%
tom = "Tom loves Korean food. He grew up in the South and goes to Columbia. Tom is a"
semantic = ts.attribute(model, tom, ts.SemanticScope(" liberal"))
fisher = ts.attribute(model, tom, ts.FisherScope(rank=1))
temperature = ts.attribute(model, tom, ts.TemperatureScope())
on_tom = {
    "semantic: liberal": semantic,
    f"Fisher, rank 1 ({fisher.fisher.share:.0%})": fisher,
    "temperature": temperature,
}

render.compare(list(on_tom.values()), labels=list(on_tom))


# %%
def leaders(attribution, k):
    """The k tokens with the highest scores, BOS aside."""
    return [text for _, text, _ in attribution.top(k, include_bos=False)]


def score(attribution, word):
    """The score of a word that the prompt holds once."""
    return float(attribution.scores[0, attribution.str_tokens.index(word)])


for name, attribution in on_tom.items():
    print(f"{name:>20}: {leaders(attribution, 3)}")

ranks = torch.stack([x.scores[0, 1:] for x in on_tom.values()]).argsort(1).argsort(1)
assert torch.corrcoef(ranks.double()).min() > 0.9  # the three rank the words much alike,
assert leaders(temperature, 2) == [" a", " is"]  # but one is led by the last two,
assert leaders(semantic, 2) == [" a", " Korean"]
assert leaders(fisher, 2) == [" Korean", " a"]
assert 1.2 < score(fisher, " Korean") / score(fisher, " a") < 1.45
assert 0.12 < fisher.fisher.share < 0.16

# %% [markdown]
# All three rank the words much alike: what is read at all is read by every question. They differ in
# what stands out. Temperature is led by *a* and *is*, Fisher by *Korean*, and the picture of Fisher
# is the steepest, since its scores are squares.
#
# Why *Korean*? Fisher asks about the bet as it is. (Rank 1 is one direction of change and holds 14% of
# the Fisher information, as its label says. With more directions *a* leads here too: exercise 3.) Here
# is the bet:

# %%
render.prediction(semantic)

# %%
assert semantic.prediction[0].text == " Korean" and 0.09 < semantic.prediction[0].probability < 0.12
assert " liberal" not in [candidate.text for candidate in semantic.prediction]

# %% [markdown]
# *liberal* is not among the first ten. *Korean*, once more, is the best guess, at only 11%. Fisher
# explains these guesses; the semantic scope explains a token that we chose. **Choose it with care: it
# is a question about your word, even if the model would never say it.**
#
# ### What separates two words
#
# Much of what moves *liberal* moves every other adjective too. The difference of two logits drops
# what they share: `LogitDifferenceScope(a, b)` has `v = W_U[:, a] - W_U[:, b]`.
#
# **Predict.** Which words decide between *liberal* and *conservative*? Then put ten other words in the
# place of *Columbia*, and ten in the place of *South*: which ten will change the balance more?

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


replacements = {
    " Columbia": "Harvard Yale Duke Baylor Alabama Texas college school work church".split(),
    " South": "North East West Midwest city country suburbs Bronx mountains church".split(),
}
as_it_is = tilt(tom)
change, mean_change = {}, {}
for old, words in replacements.items():
    change[old] = {new: tilt(tom.replace(old, " " + new)) - as_it_is for new in words}
    mean_change[old] = np.mean([abs(by) for by in change[old].values()])
    print(f"{old}: score {score(balance, old):.2f}, mean change {mean_change[old]:.2f}")
    print({new: round(by, 2) for new, by in change[old].items()})

assert as_it_is < -0.3  # conservative is ahead
assert set(leaders(balance, 3)) == {" a", " Korean", " Columbia"}
assert 1.7 < score(balance, " Columbia") / score(balance, " South") < 2.3
assert 1.7 < mean_change[" Columbia"] / mean_change[" South"] < 2.8
assert change[" Columbia"]["church"] < -0.8 and abs(change[" Columbia"]["college"]) < 0.15
assert change[" South"]["Bronx"] > 0.5
assert all(abs(change[" South"][new]) < 0.3 for new in ("North", "East", "West"))

# %% [markdown]
# The scope puts *Columbia* at twice *South*, and so do the edits, on average. One by one they differ:
# *church* for *Columbia* costs a whole logit and *college* nothing, *Bronx* for *South* adds more than
# half. (A score is about small nudges in the best direction, not about a word of yours.) *North*, *East*
# and *West* for *South* change little: a reader who expects the South to be heard as conservative will
# not find it in this small model. It is one sentence and one pair of words: a reason to look further,
# not a measurement of bias.

# %% [markdown]
# ## 2. Translation
#
# The prompt holds a sentence and its English translation, and each English word is a prediction of
# its own. `attribute_sequence` explains them all at once: one row for each prediction. The target
# `NEXT_TOKEN` is the word that really follows. Some words are cut into pieces (*geg*, *essen*), so
# `group(by="word")` joins the scores of the pieces. For norms that is the root of the sum of their
# squares: what a nudge of the whole word could do. Fisher scores are squares already and are summed;
# the root is taken after that, so that every map holds lengths.
#
# A map of a translation can look right for a dull reason: the words stand in the same order. So there
# is a guess to beat, the *guess by place*: the first English word comes from the first source word,
# the second from the second. In these sentences most words *move*: they stand at another place.
# (Twenty-one were tried. These six were kept for their order, and because the model's best guess is
# mostly the English word that follows.)

# %%
# fmt: off
sentences = {
    "apple": ("German", "Meine Schwester hat den roten Apfel gegessen",
              "My sister has eaten the red apple"),
    "flowers": ("German", "Wir haben gestern im Garten viele Blumen gepflanzt",
                "We have planted many flowers in the garden yesterday"),
    "bone": ("German", "Der Hund hat im Garten einen alten Knochen gefunden",
             "The dog has found an old bone in the garden"),
    "house": ("French", "La maison blanche est près de la rivière froide",
              "The white house is near the cold river"),
    "cat": ("French", "Le chat noir dort sur la chaise rouge",
            "The black cat sleeps on the red chair"),
    "car": ("French", "La voiture verte est devant la porte blanche",
            "The green car is in front of the white door"),
}
dictionary = {
    "German": {
        "My": "Meine", "sister": "Schwester", "has": "hat", "eaten": "gegessen", "red": "roten",
        "apple": "Apfel", "We": "Wir", "have": "haben", "planted": "gepflanzt", "many": "viele",
        "flowers": "Blumen", "garden": "Garten", "yesterday": "gestern", "dog": "Hund",
        "found": "gefunden", "old": "alten", "bone": "Knochen",
    },
    "French": {
        "white": "blanche", "house": "maison", "is": "est", "near": "près", "cold": "froide",
        "river": "rivière", "black": "noir", "cat": "chat", "sleeps": "dort", "on": "sur",
        "red": "rouge", "chair": "chaise", "green": "verte", "car": "voiture", "front": "devant",
        "door": "porte",
    },
}
# fmt: on
scopes = {
    "semantic": ts.SemanticScope(ts.NEXT_TOKEN),
    "Fisher, rank 1": ts.FisherScope(rank=1),
    "temperature": ts.TemperatureScope(),
}


def align(language, source, english, scope):
    """A table of lengths, English words by source words, and the model's bets on each row."""
    text = f"{language}: {source}. English: {english}."
    tokens = model.to_str_tokens(text)
    # What is read at the colon is the first word; the last read stands before the last word.
    reads = range(tokens.index(" English") + 1, len(tokens) - 2)
    words = ts.attribute_sequence(model, text, scope, positions=reads).group(by="word")
    scores = words.scores[:, 0].numpy()
    table = pd.DataFrame(
        np.sqrt(scores) if words.how == "sum" else scores,
        index=[tokens[position + 1].strip() for position in reads],
        columns=[word.strip() for word in words.str_tokens],
    )
    return table[source.split()], words.predictions


tables, bets = {}, {}
for key, sentence in sentences.items():
    for name, scope in scopes.items():
        tables[key, name], bets[key] = align(*sentence, scope)

# %% [markdown]
# **Predict.** In German the verb, *gegessen*, stands at the very end, and in French the adjective
# follows its noun. Draw the grid of source against English words, and mark the cells that should be
# bright. What will the row of *eaten* look like? And that of *white*?


# %%
def draw(ax, table, language, title):
    """Each row by itself: bright is the source word that moves this prediction most."""
    shares = table.div(table.max(axis=1), axis=0)
    ax.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    angle = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(table.columns)), table.columns, **angle)
    ax.set_yticks(range(len(table)), table.index)
    ax.set_title(title, fontsize=10)
    for row, (word, best) in enumerate(table.idxmax(axis=1).items()):
        ax.plot(table.columns.get_loc(best), row, "o", color="white", mec="black", ms=6)
        if word in dictionary[language]:
            column = table.columns.get_loc(dictionary[language][word])
            ax.plot(column, row, "s", color="none", mec="red", mew=1.5, ms=14)


figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
for ax, key in zip(axes, ("apple", "house")):
    language = sentences[key][0]
    draw(ax, tables[key, "semantic"], language, f"{language}, semantic scope of each next word")
plt.close(figure)  # else a notebook shows it twice: as an open figure, and by the next line
figure

# %%
apple, house = tables["apple", "semantic"], tables["house", "semantic"]
for word in ("sister", "eaten", "apple"):
    highest, second = apple.loc[word].nlargest(2)
    assert apple.loc[word].idxmax() == dictionary["German"][word] and highest > 1.3 * second
assert apple.loc["has"].idxmax() == "gegessen"
assert 1.8 < apple.loc["has", "gegessen"] / apple.loc["has", "hat"] < 2.7
assert set(apple.loc["the"].nlargest(2).index) == {"Apfel", "roten"}
assert house.loc["house"].idxmax() == "maison"
for word in ("The", "white"):
    assert set(house.loc[word].nlargest(2).index) == {"maison", "blanche"}
for word in ("the", "cold"):
    assert set(house.loc[word].nlargest(2).index) == {"rivière", "froide"}

for_white = bets["house"][house.index.get_loc("white")][:2]
print([(bet.text, round(bet.probability, 2)) for bet in for_white])
assert {bet.text for bet in for_white} == {" white", " house"}
assert all(0.17 < bet.probability < 0.3 for bet in for_white)

# %% [markdown]
# A dot marks the largest of each row, a red square the translation in our dictionary. *eaten* looks to
# *gegessen* at the far end, and *house* back to *maison*. But the map is no dictionary. *has* looks to
# *gegessen* too, twice as much as to *hat*: together these two make one tense. Articles look to the
# noun or the adjective that they will stand before. *white* is shared by *maison* and *blanche*: there
# the model does not yet know whether it will say *white* or *house*. *cold* is shared in the same way.
#
# **Predict.** Now all six sentences. How many of 37 words lead back to their translation, and how many
# does the guess by place get? Do Fisher and Temperature, which are not told the next word, find fewer?


# %%
def correct(guess, language):
    """The English words whose guessed source word is their translation."""
    return {word for word, source in dictionary[language].items() if guess.get(word) == source}


hits, hits_moved = Counter(), Counter()
number = expected = 0
for key, (language, source, english) in sentences.items():
    known = [word for word in english.split() if word in dictionary[language]]
    number += len(known)
    best_bets = [candidates[0].text.strip() for candidates in bets[key]]
    expected += sum(bet == word for bet, word in zip(best_bets, english.split()) if word in known)
    by_place = correct(dict(zip(english.split(), source.split())), language)
    hits["by place"] += len(by_place)
    for name in scopes:
        right = correct(tables[key, name].idxmax(axis=1), language)
        hits[name] += len(right)
        hits_moved[name] += len(right - by_place)
moved = number - hits["by place"]

for name in ("by place", *scopes):
    print(f"{name:>14}: {hits[name]} of {number}, {hits_moved[name]} of the {moved} that moved")
print(f"the word that follows is the best guess of the model {expected} times")

assert (number, moved) == (37, 24) and all(7 <= table.shape[1] <= 9 for table in tables.values())
assert all(0.54 < hits[name] / number < 0.8 for name in scopes)
assert all(0.54 < hits_moved[name] / moved < 0.85 for name in scopes)
assert expected / number > 0.8

# %% [markdown]
# All three find about two thirds, and no fewer among the words that moved, where the guess by place
# finds none and a blind one would get one in eight. (Over all twenty-one sentences it was lower: a
# half to three fifths. A map shows what moves a prediction, and that need not be its translation.)
# Being told the next word hardly matters: nearly always it is the model's best guess anyway. **Do the
# three agree word by word?**

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for ax, name in zip(axes, scopes):
    draw(ax, tables["flowers", name], "German", f"German, {name}")
plt.close(figure)
figure

# %%
correlations = {"Fisher, rank 1": [], "temperature": [], "another row": []}
for key in sentences:
    by_rank = {name: tables[key, name].rank(axis=1) for name in scopes}
    for name in ("Fisher, rank 1", "temperature"):
        correlations[name] += by_rank["semantic"].corrwith(by_rank[name], axis=1).tolist()
    rows = by_rank["semantic"].T.corr().to_numpy()
    correlations["another row"] += rows[np.triu_indices_from(rows, 1)].tolist()
agreement = {name: np.mean(values) for name, values in correlations.items()}
for name, mean in agreement.items():
    print(f"rank correlation of the semantic row with {name}: {mean:.2f}")


def brightest(name, power=1):
    """The share of its row that the brightest word holds, on average."""
    powers = [tables[key, name] ** power for key in sentences]
    return np.mean([share for table in powers for share in table.max(axis=1) / table.sum(axis=1)])


print("brightest word:", {name: f"{brightest(name):.0%} of its row" for name in scopes})
print(f"Fisher without the root: {brightest('Fisher, rank 1', power=2):.0%}")

assert agreement["Fisher, rank 1"] > 0.85 and agreement["temperature"] > 0.85
assert 0.3 < agreement["another row"] < 0.55
assert all(0.27 < brightest(name) < 0.35 for name in scopes)
assert 0.45 < brightest("Fisher, rank 1", power=2) < 0.57

# %% [markdown]
# They do: here **agreement between questions is the rule.** For one prediction they rank the source
# words much more alike than one question ranks them for two predictions of a sentence. Not even
# sharpness sets them apart. As squares Fisher's maps are steeper, and the brightest word holds half of
# its row. As lengths all three are alike, with about 30%.

# %% [markdown]
# ## 3. An instruction
#
# SmolLM2-Instruct was trained on dialogues with a fixed form, its *chat template*. The template
# brings its own first token, hence `prepend_bos=False`.
#
# **Predict.** The answer must be about Italy, and it must be in French. Three tokens carry the task:
# *French*, *capital* and *Italy*. Which of them leads when you ask what moves *La*, what decides
# between *La* and *The*, and what makes the model sure?

# %%
chat = models.load("smollm2-135m-instruct", progress=False)


def dialogue(instruction):
    messages = [
        {"role": "system", "content": instruction},
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
    name: ts.attribute(chat, dialogue("Answer in French."), scope, prepend_bos=False)
    for name, scope in questions.items()
}
render.compare(list(answers.values()), labels=list(answers))

# %%
task = (" French", " capital", " Italy")
for name, attribution in answers.items():
    ordered = sorted(task, key=lambda word: score(attribution, word), reverse=True)
    listed = ", ".join(f"{word.strip()} {score(attribution, word):.1f}" for word in ordered)
    print(f"{name:>24}: {listed}")


def ratio(name):
    """French against capital."""
    return score(answers[name], " French") / score(answers[name], " capital")


assert leaders(answers["temperature"], 1) == [" French"] and 1.2 < ratio("temperature") < 1.4
assert leaders(answers["difference: La over The"], 1) == [" French"]
assert 1.3 < ratio("difference: La over The") < 1.5
assert set(leaders(answers["semantic: La"], 2)) == {" French", " capital"}
assert abs(ratio("semantic: La") - 1) < 0.06
assert set(leaders(answers["Fisher, rank 1"], 3)) == set(task)
assert 0.9 < ratio("Fisher, rank 1") ** 0.5 < 0.97  # the root: a length, like the others
assert 0.25 < answers["Fisher, rank 1"].fisher.share < 0.35

# %% [markdown]
# Here the questions part. What moves *La* at all is *French* and *capital*, side by side. What
# decides for *La* and against *The* is *French*, clearly, and *French* is also what makes the model
# more sure, or less. Fisher puts *capital* first, but look twice: its scores are squares. As lengths,
# *capital* is ahead of *French* by 7%, and rank 1 holds only 30% of the Fisher information here.
# The model has in fact not decided on a language:

# %%
render.prediction(answers["temperature"])


# %%
def first_bet(instruction):
    """Log-probabilities of the first token of the answer."""
    with torch.no_grad():
        return chat(dialogue(instruction), prepend_bos=False)[0, -1].log_softmax(-1)


def probability(language, word):
    return float(first_bet(f"Answer in {language}.")[chat.to_single_token(word)].exp())


for language in ("French", "English"):
    print(
        f"{language}: The {probability(language, 'The'):.2f}, La {probability(language, 'La'):.2f}"
    )
assert 2.1 < probability("English", "The") / probability("French", "The") < 3.3
assert 2.3 < probability("French", "La") / probability("English", "La") < 5
assert answers["temperature"].prediction[0].probability < 0.25

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
# For all but *English*, where *capital* leads. One way to read it: English is what this model speaks
# anyway. Leave the language out (*Answer.*). From that bet to the one of *Answer in English.* the KL
# divergence is 0.03 nats, to the one of *Answer in French.* 0.41.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
first = {}
for language in ("Spanish", "Italian", "German", "English"):
    prompt = dialogue(f"Answer in {language}.")
    attribution = ts.attribute(chat, prompt, ts.TemperatureScope(), prepend_bos=False)
    first[language] = leaders(attribution, 1)[0].strip()
print(first)

assert all(first[language] == language for language in ("Spanish", "Italian", "German"))
assert first["English"] == "capital"


def kl(p, q):
    return float((p.exp() * (p - q)).sum())


plain = first_bet("Answer.")
shift = {
    language: kl(plain, first_bet(f"Answer in {language}.")) for language in ("English", "French")
}
print({language: round(nats, 2) for language, nats in shift.items()})
assert 0.02 < shift["English"] < 0.05 and 0.35 < shift["French"] < 0.5

# %% [markdown]
# ### Exercise 2: the paper's sentence
#
# The repository of the paper has this pair: *Dies ist ein Aufsatz über kausale Zuschreibung.*
# *This is a paper on causal attribution.* Align it, and compare with the guess by place. Which words
# find their translation, and where does *on* look?

# %% [markdown]
# <details><summary>Solution</summary>
#
# *This*, *paper*, *causal* and *attribution* find theirs: four of seven. The guess by place gets all
# seven, since the order is the same: on this sentence a good-looking map would show little. Look at
# what place does not tell: *on* looks at *Aufsatz*, more than four times as much as at *über*, its
# translation. Whether a paper is *on*, *about* or *of* something depends on the paper.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
source = "Dies ist ein Aufsatz über kausale Zuschreibung"
english = "This is a paper on causal attribution"
paper, _ = align("German", source, english, scopes["semantic"])
leads_to = paper.idxmax(axis=1)
print(leads_to.to_dict())

translation = dict(zip(english.split(), source.split()))  # the order is the same
right = {word for word in translation if leads_to[word] == translation[word]}
assert right == {"This", "paper", "causal", "attribution"}
assert leads_to["on"] == "Aufsatz"
assert 4.2 < paper.loc["on", "Aufsatz"] / paper.loc["on", "über"] < 5.5

# %% [markdown]
# ### Exercise 3: one direction, or sixteen
#
# In section 1 Fisher had rank 1: one direction of change. Draw ranks 1 and 16 of Tom side by side.
# What happens to *Korean*? How much of the Fisher information does each hold? (`render.spectrum`
# draws it.)

# %% [markdown]
# <details><summary>Solution</summary>
#
# With sixteen directions *a* is above *Korean*. The first direction sets food words against the rest
# (tutorial 1 prints them) and holds a seventh of the information. All sixteen together hold not quite
# two thirds. `rank="full"` is led by *a* too; try it, if you have a minute.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
wide = ts.attribute(model, tom, ts.FisherScope(rank=16))
for attribution in (fisher, wide):
    print(leaders(attribution, 3), f"{attribution.fisher.share:.0%}")

assert leaders(wide, 2) == [" a", " Korean"]
assert 1.3 < score(wide, " a") / score(wide, " Korean") < 1.75
assert 0.5 < wide.fisher.share < 0.67
render.compare([fisher, wide], labels=["rank 1", "rank 16"])

# %% [markdown]
# ## Next
#
# - [03_through_the_layers](03_through_the_layers.ipynb): where in the model the influence passes.
# - Tutorial 6: how to check a picture like these.
