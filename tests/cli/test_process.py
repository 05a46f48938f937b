"""The command line as a process: pipes, terminals, Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest

from support import signals, zoo
from support.cli_calls import FISHER, call, parsed
from support.terminals import COMMAND, EVIL, OBEYED, Terminal, environment

COLOUR = r"\x1b\[[0-9;]*[34]8;2;"


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


def test_an_error_of_a_process_is_one_line_that_terminals_do_not_obey(folder):
    args = [*COMMAND, "attribute", zoo.TEXT, "--model", folder + f"/nowhere{EVIL}"]
    done = subprocess.run(args, capture_output=True, text=True, env=environment(), timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert OBEYED.findall(done.stderr) == []


def test_colours_on_a_terminal(folder):
    args = ["attribute", zoo.TEXT, "--model", folder]
    terminal = Terminal(args, "stdout", COLORTERM="truecolor")
    shown = terminal.read()
    assert terminal.process.wait(60) == 0
    assert terminal.process.stderr.read() == b""
    terminal.process.stderr.close()
    os.close(terminal.end)
    assert "Predicted next" in shown
    assert re.search(COLOUR, shown)


def test_a_terminal_sees_how_far_an_answer_is(folder):
    terminal = Terminal(
        ["attribute", zoo.TEXT, "--model", folder, "--generate", "6", "--json"], "stderr"
    )
    # A bar has no place on a terminal without columns.
    fcntl.ioctl(terminal.end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    shown = terminal.read()
    assert parsed(terminal.process.stdout.read().decode())["str_tokens"]
    assert terminal.process.wait(60) == 0
    terminal.process.stdout.close()
    os.close(terminal.end)
    assert "/6 [" in shown and "token/s" in shown


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_no_color_is_respected(folder, monkeypatch, no_colour):
    for name, value in {
        "FORCE_COLOR": "1",
        "COLORTERM": "truecolor",
        "NO_COLOR": no_colour,
    }.items():
        monkeypatch.setenv(name, value)
    shown = call("attribute", zoo.TEXT, "--model", folder).stdout
    assert bool(re.search(COLOUR, shown)) == (not no_colour)


@pytest.mark.parametrize("started", [contextlib.nullcontext, signals.ignored])
def test_ctrl_c_at_the_prompt(folder, started):
    """Wherever these tests are started: a background job's children ignore Ctrl-C unless told."""
    with started():
        terminal = Terminal(["attribute", "-", "--model", folder, "--json"], "stdin", "stderr")
    assert "Ctrl-D" in terminal.read(until="\n")
    terminal.interrupt()


def test_a_background_job_goes_on_ignoring_ctrl_c_and_a_pipe_gets_json_alone(folder):
    args = [*COMMAND, "attribute", "-", "--model", folder, "--json"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with signals.ignored():
        process = subprocess.Popen(args, **pipes, env=environment())
    process.stdin.write(b"The cat")
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(b" sat", timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert parsed(out.decode())["str_tokens"][-1] == " sat"


def test_ctrl_c_at_work(folder, tmp_path):
    args = ["attribute", zoo.TEXT, "--model", folder, *FISHER, "--samples", "1000000"]
    terminal = Terminal([*args, "--html", str(tmp_path / "a.html")], "stderr")
    assert "loading" in terminal.read(until="\n")
    terminal.interrupt()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("attribute", ["--model", "--rank", "--sites", "--json", "--no-bos"]),
        ("evaluate", ["--data", "--methods", "--out", "--leave-one-out"]),
    ],
)
def test_help_needs_no_torch(command, options):
    code = f"""
import sys, tl_scopes.cli.main as cli
try: cli.app(["{command}", "--help"])
except SystemExit as end: assert end.code == 0
heavy = "torch transformers transformer_lens matplotlib pandas datasets pyarrow accelerate".split()
assert not {{*heavy}} & {{*sys.modules}}, {{*heavy}} & {{*sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(option in done.stdout for option in options)
