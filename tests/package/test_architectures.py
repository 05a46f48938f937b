"""The matrix of architectures: its rows can fail, and its page says what was measured."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

from benchmarks.architectures import checks, command, models, page, tables
from support import zoo

NEEDS_BRIDGE = pytest.mark.skipif(
    not zoo.names("bridge"), reason="this transformer-lens has no bridge"
)
TABLES = page.load()


@NEEDS_BRIDGE
@pytest.mark.parametrize("model", [("GPT2LMHeadModel", ""), ("Gemma2ForCausalLM", "")])
def test_an_ordinary_model_is_equal_in_every_column(model):
    cells = checks.cells(model, torch.float32)
    assert cells.keys() == checks.COLUMNS.keys()
    assert all(cell["error"] < 1e-5 for cell in cells.values())


@NEEDS_BRIDGE
def test_a_wrong_number_fails(monkeypatch):
    honest = checks.Ours.flow
    monkeypatch.setattr(
        checks.Ours, "flow", lambda of, *held: [1.01 * x for x in honest(of, *held)]
    )
    cells = checks.cells(("GPT2LMHeadModel", ""), torch.float32)
    bad = command.failures({"gpt2": {"float32": cells}})
    assert {line.partition(":")[0] for line in bad} == {
        f"gpt2 float32 {column}" for column in ("flow", "frozen norms", "frozen both")
    }


@NEEDS_BRIDGE
def test_an_architecture_that_no_table_knows_fails(monkeypatch):
    from transformer_lens.factories import architecture_adapter_factory

    more = architecture_adapter_factory.SUPPORTED_ARCHITECTURES | {"NewForCausalLM": None}
    monkeypatch.setattr(architecture_adapter_factory, "SUPPORTED_ARCHITECTURES", more)
    assert ("NewForCausalLM", "") in models.listed()
    _, row = command._apart(("NewForCausalLM", ""))
    assert len(command.failures({"new": row})) == 2 and "add a builder" in str(row)


@NEEDS_BRIDGE
def test_tables_are_about_what_there_is():
    """A row that goes by nothing would never be noticed."""
    names = {name for table in TABLES.values() for name in {*table["others"], *table["rows"]}}
    known = {name.partition(", ")[0] for name in names}
    assert {name for name, _ in tables.SPECIAL} | tables.OTHERS.keys() <= known
    now = TABLES.get(".".join(version("transformer-lens").split(".")[:2]))
    if now and now["versions"]["transformer-lens"] == version("transformer-lens"):
        assert now["rows"].keys() == {command.named(model) for model in models.listed()}


@pytest.mark.parametrize("generation", TABLES)
def test_nothing_is_wrong_and_nothing_crashes(generation):
    assert not command.failures(TABLES[generation]["rows"])


def test_the_page_is_of_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.text(TABLES)
