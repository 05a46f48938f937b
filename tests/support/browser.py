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

import torch

from support.infos import info
from tl_scopes.render.colours import colour
from tl_scopes.render.tokens import visible
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.records import Candidate, Provenance, Token

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if BROWSER is None and os.environ.get("CI") == "true":
    raise RuntimeError("no browser: the checks need chromium (apt-get install -y chromium)")

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

# After everything: look, point, click, and write down what there is.
PROBE = """<script type="module">
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
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
const probe = { title: document.title, outputs: [] };
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
}
probe.seen = window.seen;
const entries = performance.getEntriesByType("resource").map((e) => e.name);
probe.fetched = entries.filter((name) => !name.startsWith("data:"));
const out = document.body.appendChild(document.createElement("pre"));
out.id = "probe";
out.textContent = JSON.stringify(probe);
</script>"""


def result(sites=1):
    n = len(TOKENS)
    scores = torch.linspace(0.01, 1, n).repeat(sites, 1)
    scores *= 1e-8 * 10.0 ** torch.arange(sites)[:, None]  # Fisher scores can be this small
    scores[:, 0], scores[:, -1] = 50, 0
    return Attribution(
        scores=scores,
        sites=tuple(f"<i>site {s}" for s in range(sites)),
        tokens=torch.arange(n),
        str_tokens=TOKENS,
        has_bos=True,
        position=n - 2,
        scope=info("fisher", {"rank": 4}),
        target=Token(n - 1, " end"),
        units="nats per unit^2",
        prediction=tuple(Candidate(i, t, 0.05) for i, t in enumerate(TOKENS)),
        fisher=None,
        standard_error=None,
        provenance=Provenance("m", "c", "float32", "cpu", "raw", "float32"),
    )


def sequence():
    a, n = result(), len(TOKENS)
    scores = torch.rand(n, 1, n, generator=torch.Generator().manual_seed(0)).tril_()
    scores = torch.stack([scores[r, :].clone() * (torch.arange(n) <= r) for r in range(n)])
    return SequenceAttribution(
        scores=scores,
        positions=tuple(range(n)),
        sites=("embed",),
        tokens=a.tokens,
        str_tokens=TOKENS,
        has_bos=True,
        scope=a.scope,
        targets=(None,) * n,
        units=a.units,
        predictions=tuple((Candidate(r, f"next{r}", 0.5),) for r in range(n)),
        fishers=(None,) * n,
        standard_error=None,
        provenance=a.provenance,
    )


def visit(page: str, folder: Path, *options: str, found: str = "probe") -> Any:
    """Load `page` with every host name unresolvable, and return what the probe, or a script of
    the page's own, wrote into the element `found`."""
    path = folder / "page.html"
    head = page.index("<title>") if "<title>" in page else 0
    end = page.rindex("</body>") if "</body>" in page else len(page)
    path.write_text(page[:head] + WATCH + page[head:end] + PROBE + page[end:], encoding="utf-8")
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
    written = re.search(rf'<pre id="{found}">(.*?)</pre>', dom, re.S)
    assert written, dom[-2000:]
    return json.loads(html.unescape(written.group(1)))


def same_colour(css: str, value: float) -> bool:
    seen = [int(x) for x in re.findall(r"\d+", css)[:3]]
    return all(abs(a - b) <= 2 for a, b in zip(seen, colour(value)))


def check_tokens(probe: dict, texts=TOKENS) -> None:
    """Every token is on the screen as its own text, drawn by circuitsvis, and nothing else is."""
    assert probe["seen"] == [] and probe["fetched"] == []
    assert probe["title"] != "pwned"
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
    return Attribution(
        scores=scores,
        sites=tuple(f"resid({s})" for s in range(sites)),
        tokens=torch.arange(n),
        str_tokens=words,
        has_bos=True,
        position=n - 1,
        scope=info("semantic", {"target": " sea"}),
        target=Token(7, " sea"),
        units="logit per unit of residual",
        prediction=tuple(
            Candidate(i + 7, w, 0.4 / (i + 1)) for i, w in enumerate((" sea", " end"))
        ),
        fisher=None,
        standard_error=None,
        provenance=Provenance("m", "c", "float32", "cpu", "raw", "float32"),
    )
