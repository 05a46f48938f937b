"""What the command line quotes (names, paths, files' own texts, tokens) reaches a terminal as letters."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest

from support import zoo
from support.cli_calls import call
from support.terminals import EVIL, OBEYED
from tl_scopes.cli import models, terminal
from tl_scopes.errors import ScopesWarning
from tl_scopes.models.bundled import BundleState
from tl_scopes.results.escapes import isolated, message, without_isolates


def shown(*args: str, code: int = 2) -> str:
    """All that a run printed, in which nothing is obeyed."""
    result = call(*args)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    text = result.stdout + result.stderr
    assert OBEYED.findall(without_isolates(text)) == [], text
    assert "new" not in [line[:3] for line in text.splitlines()]
    return text


@pytest.mark.parametrize(
    "args",
    [
        ["attribute", "a", "--model", EVIL],
        ["attribute", "a", "--model", f"/nowhere/{EVIL}"],
        ["attribute", "a", "--sites", EVIL],
        ["attribute", "a", "--scope", EVIL],
        ["attribute", "a", "--scope", "fisher", "--rank", EVIL],
        ["attribute", "a", "--device", EVIL],
        ["attribute", "a", "--dtype", EVIL],
        ["attribute", "a", "--backend", EVIL],
        ["attribute", "a", "--target", f"id:{EVIL}"],
        ["attribute", "a", "--html", f"/nowhere/{EVIL}/a.html"],
        ["attribute", "a", "--plot", EVIL],
        ["attribute", "a", "--save", f"/{EVIL}/a"],
        ["attribute", "a", EVIL],
        ["attribute", "a", f"--{EVIL}"],
        ["attribute", "a", "--position", EVIL],
        ["evaluate", "--data", EVIL, "--out", "out"],
        ["evaluate", "--data", f"{EVIL}.jsonl", "--out", "out"],
        ["evaluate", "--data", "a.txt", "--out", EVIL, "--methods", EVIL],
        ["evaluate", "--data", "a.txt", "--out", "out", "--fractions", EVIL],
        ["app", "--host", EVIL],
        ["app", "--space", "/dev/null", "--model", EVIL],
        [EVIL],
    ],
    ids=lambda args: " ".join(args).replace(EVIL, "EVIL").replace("/", "|"),
)
def test_arguments(args):
    text = shown(*args)
    assert "\\x1b[31mred" in text or "--space" in args or "--position" in args


def test_targets_and_prompts(folder):
    text = shown("attribute", zoo.TEXT, "--model", folder, "--target", EVIL)
    assert "\\x1b[31mred" in text and "tokens" in text
    for prompt in (EVIL[:12], EVIL[18:]):
        shown("attribute", prompt, "--model", folder, code=0)
        shown("attribute", prompt, "--model", folder, "--sites", "all", code=0)
    turned = shown("attribute", zoo.TEXT, "--model", folder, "--target", " مدينة القاهرة")
    assert "\u2068' مدينة القاهرة'\u2069" in turned


@pytest.mark.parametrize("key", ["model_type", "architectures", "dtype", "tokenizer_class"])
def test_a_models_own_texts(folder, tmp_path, key):
    own = tmp_path / "model"
    own.mkdir()
    for name in os.listdir(folder):
        shutil.copy(Path(folder) / name, own / name)
    name = "tokenizer_config.json" if key == "tokenizer_class" else "config.json"
    config = json.loads((own / name).read_text())
    config[key] = [EVIL] if key == "architectures" else EVIL
    (own / name).write_text(json.dumps(config))
    result = call("attribute", zoo.TEXT, "--model", str(own))
    assert OBEYED.findall(without_isolates(result.stdout + result.stderr)) == []


def test_files_of_data(folder, tmp_path):
    path = tmp_path / f"{EVIL.replace('/', '')}.jsonl"
    path.write_text(json.dumps({EVIL: "a"}))
    run = ["evaluate", "--model", folder, "--out", str(tmp_path / "out")]
    assert "\\x1b[31mred" in shown(*run, "--data", str(path), "--column", f"not {EVIL}")
    path.write_text(json.dumps({"text": EVIL * 200}))
    shown(*run, "--data", str(path))
    path.write_text(EVIL)
    shown(*run, "--data", str(path))


def test_paths_that_are_written(folder, tmp_path):
    out = tmp_path / EVIL
    path = tmp_path / "texts.txt"
    path.write_text(f"{zoo.TEXT}\n")
    run = ["evaluate", "--model", folder, "--data", str(path), "--methods", "random"]
    text = shown(*run, "--out", str(out), "--html", str(tmp_path / f"{EVIL}.html"), code=0)
    assert "wrote" in text and "Rows: " in text
    manifest = next(p for p in out.iterdir() if p.suffix == ".json")
    held = json.loads(manifest.read_text())
    held["kind"] = EVIL
    manifest.write_text(json.dumps(held))
    shown(*run, "--out", str(out))


def test_models_and_warnings(monkeypatch, capsys, tmp_path):
    state = BundleState(EVIL, EVIL, EVIL, False, False, tmp_path, 5, EVIL)
    models.print_states([state])
    with terminal.quiet():
        warnings.warn(EVIL, ScopesWarning, stacklevel=1)
    out, err = capsys.readouterr()
    assert OBEYED.findall(out + err) == [] and "warning: \\x1b[31mred" in err


def test_a_message_is_one_line_of_letters():
    assert message("a\n  b\r\nc") == "a b c" and message("") == ""
    assert message("x\x1by\u2068z") == "x\\x1by\\u2068z"
    assert message("a\u2068\x1b\u2069b") == "a\\x1bb"  # what is isolated without need
    assert message("👨\u200d👩 می\u200cخواهم é 日本") == "👨\u200d👩 می\u200cخواهم é 日本"
    kept = isolated("שלום")
    assert message(f"a {kept} b {kept}") == f"a {kept} b {kept}"
    assert message("caf\ud83d") == "caf\\ud83d"
