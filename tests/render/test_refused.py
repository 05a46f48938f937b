"""What no picture can be made of, and options that a picture does not have: refused by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from support.circuit_drawings import components, flow, flow_path, head_paths, verification
from support.infos import info
from support.pictures import attribution, fisher, numbers, sequence
from tl_scopes import render
from tl_scopes.errors import RenderError, ScopeParameterError, SiteError
from tl_scopes.results.records import Candidate, FisherInfo

pytestmark = pytest.mark.wrong_types
ONE, PAIR, SPECTRA = attribution(), [attribution()] * 2, [fisher()] * 2
HALVES = attribution(prediction=(Candidate(0, "a", 0.7), Candidate(1, "b", 0.7)))
PARTS = attribution(("<bos>", "1,2", ",3"), [[0, 1, 1]])
NO_ROW, RANGES = "no row of finite numbers", "allowed: a list of token ranges"
CLEAN = ("<bos>", " The", " capital", " of", " France", " is")
LONGER = attribution((*CLEAN, "!"))
NO_LENGTH = "change no length, or group all in one way"


def with_fisher(*values):
    return attribution(fisher=FisherInfo(*values))


REFUSED = {
    render.html: [
        (attribution(str_tokens=("a",)), {}, "do not fit"),
        (sequence(), {"rows": 1}, "rows=1 is no option for a SequenceAttribution"),
    ],
    render.terminal: [(attribution(scores=torch.zeros(0, 4), sites=()), {}, "nothing to draw")],
    render.figure: [
        ({}, {}, "got a dict"),
        (sequence(), {"sites": ["embed", "resid(1)"]}, "names 2 sites"),
    ],
    render.prediction: [
        (attribution(prediction=()), {}, "holds no prediction"),
        (ONE, {"position": 1}, "leave it out"),
        (ONE, {"top": 0}, "top is 0; allowed: a whole number from 1"),
        ("text", {}, "got a str"),
        (attribution(prediction=(Candidate(0, "a", float("nan")),)), {}, "must lie in"),
        (HALVES, {}, "sum to 1.4"),
    ],
    render.spectrum: [
        (ONE, {}, "not of a FisherScope"),
        (with_fisher((), 2.0, 0.0, 8), {}, "samples alone"),
        (with_fisher((1.0,), 0.0, 1.0), {}, "tr F above zero"),
        (with_fisher((float("inf"),), 1.0, 1.0), {}, "finite"),
        ([], {}, "got 0 results"),
        ([fisher()] * 25, {}, "got 25 results"),
        (["x"], {}, "got a str"),
        (5, {}, "got a int"),
        (None, {}, "got a NoneType"),
        *((SPECTRA, {"labels": labels}, "must name 2 results") for labels in (["a"], 5)),
    ],
    render.compare: [
        ([ONE], {}, "got 1 results"),
        ([ONE] * 13, {}, "got 13 results"),
        (ONE, {}, "only a list of Attributions"),
        ([ONE, sequence()], {}, "only a list of Attributions"),
        (None, {}, "got NoneType; only a list of Attributions"),
        (5, {}, "got int; only a list of Attributions"),
        ([ONE, 5], {}, "got a list of Attribution and int; only a list of Attributions"),
        (sequence(), {}, "got SequenceAttribution; only a list of Attributions"),
        ([ONE, attribution(tuple("abcde"))], {}, r"different tokens \(4 and 5\)"),
        ([ONE, ONE.group([(1, 3)])], {}, r"different tokens \(4 and 3\)"),
        (PAIR, {"kind": "pie"}, "kind is 'pie'; allowed"),
        (PAIR, {"scale": "log2"}, "scale is 'log2'"),
        *((PAIR, {"labels": labels}, "must name 2 results") for labels in (5, "ab", ["a"], {})),
        # Prompts that have no common positions.
        *(
            ([attribution(CLEAN), other], {}, f"{says}.*{NO_LENGTH}")
            for other, says in (
                (LONGER, r"different tokens \(6 and 7\)"),
                (attribution((*CLEAN[:2], " cap", "ital of", *CLEAN[4:])), "different parts"),
                (LONGER.group([(5, 7)]), "different parts"),
                (attribution((*CLEAN[:4], " Italy", " is"), has_bos=False), "one with BOS, the other without"),
            )
        ),
    ],
    render.series: [
        (numbers(), {"values": [12, 35, 56]}, "number 1 is 34 in the prompt and 35 in values"),
        (numbers(), {"values": [12, 34]}, "number 2 is 56 in the prompt and nothing in values"),
        (numbers(), {"values": [12, 34, 56, 7]}, "number 3 is nothing in the prompt and 7 in values"),
        (numbers(), {"values": [12]}, "at least two"),
        (numbers(), {"values": "abc"}, NO_ROW),
        (numbers(), {"values": [1, float("nan")]}, NO_ROW),
        (numbers(), {"values": [12, 10**400]}, NO_ROW),
        (numbers(), {"spans": [(1, 3)]}, "got 1 spans for 3 values"),
        (numbers(), {"spans": [(1, 3), (2, 5), (6, 8)]}, "overlap"),
        (numbers(), {"spans": [(1, 3), (4, 5), (6, 80)]}, "not a range of tokens"),
        (numbers(), {"spans": [(4, 5), (1, 3), (6, 8)]}, "in their order"),
        (numbers(), {"spans": 3}, f"spans are 3; {RANGES}"),
        (numbers(), {"spans": [3, 4, 5]}, rf"spans are \[3, 4, 5\]; {RANGES}"),
        (numbers(), {"spans": "word"}, f"spans are .word.; {RANGES}"),
        (numbers(), {"marks": 3}, f"marks=3 is {NO_ROW}"),
        (numbers(), {"marks": [3]}, "indices of values, 0 to 2"),
        (numbers(), {"marks": [0.5]}, "indices of values, 0 to 2"),
        (numbers(), {"forecast": [0.9, 0.9]}, r"sums to 1\.8"),
        (numbers(), {"forecast": [-0.1, 0.9]}, r"least: -0\.1"),
        (numbers(), {"forecast": []}, "sums to 0"),
        (numbers(), {"scale": "sqrt"}, "scale is 'sqrt'"),
        (numbers(), {"actual": "next"}, "actual="),
        (sequence(), {"values": [1, 2]}, "got a SequenceAttribution"),
        (PARTS, {"values": [1, 2, 3]}, "parts of two numbers"),
    ],
    render.circuit: [
        (components(), {"what": "effect"}, "what is 'effect'; allowed: 'total', 'direct'"),
        (components(), {"over": "layers"}, "over is 'layers'; allowed"),
        (components(), {"top": 0, "over": "tokens"}, "top is 0; allowed: a whole number from 1"),
        (components(), {"values": "norms"}, "values='norms' is no option for a Components; it takes what"),
        (head_paths(), {"source": 99}, "source is 99; allowed: a whole number from 0 to 15, the read position"),
        (head_paths(position=4), {"source": 5}, "from 0 to 4, the read position"),
        (head_paths(), {"source": 1, "over": "tokens"}, "pass one of the two"),
        (head_paths(), {"part": "keys"}, "part is 'keys'; allowed"),
        (lambda: dataclasses.replace(head_paths(), norms=torch.zeros(0, 4, 16)), {}, "holds nothing in norms"),
        (flow(), {"values": "signs"}, "values is 'signs'; allowed"),
        (flow(), {"include_bos": 1}, "include_bos is 1; allowed"),
        (lambda: dataclasses.replace(flow(), str_tokens=(), tokens=torch.zeros(0).long()), {}, "nothing to draw"),
        (flow_path(), {"min_share": 1.0}, r"min_share is 1\.0; allowed: a share"),
        (flow_path(), {"min_share": None}, "min_share is None; allowed: a share"),
        (flow_path(), {"scale": "log"}, "scale='log' is no option for a FlowPath"),
        (verification(), {"scale": "sqrt"}, "scale is 'sqrt'; allowed"),
        (verification(), {"top": "all"}, "top is 'all'; allowed: a whole number from 1"),
        ({}, {}, r"got a dict; only a result of tl_scopes\.circuits"),
    ],
    render.attention: [(components(), {}, "only a Flow or HeadPaths")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("draw", "given", "options", "says"),
    [(draw, *row) for draw, rows in REFUSED.items() for row in rows],
    ids=lambda value: getattr(value, "__name__", value) if not isinstance(value, dict) else "",
)
def test_what_cannot_be_drawn_is_refused(draw, given, options, says):
    if callable(given):  # made where annotations are not checked
        given = given()
    if draw is render.series:
        options = {"values": [12, 34, 56], **options}
    with pytest.raises(RenderError, match=says):
        draw(given, **options)


def test_errors_of_other_kinds():
    with pytest.raises(SiteError):
        render.compare(PAIR, site="resid(9)")
    with pytest.raises(ScopeParameterError, match="choose one yourself"):
        render.series(numbers(scope=info("random"), units="none"), [12, 34, 56])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale": "sqrt"}, "scale is 'sqrt'; allowed: 'linear', 'log'"),
        ({"scale": None}, "scale is None; allowed: 'linear', 'log'"),
        ({"normalise": "token"}, "normalise is 'token'; allowed: 'site', 'all'"),
        ({"include_bos": "no"}, "include_bos is 'no'; allowed: False, True"),
        ({"include_read": 1}, "include_read is 1; allowed: False, True"),
        ({"sites": []}, "name at least"),
        ({"sites": ["embed"], "site": "embed"}, ": pass"),
    ],
)
@pytest.mark.parametrize("draw", [render.html, render.notebook, render.terminal, render.figure])
def test_unknown_option_values_are_refused(draw, options, says):
    with pytest.raises(RenderError, match=says):
        draw(ONE, **options)
