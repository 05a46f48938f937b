"""Reports and figures that the benchmarks write: pages refer to them where they lie in the repository.

`../../benchmarks/...` works where a page is read in the repository; the site has a copy at `benchmarks/...`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\]\(\.\./\.\./(benchmarks/[^)#]+)")
_FIGURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add what the pages refer to, and the figures of reports."""
    for page in sorted(Path(config.docs_dir).glob("*.md")):
        for where in _LINK.findall(page.read_text(encoding="utf-8")):
            _add(files, config, where)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this for every page."""
    return _LINK.sub(r"](\1", markdown)


def _add(files: Files, config: Any, where: str) -> None:
    path = _ROOT / where
    files.append(File.generated(config, where, abs_src_path=str(path)))
    if path.suffix == ".md":
        for figure in _FIGURE.findall(path.read_text(encoding="utf-8")):
            beside = f"{Path(where).parent.as_posix()}/{figure}"
            if beside not in files.src_uris:
                _add(files, config, beside)
