"""Files that were changed since they were written: refused by name, or read as what they were."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from support import run_cases
from support.faithfulness_cards import METHODS, card, edited, same
from support.stored_results import attribution, equal, sequence
from tl_scopes.errors import ResultFileError, RunError
from tl_scopes.evaluation import Run
from tl_scopes.evaluation.runs import parts
from tl_scopes.results import attribution as result
from tl_scopes.results import circuits, flows
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.files import is_whole, sealed
from tl_scopes.results.storage import read_file, write_file

# Written by version 0.1.0, before files held checksums.
GOLDEN = Path(__file__).parents[1] / "golden" / "files"
KINDS = {
    path.stem: next(
        kind
        for home in (result, circuits, flows)
        for name, kind in vars(home).items()
        if path.stem in (name, *getattr(kind, "earlier_names", ()))
    )
    for path in sorted(GOLDEN.glob("*.safetensors"))
}


def flips(data: bytes, n: int, start: int = 0, stop: int | None = None):
    """The data with one bit of it changed, at `n` places."""
    draw = random.Random(0)
    for at in draw.sample(range(8 * start, 8 * (stop or len(data))), n):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        yield bytes(changed)


def attack(path: Path, n: int, read, check, error, start: int = 0, stop: int | None = None) -> int:
    """How many of `n` flips in a file are refused; `check` is given what is read of the others."""
    whole, refusals = path.read_bytes(), 0
    expected = read()
    for changed in flips(whole, n, start, stop):
        path.write_bytes(changed)
        try:
            found = read()
        except error as refusal:
            assert path.name in str(refusal) or str(path.parent) in str(refusal)
            refusals += 1
        else:
            check(found, expected)
    path.write_bytes(whole)
    check(read(), expected)
    return refusals


@pytest.mark.parametrize("name", KINDS)
def test_one_bit_of_a_result(name, tmp_path):
    kind = KINDS[name]
    path = kind.load(GOLDEN / f"{name}.safetensors").save(tmp_path / "file")
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")

    def read():
        return kind.load(path)

    assert attack(path, 60, read, equal, ResultFileError, start=header) == 60
    assert attack(path, 240, read, equal, ResultFileError, stop=header) >= 220


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    return run_cases.go(tmp_path_factory.mktemp("run") / "out", run_cases.prompts(5), unit=2)


@pytest.fixture
def run(done, tmp_path) -> Run:
    return dataclasses.replace(done, out=Path(shutil.copytree(done.out, tmp_path / "out")))


def go_on(run: Run, **changes) -> Run:
    return run_cases.go(run.out, run_cases.prompts(5), **{"unit": 2} | changes)


def test_one_bit_of_a_run(run):
    path = run.out / parts.PARTS / "0000001.parquet"
    made = json.loads((run.out / "manifest.json").read_text())
    own = parts.Parts(run.out, 3, parts.read(path, "")[1]["made_with"])
    members = set(parts.read(path, "")[0]["index"].to_pylist())

    def rows():
        return own.rows(1, members).to_pandas()

    frames = pd.testing.assert_frame_equal
    assert attack(path, 400, rows, frames, RunError) >= 390
    assert attack(run.rows, 400, run.to_frame, frames, RunError) >= 390

    def same_manifest(a, b):
        a["noted"].pop("checksum", None), b["noted"].pop("checksum", None)
        assert a == b

    path = run.out / "manifest.json"
    assert attack(path, 400, lambda: run.manifest, same_manifest, RunError) >= 390
    assert made["noted"]["checksum"].startswith("tl_scopes sha256 ")


def test_one_bit_of_a_card(tmp_path):
    folder = card(METHODS[:2], prompts=2).save(tmp_path / "card")

    def read():
        return FaithfulnessCard.load(folder)

    for name, n in [("FaithfulnessCard.json", 300), ("rows-*.parquet", 60)]:
        (path,) = folder.glob(name)
        assert attack(path, n, read, same, ResultFileError) >= n - 20


# --- parts of other units and runs ---


@pytest.mark.parametrize("without_notes", [False, True])
def test_a_part_of_another_unit_is_refused(run, done, without_notes):
    folder = run.out / parts.PARTS
    if without_notes:  # as an older version wrote them
        for path in folder.iterdir():
            rows = parquet.read_table(path).replace_schema_metadata(None)
            parquet.write_table(rows, path, compression="zstd")
        assert go_on(run).measured == 0
    shutil.copyfile(folder / "0000000.parquet", folder / "0000001.parquet")
    said = r"0000001\.parquet (has|lacks the) rows of prompt \d.*delete"
    with pytest.raises(RunError, match=said):
        go_on(run)
    (folder / "0000001.parquet").unlink()
    assert 0 < go_on(run).measured < 5
    assert run.rows.read_bytes() == done.rows.read_bytes()


def test_a_part_of_another_run_is_refused(run, tmp_path):
    run_again = dataclasses.replace(run, out=tmp_path / "other")
    other = go_on(run_again, settings=run_cases.Settings())
    name = Path(parts.PARTS) / "0000002.parquet"
    shutil.copyfile(other.out / name, run.out / name)
    with pytest.raises(RunError, match="a part of another run"):
        go_on(run)


def test_a_table_that_is_missing_or_foreign(run):
    parquet.write_table(pa.table({"index": [1]}), run.rows)
    said = r"rows\.parquet is not the whole file.*its columns are index"
    with pytest.raises(RunError, match=said):
        run.to_frame()
    run.rows.unlink()
    with pytest.raises(RunError, match="run the same command again"):
        run.to_frame()


# --- files of older versions, and of other programs ---


@pytest.mark.parametrize("name", KINDS)
def test_results_of_an_older_version_still_load(name, tmp_path):
    path = GOLDEN / f"{name}.safetensors"
    assert b"tl_scopes sha256" not in path.read_bytes()
    old = KINDS[name].load(path)
    new = KINDS[name].load(old.save(tmp_path / "new"))
    equal(new, old)


def test_a_card_and_a_run_of_an_older_version_still_load(tmp_path):
    old = FaithfulnessCard.load(GOLDEN / "card")
    same(FaithfulnessCard.load(old.save(tmp_path / "card")), old)
    run = Run(GOLDEN / "run", 3, 0, 0)
    assert run.card().prompts == 3
    for unit, members in enumerate([[0, 1], [2]]):
        rows, notes = parts.read(run.out / "parts" / f"{unit:07d}.parquet", "")
        assert not notes and len(set(rows["index"].to_pylist())) == len(members)


def test_what_a_file_holds_may_look_like_a_checksum(tmp_path):
    marks = [f"tl_scopes sha256 {i:064x}" for i in range(3)]
    for text in (*marks, " ".join(marks), marks[0][:-1] + "a"):
        for _ in range(5):  # safetensors orders its metadata as it likes
            path = write_file(tmp_path / "file", "K", {"a": torch.ones(2)}, {"text": text})
            assert read_file(path, "K")[1] == {"text": text}
    data = sealed(lambda slot: f"{slot} and {marks[0]}".encode())
    assert data.endswith(f" and {marks[0]}".encode())
    assert is_whole(data) and not is_whole(data + b" ")


def tampered(path: Path, **changes) -> Path:
    """A result with other fields, and a checksum that fits."""
    tensors, payload = read_file(path, "Attribution")
    gone = {name for name, value in changes.items() if value is None}
    for name, value in changes.items():
        payload.pop(name, None), tensors.pop(name, None)
        (tensors if isinstance(value, torch.Tensor) else payload)[name] = value
    kept = {name: value for name, value in tensors.items() if name not in gone}
    return write_file(path, "Attribution", kept, payload)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scores": torch.zeros(3, 6)}, "sites has 2 along site, scores has 3"),
        ({"scores": torch.zeros(2, 5)}, "tokens has 6 along pos, scores has 5"),
        ({"scores": torch.zeros(2, 6).int()}, "scores is a tensor of torch.int32 and shape [2, 6]"),
        ({"scores": torch.zeros(6)}, "scores is a tensor of torch.float32 and shape [6]"),
        ({"scores": None}, "scores is None"),
        ({"scores": 1.5}, "scores is 1.5"),
        ({"tokens": torch.zeros(6)}, "tokens is a tensor of torch.float32"),
        ({"standard_error": torch.zeros(1, 6)}, "standard_error has 1 along site"),
        ({"str_tokens": ["a"] * 5}, "str_tokens has 5 along pos"),
        ({"str_tokens": ["a"] * 5 + [1]}, "str_tokens is ("),
        ({"str_tokens": "abcdef"}, "str_tokens is 'abcdef'"),
        ({"sites": ["embed", None]}, "sites is ('embed', None)"),
        ({"position": 6}, "position holds 6, but scores has 6 along pos"),
        ({"position": -1}, "position holds -1"),
        ({"position": True}, "position is True"),
        ({"position": 1.0}, "position is 1.0"),
        ({"has_bos": 1}, "has_bos is 1"),
        ({"units": ["a"]}, "units is ('a',)"),
        ({"target": "Paris"}, "target is 'Paris'"),
        ({"target": {"__type__": "Token", "id": "x", "text": "y"}}, "target is Token"),
        ({"prediction": {"__type__": "Token", "id": 1, "text": "y"}}, "prediction is Token"),
        ({"prediction": [{"__type__": "Candidate", "id": 1, "text": "", "probability": "x"}]}, "prediction is"),
        ({"fisher": {"__type__": "FisherInfo", "eigenvalues": 1, "trace": 1, "share": 1}}, "fisher is"),
        ({"scope": {"__type__": []}}, "unhashable"),
        ({"provenance": {}}, "provenance is {}"),
        ({"stability": {"__float__": []}}, "float()"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit(changes, said, tmp_path):
    path = tampered(attribution().save(tmp_path / "file"), **changes)
    with pytest.raises(ResultFileError, match="does not describe a whole Attribution") as error:
        result.Attribution.load(path)
    assert said in str(error.value)


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", KINDS)
def test_every_field_of_every_kind_is_checked(name, tmp_path):
    """Each in turn becomes a thing of another type, and each that lies along an axis one shorter."""
    kind = KINDS[name]
    tensors, payload = read_file(GOLDEN / f"{name}.safetensors", name)
    alone = {"k", "through", "frozen", "prediction"}
    for field in dataclasses.fields(kind):
        wrong = [{"__type__": "Agreement", "value": 0, "low": 0, "high": 0}]
        value = tensors.get(field.name, payload.get(field.name))
        if isinstance(value, torch.Tensor):
            wrong += [value[:-1], value[..., :-1], value[None], value.to(torch.complex64)]
        elif isinstance(value, tuple | list) and field.name not in alone:
            wrong += [value[:-1]]
        if field.name in ("rank_agreement", "prediction_agreement"):
            wrong = [1.0]
        for other in wrong:
            own = {**tensors, **payload, field.name: other}
            made = {k: v for k, v in own.items() if isinstance(v, torch.Tensor)}
            rest = {k: v for k, v in own.items() if k not in made}
            path = write_file(tmp_path / "file", name, made, rest)
            with pytest.raises(ResultFileError, match="does not describe"):
                kind.load(path)


def with_metadata(tmp_path, metadata: dict[str, str] | None) -> Path:
    save_file({"a": torch.ones(1)}, tmp_path / "odd", metadata=metadata)
    return tmp_path / "odd"


OURS = {"format": "tl_scopes", "format_version": "1", "kind": "Attribution"}
VERSIONS = ["", "x", "-1", "²", "١", "1.0", " 1", "9" * 5000, "1\n"]
DEEP = "[" * 100_000 + "]" * 100_000
ODD = ["[]", "1", "null", '"text"', DEEP, '{"a": ' * 50_000 + "1" + "}" * 50_000,
       '{"a": NaN}', '{"a": ' + "9" * 5000 + "}", "\ufeff{}", "{", "not json"]  # fmt: skip
NOT_OURS = "not one that tl_scopes wrote"
METADATA = [
    *((metadata, NOT_OURS) for metadata in (None, {}, {"format": "pt"})),
    *((OURS | {"format_version": v, "payload": "{}"}, "format version") for v in VERSIONS),
    *((OURS | {"payload": payload}, "damaged description") for payload in ODD),
    (OURS, "damaged description"),
]


@pytest.mark.parametrize(("metadata", "said"), METADATA, ids=range(len(METADATA)))
def test_odd_metadata(metadata, said, tmp_path):
    with pytest.raises(ResultFileError, match=said):
        result.Attribution.load(with_metadata(tmp_path, metadata))


@pytest.mark.parametrize("payload", ODD, ids=range(len(ODD)))
def test_odd_descriptions_of_cards_and_runs(payload, tmp_path):
    folder = card(METHODS[:1], prompts=1).save(tmp_path / "card")
    (folder / "FaithfulnessCard.json").write_text(payload, encoding="utf-8")
    with pytest.raises(ResultFileError, match="is damaged"):
        FaithfulnessCard.load(folder)
    run = Run(tmp_path, 1, 0, 0)
    (tmp_path / "manifest.json").write_text(payload, encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest\.json is"):
        run.card()


def test_a_description_as_deep_as_json_goes(tmp_path):
    """What the parser takes may be too deep for what comes after."""
    for depth in range(100, 1000, 100):
        deep = '{"units": ' + "[" * depth + "]" * depth + "}"
        path = with_metadata(tmp_path, OURS | {"payload": deep})
        with pytest.raises(ResultFileError):
            result.Attribution.load(path)


HEADERS = [b"[]", DEEP.encode(), b"\xff\xfe", b'{"__metadata__": 1}']
CONTENTS = [
    *(b"PK\x03\x04 a pickle in a zip", b"\x80\x04." * 40, b"{}", b"\x00" * 64),
    *(len(header).to_bytes(8, "little") + header for header in HEADERS),
    (2**63).to_bytes(8, "little") + b"{}",
]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_another_format(content, tmp_path):
    (tmp_path / "odd").write_bytes(content)
    not_whole = "not a whole safetensors file"
    said = not_whole if content is CONTENTS[-1] else f"{not_whole}|{NOT_OURS}"
    with pytest.raises(ResultFileError, match=said):
        result.Attribution.load(tmp_path / "odd")


def test_of_a_foreign_file_only_its_header_is_read(tmp_path):
    """A model's weights, say: as large as they are (here 1 TB, of which none is on the disk)."""
    weights = {"dtype": "U8", "shape": [2**40], "data_offsets": [0, 2**40]}
    header = json.dumps({"w": weights}).encode()
    with (tmp_path / "model").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(2**40)
    with pytest.raises(ResultFileError, match="not one that tl_scopes wrote"):
        result.Attribution.load(tmp_path / "model")


@pytest.mark.parametrize(
    "table",
    [b"no parquet", pa.table({"other": [1]}), pa.table({"index": ["a"], "tokens": [None]})],
    ids=["bytes", "columns", "types"],
)
def test_a_foreign_table_with_the_right_hash(table, tmp_path):
    import hashlib

    folder = card(METHODS[:2], prompts=2).save(tmp_path / "card")
    (path,) = folder.glob("rows-*.parquet")
    if isinstance(table, bytes):
        path.write_bytes(table)
    else:
        parquet.write_table(table, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edited(folder / "FaithfulnessCard.json", lambda f: f["tables"]["rows"].update(sha256=digest))
    with pytest.raises(ResultFileError):
        FaithfulnessCard.load(folder)


def test_numbers_that_json_lacks_come_back(tmp_path):
    found = attribution(fisher=result.FisherInfo((float("inf"),), float("inf"), 0.0))
    assert result.Attribution.load(found.save(tmp_path / "file")).fisher == found.fisher
    path = sequence().save(tmp_path / "sequence")
    assert "__float__" not in path.read_bytes().decode("latin-1")
