"""The tutorials as pages: with the outputs of `make tutorials` where it has run, else without.

Nothing is executed here: a page that ran them again could show other numbers than were checked.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parent.parent
_SOURCES = _ROOT / "tutorials"
_EXECUTED = _ROOT / "build" / "tutorials"
_BARE = "!!! note\n    Shown without outputs. `make docs` runs the tutorials first."
# Every interactive output carries circuitsvis's script of 1.3 MB: a page needs it once.
_SCRIPT = re.compile(r'<script type="module">\n(.{100000,}?)\n(?=CircuitsVis\.render\()', re.S)
_HOLE = '<div class="output" data-hole="{}"></div>'

_outputs: list[str] = []


def on_config(config: Any, **_: Any) -> Any:
    """Fill the empty section of the navigation."""
    pages = [{_title(path): f"tutorials/{path.stem}.md"} for path in _tutorials()]
    config.nav = [
        {"Tutorials": pages} if isinstance(entry, dict) and "Tutorials" in entry else entry
        for entry in config.nav
    ]
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the tutorials, which lie outside of docs_dir."""
    _outputs.clear()
    for path in _tutorials():
        page = _Page(path)
        text = "\n\n".join(page.blocks())
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for where, content in page.beside.items():
            if where not in files.src_uris:
                files.append(File.generated(config, where, content=content))
    return files


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Put the outputs in: they are no markdown, and nothing that a search should find."""
    if not page.file.src_uri.startswith("tutorials/"):
        return output
    hole = re.escape(_HOLE).replace(r"\{\}", r"(\d+)")
    return re.sub(hole, lambda found: _outputs[int(found[1])], output)


def _tutorials() -> list[Path]:
    return sorted(_SOURCES.glob("[0-9]*.py"))


def _title(source: Path) -> str:
    found = re.search(r"^# # (.+)$", source.read_text(encoding="utf-8"), re.M)
    return found[1] if found else source.stem


class _Page:
    """One tutorial as markdown; `beside`: files that it refers to, by their place in the site."""

    def __init__(self, source: Path) -> None:
        executed = _EXECUTED / f"{source.stem}.ipynb"
        self.name = source.stem
        # As make compares them.
        made = source.with_suffix(".ipynb").stat().st_mtime
        self.executed = executed.exists() and executed.stat().st_mtime >= made
        self.notebook = jupytext.read(executed if self.executed else source)
        self.beside: dict[str, str | bytes] = {}

    def blocks(self) -> Iterator[str]:
        for number, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "markdown":
                yield cell.source.replace("<details", "<details markdown").replace(
                    ".ipynb)", ".md)"
                )
            if cell.cell_type == "code":
                inside = [
                    _fenced("python", cell.source),
                    *map(self._output, cell.get("outputs", [])),
                ]
                if "solution" in cell.metadata.get("tags", []):
                    inside = [
                        "<details class='solution' markdown><summary>Solution in code</summary>",
                        *inside,
                        "</details>",
                    ]
                yield from inside
            if number == 0 and not self.executed:
                yield _BARE

    def _output(self, output: Any) -> str:
        if output.output_type == "stream":
            return _fenced("text", output.text) if output.name == "stdout" else ""
        data = output.get("data", {})
        if "text/html" in data:
            return self._hole(f'<div class="output">{self._lighter(data["text/html"])}</div>')
        if "image/png" in data:
            picture = base64.b64decode(data["image/png"])
            place = self._beside("png", picture)
            return self._hole(f'<img class="output" alt="What the cell above draws" src="{place}">')
        return _fenced("text", data.get("text/plain", ""))

    def _lighter(self, html: str) -> str:
        found = _SCRIPT.search(html)
        if not found:
            return html
        # An ordinary script: a module that is imported would not open from a folder.
        place = self._beside("js", found[1])
        rest = html[: found.start(1)] + html[found.end(1) :]
        return f'<script src="{place}"></script>\n{rest}'

    def _beside(self, ending: str, content: str | bytes) -> str:
        raw = content.encode() if isinstance(content, str) else content
        place = f"outputs/{hashlib.sha256(raw).hexdigest()[:16]}.{ending}"
        self.beside[f"tutorials/{place}"] = content
        return place

    def _hole(self, html: str) -> str:
        _outputs.append(html)
        return _HOLE.format(len(_outputs) - 1)


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````" if text.strip() else ""
