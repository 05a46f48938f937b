"""Prompts from files and data sets, and what is wrong with them."""

from __future__ import annotations

import json

import pytest

from tl_scopes.errors import DataError
from tl_scopes.evaluation import DataSet, read

TEXTS = ["The cat", " with space ", "Ünïcode \u2028 and \x85 inside", "last"]
IDS = [[1, 5, 6], [1, 7]]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, str]:
    """The same texts in every form."""
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("data")
    rows = [{"n": i, "text": text} for i, text in enumerate(TEXTS)]
    (folder / "a.txt").write_bytes("\ufeff".encode() + "\r\n\n".join(TEXTS).encode() + b"\n\n")
    (folder / "a.json").write_text(json.dumps(rows))
    (folder / "plain.json").write_text(json.dumps(TEXTS))
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "a.jsonl").write_text(lines + "\n\n", encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"test": saved}).save_to_disk(str(folder / "one"))
    both = {"train": saved.select([0]), "test": saved}
    datasets.DatasetDict(both).save_to_disk(str(folder / "two"))
    (folder / "loose").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), folder / "loose" / "test-0.parquet")
    return {path.name: str(path) for path in folder.iterdir()}


FORMS = ["a.txt", "a.json", "plain.json", "a.jsonl", "a.parquet", "saved", "one"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_texts(kinds, name):
    found = read(kinds[name])
    assert (list(found.prompts), found.source, found.first) == (TEXTS, kinds[name], 0)
    assert len(found) == len(TEXTS)
    assert read(kinds[name], n=2, skip=1) == DataSet(TEXTS[1:3], kinds[name], 1)
    assert list(read(kinds[name], n=99, skip=3).prompts) == TEXTS[3:]
    with pytest.raises(DataError, match="no prompts after the first 4"):
        read(kinds[name], skip=4)


def test_splits(kinds, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    assert list(read(kinds["two"], split="test").prompts) == TEXTS
    assert list(read(kinds["one"], split="test").prompts) == TEXTS
    assert list(read(kinds["loose"], split="test").prompts) == TEXTS
    with pytest.raises(DataError, match="'train', 'test', and none was asked for: choose"):
        read(kinds["two"])
    with pytest.raises(DataError, match="'train', 'test', not 'dev'"):
        read(kinds["two"], split="dev")
    with pytest.raises(DataError, match="no splits"):
        read(kinds["saved"], split="dev")
    with pytest.raises(DataError, match="neither configurations nor splits"):
        read(kinds["a.json"], split="test")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "saved", "one"])
def test_a_missing_column_names_those_there_are(kinds, name):
    with pytest.raises(DataError, match="no column 'body'; it has 'n', 'text'"):
        read(kinds[name], column="body")


def test_columns_of_ids_and_of_other_names(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"input_ids": ids, "body": "x", "meta": {"a": 1}} for ids in IDS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "bare.jsonl").write_text("\n".join(map(json.dumps, IDS)))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet", "bare.jsonl"):
        assert list(read(tmp_path / name).prompts) == IDS
    for name in ("a.jsonl", "a.parquet"):
        assert list(read(tmp_path / name, column="body").prompts) == ["x", "x"]
    with pytest.raises(DataError, match=r"'meta' .* holds a dict; allowed: a text.*'a'"):
        read(tmp_path / "a.parquet", column="meta")
    parquet.write_table(pa.table({"n": [1, 2]}), tmp_path / "n.parquet")
    with pytest.raises(
        DataError, match="no column 'text' or 'tokens' or 'input_ids' or 'messages'; it has 'n'"
    ):
        read(tmp_path / "n.parquet")
    with pytest.raises(DataError, match=r"'n' of .* holds a int"):
        read(tmp_path / "n.parquet", column="n")


def test_nulls_are_left_for_the_run_to_record(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "b"}')
    assert list(read(tmp_path / "a.jsonl").prompts) == [None, "b"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "has no prompts"),
        ("a.txt", b"\n  \n", "has no prompts"),
        ("a.json", b"", "a.json is not JSON"),
        ("a.json", b"[]", "has no prompts"),
        ("a.jsonl", b"", "has no prompts"),
        ("a.parquet", b"", "not a whole parquet file"),
        ("a.parquet", b"PAR1 half", "not a whole parquet file"),
        ("a.txt", b"fine\ncaf\xe9\n", r"line 2 of .*a.txt is not UTF-8 .*at byte 3"),
        ("a.json", b'["caf\xe9"]', "a.json is not UTF-8"),
        ("a.jsonl", b'"a"\n\n"b\n', r"line 3 of .*a.jsonl is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"tekst": "b"}', r"line 2 .*no column 'text'.* has 'tekst'"),
        ("a.jsonl", b'{"text": "a"}\n7', r"line 2 .* holds a int; allowed: a text"),
        ("a.jsonl", b"[" * 100_000, "line 1 of .* is not JSON"),
        ("a.json", b'{"data": []}', "holds a JSON dict; .*'data'"),
        ("a.json", b'["a", 3]', "item 1 of .* holds a int"),
        ("a.csv", b"a,b", "ends in '.csv'; allowed: a .txt"),
        ("text", b"a", "ends in 'nothing'; allowed"),
    ],
)
def test_bad_files(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


def test_a_bad_line_after_those_asked_for_does_not_matter(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'"a"\n"b"\n{')
    assert list(read(tmp_path / "a.jsonl", n=2).prompts) == ["a", "b"]


@pytest.mark.wrong_types
@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": -1}, {"n": 1.5}, {"skip": -1}, {"n": True}])
def test_bad_numbers(kinds, wrong):
    with pytest.raises(DataError, match="allowed: a whole number from"):
        read(kinds["a.txt"], **wrong)


def test_nothing_there(tmp_path, kinds, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    for name in (str(tmp_path / "no.json"), "no.parquet", "./nothing", "~/nothing-here"):
        with pytest.raises(DataError, match="no file or folder"):
            read(name)
    with pytest.raises(DataError, match="cannot be loaded as the name of a data set on the hub"):
        read("nobody/nothing-of-this-name")
    with pytest.raises(DataError, match="cannot be loaded as this folder"):
        read(tmp_path)
    with pytest.raises(DataError, match="text file, which has no columns"):
        read(kinds["a.txt"], column="text")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("a")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        read(path)
