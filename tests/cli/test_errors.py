"""The command line: the files that it writes, and what it refuses."""

from __future__ import annotations

import errno
import logging
import os
import signal
import warnings
from unittest.mock import Mock

import pytest
import torch

import tl_scopes as ts
from support import signals, zoo
from support.cli_calls import DIFFERENCE, FISHER, call, parsed, refused
from tl_scopes import models
from tl_scopes.cli import options
from tl_scopes.errors import ProcessedWeightsWarning

# --- files ---


def test_every_file(folder, tmp_path):
    names = ["a.html", "a.safetensors", "a.svg"]
    html, save, plot = (tmp_path / name for name in names)
    args = ["attribute", zoo.TEXT, "--model", folder, "--html", str(html), "--save", str(save)]
    result = call(*args, "--plot", str(plot))
    assert result.exit_code == 0 and "Predicted next" in result.stdout
    assert all(f"tl-scopes: wrote {path}\n" in result.stderr for path in (html, save, plot))
    assert html.read_text("utf-8").startswith("<!doctype html>")
    assert plot.read_text("utf-8").startswith("<?xml")
    assert ts.Attribution.load(save).str_tokens[-1] == " is"
    assert sorted(os.listdir(tmp_path)) == names
    assert {path.stat().st_mode & 0o777 for path in (html, save, plot)} == {0o666 & ~_umask()}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(("name", "magic"), [("a.PNG", b"\x89PNG"), ("a.pdf", b"%PDF")])
def test_plots_and_json_together(folder, tmp_path, name, magic):
    path = tmp_path / name
    result = call("attribute", zoo.TEXT, "--model", folder, "--plot", str(path), "--json")
    assert parsed(result.stdout)["units"]
    assert path.read_bytes().startswith(magic)


def test_files_are_checked_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "readonly").write_text("keep")
    (tmp_path / "readonly").chmod(0o444)
    (tmp_path / "file").write_text("")

    def message(*args: str) -> str:
        return refused(call("attribute", "text", *args))

    for option in ("--html", "--save"):
        assert f"'{option}'" in (said := message(option, str(tmp_path / "no" / "a")))
        assert "does not exist" in said
        assert "does not exist" in message(option, str(tmp_path / "file" / "a"))
        assert "not a regular file" in message(option, str(tmp_path))
        assert "not a regular file" in message(option, str(tmp_path / "pipe"))
    assert ".png, .pdf, .svg" in message("--plot", str(tmp_path / "a.jpg"))
    same = str(tmp_path / "a.svg")
    assert "given twice" in message("--html", same, "--plot", same)
    if os.geteuid():  # root may write anything
        assert "read-only" in message("--html", str(tmp_path / "readonly"))

    full = Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))
    monkeypatch.setattr(options.tempfile, "TemporaryFile", full)
    assert "cannot be written (Read-only file system)" in message("--save", same)
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe", "readonly"]


def test_failures_leave_no_file(folder, tmp_path, monkeypatch):
    names = ("--html", "a.html"), ("--save", "a.st"), ("--plot", "a.pdf")
    files = [arg for option, name in names for arg in (option, str(tmp_path / name))]
    refused(call("attribute", zoo.TEXT, "--model", folder, *files, "--target", zoo.SPLIT_WORD))
    assert os.listdir(tmp_path) == []

    from matplotlib.figure import Figure

    def broken(error):
        def savefig(self, path, **_):
            path.write(b"half")
            raise error

        return savefig

    for error, word in [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (ValueError("Image size of 2x99999 pixels is too large"), "too large"),
    ]:
        monkeypatch.setattr(Figure, "savefig", broken(error))
        assert word in refused(call("attribute", zoo.TEXT, "--model", folder, *files[-2:]))
        assert os.listdir(tmp_path) == []


# --- bad input ---


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["text", "--nope"], ["--nope", "attribute --help"]),
        (["text", "more"], ["more"]),
        (["--json"], ["PROMPT", "--chat"]),
        (["text", "--dtype", "int8"], ["--dtype", "int8", "bfloat16"]),
        (["text", "--scope", "saliency"], ["--scope", "saliency", "fisher"]),
        (["text", "--scale", "cubic"], ["--scale", "cubic", "log"]),
        (["text", "--backend", "jax"], ["--backend", "jax", "bridge"]),
        (["text", "--position", "last"], ["--position"]),
        (["text", "--samples", "many"], ["--samples"]),
        (["text", "--target"], ["--target", "argument"]),
        (["text", "--sites", "0,,1"], ["sites", "0,,1", "empty"]),
        (["text", "--rank", "4"], ["--rank", "semantic", "--scope fisher"]),
        (["text", "--samples", "4"], ["--samples", "semantic", "--scope fisher"]),
        (["text", "--scope", "temperature", "--target", "a"], ["--target", "temperature"]),
        (["text", "--scope", "entropy", "--seed", "1"], ["--seed", "entropy"]),
        (["text", *FISHER, "--target", "a"], ["--target", "fisher", "--scope semantic"]),
        (["text", "--next", "--target", "a"], ["--next", "--target", "drop one"]),
        (["text", "--next", "--position", "-1"], ["--next", "--position -2"]),
        (["text", "--next", "--scope", "temperature"], ["--next", "temperature", "semantic"]),
        (
            ["text", "--continuation", "a", "--target", "b"],
            ["--target", "continuation", "semantic"],
        ),
        (["text", "--scope", "input-x-gradient", "--versus", "b"], ["--versus", "continuation"]),
        (
            ["text", "--scope", "leave-one-out", "--continuation", "a", "--target", "b"],
            ["--target", "drop one"],
        ),
        (
            ["text", "--scope", "smoothgrad", "--continuation", "a", "--next"],
            ["--next", "drop one"],
        ),
        (["text", "--scope", "random", "--continuation", "a"], ["means nothing to random"]),
        (["text", "--continuation", "a", "--scope", "fisher"], ["--continuation", "fisher"]),
        (["text", "--continuation", "a", "--position", "2"], ["--position", "prompt's end"]),
        (["text", "--continuation", "a", "--next"], ["--next", "continuation"]),
        (["text", "--scope", "continuation"], ["--continuation TEXT"]),
        (["text", "--generate", "0"], ["--generate", "equal to 1"]),
        *[
            (["text", "--generate", "2", *more], ["--generate", f"drop {more[0]}"])
            for more in (
                ["--next"],
                ["--target", "a"],
                ["--position", "1"],
                ["--continuation", "a"],
            )
        ],
        (["text", "--generate", "2", "--scope", "continuation: a"], ["--generate", "semantic"]),
        (["text", "--generate", "2", "--scope", "leave-one-out"], ["--generate", "semantic"]),
        (["text", "--generate", "2", "--seed", "1"], ["--seed", "--temperature"]),
        (["text", "--temperature", "1"], ["--temperature", "--generate N"]),
        (["text", "--chat", "messages.json"], ["PROMPT", "--chat", "both"]),
        (["--chat", "nowhere.json"], ["--chat", "nowhere.json", "No such file"]),
        (["text", "--versus", "a"], ["--versus", "--scope logit-difference"]),
        (["text", *DIFFERENCE, "--target", "a"], ["logit-difference", "--versus"]),
        (["text", *FISHER, "--seed", "1"], ["--seed", "--samples"]),
        (["text", *FISHER, "--rank", "some"], ["--rank", "some", "full"]),
        (["text", *FISHER, "--rank", "0"], ["rank", "0", "d_model"]),
        (["text", *FISHER, "--rank", "1.5"], ["1.5", "share"]),
        (["text", *FISHER, "--rank", "nan"], ["nan"]),
        (["text", *FISHER, "--samples", "-1"], ["samples", "-1"]),
        (["text", *FISHER, "--rank", "full", "--samples", "2"], ["full", "samples"]),
        (["text", "--target", "id:x"], ["--target", "id:x", "id:1234"]),
        (["text", "--device", "abacus"], ["--device", "abacus", "cpu"]),
        (["text", "--device", "meta"], ["--device", "meta", "cpu"]),
        ([""], ["empty"]),
        (["text", "--model", "gemma-3-270n"], ["gemma-3-270n", "gemma-3-270m"]),
        (["text", "--model", "./nowhere"], ["./nowhere", "no such folder"]),
    ],
)
def test_mistakes_that_need_no_model(args, words):
    error = refused(call("attribute", *args))
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--target", zoo.SPLIT_WORD], [zoo.SPLIT_WORD, "not one"]),
        (["--target", "id:99999"], ["99999", "vocabulary"]),
        ([*DIFFERENCE, "--target", "id:5", "--versus", "id:5"], ["5", "different"]),
        (["--position", "99"], ["99", "-1 is the last"]),
        (["--sites", "99"], ["99", "blocks"]),
        (["--sites", "embed,blocks.0.hook_mlp_oot"], ["hook_mlp_oot", "hook_mlp_out"]),
        ([*FISHER, "--rank", "9999"], ["9999", "d_model"]),
        (["--continuation", ""], ["continuation is empty"]),
        (["--generate", "9999"], ["--generate", "context"]),
        (["--continuation", " a", "--versus", " a"], ["versus", "the same"]),
    ],
)
def test_mistakes_that_the_model_finds(folder, args, words):
    error = refused(call("attribute", zoo.TEXT, "--model", folder, *args))
    assert all(word in error for word in words), error


def test_messages_that_are_none():
    for text, words in (
        ("{", "not JSON"),
        ('"hello"', "no list of messages"),
        (b"\xff", "not JSON"),
    ):
        assert words in refused(call("attribute", "--chat", "-", stdin=text))


def test_more_mistakes_that_the_model_finds(folder, tmp_path):
    empty = refused(call("attribute", "-", "--model", folder, stdin="\n"))
    assert "empty" in empty
    assert "context" in refused(call("attribute", "The " * 5000, "--model", folder))
    two = call("attribute", "<bos> The", "--model", folder, "--prepend-bos")
    assert "BOS" in refused(two)
    assert "config.json" in refused(call("attribute", "text", "--model", str(tmp_path)))


def test_out_of_memory_is_one_line_and_a_bug_keeps_its_traceback(monkeypatch):
    load = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"))
    monkeypatch.setattr(models, "load", load)
    assert "out of memory" in refused(call("attribute", "text"))
    load.side_effect = ZeroDivisionError("a bug")
    assert isinstance(call("attribute", "text").exception, ZeroDivisionError)


def test_interrupts_count_however_they_surface(monkeypatch):
    def swallowed(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None

    for load in (swallowed, Mock(side_effect=KeyboardInterrupt)):
        monkeypatch.setattr(models, "load", load)
        with signals.interruptible():
            before = signal.getsignal(signal.SIGINT)
            result = call("attribute", "text")
            assert signal.getsignal(signal.SIGINT) is before
        assert (result.exit_code, result.stdout) == (130, "")
        assert result.stderr == "tl-scopes: interrupted\n"


def test_only_our_warnings_are_shown(folder, monkeypatch):
    real = models.load

    def load(*args, **kwargs):
        print("chatter")
        warnings.warn("theirs", stacklevel=2)
        logging.getLogger("transformers").warning("theirs")
        warnings.warn(ProcessedWeightsWarning("ours"), stacklevel=2)
        return real(*args, **kwargs)

    monkeypatch.setattr(models, "load", load)
    result = call("attribute", zoo.TEXT, "--model", folder, "--json")
    assert parsed(result.stdout)
    assert result.stderr == "chatter\ntl-scopes: warning: ours\n"
