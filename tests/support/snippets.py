"""What people copy from the README and the documentation: Python snippets, and commands."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "pages"
SNIPPETS = re.compile(r"^```python.*?\n(.*?)^```", re.M | re.S)
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")
SHELL = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
# In a sentence only a command with options is one to copy; others are names.
INLINE = re.compile(r"`(tl-scopes [a-z]+ [^`]*--[^`]*)`")


def run(code: str, scope: dict) -> int:
    """Run a snippet; compare each value or output with the comment lines right below it."""
    lines, checked = code.splitlines(), 0
    for node in ast.parse(code).body:
        out = io.StringIO()
        value = None
        with contextlib.redirect_stdout(out):
            if isinstance(node, ast.Expr):
                value = eval(compile(ast.Expression(node.value), code, "eval"), scope)
            else:
                exec(compile(ast.Module([node], []), code, "exec"), scope)
        said = []
        for line in lines[node.end_lineno :]:
            if not line.startswith("# "):
                break
            said.append(line[2:])
        if said:
            got = out.getvalue().strip() or repr(value)
            checked += 1
            assert agree(" ".join(said), " ".join(got.split())), f"page: {said}, got: {got}"
    return checked


def agree(said: str, got: str) -> bool:
    """The same text, and the same numbers up to one in the last digit that is printed."""
    if NUMBER.split(" ".join(said.split())) != NUMBER.split(got):
        return False
    for a, b in zip(NUMBER.findall(said), NUMBER.findall(got)):
        digits = len(a.partition(".")[2])
        if abs(float(a) - float(b)) > (1.01 * 10**-digits if digits else 0):
            return False
    return True


def calls(text: str) -> Iterator[tuple[list[str], str]]:
    """The arguments of each `tl-scopes` call in a text, and what is piped into it."""
    shell = "\n".join([*SHELL.findall(text), *INLINE.findall(text)]).replace("\\\n", " ")
    for line in re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", shell).splitlines():
        yield from _calls(shlex.split(line, comments=True))


def _calls(words: list[str]) -> Iterator[tuple[list[str], str]]:
    for place, word in enumerate(words):
        if " tl-scopes " in f" {word}" and " " in word:  # what sbatch wraps
            yield from _calls(shlex.split(word))
        elif word.endswith("tl-scopes") or word == "tl_scopes.cli":
            piped = words[1] + "\n" if words[0] == "echo" else ""
            yield words[place + 1 :], piped
