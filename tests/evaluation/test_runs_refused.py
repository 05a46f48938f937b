"""Runs over data sets: folders that are in use, damaged, or of a run made with something else."""

from __future__ import annotations

import contextlib
import json
import re
import shutil

import pytest
import torch
from filelock import FileLock

import tl_scopes as ts
from support import run_cases, zoo
from support.run_cases import METHODS, SETTINGS, go, prompts
from tl_scopes.errors import RunError, ScopesWarning
from tl_scopes.evaluation import DataSet, Settings, ablations, measure
from tl_scopes.evaluation.runs import run as runs
from tl_scopes.evaluation.runs.manifest import plain, tensors_hash
from tl_scopes.evaluation.runs.parts import Parts

GIVEN = prompts(5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    go(out := tmp_path_factory.mktemp("made") / "out", GIVEN)
    return out


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def other_model():
    model = zoo.build(run_cases.name(), torch.float32)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if n.endswith(("W_E", "weight"))).view(-1)[
            0
        ] += 1
    return model


def hooked_model():
    model = zoo.build(run_cases.name(), torch.float32)
    model.add_hook("blocks.0.hook_resid_post", lambda a, hook: a)
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: {"settings": Settings(fractions=(0.2, 0.6))}, "settings.fractions was [0.2, 0.5], is [0.2, 0.6]"),
        (lambda: {"settings": Settings(fractions=(0.2, 0.5), seed=1)}, "settings.seed was 0, is 1"),
        (lambda: {"methods": METHODS[:2]}, "methods.fisher was {"),
        (lambda: {"methods": METHODS[::-1]}, 'order was ["semantic", "temperature", "fisher"], is ["fisher"'),
        (lambda: {"methods": [*METHODS[:2], ts.FisherScope(rank=2)]}, "methods.fisher(rank=2) was not there, is {"),
        (lambda: {"model": other_model()}, "model.sha256 was "),
        (lambda: {"model": hooked_model()}, 'model.hooks was [], is ["'),
        (lambda: {"model": zoo.shared(run_cases.name())}, 'model.dtype was "float32", is "float64"'),
        (lambda: {"unit": 2}, "units.prompts was 4, is 2"),
        (lambda: {"given": [*GIVEN[:-1], "The"]}, "data.sha256 was "),
        (lambda: {"given": GIVEN[:-1]}, "data.prompts was 5, is 4"),
        (lambda: {"given": DataSet(GIVEN, first=3)}, "data.first was 0, is 3"),
        (lambda: {"measure": lambda *args: measure(*args)}, 'units.measure was "tl_scopes.'),
    ],
)  # fmt: skip
def test_other_arguments_are_refused_by_name(out, change, said):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    changes = change()
    with pytest.raises(RunError) as caught:
        go(out, changes.pop("given", GIVEN), **changes)
    assert said in str(caught.value) and "give another folder" in str(caught.value)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def of_logit(i):
    return ts.FunctionScope(lambda z: z[i])


def scaled(at="blocks.0.hook_mlp_out", by=2, change=lambda model: None):
    model = zoo.build(run_cases.name(), torch.float32)
    model.add_hook(at, lambda a, hook: a * by)
    change(model)
    return model


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"at": "blocks.1.hook_mlp_out"}, "model.hooks was"),
        ({"by": 3}, "final states of prompt 0 differ by "),
        ({"change": lambda m: m.unembed.register_forward_hook(lambda *a: None)}, "model.hooks was"),
        ({"change": lambda m: setattr(m.cfg, "eps", 0.5)}, "model.config.cfg.eps was"),
        (
            {"change": lambda m: [b for b in m.buffers() if b.numel() > 1][-1].fill_(1)},
            "model.buffers was",
        ),
    ],
    ids=["a hook elsewhere", "another hook", "torch's own", "a setting", "a buffer"],
)
def test_what_else_makes_a_model_another_is_refused(tmp_path, other, said):
    """Its name and weights stay."""
    go(tmp_path / "out", GIVEN, model=scaled())
    go(tmp_path / "out", GIVEN, model=scaled())
    with pytest.raises(RunError, match=re.escape(said)):
        go(tmp_path / "out", GIVEN, model=scaled(**other))


def test_functions_are_told_apart_by_what_they_do(tmp_path):
    go(tmp_path / "out", GIVEN, methods=[of_logit(5)])
    go(tmp_path / "out", GIVEN, methods=[of_logit(5)])
    with pytest.raises(
        RunError, match=r"scores of function.* differ by .*allowed 0\.001"
    ) as caught:
        go(tmp_path / "out", GIVEN, methods=[of_logit(9)])
    assert "final states" not in str(caught.value)


def test_outputs_agree_to_rounding_and_what_failed_tells_nothing(out):
    """As on another machine, or on one with less memory."""
    path = out / "manifest.json"
    made = json.loads(path.read_text())
    outputs = made["outputs"]
    assert set(outputs) == {
        "allowed", *(f"final states of prompt {i}" for i in range(3)),
        *(f"scores of {name}" for name in ("semantic", "temperature", "fisher")),
    }  # fmt: skip
    outputs["final states of prompt 0"] = [
        x * (1 + 1e-4) for x in outputs["final states of prompt 0"]
    ]
    outputs["scores of fisher"] = None
    path.write_text(json.dumps(made))
    assert go(out, GIVEN).measured == 0
    outputs["final states of prompt 0"] = [x * 1.01 for x in outputs["final states of prompt 0"]]
    path.write_text(json.dumps(made))
    with pytest.raises(RunError, match=r"final states of prompt 0 differ by 0\.0\d+ of their size"):
        go(out, GIVEN)


def test_a_run_whose_first_prompt_fails_goes_on(tmp_path):
    settings = Settings(fractions=(0.2, 0.5), position=1)
    given = ["", [0], *GIVEN]  # nothing, and no position 1
    first = go(tmp_path / "out", given, settings=settings)
    assert (first.failed, first.manifest["outputs"]["final states of prompt 0"]) == (2, None)
    assert go(tmp_path / "out", given, settings=settings).measured == 0


def test_other_threads_and_versions_are_refused(out, monkeypatch):
    path = out / "manifest.json"
    made = json.loads(path.read_text())
    was = made["threads"]
    path.write_text(json.dumps({**made, "threads": was + 1}))
    with pytest.raises(RunError, match=rf"threads was {was + 1}, is {was} \(set OMP_NUM_THREADS"):
        go(out, GIVEN)
    path.write_text(json.dumps({**made, "versions": {**made["versions"], "torch": "2.0"}}))
    with pytest.raises(RunError, match=r'versions.torch was "2.0", is '):
        go(out, GIVEN)


def test_what_cannot_change_a_number_may_differ(out):
    go(out, DataSet(GIVEN, "the same prompts elsewhere"))
    path = out / "manifest.json"
    made = json.loads(path.read_text())
    made["noted"] |= {"python": "3.0", "machine": "an abacus"}
    path.write_text(json.dumps(made))
    with pytest.warns(ScopesWarning, match='machine was "an abacus", is .* rounding only'):
        go(out, GIVEN)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged"),
        ("[]", "not a manifest of tl_scopes"),
        ('{"noted": {}}', "format None"),
        ('{"format": 99, "noted": {}}', "format 99, this tl_scopes reads 4"),
    ],
)
def test_a_manifest_that_cannot_be_used(out, content, said):
    (out / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=said):
        go(out, GIVEN)


def test_parts_of_who_knows_what(out):
    (out / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"rows\.parquet is there, but no .*manifest\.json"):
        go(out, GIVEN)


def test_one_run_at_a_time(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(RunError, match="another run is at work in"):
        go(out, GIVEN)

    def greedy(model, ids, methods, settings):
        with pytest.raises(RunError, match="another run is at work"):
            go(out, GIVEN)
        return measure(model, ids, methods, settings)

    assert go(out, GIVEN, measure=greedy).failed == 0
    assert go(out, GIVEN, measure=greedy).measured == 0


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("notes.txt", "thesis.pdf.partial"):
        (out / name).write_text("mine")
    go(out, GIVEN)
    for name in ("notes.txt", "thesis.pdf.partial"):
        assert (out / name).read_text() == "mine"


def test_a_table_that_no_run_made_is_not_overwritten(tmp_path):
    (tmp_path / "rows.parquet").write_text("mine")
    with pytest.raises(RunError, match=r"rows\.parquet is there, but no .*move it away"):
        go(tmp_path, GIVEN)
    assert (tmp_path / "rows.parquet").read_text() == "mine"


def test_a_device_that_failed_is_no_fault_of_the_prompts(tmp_path):
    def failing(model, ids, methods, settings):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        go(tmp_path / "out", GIVEN, measure=failing)
    assert not list((tmp_path / "out" / "parts").iterdir())
    with pytest.raises(RuntimeError, match="CUDA error"):
        ablations.refuse_to_record(RuntimeError("CUDA error: unspecified launch failure"))
    ablations.refuse_to_record(RuntimeError("CUDA out of memory"))  # of a prompt that is too long


@pytest.mark.wrong_types
def test_a_part_that_cannot_be_sent_is_told_by_its_own_error(tmp_path):
    """When all parts are gathered, so that the other process is still in step."""
    gathered = []

    class Team:
        index, count, is_main = 0, 2, True

        @contextlib.contextmanager
        def together(self):
            yield

        def share(self, value):
            return set()  # what the main process has

        def gather(self, value):
            gathered.append(value)
            return [value, b"" if isinstance(value, bytes) else set()]

    parts = Parts(tmp_path, 2)
    for unit in range(2):
        parts.path(unit).mkdir(parents=True)  # cannot be read
    work = runs._Work(None, DataSet(GIVEN), None, {}, Settings(), None, parts, [[0], [1]])
    with pytest.raises(OSError, match="Is a directory"):
        work.gather(Team())
    assert gathered == [{0, 1}, b"", b""]


def test_methods_that_the_model_cannot_have_are_refused_at_once(tmp_path):
    with pytest.raises(ts.errors.ScopeParameterError, match="over d_model"):
        go(tmp_path / "out", GIVEN, methods=[ts.FisherScope(rank=999)])
    assert not list((tmp_path / "out" / "parts").iterdir())


# --- what the manifest holds ---


def weights_hash(layer: torch.nn.Module) -> str:
    return tensors_hash(layer.named_parameters())


def test_the_weights_hash_sees_every_change():
    layer = torch.nn.Linear(2, 3)
    first = weights_hash(layer)
    assert weights_hash(layer) == first
    assert weights_hash(torch.nn.Sequential(layer)) != first
    assert weights_hash(torch.nn.Linear(3, 2)) != first
    found = {first}
    with torch.no_grad():
        layer.weight[2, 1] = torch.nextafter(layer.weight[2, 1], torch.tensor(9.0))
        found.add(weights_hash(layer))
        layer.weight.data = layer.weight.data.T.contiguous().T
        found.add(weights_hash(layer))
        found.add(weights_hash(layer.bfloat16()))
    assert len(found) == 3  # how the bytes lie in memory does not count


def test_parameters_become_plain_values():
    torch.manual_seed(0)
    v = torch.randn(3)
    a, b = (plain(ts.DirectionScope(x)) for x in (v, v + 1))
    assert a != b and a == plain(ts.DirectionScope(v.clone()))
    assert json.loads(json.dumps(a)) == a
    assert plain(ts.FunctionScope(run_cases.go))["fn"] == "support.run_cases.go"
    numbers = torch.arange(2).numpy()
    assert plain((1, {"a": {2}}, torch.float32, numbers)) == [
        1,
        {"a": [2]},
        "torch.float32",
        [0, 1],
    ]
    assert "0x" not in str(plain(object()))
    assert plain(SETTINGS.to_dict())["fractions"] == [0.2, 0.5]
