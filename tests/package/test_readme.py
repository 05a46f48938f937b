"""The README: its code, run as it stands there, its length, and what it refers to."""

from __future__ import annotations

import re

import pytest

from support.snippets import PAGES, ROOT, SNIPPETS, run

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.real("gemma-3-270m")
def test_snippets_run_and_print_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    assert sum(run(block, scope) for block in SNIPPETS.findall(TEXT)) == 4
    assert (tmp_path / "paris.html").stat().st_size > 100_000
    for name in ("layers.png", "circuit.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_it_is_short_and_what_it_refers_to_is_there():
    assert len(TEXT.splitlines()) <= 160
    places = {place for place in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in place}
    assert not [place for place in places if not (ROOT / place).is_file()]
    pages = {page.name for page in PAGES.glob("*.md")} - {"index.md"}
    assert pages == set(re.findall(r"\]\(docs/pages/([^)#]+\.md)", TEXT))
    (picture,) = [place for place in places if place.endswith(".png")]
    assert (ROOT / picture).stat().st_size < 200_000
