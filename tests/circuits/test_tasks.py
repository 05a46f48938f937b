"""Pairs of the four tasks on both bundled models' tokenizers, and of sentences of one's own."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import real_models, zoo
from support.refusals import refused
from tl_scopes.adapter.prompts import encode, texts
from tl_scopes.adapter.view import view_of
from tl_scopes.circuits import tasks
from tl_scopes.errors import DataError, PromptError, ScopeParameterError

REAL = ("gemma-3-270m", "smollm2-135m-instruct")
# Where the two prompts of a pair differ.
DIFFERS = {
    "indirect_object": "s2",
    "greater_than": "year",
    "agreement": "subject",
    "repeated_list": "exchanged",
}
ROLES = {
    "indirect_object": {"io", "s1", "s2", "last"},
    "greater_than": {"event", "century", "year", "last"},
    "agreement": {"subject", "attractor", "last"},
    "repeated_list": {"exchanged", "answers", "again", "last"},
}
PLAIN = zoo.known("hooked/llama", "bridge/llama")[0]
COUNTRIES = {"country": ["France", "Germany", "Spain", "Parisian", "Nowhere"]}
CAPITAL = "The capital of {country} is"
A = ts.SemanticScope(" Paris")


def words_at(model, prompt: str, positions: list[int]) -> list[str]:
    view = view_of(model)
    ids = encode(view, prompt, None)
    return [texts(view, ids)[t].strip() for t in positions]


@pytest.mark.parametrize("template", [0, 1])
@pytest.mark.parametrize("task", DIFFERS)
@pytest.mark.parametrize("name", REAL)
def test_prompts_of_a_pair_differ_in_one_role_alone(name, task, template):
    model = real_models.shared(name)
    pairs = getattr(tasks, task)(model, n=30, template=template)
    assert len(pairs) == 30 and set(pairs.positions) == ROLES[task]
    assert len({*pairs.clean}) == 30 and not {*pairs.clean} & {*pairs.corrupted}
    for i in range(30):
        clean, corrupted = (model.to_tokens(p)[0] for p in (pairs.clean[i], pairs.corrupted[i]))
        assert len(clean) == len(corrupted)
        places = {role: own[i] for role, own in pairs.positions.items()}
        taken = [t for own in places.values() for t in own]
        assert len({*taken}) == len(taken)
        assert places["last"] == [len(clean) - 1]
        differ = torch.nonzero(clean != corrupted)[:, 0].tolist()
        assert differ and {*differ} <= {*places[DIFFERS[task]]}


@pytest.mark.parametrize("name", REAL)
def test_roles_and_targets_are_the_words_they_are_called_after(name):
    model = real_models.shared(name)
    pairs = tasks.indirect_object(model, n=40)
    firsts = set()
    for i, scope in enumerate(pairs.scopes):
        io, s1, s2 = (
            words_at(model, pairs.clean[i], pairs.positions[role][i]) for role in ("io", "s1", "s2")
        )
        assert [scope.a] == [" " + io[0]] and s1 == s2 == [scope.b.strip()]
        assert words_at(model, pairs.corrupted[i], pairs.positions["s2"][i]) == io
        firsts.add(pairs.positions["io"][i] < pairs.positions["s1"][i])
    assert firsts == {True, False}  # so that no head can go by the order of names

    pairs = tasks.repeated_list(model, n=40)
    for i, scope in enumerate(pairs.scopes):
        for prompt, answer in ((pairs.clean[i], scope.a), (pairs.corrupted[i], scope.b)):
            listed, again = (part.split(" ") for part in prompt.split(": ")[1:])
            listed[-2:] = [listed[-2].removesuffix(".")]
            assert listed[listed.index(again[-1]) + 1] == answer.strip()

    pairs = tasks.agreement(model, n=40)
    for i, scope in enumerate(pairs.scopes):
        (subject,) = words_at(model, pairs.clean[i], pairs.positions["subject"][i])
        assert scope.a == (" are" if subject.endswith("s") else " is") != scope.b


@pytest.mark.parametrize("name", REAL)
def test_later_and_earlier_are_digits_above_and_below_the_decade(name):
    model = real_models.shared(name)
    digits = [model.to_tokens(f"In 17{d}", prepend_bos=False)[0, -1] for d in range(10)]
    pairs = tasks.greater_than(model, n=40)
    for i, scope in enumerate(pairs.scopes):
        year = words_at(model, pairs.clean[i], pairs.positions["year"][i])
        decade = int(year[0])
        assert words_at(model, pairs.corrupted[i], pairs.positions["year"][i]) == ["0", year[1]]
        logits = torch.zeros(model.cfg.d_vocab)
        for later in digits[decade + 1 :]:
            logits[later] = 2.0
        logits[digits[decade]] = 50.0  # may be either
        n_later = 9 - decade
        wanted = 2.0 + torch.tensor(n_later / decade).log()
        assert float(scope.fn(logits)) == pytest.approx(float(wanted), abs=1e-5)


def test_a_seed_decides_the_pairs():
    model = real_models.shared(REAL[1])
    one, same, other = (tasks.agreement(model, n=20, seed=seed) for seed in (3, 3, 4))
    assert one.clean == same.clean and one.corrupted == same.corrupted
    assert one.clean != other.clean


def test_a_sentence_of_ones_own():
    model = zoo.shared(PLAIN)
    scopes = {"France": " Paris", "Germany": " Berlin", "Spain": " Madrid"}

    def contrast(clean, corrupted):
        return ts.LogitDifferenceScope(scopes[clean["country"]], scopes[corrupted["country"]])

    text = "{animal} in {country} is in the capital of {country}"
    words = COUNTRIES | {"animal": ["The", "Paris"]}
    pairs = tasks.template(model, text, words, "country", contrast, n=4, seed=1)
    # Words of several tokens or unknown ones are left out: three countries, in two places each.
    for i, scope in enumerate(pairs.scopes):
        country = words_at(model, pairs.clean[i], pairs.positions["country"][i])
        assert country[:1] == country[1:] or pairs.positions["last"][i] != []
        assert scopes[country[0]] == scope.a != scope.b
        assert words_at(model, pairs.corrupted[i], pairs.positions["country"][i]) != country
        assert words_at(model, pairs.clean[i], pairs.positions["animal"][i])[0] in ("The", "Paris")
        last = encode(view_of(model), pairs.clean[i], None)
        assert pairs.positions["last"][i] == [len(last) - 1]
        assert pairs.positions["country"][i][0] == pairs.positions["animal"][i][0] + 2
    assert {*pairs.positions} == {"animal", "country", "last"}


REFUSED = {
    "no slot": (dict(text="The capital"), PromptError, "no slot", "name"),
    "a slot without a name": (dict(text="The {} is"), PromptError, "slot ''"),
    "a format": (dict(text="The {country:>9} is"), PromptError, "country"),
    "a brace": (dict(text="The {country is"), PromptError, "brace"),
    "a role's name": (dict(text="The {last} is", words={"last": ["cat"]}), PromptError, "rename"),
    "words of another slot": (dict(words={"city": ["Paris"]}), DataError, "city", "country"),
    "no words": (dict(words={"country": []}), DataError, "country", "list of words"),
    "one text": (dict(words={"country": "France"}), DataError, "'France'", "list of words"),
    "another slot": (dict(exchange="city"), DataError, "'city'", "country"),
    "no word of one token": (dict(words={"country": ["Nowhere"]}), DataError, "Nowhere", "give"),
    "one word": (dict(words={"country": ["France", "Nowhere"]}), DataError, "'France'", "exchanged"),
    "too many": (dict(n=4), DataError, "only [1-3] different", "n is 4", "lower n"),
    "n": (dict(n=0), ScopeParameterError, "n is 0", "from 1"),
    "seed": (dict(seed=-1), ScopeParameterError, "seed is -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_sentence_that_makes_no_pairs_is_refused(case):
    given, error, *words = REFUSED[case]
    usual = dict(text=CAPITAL, words=COUNTRIES, exchange="country", scope=A, n=1)
    refused(lambda: tasks.template(zoo.shared(PLAIN), **(usual | given)), error, *words)


@pytest.mark.parametrize("task", DIFFERS)
def test_a_task_whose_words_a_model_does_not_know_is_refused(task):
    call = getattr(tasks, task)
    refused(lambda: call(zoo.shared(PLAIN)), DataError, "token of this model", "give|make")
    model = real_models.shared(REAL[1])
    refused(lambda: call(model, n=4, template=2), ScopeParameterError, "template is 2", "0, 1")
    refused(lambda: call(model, n=0), ScopeParameterError, "n is 0")
