"""Folders that hold a card: the same card again, never half of one, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses

import pytest

from support.faithfulness_cards import (
    METHODS,
    NO_CHECKS,
    card,
    edited,
    same,
)
from tl_scopes.errors import ResultFileError
from tl_scopes.results import frames
from tl_scopes.results.card import FaithfulnessCard


@pytest.fixture(scope="module")
def made():
    return card(
        METHODS[:2], prompts=3, failed={1: "E: \ud83d x"[:3] + "日本"}, reference="semantic"
    )


def test_a_saved_card_is_the_same(made, tmp_path):
    folder = made.save(tmp_path / "new" / "card")
    same(made, FaithfulnessCard.load(folder))
    # Saved again it is the same files, byte for byte.
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    FaithfulnessCard.load(folder).save(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    bare = dataclasses.replace(made, **NO_CHECKS, reference=None)
    bare.save(folder)
    same(bare, FaithfulnessCard.load(folder))


def test_a_save_over_another_leaves_no_old_table(made, tmp_path):
    made.save(tmp_path)
    made.subset([0]).save(tmp_path)
    assert len(list(tmp_path.glob("rows-*.parquet"))) == 1
    assert FaithfulnessCard.load(tmp_path).prompts == 1


@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupted_save_leaves_the_old_card(made, tmp_path, monkeypatch, at):
    made.save(tmp_path)
    calls, write = iter(range(1, 99)), frames.write_bytes

    def dies(*args, **kwargs):
        if next(calls) == at:
            raise KeyboardInterrupt
        return write(*args, **kwargs)

    monkeypatch.setattr(frames, "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        made.subset([0]).save(tmp_path)
    same(made, FaithfulnessCard.load(tmp_path))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda j, r: r.write_bytes(r.read_bytes()[:-20]), "truncated or changed"),
        (lambda j, r: r.unlink(), "is missing"),
        (lambda j, r: j.unlink(), "has no FaithfulnessCard.json"),
        (lambda j, r: j.write_text(j.read_text(encoding="utf-8")[:100], encoding="utf-8"), "is damaged"),
        (lambda j, r: j.write_text("[]"), "is damaged"),
    ],
)  # fmt: skip
def test_a_harmed_folder_is_refused(made, tmp_path, harm, message):
    folder = made.save(tmp_path / "card")
    harm(folder / "FaithfulnessCard.json", next(folder.glob("rows-*.parquet")))
    with pytest.raises(ResultFileError, match=message):
        FaithfulnessCard.load(folder)


NOT_WHOLE = "does not describe a whole"


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(kind="Flow"), "not a FaithfulnessCard"),
        (lambda f: f.update(format="other"), "not a FaithfulnessCard"),
        (lambda f: f.update(format_version=99), "upgrade tl_scopes"),
        (lambda f: f.update(format_version=True), None),
        (lambda f: f.update(format_version=-1), None),
        (lambda f: f.update(payload=[]), None),
        (lambda f: f.update(payload="text"), None),
        (lambda f: f.update(tables=[]), None),
        (lambda f: f["tables"].pop("rows"), NOT_WHOLE),
        (lambda f: f["tables"].update(settings=f["tables"]["rows"]), None),
        (lambda f: f["tables"]["rows"].update(file="\0"), None),
        (lambda f: f["payload"].pop("methods"), NOT_WHOLE),
        (lambda f: f["payload"].update(methods=["x"]), NOT_WHOLE),
        (lambda f: f["payload"].update(methods="ab"), None),
        (lambda f: f["payload"].update(methods=[1]), None),
        (lambda f: f["payload"].update(settings=[1]), None),
        (lambda f: f["payload"].update(settings="text"), None),
        (lambda f: f["payload"].update(reference=1), None),
        (lambda f: f["payload"].update(extra=1), None),
        (lambda f: f["payload"].update(rows=1), None),
        (lambda f: f["payload"].update(provenance=3), NOT_WHOLE),
        (lambda f: f["payload"]["provenance"].update(model=1), None),
        (lambda f: f["payload"]["provenance"].update(versions=[1]), None),
    ],
)
def test_another_description_is_refused(made, tmp_path, change, message):
    folder = made.save(tmp_path / "card")
    edited(folder / "FaithfulnessCard.json", change)
    with pytest.raises(ResultFileError, match=message):
        FaithfulnessCard.load(folder)


def test_no_folder_is_no_card(tmp_path):
    with pytest.raises(FileNotFoundError):
        FaithfulnessCard.load(tmp_path / "none")
    with pytest.raises(ResultFileError, match="no FaithfulnessCard was saved there"):
        FaithfulnessCard.load(tmp_path)


def test_a_table_outside_the_folder_is_not_read(made, tmp_path):
    folder = made.save(tmp_path / "card")
    table = next(folder.glob("rows-*.parquet"))
    table.rename(tmp_path / table.name)
    elsewhere = {"file": f"../{table.name}"}
    edited(folder / "FaithfulnessCard.json", lambda f: f["tables"]["rows"].update(elsewhere))
    with pytest.raises(ResultFileError, match="is missing"):
        FaithfulnessCard.load(folder)
