"""Pages opened in a browser, and texts of figures watched, for the tests of this room."""

from __future__ import annotations

import pytest

from support import drawn_texts
from support.pictures import saved
from support.served_app import Visitor, browsing


@pytest.fixture
def amiss(tmp_path):
    """Draws a figure into a file, and says what the watch on its texts says."""
    with drawn_texts.watching(tmp_path / "seen.jsonl") as seen:

        def draw(figure, dpi=100, **options) -> dict:
            saved(figure, dpi, **options)
            return seen()[-1]

        yield draw


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture
def opened(browser, tmp_path):
    """Opens pages from the disk in a browser that is offline. One that asks for anything but itself, or
    fails at something, fails the test."""
    visitors: list[tuple[Visitor, str]] = []

    def open_(page: str, size=(1200, 900), dark: bool = False, scripts: bool = True) -> Visitor:
        path = tmp_path / f"{len(visitors)}.html"
        path.write_text(page, encoding="utf-8")
        scheme = "dark" if dark else "light"
        visitor = Visitor(
            browser, size, offline=True, java_script_enabled=scripts, color_scheme=scheme
        )
        visitor.page.goto(path.as_uri())
        visitors.append((visitor, path.as_uri()))
        return visitor

    yield open_
    for visitor, own in visitors:
        assert {url for url in visitor.asked if not url.startswith("data:")} == {own}
        assert visitor.failed == []
        visitor.close()
