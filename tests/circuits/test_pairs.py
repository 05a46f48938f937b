"""Pairs: from lists, frames and files; where roles stand; and what is wrong with which of them."""

from __future__ import annotations

import functools
import json

import pandas as pd
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.refusals import refused
from tl_scopes.adapter import guards
from tl_scopes.circuits import Pairs, components
from tl_scopes.errors import (
    DataError,
    LengthMismatchError,
    PositionError,
    PromptError,
    ScopeParameterError,
    TargetError,
    UnsupportedModelError,
)

PLAIN = zoo.known("hooked/llama", "bridge/llama")[0]
# On the zoo's tokenizer, with BOS: <bos> The| capital| of| France| is
CLEAN = ["The capital of France is", "The capital of Spain is", "The cat sat on the mat"]
CORRUPTED = ["The capital of Spain is", "The capital of Germany is", "The dog sat on the mat"]
A = ts.LogitDifferenceScope(" Paris", " Rome")
TABLE = {
    "clean": CLEAN,
    "corrupted": CORRUPTED,
    "target": [" Paris", " Madrid", " not"],
    "versus": [" Madrid", " Berlin", " never"],
    "subject": ["France", "Spain", " cat"],
}


def places(positions, clean=CLEAN, corrupted=CORRUPTED) -> dict[int, dict[str, list[int]]]:
    """Of each pair, the positions of its roles."""
    found = {}
    for batch in Pairs(clean, corrupted, A, positions).batches(zoo.shared(PLAIN)):
        for row, number in enumerate(batch.numbers):
            at = {
                role: torch.nonzero(own[row])[:, 0].tolist() for role, own in batch.places.items()
            }
            found[number] = at
    return found


def test_roles_are_told_by_number_and_by_text():
    numbers = places({"subject": [[4], 4, [2]], "last": -1})
    words = places({"subject": ["France", " Spain", "cat"], "last": -1})
    assert numbers == words and numbers[0]["subject"] == [4] and numbers[2]["last"] == [6]
    for own in numbers.values():
        rest = sorted(own["subject"] + own["last"] + own["rest"])
        assert rest == [*range(len(rest))]
    assert places({"start": "capital of"}, CLEAN[:2], CORRUPTED[:2])[0]["start"] == [2, 3]
    assert places({"none": [[], [1], []]})[0]["none"] == []
    assert places(None)[0] == {"all": [*range(6)]}


def test_prompts_of_ids_have_texts_too():
    ids = zoo.tokenizer()(CLEAN[0])["input_ids"]
    other = zoo.tokenizer()(CORRUPTED[0])["input_ids"]
    assert places({"subject": "France"}, [ids], [other])[0]["subject"] == [4]


def test_pairs_of_a_length_share_a_batch():
    batches = Pairs(CLEAN, CORRUPTED, A).batches(zoo.shared(PLAIN))
    assert sorted(sorted(batch.numbers) for batch in batches) == [[0, 1], [2]]


@pytest.mark.parametrize(
    "scope", [ts.TemperatureScope(), ts.FunctionScope(torch.max), ts.FisherScope()]
)
def test_scopes_without_a_target_are_the_pairs_too(scope):
    assert Pairs(CLEAN, CORRUPTED, scope).scopes == [scope] * 3


def test_some_pairs_are_pairs():
    pairs = Pairs(CLEAN, CORRUPTED, [A, ts.SemanticScope(5), A], {"a": [1, 2, 3], "b": -1})
    some = pairs[1:]
    assert some.clean == CLEAN[1:] and some.positions == {"a": [2, 3], "b": -1}
    assert pairs[[2, 0]].positions["a"] == [3, 1] and len(pairs[-1]) == 1
    assert pairs[1].scopes == [ts.SemanticScope(5)]


def same(one: Pairs, other: Pairs) -> None:
    assert [*one.clean] == [*other.clean] and [*one.corrupted] == [*other.corrupted]
    assert one.scopes == other.scopes and one.roles == other.roles


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_a_file_holds_what_a_frame_holds(tmp_path, kind):
    frame = pd.DataFrame(TABLE)
    wanted = Pairs.from_frame(frame, positions=["subject"])
    assert wanted.scopes[1] == ts.LogitDifferenceScope(" Madrid", " Berlin")
    path = tmp_path / f"pairs.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        rows = frame.to_dict("records")
        lines = "\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows)
        path.write_text(lines, encoding="utf-8")
    same(Pairs.read(path, positions=["subject"]), wanted)
    same(
        Pairs.read(path, A, positions=["subject"], skip=1),
        Pairs(CLEAN[1:], CORRUPTED[1:], A, {"subject": TABLE["subject"][1:]}),
    )
    found = components(zoo.shared(PLAIN), Pairs.read(path, positions=["subject"]), by="mlp")
    assert found.roles == ("subject", "rest") and found.effects.any()


def test_a_table_with_a_target_alone_explains_its_logit():
    pairs = Pairs.from_frame(pd.DataFrame({k: TABLE[k] for k in ("clean", "corrupted", "target")}))
    assert pairs.scopes == [ts.SemanticScope(target) for target in TABLE["target"]]


MADE = {
    "no pairs": (dict(clean=[], corrupted=[]), PromptError, "clean is", "at least one"),
    "a text": (dict(clean="The cat"), PromptError, "'The cat'", "list of prompts"),
    "another count": (dict(corrupted=CORRUPTED[:2]), PromptError, "3 clean and 2 corrupted"),
    "scopes of another count": (dict(scope=[A, A]), ScopeParameterError, "2 scopes for 3 pairs"),
    "next token": (
        dict(scope=[A, A, ts.SemanticScope(ts.NEXT_TOKEN)]), TargetError, "pair 2", "NEXT_TOKEN", "name the target",
    ),
    "a taken role": (dict(positions={"rest": 1}), PositionError, "'rest'", "another name"),
    "roles of another count": (dict(positions={"s": [1, 2]}), PositionError, "'s'", "2 entries for 3"),
}  # fmt: skip
RUN = {
    "beyond the end": (dict(positions={"s": [1, 6, 1]}), PositionError, "pair 1", "at 6", "6 tokens", "-6 to 5"),
    "no number": (dict(positions={"s": [1, 1.5, 2]}), PositionError, "pair 1", "1.5", "allowed"),
    "a truth": (dict(positions={"s": [1, [True], 2]}), PositionError, "pair 1", "True", "allowed"),
    "no such text": (dict(positions={"s": ["The", "cat", "cat"]}), PositionError, "pair 1", "'cat'", "no times"),
    "text twice": (dict(positions={"s": [1, 1, "at"]}), PositionError, "pair 2", "'at'", "3 times", "more of"),
    "no text": (dict(positions={"s": ["", 1, 1]}), PositionError, "pair 0", "''", "no times"),
    "two roles": (dict(positions={"s": 1, "o": [2, [0, 1], 2]}), PositionError, "pair 1", "'o'", "shares"),
    "unequal": (
        dict(corrupted=[CORRUPTED[0], "The dog", CORRUPTED[2]]), LengthMismatchError, "pair 1", "3 tokens", "prompt 6",
    ),
    "no prompt": (dict(clean=[CLEAN[0], "", CLEAN[2]]), ts.errors.EmptyPromptError, "pair 1", "empty"),
    "unknown target": (dict(scope=[A, A, ts.SemanticScope("Parisian")]), TargetError, "pair 2", "one known token"),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE)
def test_what_makes_no_pairs_is_refused(case):
    given, error, *words = MADE[case]
    usual = dict(clean=CLEAN, corrupted=CORRUPTED, scope=A, positions=None)
    refused(lambda: Pairs(**usual | given), error, *words)


@pytest.mark.parametrize("case", RUN)
def test_what_a_model_cannot_run_is_refused_with_the_pairs_number(case):
    given, error, *words = RUN[case]
    pairs = Pairs(**dict(clean=CLEAN, corrupted=CORRUPTED, scope=A, positions=None) | given)
    refused(functools.partial(components, zoo.shared(PLAIN), pairs), error, *words)


def test_tables_that_lack_a_column_are_refused(tmp_path):
    frame = pd.DataFrame({k: TABLE[k] for k in ("clean", "corrupted")})
    refused(lambda: Pairs.from_frame(frame), DataError, "'target'", "'clean'", "scope=")
    refused(lambda: Pairs.from_frame(frame, A, positions=["s"]), DataError, "'s'", "'corrupted'")
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"clean": "The cat"}]), encoding="utf-8")
    refused(lambda: Pairs.read(path, A), DataError, "'corrupted'", "'clean'")
    refused(lambda: Pairs.read(tmp_path / "none.json", A), DataError, "none.json")


def test_the_model_is_checked_once_for_all_pairs(monkeypatch):
    checks = []
    whole = guards.refuse_unsupported
    monkeypatch.setattr(
        guards, "refuse_unsupported", lambda model: checks.append(1) or whole(model)
    )
    Pairs(CLEAN, CORRUPTED, A).batches(zoo.shared(PLAIN))
    assert len(checks) == 1
    refused(lambda: Pairs(CLEAN, CORRUPTED, A).batches(5), UnsupportedModelError, "pair 0", "int")
