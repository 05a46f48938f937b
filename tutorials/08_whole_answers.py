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
# # Why did it say all that?
#
# So far you explained one prediction. A model that talks makes dozens of them, and each is read by
# the next. **Which sentence carried an answer, which word a translation, and how much of it does
# the system prompt hold?** Each picture here has a control, and not every picture survives. At the
# end stands something that no gradient sees.
#
# It needs tutorial 1, or the idea in a sentence: the score of a token is how far the answer moves,
# per unit of a small nudge to what the model holds at that token. Where it says **Predict**, write
# your answer down before you go on. It takes about two minutes.

# %%
import matplotlib.pyplot as plt
import torch

import tl_scopes as ts
from tl_scopes import models

model = models.load("smollm2-135m-instruct", progress=False)  # it was tuned to follow instructions


def message(role):
    return lambda content: {"role": role, "content": content}


system, user, assistant = map(message, ("system", "user", "assistant"))

# %% [markdown]
# ## 1. Which sentence carried the answer?
#
# A prompt may be a conversation. `attribute_generation` lets the model write its answer, and
# attributes each token of it. Point at a token of the answer, or drag over several.

# %%
story = [
    "Anna works in a bakery.",
    "Her brother Ben plays the violin.",
    "They live in a house near the harbour.",
    "Their dog is called Max.",
    "On Sundays they eat fish.",
]


def about(question, told=story):
    return [user(" ".join([*told, question]))]


written = ts.attribute_generation(
    model, about("What is the dog called?"), max_new_tokens=16, stop="."
)
written

# %%
said = "".join(written.str_tokens[written.answer_start :])
print(said)
assert said == "The dog is Max."

# %% [markdown]
# Now one number for a whole answer: its log-probability, the sum over its tokens. A
# `ContinuationScope` explains it, of any text after a prompt, also of one that you wrote. Take five
# questions, and for each an answer that one sentence of the story holds. `group("sentence")` joins
# the tokens of a sentence.
#
# The check: take the sentence out of the story. How far does the log-probability of the answer
# fall?
#
# **Predict.** For how many of the five questions will the sentence that holds the answer have the
# largest score? For how many will its loss cost most? (*The last sentence*, said each time, is
# right once.)

# %%
answers = {
    "Where does Anna work?": "Anna works in a bakery.",
    "What does Ben play?": "Ben plays the violin.",
    "Where is the house?": "The house is near the harbour.",
    "What is the dog called?": "The dog is called Max.",
    "What do they eat on Sundays?": "On Sundays they eat fish.",
}


def by_sentence(found):
    """The score of each sentence of the story."""
    groups = found.group("sentence")
    texts = [text.strip() for text in groups.str_tokens]
    return groups.scores[0, [texts.index(sentence) for sentence in story]]


def asked_all(answers):
    """Scores, and falls of the log-probability without a sentence, as [question, sentence]."""
    scores, falls = [], []
    for question, answer in answers.items():
        scope = ts.ContinuationScope(answer)
        found = ts.attribute(model, about(question), scope)
        without = [about(question, story[:i] + story[i + 1 :]) for i in range(len(story))]
        left = [one.continuation.total for one in ts.attribute_batch(model, without, scope)]
        scores.append(by_sentence(found))
        falls.append(found.continuation.total - torch.tensor(left))
    return torch.stack(scores), torch.stack(falls)


def hits(values):
    return int((values.argmax(1) == torch.arange(len(story))).sum())


scores, falls = asked_all(answers)
relative = scores / scores.mean(0)
panels = {
    "score": scores,
    "score over the mean\nof all questions": relative,
    "fall when it is taken out\n(nats)": falls,
}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
ends = [sentence.split()[-1].strip(".") for sentence in story]
for ax, (title, values) in zip(axes, panels.items()):
    image = ax.imshow(values.clamp(min=0), cmap="Blues")
    ax.plot(values.argmax(1), range(len(values)), "o", color="#d55e00")
    ax.set_title(title, fontsize=10)
    ax.set_xticks(range(len(ends)), ends, rotation=30, ha="right")
    figure.colorbar(image, ax=ax, shrink=0.7)
axes[0].set_yticks(range(len(answers)), list(answers), fontsize=9)
plt.close(figure)  # left open, Jupyter would draw it a second time
figure

# %% [markdown]
# *A row is a question, a column a sentence (its last word), a dot the largest of its row.* Taken
# out, the right sentence costs most in all five: that is what the model used. The scores find
# three. The first sentence wins too often, and it has a large score whatever you ask. Two remedies:
#
# - Divide each sentence's score by its mean over the questions. All five are found.
# - Tell the story backwards. Then the scores find all five by themselves: Anna's sentence does not
# come first any more, and for the four other questions it scores about half. Place was part of it.

# %%
backwards = torch.stack(
    [
        by_sentence(ts.attribute(model, about(q, story[::-1]), ts.ContinuationScope(answer)))
        for q, answer in answers.items()
    ]
)
print({title.split("\n")[0]: hits(values) for title, values in panels.items()})
print("backwards:", hits(backwards))
assert hits(falls) == 5 and hits(scores) == 3 and hits(relative) == hits(backwards) == 5
assert falls.diag().min() > 3 and (falls - torch.diag(falls.diag())).max() < 1.5
assert scores.argmax(1).tolist() == [0, 0, 2, 3, 0]
assert (backwards / scores)[1:, 0].min() > 0.35 and (backwards / scores)[1:, 0].max() < 0.7
assert (scores[:, 0] > 0.6 * scores[:, 1:].max(1).values).all()  # whatever is asked

# %% [markdown]
# **A sentence with a large score carried something. To say that it carried *this* answer, ask
# something else of the same paragraph, or take it out.** (Exercise 1 shows where the scores end.)
#
# ## 2. Which word carried the word?
#
# Shown three translations, can a model of 135 million parameters translate?

# %%
lessons = {
    "The black cat is small.": "Le chat noir est petit.",
    "The green door and the old bridge": "La porte verte et le vieux pont",
    "I see a blue book and a white dog.": "Je vois un livre bleu et un chien blanc.",
}
so_far = [system("You translate English into French.")]
for english, french in lessons.items():
    so_far += [user(english), assistant(french)]
coffee = "I want a cold coffee and a hot soup."
own = ts.attribute_generation(model, [*so_far, user(coffee)], max_new_tokens=16, stop=".")
said = "".join(own.str_tokens[own.answer_start :])
print(said)
assert said == "Je suis un bon cerveau et un bon chien."

# %% [markdown]
# It cannot: *I am a good brain and a good dog*. But a `ContinuationScope` takes the right
# translation too, and may know more than the model says. Put the French up to a word into the
# assistant's mouth, and ask what moves the word. French puts the adjectives here after the noun, so
# that a guess by place gets each pair the wrong way round.
#
# **Predict.** Twelve words, and the source word that each should come from. How many will the scope
# find among the words of the sentence? And would *bleue* in place of *rouge* come from another word
# than *red*?

# %%
tests = {
    "I see a red car and a black house.": (
        "Je vois une voiture rouge et une maison noire.",
        {"voiture": "car", "rouge": "red", "maison": "house", "noire.": "black"},
    ),
    "The green table and the white cat": (
        "La table verte et le chat blanc",
        {"table": "table", "verte": "green", "chat": "cat", "blanc": "white"},
    ),
    coffee: (
        "Je veux un café froid et une soupe chaude.",
        {"café": "coffee", "froid": "cold", "soupe": "soup", "chaude.": "hot"},
    ),
}


def leader(english, begun, word):
    """What moves the next word most among the words of the English sentence, and what it is."""
    prompt = [*so_far, user(english), assistant(begun)]
    found = ts.attribute(model, prompt, ts.ContinuationScope(f" {word}"))
    groups, last = found.group("word"), len(found.chat.roles) - 2  # the user's last message
    words = {
        text.strip(" ."): float(score)
        for text, score, (start, _) in zip(groups.str_tokens, groups.scores[0], groups.spans)
        if found.chat.messages[start] == last and found.chat.is_content[start]
    }
    return max(words, key=lambda text: words[text]), found.continuation.total


aligned = []
for english, (french, pairs) in tests.items():
    words = french.split()
    for word, meant in pairs.items():
        k = words.index(word)
        got, likely = leader(english, " ".join(words[:k]), word)
        place = english.split()[k].strip(".")
        aligned.append((meant, got, place))
        print(f"{word:>8}: {got} (meant: {meant}, by place: {place}; {likely:.1f} nats)")
red_car = ("I see a red car and a black house.", "Je vois une voiture")
wrong = {word: leader(*red_car, word)[0] for word in ("rouge", "bleue", "chien")}
print("after voiture:", wrong)

# %%
by_scope = [meant == got for meant, got, _ in aligned]
by_place = [meant == place for meant, _, place in aligned]
print(f"scope {sum(by_scope)} of 12, place {sum(by_place)}")
assert sum(by_scope) == 9 and sum(by_place) == 0
assert wrong == {"rouge": "red", "bleue": "red", "chien": "black"}

# %% [markdown]
# Nine of twelve, and place gets none. So the scope follows meaning and not place, with three
# misses: adjectives that a noun leads. But look at *bleue*. It is wrong, and *red* leads it as
# well: the word that decides the colour moves the wrong colour too. (Not any word: *chien*, dog, is
# led by another.) **An alignment says what a word hangs on. It does not say that the translation is
# right.**
#
# ## 3. How much does the system prompt hold?
#
# `share("system")` is the system message's part of all that moved the answer. Four system prompts,
# one question, and the model's own answer to each. Two are controls: the neutral one, and the words
# of the pirate's in disorder.
#
# **Predict.** Which of the four will have the largest share, and which the smallest?

# %%
systems = {
    "pirate": "You are a pirate. Answer like one.",
    "shuffled": "a Answer are like pirate. one You.",
    "poet": "You are a poet. Answer in rhymes.",
    "neutral": "You are an assistant. Answer briefly.",
}
question = user("Where is Paris?")
own_share = {}
for name, text in systems.items():
    own = ts.attribute_generation(model, [system(text), question], max_new_tokens=20)
    own_share[name] = own.share("system").share
    print(f"{name:>9}: {own_share[name]:.2f} {''.join(own.str_tokens[own.answer_start :])!r}")

# %% [markdown]
# No answer speaks like a pirate. The prompt in disorder holds as much as the one in order, and both
# hold more than the neutral one. So ask about a text that *is* a pirate's, against a plain one:
# that is `versus`, which explains by how much the first is likelier. With no system message at all,
# this template writes one of its own.
#
# **Predict.** Whose share is largest now? And under which prompt is the pirate's text most likely?

# %%
pirate = ts.ContinuationScope("Arrr, matey! Paris be in France.", versus="Paris is in France.")
share, likelier = {}, {}
for name, text in systems.items():
    found = ts.attribute(model, [system(text), question], pirate)
    share[name], likelier[name] = found.share("system").share, found.continuation.total
    print(f"{name:>9}: share {share[name]:.2f}, likelier by {likelier[name]:.1f} nats")
likelier["none"] = ts.attribute(model, [question], pirate).continuation.total
print(f"     none: likelier by {likelier['none']:.1f} nats")

# %%
assert abs(own_share["shuffled"] - own_share["pirate"]) < 0.05
assert own_share["pirate"] > 1.5 * own_share["neutral"] and own_share["neutral"] > 0.1
assert max(share, key=share.get) == "poet" and 0.6 < share["poet"] < 0.7
assert 0.47 < share["pirate"] < 0.57 and 0.3 < share["neutral"] < 0.4
assert max(likelier, key=likelier.get) == "pirate" and min(likelier, key=likelier.get) == "neutral"
assert 18 < likelier["pirate"] - likelier["neutral"] < 23
assert 8 < likelier["shuffled"] - likelier["neutral"] < 11
assert abs(likelier["poet"] - likelier["none"]) < 1

# %% [markdown]
# The poet's! And it does nothing for the pirate's text: that is as likely as with no system prompt
# of ours. What the pirate's prompt *does* is in the other column: 20 nats over the neutral one, and
# half of that for its words in disorder. **A share says how firmly an answer is held, not which way
# it was pushed.** A small nudge to the poet's prompt would move the pirate's text a lot. To know
# what a system prompt does, change it, and read the log-probability.
#
# ## 4. An answer against its opposite
#
# `versus` subtracts two gradients before the norm is taken: what moves both answers alike cancels.
#
# **Predict.** The shop of the next cell is closed on Sundays. Explain *The bakery is closed on
# Sundays*, alone and against *... open on Sundays*. Does the share of the sentence that says so
# rise or fall? And if the other answer says *Mondays*, or if both begin with *No* and *Yes*?

# %%
shop = (
    "The bakery opens at eight. The bread is warm and good. "
    "On Sundays it is closed. Anna sells the cakes."
)
asked = [user(f"{shop} Is the bakery open on Sundays?")]
closed, opened = "The bakery is closed on Sundays.", "The bakery is open on Sundays."
no, yes = "No, it is closed on Sundays.", "Yes, it is open on Sundays."
pairs = {
    "closed": (closed, None),
    "closed, not open": (closed, opened),
    "Sundays, not Mondays": (closed, closed.replace("Sundays", "Mondays")),
    "No, not Yes": (no, yes),
}
shops = {
    name: ts.attribute(model, asked, ts.ContinuationScope(one, versus=other))
    for name, (one, other) in pairs.items()
}
tokens = shops["closed, not open"].str_tokens  # those of the prompt, which both share
word = tokens.index(" closed")
sentence = range(tokens.index(" On"), word + 2)
of_word, of_sentence = {}, {}
for name, found in shops.items():
    square = found.scores[0, : len(tokens)] ** 2
    of_word[name] = float(square[word] / square.sum())
    of_sentence[name] = float(square[list(sentence)].sum() / square.sum())
    print(
        f"{name:>20}: the sentence {of_sentence[name]:.0%}, closed {of_word[name]:.0%}; "
        f"{found.continuation.total:.1f} nats"
    )
shops["closed, not open"]

# %%
alone, against = (shops[name].scores[0, : len(tokens)] for name in ("closed", "closed, not open"))
fading = (against / alone)[[word, len(tokens) - 1]]
print(f"against the opposite: closed x {fading[0]:.2f}, the template's end x {fading[1]:.2f}")
assert 0.25 < of_sentence["closed, not open"] < 0.36 and of_sentence["closed"] < 0.2
assert of_word["closed, not open"] > 1.5 * of_word["closed"]
assert 1.05 < fading[0] < 1.4 and fading[1] < 0.6
assert -2 < shops["closed, not open"].continuation.total < -0.7
assert of_word["Sundays, not Mondays"] < 0.05 and 0.42 < of_sentence["Sundays, not Mondays"] < 0.55
leaders = {name: found.top(1)[0][1] for name, found in shops.items()}
assert leaders["closed, not open"] == " closed"
assert leaders["Sundays, not Mondays"] == " Sundays"
assert of_sentence["No, not Yes"] < 0.12 and leaders["No, not Yes"] == " AI"

# %% [markdown]
# Alone, the sentence holds a sixth of what moves the answer, among the tokens of the prompt.
# Against the opposite it holds nearly a third: the end of the template, which tells the model to
# speak at all, loses more than half of its score, and *closed* gains. The control asks about
# *Mondays*: now *Sundays* leads, and *closed* has next to nothing, in the same sentence. But *No*
# against *Yes* sharpens nothing. These two begin with different words, and all that makes a model
# begin so stays; *AI*, of the template's own system message, leads. **Only what two answers share
# can cancel: compare twins.**
#
# None of this says that the model is right. It finds *open* the likelier of the two, by 1.3 nats.
#
# ## 5. What no gradient sees
#
# Two ways lead from the prompt to a late word of an answer. One goes through activations: the word
# is read off the prompt, and off what the earlier words of the answer hold. Gradients follow it.
# The other goes through *which* earlier word was written. Take the model of tutorial 1, and three
# prompts that differ in a name.
#
# **Predict.** The answer is *Paris, France*. Which token moves *France* most, *Eiffel* or *Paris*?
# Now write *Tokyo Tower* into the prompt, and leave *Paris* in the answer. How unlikely does
# *France* become?

# %%
gemma = models.load(progress=False)  # Gemma-3 270M
prompts = {
    name: f"The {name} is located in the city of"
    for name in ("Eiffel Tower", "Tokyo Tower", "Brandenburg Gate")
}
free = {}
for name, prompt in prompts.items():
    own = ts.attribute_generation(gemma, prompt, max_new_tokens=8, stop=".")
    free[name] = "".join(own.str_tokens[own.answer_start :])
print(free)


def by_token(prompt, answer):
    """The log-probability of each token of an answer that is held to."""
    told = ts.attribute(gemma, prompt, ts.ContinuationScope(answer)).continuation
    return {token.text: value for token, value in zip(told.tokens, told.log_probs)}


kept = {name: by_token(prompt, free["Eiffel Tower"]) for name, prompt in prompts.items()}
for name, values in kept.items():
    print(f"{name:>16}: { ({text: round(value, 2) for text, value in values.items()}) }")
after_tokyo = by_token(f"{prompts['Tokyo Tower']} Tokyo,", " France")[" France"]
print(f"France after 'Tokyo Tower ... Tokyo,': {after_tokyo:.1f}")

# %%
nation = ts.attribute(gemma, f"{prompts['Eiffel Tower']} Paris,", ts.ContinuationScope(" France"))
nation.plot()

# %%
city = ts.attribute(gemma, prompts["Eiffel Tower"], ts.ContinuationScope(" Paris"))
first = [found.top(1, include_bos=False)[0][1] for found in (city, nation)]
print(f"most moves Paris: {first[0]!r}; most moves France: {first[1]!r}")
assert first == [" Eiffel", " Paris"]
assert list(free.values()) == [" Paris, France.", " Tokyo, Japan.", " Berlin, Germany."]
for name in ("Tokyo Tower", "Brandenburg Gate"):
    lost = {text: kept["Eiffel Tower"][text] - value for text, value in kept[name].items()}
    assert lost[" Paris"] > 8 and 0.2 < lost[" France"] < 1
assert kept["Eiffel Tower"][" France"] - after_tokyo > 5

# %% [markdown]
# *Paris* moves *France* most. With *Paris* held, another building costs *France* less than one nat.
# Left to itself the model writes *Tokyo*, and then *France* is lost. So most of what the prompt
# does to *France* goes through the choice of the first word: **relayed influence**. A choice has no
# slope: nudge *Eiffel* a little, and *Paris* is still written, the same token; nudge it far, and at
# some point everything is another. The score of *Eiffel* for *France* is right, and of the first
# way alone.
#
# So a score says what moves the answer *as it was written*. To ask about the choice, explain the
# token where the answer could have turned: for *Paris*, *Eiffel* leads. Or change the prompt and
# let the model write again.
#
# ## Exercises
#
# ### Exercise 1: short answers
#
# *In a bakery. The violin. Near the harbour. Max. Fish.* Section 1 found all five sentences once
# scores were divided by their mean. Does it still?

# %% [markdown]
# <details><summary>Solution</summary>
#
# No: the score finds two, the divided score three. Taking sentences out still finds all five. A
# short answer names nobody, and most of its log-probability is whether to answer so briefly at all.
# The story says little about that. Division helps; it does not replace the check.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
brief = dict(zip(answers, ["In a bakery.", "The violin.", "Near the harbour.", "Max.", "Fish."]))
brief_scores, brief_falls = asked_all(brief)
found = [hits(v) for v in (brief_scores, brief_scores / brief_scores.mean(0), brief_falls)]
print(dict(zip(("score", "divided", "fall"), found)))

assert found == [2, 3, 5]

# %% [markdown]
# ### Exercise 2: what the model says itself
#
# Asked what they eat on Sundays, the model writes *Anna and Ben love to eat fish.* Which sentence
# carried that? Check it by taking each one out.

# %% [markdown]
# <details><summary>Solution</summary>
#
# The first, by score and by check; the sentence about fish comes third in the check. Most of this
# answer is two names, and without the first sentence there is no Anna. *Which sentence holds the
# answer to the question* and *which sentence carried what was said* are two questions.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
fish = "What do they eat on Sundays?"
own = ts.attribute_generation(model, about(fish), max_new_tokens=16, stop=".")
said = "".join(own.str_tokens[own.answer_start :])
own_scores, own_falls = asked_all({fish: said})
print(said, own_scores, own_falls)

assert said == "Anna and Ben love to eat fish."
assert own_scores[0].argmax() == own_falls[0].argmax() == 0
assert own_falls[0].argsort(descending=True).tolist()[:3] == [0, 1, 4]

# %% [markdown]
# ### Exercise 3: the other way round
#
# Hold the answer to *Berlin, Germany.* in the three prompts of section 5. Is it the choice there
# too?

# %% [markdown]
# <details><summary>Solution</summary>
#
# Yes, entirely. *Berlin* loses 10 nats and more under the two towers. *Germany* after it loses
# nothing: once *Berlin* is written, the prompt's tower no longer matters for the country.
#
# </details>

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
berlin = {name: by_token(prompt, free["Brandenburg Gate"]) for name, prompt in prompts.items()}
for name in ("Eiffel Tower", "Tokyo Tower"):
    lost = {text: berlin["Brandenburg Gate"][text] - berlin[name][text] for text in berlin[name]}
    print(name, {text: round(value, 2) for text, value in lost.items()})
    assert lost[" Berlin"] > 8 and -0.5 < lost[" Germany"] < 0.1

# %% [markdown]
# ## Next
#
# - `attribute(..., span=...)` and `SequenceAttribution.over_reads` ask any scope about several tokens.
# - `tl-scopes attribute --chat talk.json --generate` does it from the command line, and the docs' page
# on whole answers has the formulas.
# - [09_who_makes_it_sure](09_who_makes_it_sure.ipynb): which neurons set how sure the model is.
