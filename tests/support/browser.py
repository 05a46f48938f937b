"""Pages in a real browser without a network: a hostile result to show, and what its page then holds."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from support.infos import info, sequence_like
from support.pictures import attribution
from tl_scopes.render.colours import colour
from tl_scopes.render.tokens import visible
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Candidate, Token

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if BROWSER is None and os.environ.get("CI") == "true":
    raise RuntimeError("no browser: the checks need chromium (apt-get install -y chromium)")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium on the PATH")

TOKENS = (
    "<bos>", "<script>document.title='pwned'</script>", "</script><b>",
    "<img src=http://tracker.test/x.png onerror=document.title='pwned'>", "<s>", "&amp;", " The",
    "\n\n", "\t", "👍", "שלום", "\ud83d", "\x1b[31m", "\u202eevil", "日本語", "", "-->", " end",
)  # fmt: skip

# Before anything else on the page: remember every attempt to fetch and every error.
WATCH = """<script>window.seen = [];
addEventListener("securitypolicyviolation", (e) => seen.push("blocked " + e.blockedURI));
addEventListener("error", (e) => seen.push("error " + e.message));
addEventListener("unhandledrejection", (e) => seen.push("error " + e.reason));</script>"""

# After everything: what a probe made itself, and what the page asked for, written down.
REPORT = """<script type="module">
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const probe = {};
PROBE
probe.title = document.title;
probe.seen = window.seen;
const entries = performance.getEntriesByType("resource").map((e) => e.name);
probe.fetched = entries.filter((name) => !name.startsWith("data:"));
const out = document.body.appendChild(document.createElement("pre"));
out.id = "probe";
out.textContent = JSON.stringify(probe);
</script>"""

# Look, point, click.
PROBE = """
await wait(800);
const look = (root) => {
  const mount = root.querySelector("[id$=-tokens]");
  const chips = [...mount.querySelectorAll(".colored-tokens > span")];
  return {
    drawn: Object.keys(mount).some((k) => k.startsWith("__reactContainer")),
    texts: chips.map((c) => c.textContent),
    colours: chips.map((c) => getComputedStyle(c.firstElementChild).backgroundColor),
    notes: chips.map((c) => getComputedStyle(c, "::after").content.replaceAll('"', "")),
    breaks: mount.querySelectorAll("br").length,
    tags: [...new Set([...mount.querySelectorAll("*")].map((e) => e.tagName))].sort(),
    ticks: [...root.querySelectorAll(".tls-ticks span")].map((e) => e.textContent),
    side: [...root.querySelectorAll(".tls-side")].filter((e) => !e.hidden).map((e) => e.innerText),
    paper: getComputedStyle(root).backgroundColor,
    ink: getComputedStyle(root).color,
    filter: chips.length ? getComputedStyle(chips[0].firstElementChild).filter : "",
    wide: document.documentElement.scrollWidth > innerWidth,
  };
};
probe.outputs = [];
for (const root of document.querySelectorAll(".tls")) {
  const mount = root.querySelector("[id$=-tokens]");
  const first = look(root);
  mount.querySelectorAll(".colored-tokens > span")[6].firstElementChild
    .dispatchEvent(new MouseEvent("mousemove", { bubbles: true, clientX: 50, clientY: 50 }));
  first.tip = root.querySelector(".tls-tip").innerText;
  const choice = mount.querySelector(":scope > div > div:first-child:not(.colored-tokens)");
  const pills = [...(choice?.children ?? [])].filter((e) => e.tagName === "DIV");
  first.pills = pills.map((e) => e.textContent);
  pills[1]?.click();
  await wait(300);
  probe.outputs.push({ first, second: look(root) });
}"""


def result(sites=1):
    n = len(TOKENS)
    scores = torch.linspace(0.01, 1, n).repeat(sites, 1)
    scores *= 1e-8 * 10.0 ** torch.arange(sites)[:, None]  # Fisher scores can be this small
    scores[:, 0], scores[:, -1] = 50, 0
    return attribution(
        TOKENS,
        scores,
        [f"<i>site {s}" for s in range(sites)],
        position=n - 2,
        scope=info("fisher", {"rank": 4}),
        target=Token(n - 1, " end"),
        units="nats per unit^2",
        prediction=tuple(Candidate(i, t, 0.05) for i, t in enumerate(TOKENS)),
    )


def sequence():
    n = len(TOKENS)
    scores = torch.rand(n, 1, n, generator=torch.Generator().manual_seed(0)).tril_()
    scores = torch.stack([scores[r, :].clone() * (torch.arange(n) <= r) for r in range(n)])
    predictions = tuple((Candidate(r, f"next{r}", 0.5),) for r in range(n))
    reads = {"sites": ("embed",), "targets": (None,) * n, "predictions": predictions}
    return sequence_like(result(), tuple(range(n)), scores, **reads)


def visit(page: str, folder: Path, *options: str, probe: str = PROBE) -> dict[str, Any]:
    """Load `page` with every host name unresolvable, and return what the script `probe` left in the
    object of that name, the page's title, and what went wrong or was fetched."""
    path = folder / "page.html"
    head = page.index("<title>") if "<title>" in page else 0
    end = page.rindex("</body>") if "</body>" in page else len(page)
    report = REPORT.replace("PROBE", probe)
    path.write_text(page[:head] + WATCH + page[head:end] + report + page[end:], encoding="utf-8")
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=8000", "--window-size=1200,900", *options,
        "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    dom = done.stdout.decode("utf-8")
    written = re.search('<pre id="probe">(.*?)</pre>', dom, re.S)
    assert written, dom[-2000:]
    return json.loads(html.unescape(written.group(1)))


def same_colour(css: str, value: float) -> bool:
    seen = [int(x) for x in re.findall(r"\d+", css)[:3]]
    return all(abs(a - b) <= 2 for a, b in zip(seen, colour(value)))


def check_quiet(probe: dict) -> None:
    """The page fetched nothing, raised no error, and ran nothing that tokens hold."""
    assert probe["seen"] == [] and probe["fetched"] == []
    assert probe["title"] != "pwned"


def check_tokens(probe: dict, texts=TOKENS) -> None:
    """Every token is on the screen as its own text, drawn by circuitsvis, and nothing else is."""
    check_quiet(probe)
    for output in probe["outputs"]:
        for seen in output.values():
            assert seen["drawn"]
            assert seen["texts"] == [visible(token) for token in texts]
            assert set(seen["tags"]) <= {"DIV", "SPAN", "I", "BR", "LABEL", "INPUT", "BUTTON"}
            assert not seen["wide"]


DARK = "--blink-settings=preferredColorScheme=0"


WORDS = (
    " the old fisherman told every child in Åland that whales sing in a language older than any book ,"
    " 海 and nobody but Marta believed it .\n"
).split(" ")


def text(n: int, sites: int = 1) -> Attribution:
    """A prompt of `n` words with scores that fall and rise, at one site or several."""
    words = ("<bos>", *(f" {WORDS[i % len(WORDS)]}" for i in range(1, n)))
    x = torch.arange(n, dtype=torch.float32)
    scores = torch.stack([(x * (0.3 + 0.1 * s)).sin().abs() + 0.01 for s in range(sites)])
    return attribution(
        words,
        scores,
        [f"resid({s})" for s in range(sites)],
        scope=info("semantic", {"target": " sea"}),
        target=Token(7, " sea"),
        prediction=(Candidate(7, " sea", 0.4), Candidate(8, " end", 0.2)),
    )
