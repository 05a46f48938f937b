"""Circuits compared: areas are those of the package, scores are what the page says, a part is run anew."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tl_scopes as ts
from benchmarks.circuits import areas, command, found, measured, page, pairs_of
from support import real_models, zoo
from tl_scopes import circuits
from tl_scopes.results.nodes import place_of

NAME = zoo.known("bridge/gemma3", "hooked/gqa")[0]
CLEAN = [[0, 5, 6, 7, 8], [0, 9, 8, 7, 6], [0, 12, 13, 14, 15]]
CORRUPTED = [[0, 4, 6, 3, 8], [0, 9, 3, 7, 4], [0, 12, 6, 14, 5]]


def made() -> circuits.Pairs:
    return circuits.Pairs(CLEAN, CORRUPTED, ts.LogitDifferenceScope(5, 11))


@pytest.mark.parametrize("name", zoo.known("bridge/llama", "hooked/gqa"))
def test_a_node_is_the_sum_of_its_edges(name):
    """What is said of nodes by steps: with one it is what `components` gives, where no norm lies behind attention."""
    model, pairs = zoo.shared(name), made()
    by_edges = found.summed(circuits.edges(model, pairs))
    effects = circuits.components(model, pairs)
    wanted = dict(zip(effects.labels, effects.summed().tolist()))
    assert {k for k in wanted if place_of(k).kind in ("head", "mlp")} == set(by_edges)
    for label, value in by_edges.items():
        assert value == pytest.approx(wanted[label], rel=1e-4, abs=1e-6)


def test_exact_scores_are_falls_of_the_metric():
    """Of each node alone, by the model's own hooks."""
    model, pairs = zoo.shared(NAME), made()
    scores = found._exact(model, pairs)
    label = max(scores, key=lambda k: abs(scores[k]) * (place_of(k).kind == "head"))
    place = place_of(label)
    hook = f"blocks.{place.layer}.attn.hook_z"
    falls = []
    for clean, corrupted in zip(CLEAN, CORRUPTED):
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([corrupted]), names_filter=hook)

            def replace(z, hook, there=cache[hook]):
                z = z.clone()
                z[:, :, place.index] = there[:, :, place.index]
                return z

            whole = model(torch.tensor([clean]))[0, -1]
            without = model.run_with_hooks(torch.tensor([clean]), fwd_hooks=[(hook, replace)])
        falls.append(float((whole[5] - whole[11]) - (without[0, -1, 5] - without[0, -1, 11])))
    assert scores[label] == pytest.approx(np.mean(falls), rel=1e-3, abs=1e-6)


def _cell(task: str, quality: dict[str, float], model: str = "m", n: int = 12) -> dict:
    """Pairs whose metric goes from -1 to 1, and methods that keep a share of it at half of the size."""
    noise = np.random.default_rng(len(task)).normal(0, 0.01, n)
    curves = {
        kind: {
            name: {
                "pairs": n,
                "seconds": 6.0,
                "metrics": [[-1 + 2 * q + e, 1.0] for e in noise],
            }
            for name, q in quality.items()
        }
        for kind in found.KINDS
    }
    ends = {"clean": [1.0] * n, "corrupted": [-1.0] * n}
    sizes = {f"{kind}_{what}": x for kind in found.KINDS
             for what, x in (("all", 90), ("shares", [0.5, 1.0]))}  # fmt: skip
    head = {"model": model, "task": task, "n": n, "tokens": 9, "versions": {"torch": "2"}}
    return head | ends | sizes | {"right": [1] * 9 + [0], "curves": curves}


def test_areas_are_those_of_faithfulness():
    model, pairs = zoo.shared(NAME), made()
    scores = circuits.components(model, pairs)
    judged = circuits.faithfulness(model, pairs, scores, [0.2, 0.5, 1.0], random=2)
    cell = measured._ends(judged) | {"n": 3, "nodes_shares": [*judged.shares]}
    every = {"scores": judged.metrics} | {f"random {i}": x for i, x in enumerate(judged.random)}
    curves = {name: {"metrics": measured._rounded(x)} for name, x in every.items()}
    cell |= {"curves": {"nodes": curves}}
    for what in areas.WHAT:
        got = {own.name: own.mean for own in
               areas.standings([cell], "nodes", what, ["scores", "random"])}  # fmt: skip
        assert got["scores"] == pytest.approx(getattr(judged, what), rel=0.02, abs=0.01)
        drawn = float(getattr(judged, f"random_{what}").mean())
        assert got["random"] == pytest.approx(drawn, rel=0.02, abs=0.01)


def test_the_best_is_told_from_the_rest_by_paired_differences():
    """Noise that methods share does not count; a task that a model cannot do is not used."""
    good, close, bad = "EAP-IG difference", "EAP difference", "EAP fisher"
    quality = {good: 0.9, close: 0.9, bad: 0.88, "random 0": 0.3, "random 1": 0.5}
    cells = [_cell(task, quality) for task in ("agreement", "greater_than")]
    cells[0]["curves"]["nodes"][close]["metrics"][0][0] += 0.005
    first, second, third, last = page.ranked(cells, "nodes", "cpr")
    assert {first.name, second.name} == {good, close} and second.tied
    assert third.name == bad and third.behind == pytest.approx(0.005, abs=1e-3) and not third.tied
    assert last.name == "random" and last.mean == pytest.approx(0.35, abs=0.01)
    cells.append(_cell("repeated_list", quality | {bad: 2.0}) | {"right": [1, 0]})
    assert [own.name for own in page.ranked(cells, "nodes", "cpr")][2:] == [bad, "random"]
    written = page.text(cells)
    assert "not used: the model does not do it" in written
    assert "Not measured on all of these tasks: EAP of `ContinuationScope(answer)`" in written
    assert "**EAP of the task's metric**" in written or "**EAP-IG of the task's metric**" in written


def test_what_is_there_is_not_measured_again(tmp_path):
    cell = _cell("agreement", dict.fromkeys(found.METHODS, 0.5))
    every = found.METHODS, [*found.KINDS]
    assert command.complete(cell, *every)
    del cell["curves"]["nodes"]["exact"]
    assert measured.lacking(cell, *every) == {"exact": ["nodes"]}
    assert not command.complete(cell, *every) and command.complete(cell, ["exact"], ["edges"])
    assert command.complete(cell | {"right": [0, 1]}, *every) and not command.complete({}, *every)
    command._write(tmp_path / "cell.json", cell)
    assert json.loads((tmp_path / "cell.json").read_text(encoding="utf-8")) == cell


def test_the_page_is_of_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.written(page.RESULTS)


@pytest.mark.real
def test_answers_continue_their_prompts():
    model = real_models.shared("smollm2-135m-instruct")
    for task in pairs_of.TASKS:
        pairs = pairs_of.of_task(model, task, 6)
        for clean, answer in zip(pairs.clean, pairs_of.answers(pairs, task)):
            if task == "repeated_list":
                first = clean.removeprefix("Words: ").split(". Words: ")
                assert first[0] == first[1] + answer
            elif task == "greater_than":
                start = int(next(word for word in clean.split() if word.isdigit()))
                assert start < int(clean.split()[-1] + answer) <= start + 10
            else:
                assert answer.startswith(" ") and len(answer.split()) == 1
        # The same prompts, so that only what is explained differs.
        for of in pairs_of.OF:
            asked = pairs_of.explaining(pairs, task, of)
            assert asked.clean == pairs.clean and asked.corrupted == pairs.corrupted
