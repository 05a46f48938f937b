"""The explorer as a process, on a tiny model whose vocabulary holds markup, and a browser to look at it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support import signals, zoo
from support.browser import BROWSER
from tl_scopes.app.request import Request
from tl_scopes.app.worker import Worker

SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
needs_playwright = pytest.mark.skipif(
    BROWSER is None or importlib.util.find_spec("playwright") is None,
    reason="needs chromium on the PATH, and playwright",
)
# Each is one token of the model's vocabulary: nothing may rely on a tokenizer to cut markup up.
MARKUP = (
    "<script>document.title='pwned'</script>",
    "<img src=http://tracker.test/x.png onerror=document.title='pwned'>",
    "</textarea><b>",
)


def ask(desk: Worker, **changes) -> Request:
    """A request for the model that the worker offers first."""
    return Request(**({"prompt": zoo.TEXT, "model": desk.settings.offered[0]} | changes))


def save_hostile(path: Path) -> str:
    """A tiny Llama with `MARKUP` in its vocabulary, as a Hugging Face folder."""
    model, tokenizer = zoo.hf_model("llama", torch.float32), zoo.tokenizer()
    tokenizer.add_tokens(list(MARKUP))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def is_up(address: str) -> bool:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"{address}/_stcore/health", timeout=30) as answer,
    ):
        return answer.status == 200
    return False


@contextlib.contextmanager
def serving(*models: str, options: tuple[str, ...] = (), **environment: str) -> Iterator[str]:
    """`tl-scopes app` on a free port: its address. It must end at Ctrl-C, and never have failed."""
    options += tuple(part for model in models for part in ("--model", model))
    with signals.interruptible():
        process = subprocess.Popen(
            [sys.executable, "-m", "tl_scopes.cli", "app", "--no-browser", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        )
    lines: list[str] = []
    told = threading.Event()

    def listen() -> None:
        for line in process.stdout:
            lines.append(line)
            if "explorer is at" in line:
                told.set()
        told.set()

    reader = threading.Thread(target=listen)
    reader.start()
    try:
        assert told.wait(120) and process.poll() is None, "".join(lines)
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+", "".join(lines))[:1]
        until = time.monotonic() + 120
        while not is_up(address):
            assert process.poll() is None and time.monotonic() < until, "".join(lines)
            time.sleep(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(30)
        finally:
            process.kill()
            reader.join(10)
            process.stdout.close()
    log = "".join(lines)
    assert code == 0 and "Traceback" not in log, log[-3000:]


@contextlib.contextmanager
def browsing() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


class Visitor:
    """One person's own window, and what it asked for."""

    def __init__(self, browser, size=(1280, 1000), **options) -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, accept_downloads=True, **options
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.asked: list[str] = []
        self.failed: list[str] = []
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("websocket", lambda w: self.asked.append(w.url))
        self.page.on("pageerror", lambda e: self.failed.append(str(e)))
        self.page.on("console", lambda m: m.type == "error" and self.failed.append(m.text))
        self.page.on("dialog", lambda d: (self.failed.append(d.message), d.dismiss()))

    def shoot(self, name: str, whole: bool = True) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)

    def hosts(self) -> set[str]:
        """The hosts that anything was asked of."""
        return {url.split("/")[2] for url in self.asked if not url.startswith(("data:", "blob:"))}

    def close(self) -> None:
        self.context.close()


def boxes(visitor: Visitor) -> list[dict]:
    """The tokens of a page: where they stand, and how they look."""
    return visitor.page.locator(".colored-tokens > span > span").evaluate_all(
        """all => all.map(e => {
          const {x, y, width, height} = e.getBoundingClientRect(), css = getComputedStyle(e);
          const note = getComputedStyle(e.parentElement, "::after").content;
          return {x, y, width, height, note, text: e.textContent, title: e.parentElement.title,
                  colour: css.backgroundColor, ink: css.color, size: parseFloat(css.fontSize),
                  shown: css.visibility !== "hidden"};
        })"""
    )


def overlap(a: dict, b: dict) -> bool:
    """By more than the pixel that borders share."""
    beside = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
    above = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
    return beside > 1 and above > 1
