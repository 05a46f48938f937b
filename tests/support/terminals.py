"""The command line as a process, with its streams at a terminal; texts that terminals would obey."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading

from support import signals

COMMAND = [sys.executable, "-m", "tl_scopes.cli"]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"TERM": "xterm-256color", "PYTHONWARNINGS": "always"} | more


class Terminal:
    """A process whose standard streams, those named, are a terminal. Ctrl-C interrupts it."""

    def __init__(self, args: list[str], *streams: str, **more: str) -> None:
        self.end, other = pty.openpty()
        rest = {s: subprocess.PIPE for s in ("stdout", "stderr") if s not in streams}
        with signals.interruptible():
            self.process = subprocess.Popen(
                [*COMMAND, *args], **rest, **dict.fromkeys(streams, other), env=environment(**more)
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
        """Press Ctrl-C; once more if nothing comes of it, as a person would.

        CPython loses one that comes in the microseconds before a read begins to wait: 2 in 1,500 tries
        of a script that prints, and then reads its terminal.
        """
        again = threading.Timer(60, self.process.send_signal, [signal.SIGINT])
        again.daemon = True
        again.start()
        self.process.send_signal(signal.SIGINT)
        self.read()
        assert self.process.wait(60) == 130
        again.cancel()
        assert self.text.splitlines()[-1] == "tl-scopes: interrupted"
        assert "Traceback" not in self.text
        self.process.stdout.close()
        os.close(self.end)


EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eevil\u2066x\u2069\u200f\r\nnew\tline\x7f\u2028end"
OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"
)
