"""The explorer end to end, in a browser: type, run, click, slide, download, share; what is drawn."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import json
import re
import threading
from collections.abc import Iterator

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.marks import needs_streamlit
from support.served_app import MARKUP, Visitor, needs_playwright, save_hostile, serving
from tl_scopes import models
from tl_scopes.render.colours import colour, turned
from tl_scopes.render.picture import build
from tl_scopes.render.tokens import visible

pytestmark = [needs_streamlit, needs_playwright, pytest.mark.teaching]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_hostile(tmp_path_factory.mktemp("app") / "tiny-llama")


class Reader(Visitor):
    """A visitor of the explorer, in a window that shows all of it: the page scrolls inside itself."""

    def __init__(self, browser, size=(1280, 1350), **options) -> None:
        super().__init__(browser, size, **options)

    def go(self, address: str) -> Reader:
        self.page.goto(address)
        self.button("Run").wait_for()
        return self.idle()

    def idle(self) -> Reader:
        """Streamlit draws fields before it fills them, and drops clicks on what it draws anew."""
        self.page.locator("[data-test-script-state=notRunning]").wait_for()
        return self

    def holds(self, label: str, value: str) -> None:
        from playwright.sync_api import expect

        expect(self.page.get_by_label(label, exact=True)).to_have_value(value)

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, prompt: str) -> None:
        self.page.get_by_role("textbox", name="Prompt").fill(prompt)
        self.button("Run").click()

    def chips(self):
        return self.page.locator(".tokens button")

    def wait_read(self, position: int) -> None:
        self.page.locator(f'.tokens .read button[data-at="{position}"]').wait_for()
        self.idle()

    def texts(self) -> list[str]:
        return self.chips().all_text_contents()

    def colours(self) -> list[tuple[int, ...]]:
        css = self.chips().evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
        return [tuple(int(x) for x in re.findall(r"\d+", each)[:3]) for each in css]

    def subtitle(self, words: str) -> None:
        self.page.locator(".scope .subtitle", has_text=words).wait_for()
        self.idle()


@pytest.fixture(scope="module")
def crowd(browser, folder):
    """A new process, whose first request takes seconds, as it loads the libraries: two people ask at
    once. Its address, what each saw meanwhile and at the end."""
    with serving(folder) as found:
        first, second = (Reader(browser).go(found) for _ in range(2))
        first.ask(zoo.TEXT)
        first.page.get_by_role("status").filter(has_text="Loading").wait_for()
        second.ask(zoo.LONG_TEXT)
        waiting = second.page.get_by_role("status").filter(has_text="Waiting")
        told = waiting.inner_text()
        second.shoot("app-waiting")
        first.wait_read(5)
        second.chips().nth(12).wait_for()
        seen = [
            (r.texts(), r.failed, r.page.get_by_role("status").count()) for r in (first, second)
        ]
        first.close()
        second.close()
        yield found, told, seen


@pytest.fixture
def address(crowd) -> str:
    return crowd[0]


@pytest.fixture
def visit(browser, address):
    """Visitors, whose windows must not have failed, nor asked for anything from elsewhere."""
    everybody: list[Reader] = []

    def come(query: str = "", **options) -> Reader:
        everybody.append(Reader(browser, **options))
        return everybody[-1].go(address + query)

    yield come
    for reader in everybody:
        assert reader.failed == []
        assert reader.hosts() == {address.split("/")[2]}
        reader.close()


def row(found, site: int = 0):
    return build(found, site=site).rows[0]


def test_two_at_once_and_the_second_sees_that_it_waits(crowd):
    _, told, ((first, *nothing), (second, *neither)) = crowd
    assert told == "Waiting: 1 request is before yours …"
    assert nothing == neither == [[], 0]
    assert (first[-1], second[-1]) == ("·is", "·London")


def test_type_run_click_slide_download(visit, folder):
    """Each step is compared with what the package computes."""
    reader = visit()
    first = {
        "Read position": "-1",
        "Prompt": "The Eiffel Tower is located in the city of",
    }
    for name, value in first.items():
        reader.holds(name, value)
    reader.ask(zoo.TEXT)
    reader.wait_read(5)
    model = models.load(folder)
    found = ts.attribute(model, zoo.TEXT, ts.SemanticScope(), sites="all")
    assert reader.texts() == [visible(t) for t in found.str_tokens]
    assert reader.colours() == [colour(float(v)) for v in row(found).colours]

    reader.chips().nth(2).hover()
    tip = reader.page.locator(".tip")
    assert "position 2" in tip.inner_text() and found.units in tip.inner_text()
    told = float(re.findall(r"([\d.e-]+) logit", tip.inner_text())[0])
    assert told == pytest.approx(float(found.scores[0, 2]), rel=0.01)

    reader.chips().nth(3).click()
    reader.wait_read(3)
    found = ts.attribute(model, zoo.TEXT, ts.SemanticScope(), sites="all", position=3)
    assert reader.colours() == [colour(float(v)) for v in row(found).colours]
    reader.holds("Read position", "3")
    assert float(reader.chips().nth(4).locator("..").evaluate("e => e.className === 'later'"))

    slider = reader.page.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    reader.subtitle("at resid(1)")
    assert reader.colours() == [colour(float(v)) for v in row(found, 2).colours]
    box = reader.page.locator(".map canvas").bounding_box()
    bottom = {"x": box["width"] / 2, "y": box["height"] - 2}
    reader.page.locator(".map canvas").click(position=bottom)
    reader.subtitle(f"at {found.sites[-1]}")
    assert reader.page.get_by_role("slider").get_attribute("aria-valuetext") == found.sites[-1]
    reader.shoot("app-light")

    files = {}
    for name in ("HTML", "PNG", "JSON"):
        with reader.page.expect_download() as download:
            reader.button(f"Download {name}").click()
        assert download.value.suggested_filename == f"scope.{name.lower()}"
        files[name] = download.value.path().read_bytes()
    assert b"<title>" in files["HTML"] and b"circuitsvis" in files["HTML"].lower()
    assert files["PNG"].startswith(b"\x89PNG\r\n\x1a\n") and len(files["PNG"]) > 5000
    scores = json.loads(files["JSON"])["scores"]
    torch.testing.assert_close(torch.tensor(scores), found.scores)


def test_a_link_shows_the_same_to_somebody_else(visit, address):
    reader = visit()
    reader.page.get_by_text("temperature", exact=True).click()
    reader.ask(zoo.LONG_TEXT)
    reader.page.locator(".scope h2", has_text="confidence").wait_for()
    reader.idle().chips().nth(6).click()
    reader.wait_read(6)
    reader.page.get_by_text("Link to this page as it is").click()
    link = reader.page.get_by_test_id("stCode").locator("code", has_text="?prompt=").inner_text()
    assert link.startswith(f"{address}/?prompt=")
    other = visit(link.removeprefix(address))
    other.wait_read(6)
    assert (other.texts(), other.colours()) == (reader.texts(), reader.colours())
    reader.page.reload()
    reader.wait_read(6)
    reader.chips().nth(2).click()
    reader.wait_read(2)
    reader.page.go_back()
    reader.wait_read(6)
    reader.holds("Read position", "6")
    reader.page.go_forward()
    reader.wait_read(2)


def test_tokens_can_be_chosen_by_keyboard(visit):
    reader = visit()
    reader.ask(zoo.TEXT)
    reader.wait_read(5)
    reader.chips().nth(5).focus()
    for key in ("ArrowLeft", "ArrowLeft", "Enter"):
        reader.page.keyboard.press(key)
    reader.wait_read(3)
    assert reader.chips().nth(3).get_attribute("aria-pressed") == "true"
    reader.page.wait_for_function(
        "document.activeElement.shadowRoot?.activeElement?.dataset.at === '3'"
    )


def test_hostile_prompts_are_text(visit):
    prompt = "The " + " ".join(MARKUP)
    reader = visit()
    reader.ask(prompt)
    reader.page.locator(".tokens", has_text="onerror").wait_for()
    for token in MARKUP:
        assert visible(token) in reader.texts()
    inside = reader.page.locator(".scope").evaluate(
        "e => [...new Set([...e.querySelectorAll('*')].map(x => x.tagName))]"
    )
    assert not {"IMG", "SCRIPT", "TEXTAREA"} & set(inside)
    reader.page.get_by_text("Python that makes the same").click()
    reader.page.get_by_text("Link to this page as it is").click()
    reader.chips().nth(3).hover()
    reader.page.get_by_role("textbox", name="Target token", exact=True).fill(
        MARKUP[1] + " ![a](http://tracker.test/md.png)"
    )
    reader.shoot("app-hostile")
    reader.button("Run").click()
    alert = reader.page.get_by_role("alert").filter(has_text="not one known token")
    alert.wait_for()
    assert "![a](http://tracker.test/md.png)" in alert.inner_text()
    reader.shoot("app-hostile-error")
    assert reader.page.locator("img[src*=tracker]").count() == 0
    assert reader.page.title() == "Jacobian Scopes"


class Framing(http.server.BaseHTTPRequestHandler):
    """Another site, whose page shows the explorer in a frame, with a link."""

    address = ""

    def do_GET(self) -> None:
        page = f'<title>elsewhere</title><iframe src="{self.address}/?prompt=The+cat" width=900 height=600>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *_) -> None: ...


@contextlib.contextmanager
def elsewhere(address: str) -> Iterator[str]:
    handler = type("Handler", (Framing,), {"address": address})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def framed(browser, site: str, name: str) -> tuple[bool, list[str]]:
    """Whether the page came up in another site's frame, and which sockets were opened."""
    visitor = Visitor(browser, (1000, 700))
    visitor.page.goto(site)
    frame = visitor.page.frames[-1]
    with contextlib.suppress(Exception):
        frame.get_by_role("button", name="Run", exact=True).wait_for(timeout=10_000)
    shown = frame.get_by_role("button", name="Run", exact=True).count() > 0
    visitor.shoot(name)
    visitor.close()
    return shown, [url for url in visitor.asked if url.startswith("ws")]


def test_only_a_site_that_was_named_shows_the_page_in_a_frame(browser, address, folder):
    with elsewhere(address) as site:
        assert framed(browser, site, "app-framed-by-another-site") == (False, [])
    # The other site must be known before the page is served, and the other way round.
    with elsewhere("") as site, serving(folder, options=("--framed-by", site)) as own:
        with elsewhere(own) as stranger:
            assert framed(browser, stranger, "app-framed-by-a-stranger") == (False, [])
        page = browser.new_page()
        page.goto(site)
        page.set_content(f'<iframe src="{own}" width=900 height=600>')
        page.frames[-1].get_by_role("button", name="Run", exact=True).wait_for(timeout=60_000)
        page.close()


def test_a_conversation_whose_answer_is_pointed_at(visit):
    reader = visit()
    reader.page.get_by_text("Conversation", exact=True).click()
    box = reader.page.get_by_role("textbox", name="Say something to the model")
    box.wait_for()
    reader.button("Model and answers").click()
    length = reader.page.get_by_label("Longest answer, in tokens")
    length.fill("6")
    length.press("Enter")
    reader.idle().page.keyboard.press("Escape")
    box.fill(zoo.TEXT)
    box.press("Enter")
    frame = reader.page.frame_locator("iframe")
    whole = frame.locator(".tls-status", has_text="The whole answer, 6 tokens")
    whole.wait_for()
    reader.idle()
    frame.locator(".tls-read").nth(2).hover()
    frame.locator(".tls-status", has_text="probability").wait_for()
    assert whole.count() == 0
    reader.shoot("app-conversation")
    with reader.page.expect_download() as download:
        reader.button("Download HTML").click()
    page = download.value.path().read_text("utf-8")
    assert download.value.suggested_filename == "conversation.html" and "The whole answer" in page


def test_dark_where_the_reader_is_dark(visit, folder):
    reader = visit(color_scheme="dark")
    reader.ask(zoo.LONG_TEXT)
    reader.page.locator(".scope.dark").wait_for()
    found = ts.attribute(models.load(folder), zoo.LONG_TEXT, ts.SemanticScope(), sites="all")
    assert reader.colours() == [turned(colour(float(v))) for v in row(found).colours]
    paper = reader.page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    assert max(int(x) for x in re.findall(r"\d+", paper)[:3]) < 60
    reader.shoot("app-dark")
    reader.page.emulate_media(color_scheme="light")
    reader.page.locator(".scope:not(.dark)").wait_for()
    assert reader.colours() == [colour(float(v)) for v in row(found).colours]


def test_prompt_answer_and_colours_stand_above_the_fold(visit):
    reader = visit(size=(1300, 900))
    reader.ask(zoo.LONG_TEXT)
    reader.chips().first.wait_for()
    prompt = reader.page.get_by_role("textbox", name="Prompt")
    last = [reader.chips().last, *map(reader.page.locator, (".bar", ".next li:last-child"))]
    for part in (prompt, *last):
        box = part.bounding_box()
        assert box["y"] >= 60 and box["y"] + box["height"] <= 900  # below Streamlit's own bar
    reader.shoot("app-first-screen", whole=False)


def test_the_picture_begins_early_on_a_phone(visit):
    reader = visit(size=(390, 844))
    reader.ask(zoo.LONG_TEXT)
    reader.chips().first.wait_for()
    assert reader.page.locator(".scope").bounding_box()["y"] <= 420
    bar = reader.page.locator(".bar").bounding_box()
    assert bar["y"] + bar["height"] <= 844, "prompt, answer and colours in one look"
    assert not reader.page.get_by_text("what moves one token").is_visible()
    reader.shoot("app-phone", whole=False)


def test_a_narrow_window_scrolls_in_one_direction(visit):
    reader = visit(size=(390, 2300))
    reader.ask(zoo.LONG_TEXT)
    reader.chips().first.wait_for()
    parts = (".tokens", ".legend", ".next", ".strongest", ".map", "footer")
    boxes = [reader.page.locator(f".scope {part}").bounding_box() for part in parts]
    assert all(a["y"] + a["height"] <= b["y"] for a, b in itertools.pairwise(boxes))
    right = "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    widgets = reader.page.locator("[data-testid=stElementContainer]")
    assert widgets.evaluate_all(right) <= 390
    page = reader.page.get_by_test_id("stMain")  # which scrolls, not the document
    wide = "e => e.scrollWidth - e.clientWidth"
    assert page.evaluate(wide) == 0
    page.evaluate(
        "e => e.append(Object.assign(document.createElement('p'), {style: 'width: 3000px'}))"
    )
    assert page.evaluate(wide) > 1000
    reader.shoot("app-narrow")
