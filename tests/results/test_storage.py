"""Files of results: whole or not at all, and a clear word about any other file."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from tl_scopes.errors import ResultFileError
from tl_scopes.results import files, storage
from tl_scopes.results.storage import read_file, write_file

TENSORS = {"scores": torch.arange(6.0).reshape(2, 3), "ids": torch.tensor([3, 1, 2])}
PAYLOAD = {"name": "x\n<é>", "numbers": [1, 2.5, None], "nested": {"a": True}}


@pytest.fixture
def path(tmp_path):
    return write_file(tmp_path / "result.safetensors", "Attribution", TENSORS, PAYLOAD)


def test_round_trip(path):
    tensors, payload = read_file(path, "Attribution")
    assert payload == PAYLOAD and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
    assert read_file(str(path), "Attribution")[1] == PAYLOAD


def test_it_is_a_plain_safetensors_file(path):
    assert torch.equal(load_file(path)["scores"], TENSORS["scores"])


def test_views_are_stored_as_they_are_seen(tmp_path):
    tensor = torch.arange(12.0).reshape(3, 4).T
    write_file(tmp_path / "view", "K", {"a": tensor, "b": tensor[1:]}, {})
    found, _ = read_file(tmp_path / "view", "K")
    assert torch.equal(found["a"], tensor) and torch.equal(found["b"], tensor[1:])


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_file_says_so(path, kept):
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(ResultFileError, match="truncated") as error:
        read_file(path, "Attribution")
    assert str(path) in str(error.value)


def test_a_newer_file_asks_for_an_upgrade(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage, "FORMAT_VERSION", storage.FORMAT_VERSION + 1)
        path = write_file(tmp_path / "newer", "Attribution", TENSORS, PAYLOAD)
        assert read_file(path, "Attribution")[1] == PAYLOAD
    with pytest.raises(ResultFileError, match=r"version '4'.*up to 3: upgrade"):
        read_file(path, "Attribution")


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            read_file(path, "Attribution")


@pytest.mark.parametrize("step", ["write", "appear"])
def test_a_failed_write_leaves_the_old_file_and_no_other(path, step, monkeypatch):
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    owner, name = {"write": (files.os, "fsync"), "appear": (files.os, "replace")}[step]
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, "Attribution", {"scores": torch.zeros(1)}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_writing_again_replaces(path):
    write_file(path, "Attribution", {}, {"second": 1})
    assert read_file(path, "Attribution") == ({}, {"second": 1})
    assert os.listdir(path.parent) == [path.name]


def test_numbers_that_json_lacks_are_refused_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_file(tmp_path / "nan", "Attribution", TENSORS, {"x": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = write_file(tmp_path / "x", "Attribution", TENSORS, PAYLOAD)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
