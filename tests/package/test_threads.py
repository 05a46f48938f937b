"""Other threads: what a call computes with, silences or changes, it does in its own thread alone."""

from __future__ import annotations

import copy
import functools
import gc
import logging
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch

import tl_scopes as ts
from support import chosen, forks, traces, zoo, zoo_unfit
from support.threads import at_once, elsewhere, paused
from support.traces import PLAIN, each_class
from support.weights import tensors
from tl_scopes import models
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.evaluation.sanity import randomisation, randomised
from tl_scopes.jacobian import stability
from tl_scopes.models import muted, quiet

PROCESSED = {name: make for name, (_, make) in zoo_unfit.processed().items()}
USED = {
    "stability": lambda model: ts.attribute(model, zoo.TEXT, ts.SemanticScope(), stability=True),
    "randomisation": lambda model: randomisation(
        model, [zoo.TEXT], [ts.SemanticScope(), ts.baselines.IntegratedGradients(steps=2)]
    ),
}
each_use = pytest.mark.parametrize("use", USED.values(), ids=USED)


def seen_meanwhile(model, use, look) -> list:
    """What `look()` gives another thread in the middle of each pass of `use(model)` in this one."""
    main, seen = threading.get_ident(), []

    def meanwhile(activation, hook):
        if threading.get_ident() == main:
            seen.append(elsewhere(look))

    with model.hooks([("blocks.1.hook_resid_pre", meanwhile)]):
        use(model)
    assert len(seen) >= 2
    return seen


def single(name: str):
    return zoo.build(name, torch.float32)


def half(name: str):
    model = zoo.build(name).to(torch.bfloat16)
    model.cfg.dtype = torch.bfloat16
    return model


@pytest.mark.parametrize(("name", "use", "build"), chosen.pairs(PLAIN, USED, [single, half]))
def test_the_models_own_passes_do_not_notice(name, use, build):
    model = build(name)
    tokens = model.to_tokens(zoo.TEXT)

    @torch.no_grad()
    def plain():
        return model(tokens), model.cfg.dtype

    logits, dtype = plain()
    for found, told in seen_meanwhile(model, USED[use], plain):
        assert torch.equal(found, logits) and told == dtype
    assert type(copy.copy(model.cfg)) is type(model.cfg)


@each_class
@each_use
def test_nothing_of_the_model_is_written(name, use):
    model = single(name)
    use(model)

    def held():
        return {
            k: (t.data_ptr(), t._version, t.detach().clone()) for k, t in tensors(model).items()
        }

    before = held()
    for state in seen_meanwhile(model, use, held):
        assert all(state[k][:2] == before[k][:2] for k in before)
        assert all(torch.equal(state[k][2], before[k][2]) for k in before)


class Given(torch.autograd.Function):
    """A product as fused kernels make it: handed the weight itself, which the way back uses again."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.saved_tensors[0].T, None


class Mixed(torch.nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(1)
        weight = torch.eye(16) + torch.randn(16, 16, generator=made) / 8
        self.weight = torch.nn.Parameter(weight)
        self.function = function

    def forward(self, x):
        return self.function(
            x, self.weight.to(x.dtype) if x.dtype == torch.float64 else self.weight
        )


@pytest.mark.parametrize(
    ("name", "function", "again"),
    chosen.pairs(PLAIN, [torch.matmul, Given.apply], [False, True]),
)
def test_the_way_back_uses_the_same_weights_as_the_way_there(name, function, again):
    """Also where a function was handed the weight itself, and where blocks are run a second time."""

    def made(function):
        model = zoo.build(name, torch.float32)
        model.blocks[1].mixed = Mixed(function)
        model.blocks[1].register_forward_pre_hook(
            lambda block, args: (model.blocks[1].mixed(args[0]), *args[1:])
        )
        return model

    def scores(model):
        options = dict(sites="all", checkpoint_blocks=again)
        return ts.attribute(model, zoo.TEXT, ts.FisherScope(rank=3), **options).scores

    model, expected = made(function), made(torch.matmul)
    view = view_of(model)
    with randomised(view, range(3)):
        values = {k: p.detach().clone() for k, p in model.named_parameters()}
        found = scores(model)
    with torch.no_grad():
        for key, parameter in expected.named_parameters():
            parameter.copy_(values[key])
    torch.testing.assert_close(found, scores(expected))
    assert view.loops_backward is None
    assert not torch.allclose(found, scores(made(torch.matmul)))


@each_class
@pytest.mark.parametrize("again", [False, True], ids=["kept", "run again"])
def test_blocks_that_are_run_again_are_wide_too(name, again):
    model = half(name)
    found = ts.attribute(
        model, zoo.TEXT, ts.SemanticScope(), stability=True, checkpoint_blocks=again
    )
    other = half(name).to(torch.float32)
    other.cfg.dtype = torch.float32
    expected = ts.attribute(other, zoo.TEXT, ts.SemanticScope(found.target.id)).scores[0, 1:]
    error = float((found.scores[0, 1:] - expected).abs().max() / expected.abs().max())
    assert found.stability.largest_error[0] == pytest.approx(error, rel=1e-2)


@each_class
def test_hooks_that_read_weights_read_those_in_force(name):
    model = zoo.build(name, torch.float32)
    kept, seen = model.W_E.detach().clone(), []

    def read(activation, hook):
        seen.append(model.W_E.dtype)
        return activation + 0 * model.W_E[0]

    with model.hooks([("blocks.1.hook_resid_pre", read)]):
        ts.attribute(model, zoo.TEXT, ts.SemanticScope(), stability=True)
    assert seen[0] == torch.float32 and seen[-1] == torch.float64
    assert torch.equal(model.W_E, kept)


@pytest.mark.parametrize("name", PROCESSED)
def test_weights_beside_the_parameters_are_widened_too(name):
    """A processed bridge computes with plain tensors."""
    model = PROCESSED[name]().to(torch.float32)
    for module in view_of(model).every_module():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                vars(module)[key] = value.to(torch.float32)
    model.cfg.dtype = torch.float32
    found = ts.attribute(model, zoo.TEXT, ts.LogitDifferenceScope(5, 7), stability=True)
    assert 0 < found.stability.largest_error[0] < 1e-4


@each_class
def test_weights_that_are_elsewhere_are_refused(name):
    """Offloaded weights are fetched in each pass: what stands for them would never be used."""
    model = zoo.build(name, torch.float32)
    view = view_of(model)
    module = model.blocks[1].mlp
    stores = [m._parameters for m in module.modules()]
    store, key = next((s, k) for s in stores for k in s if s[k] is not None)
    store[key] = torch.nn.Parameter(store[key].detach().to("meta"))
    with pytest.raises(UnsupportedModelError, match="'meta'"), stability.widened(view):
        pass
    with pytest.raises(UnsupportedModelError, match="'meta'"), randomised(view, [1]):
        pass


# --- output, warnings, environment ---


def test_other_threads_output_arrives_while_a_model_loads(folder, capfd):
    capfd.readouterr()
    loaded, written = threading.Event(), {"stdout": 0, "stderr": 0}

    def write(name: str) -> None:
        while not loaded.wait(0.002):
            print(f"line {written[name]}", file=getattr(sys, name), flush=True)
            written[name] += 1

    with at_once(*(functools.partial(write, name) for name in written)):
        try:
            for _ in range(2):
                models.load(folder, progress=False)
        finally:
            loaded.set()
    assert min(written.values()) > 10
    for name, text in zip(written, capfd.readouterr()):
        assert text.splitlines() == [f"line {i}" for i in range(written[name])]


def test_only_this_thread_is_silenced(capfd):
    before = traces.output_state()

    def say(who: str) -> None:
        print(who)
        sys.stdout.writelines([f"{who}\n"])
        print(who, file=sys.stderr)
        warnings.warn(who, stacklevel=1)
        logging.getLogger("transformers.models").warning(who)

    with quiet.undisturbed():
        say("mine")
        with pytest.warns(UserWarning, match="theirs"):
            elsewhere(lambda: say("theirs"))
        with quiet.undisturbed(show_progress_bars=True):
            print("mine")
            print("a bar", file=sys.stderr)
        say("mine")
    out, err = capfd.readouterr()
    assert out == "theirs\ntheirs\n"
    assert "theirs" in err and "mine" not in err
    assert traces.output_state() == before


def test_what_others_set_in_the_environment_stays(monkeypatch):
    for name in ("CHANGED", "TAKEN", "BOTH"):
        monkeypatch.setenv(f"TL_SCOPES_{name}", "before")
    for name in ("MINE", "THEIRS"):
        monkeypatch.delenv(f"TL_SCOPES_{name}", raising=False)

    def theirs() -> None:
        os.environ["TL_SCOPES_THEIRS"] = os.environ["TL_SCOPES_BOTH"] = "theirs"

    with quiet.undisturbed():
        os.environ["TL_SCOPES_CHANGED"] = "once"
        os.environ |= {"TL_SCOPES_CHANGED": "twice", "TL_SCOPES_MINE": "1", "TL_SCOPES_BOTH": "1"}
        del os.environ["TL_SCOPES_TAKEN"]
        elsewhere(theirs)
    found = {k.removeprefix("TL_SCOPES_"): v for k, v in os.environ.items() if "TL_SCOPES_" in k}
    expected = {"CHANGED": "before", "TAKEN": "before", "BOTH": "theirs", "THEIRS": "theirs"}
    assert {k: found.get(k) for k in [*expected, "MINE"]} == expected | {"MINE": None}


def test_two_that_load_at_once_leave_nothing_behind(folder):
    before = traces.output_state()

    def load(dtype: torch.dtype) -> bool:
        return models.load(folder, dtype=dtype, progress=False).W_U.dtype == dtype

    dtypes = (torch.float32, torch.float64) * 2
    with at_once(*(functools.partial(load, dtype) for dtype in dtypes)) as right:
        pass
    assert all(right)
    assert torch.get_default_dtype() == torch.float32
    assert traces.output_state() == before


def test_a_bare_root_logger_stays_bare_and_others_log_as_ever():
    """In a process of its own: pytest has handlers."""
    code = """
import logging, sys, threading
from tl_scopes.models.quiet import undisturbed
def say(who):
    logging.warning(who)
    logging.getLogger("own").warning(who)
with undisturbed(show_progress_bars=True):
    say("mine")
    thread = threading.Thread(target=say, args=("theirs",))
    thread.start()
    thread.join()
    say("mine")
assert not logging.root.handlers
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == "WARNING:root:theirs\ntheirs\n"


# --- forks ---


CALLS = {
    "attribute": lambda model: ts.attribute(model, zoo.TEXT, ts.SemanticScope(), sites="all"),
    "stability": USED["stability"],
    "randomisation": USED["randomisation"],
    "flow_path": lambda model: ts.circuits.flow_path(model, zoo.TEXT, ts.SemanticScope(), [0, 1]),
}


@pytest.mark.parametrize(("name", "call"), chosen.each(PLAIN, CALLS))
def test_a_fork_in_the_middle_of_another_threads_call(name, call):
    model = single(name)
    for parameter in model.parameters():
        parameter.requires_grad_(True)

    def fisher() -> torch.Tensor:
        return ts.attribute(model, zoo.TEXT, ts.FisherScope(rank=1)).scores

    expected, path = fisher(), CALLS["flow_path"](model)
    hooks = traces.model_state(model)["torch hooks"]

    def work(wait):
        with model.hooks([("blocks.1.hook_resid_pre", lambda activation, hook: wait())]):
            CALLS[call](model)

    def child():
        # The paused thread's own hook is there for good, in a model that is the child's alone.
        model.hook_dict["blocks.1.hook_resid_pre"].remove_hooks("both")
        assert traces.model_state(model)["torch hooks"] == hooks
        assert all(p.requires_grad for p in model.parameters())
        torch.testing.assert_close(fisher(), expected)
        torch.testing.assert_close(CALLS["flow_path"](model).edges, path.edges)

    with paused(work):
        assert forks.wait(forks.start(child), 60) == 0
    torch.testing.assert_close(fisher(), expected)


@pytest.fixture
def one_thread():
    """A pool of threads, which an earlier test may have begun, does not survive a fork."""
    yield from forks.one_thread()


@each_class
def test_a_fork_in_a_hook_of_ones_own_call(name, one_thread):
    """The child is inside the call itself, and ends it."""
    model = single(name)
    expected = ts.attribute(model, zoo.TEXT, ts.SemanticScope()).scores
    parent, codes = os.getpid(), []

    def fork(activation, hook):
        if os.getpid() == parent and not codes:
            pid = os.fork()
            if not pid:
                gc.freeze()  # else the collector writes to all of the memory that is shared
            codes.append(forks.wait(pid) if pid else None)

    try:
        with model.hooks([("blocks.1.hook_resid_pre", fork)]):
            found = ts.attribute(model, zoo.TEXT, ts.SemanticScope()).scores
        right = torch.equal(found, expected)
    finally:
        if os.getpid() != parent:
            os._exit(0 if right else 1)
    assert right and codes == [0]


def test_a_fork_while_another_thread_loads(folder, capfd):

    def load(wait):
        with quiet.undisturbed():
            torch.set_default_dtype(torch.float64)
            os.environ["TL_SCOPES_TEST"] = "mine"
            wait()

    def child():
        assert torch.get_default_dtype() == torch.float32 and "TL_SCOPES_TEST" not in os.environ
        assert type(os.environ) is os._Environ and not isinstance(sys.stdout, muted._Stream)
        models.load(folder, progress=False)
        print("loaded", flush=True)

    with paused(load):
        assert forks.wait(forks.start(child), 60) == 0
    assert "loaded\n" in capfd.readouterr().out
    assert torch.get_default_dtype() == torch.float32 and "TL_SCOPES_TEST" not in os.environ
