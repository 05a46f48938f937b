"""The documentation: its snippets and commands run and give what it says, it names all that is public, it builds."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer

import benchmarks.__main__
import tl_scopes as ts
from support import cli_calls
from support.snippets import PAGES, ROOT, SHELL, SNIPPETS, agree, calls, run
from tl_scopes.cli.main import app

# The pages with snippets, and how many values each tells at least.
WITH_SNIPPETS = {
    "install": 1,
    "which-scope": 8,
    "answers": 9,
    "conversations": 6,
    "own-scope": 1,
    "tour": 4,
    "circuits": 8,
    "compare": 1,
    "traps": 20,
    "coming-from": 0,
}
READ = [ROOT / "README.md", *sorted(PAGES.glob("*.md"))]
FETCHES = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


load = ts.models.load


@functools.cache
def default_model():
    return load()


@pytest.fixture
def one_model(monkeypatch):
    """Every page loads the default model in its first lines; once is enough."""
    own = lambda *a, **k: load(*a, **k) if a or k else default_model()  # noqa: E731
    monkeypatch.setattr(ts.models, "load", own)


def test_numbers_agree_to_their_last_digit_only() -> None:
    assert agree("[(2, ' Eiffel', 3.17)]", "[(2, ' Eiffel', 3.1668474)]")
    assert not agree("[(2, ' Eiffel', 3.17)]", "[(2, ' Eiffel', 3.19)]")
    assert not agree("[(2, ' Eiffel', 3.17)]", "[(3, ' Eiffel', 3.17)]")
    assert not agree("' four'", "' two'")


def test_every_page_with_snippets_is_run() -> None:
    found = {p.stem for p in PAGES.rglob("*.md") if SNIPPETS.search(p.read_text(encoding="utf-8"))}
    assert found == WITH_SNIPPETS.keys()


@pytest.mark.real("gemma-3-270m", "smollm2-135m-instruct")
@pytest.mark.slow
@pytest.mark.teaching
@pytest.mark.filterwarnings("ignore::tl_scopes.errors.ScopesWarning")
@pytest.mark.parametrize("page", WITH_SNIPPETS)
def test_a_page_says_what_its_snippets_give(page, one_model, tmp_path, monkeypatch) -> None:
    pytest.importorskip("transformer_lens.model_bridge", reason="the pages use a TransformerBridge")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    snippets = SNIPPETS.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))
    checked = sum(run(snippet, scope) for snippet in snippets)
    if page == "coming-from":  # the two sides of each comparison
        torch.testing.assert_close(scope["ours"], scope["theirs"].cpu())
        for name in ("product", "path"):
            ours, captum = scope[f"our_{name}"], scope[f"captum_{name}"]
            torch.testing.assert_close(ours, captum.detach(), rtol=1e-4, atol=1e-4)
    if page == "compare":
        assert "Faithfulness" in (tmp_path / "card.html").read_text(encoding="utf-8")
    drawn = [*tmp_path.glob("*.pdf"), *tmp_path.glob("*.png")]
    assert all(path.read_bytes()[:4] in (b"%PDF", b"\x89PNG") for path in drawn)
    assert len(drawn) == {"tour": 4, "circuits": 3}.get(page, 0)
    assert checked >= WITH_SNIPPETS[page]


def test_every_command_is_known() -> None:
    """Commands and options of tl-scopes, targets of make, benchmarks, extras of pip."""
    known = typer.main.get_command(app).commands
    listed = [arguments for page in READ for arguments, _ in calls(page.read_text("utf-8"))]
    assert {arguments[0] for arguments in listed} == known.keys()
    for name, *arguments in listed:
        known[name].make_context(name, arguments)  # refuses what it does not know
    text = "\n".join(page.read_text("utf-8") for page in READ)
    shell = "\n".join([*SHELL.findall(text), *re.findall("`([^`\n]+)`", text)])
    targets = re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    made = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", shell))
    assert {"demo", "test", "app", "lab"} <= made <= set(targets)
    timed = {
        own.name or own.callback.__name__ for own in benchmarks.__main__.app.registered_commands
    }
    asked = set(re.findall(r"python -m benchmarks ([a-z]+)", shell))
    assert {"ablation", "replication"} <= asked <= timed
    extras = set(metadata("tl-scopes").get_all("Provides-Extra"))
    wanted = re.findall(r"pip install .*\[([a-z,]+)\]", shell)
    assert wanted and extras.issuperset(",".join(wanted).split(","))


@pytest.mark.real("gemma-3-270m")
@pytest.mark.slow
@pytest.mark.teaching
def test_commands_on_the_default_model_run(one_model, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = [call for page in READ for call in calls(page.read_text("utf-8"))]
    ran = {tuple(arguments): piped for arguments, piped in listed if arguments[0] == "attribute"}
    assert len(ran) >= 6
    said = [{"role": "user", "content": "What is the capital of France?"}]
    (tmp_path / "messages.json").write_text(json.dumps(said), encoding="utf-8")
    for arguments, piped in ran.items():
        result = cli_calls.call(*arguments, stdin=piped)
        assert result.exit_code == 0 and result.stdout, (arguments, result.stderr)
        for option in ("--html", "--plot"):
            if option in arguments:
                assert (tmp_path / arguments[arguments.index(option) + 1]).stat().st_size > 10_000


def test_all_that_is_public_has_its_place_in_the_reference() -> None:
    text = "\n".join(p.read_text(encoding="utf-8") for p in (PAGES / "api").glob("*.md"))
    named = set(re.findall(r"^::: (\S+)", text, re.M))
    wanted = set()
    for module in ["", ".baselines", ".circuits", ".evaluation", ".models", ".render"]:
        home = importlib.import_module(f"tl_scopes{module}")
        public = (name for name in home.__all__ if not isinstance(getattr(home, name), str))
        wanted |= {f"{home.__name__}.{name}" for name in public}
    # Where a module has the name of its function, the reference must say which is meant.
    missing = sorted(
        name for name in wanted if not {name, f"{name}.{name.rpartition('.')[2]}"} & named
    )
    assert "tl_scopes.errors" in named
    assert not missing, f"in no page of docs/pages/api: {missing}"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    pytest.importorskip("mkdocstrings", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(ROOT / "docs" / "mkdocs.yml"), "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0 and "WARNING" not in said, said[-3000:]
    return folder


@pytest.mark.teaching
def test_the_site_builds_without_a_warning(site: Path) -> None:
    for page in ("index", *WITH_SNIPPETS, "command-line", "api/index", "api/render"):
        assert (site / f"{page}.html").stat().st_size > 5_000
    sources = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
    assert sources and all((site / "tutorials" / f"{p.stem}.html").exists() for p in sources)


@pytest.mark.teaching
def test_the_reference_says_what_the_code_says(site: Path) -> None:
    commands = (site / "command-line.html").read_text(encoding="utf-8")
    names = [own.name or own.callback.__name__ for own in app.registered_commands if own.callback]
    assert {"attribute", "evaluate", "models"} <= set(names)
    for name in names:
        shown = subprocess.run(
            [sys.executable, "-m", "tl_scopes.cli", name, "--help"], capture_output=True, text=True
        )
        own = shown.stdout.partition("Examples")[0]
        options = set(re.findall(r"--[a-z][a-z-]+", own)) - {"--help"}
        lost = {option for option in options if f"<code>{option}</code>" not in commands}
        assert options and not lost, f"tl-scopes {name}: {lost}"
    reference = (site / "api" / "results.html").read_text(encoding="utf-8")
    plain = re.sub(r"""&#39;|&quot;|'""", '"', re.sub(r"<[^>]+>", "", reference))
    assert 'Float[Tensor, "site pos"]' in plain


@pytest.mark.teaching
def test_outputs_of_a_tutorial_reach_its_page(tmp_path, monkeypatch) -> None:
    """Text, a picture, and two web views whose script of a megabyte the page needs once."""
    mkdocs_config = pytest.importorskip("mkdocs.config", reason="the docs extra is not installed")
    from mkdocs.structure.files import Files
    from nbformat.v4 import new_output, writes

    config = mkdocs_config.load_config(str(ROOT / "docs" / "mkdocs.yml"))
    hook = config.hooks["tutorials.py"]
    source = ROOT / "tutorials" / "01_first_scope.py"
    notebook = hook.jupytext.read(source)
    script = f"// {'x' * 100_000}\n"
    view = '<p>{}</p><script type="module">\n' + script + "CircuitsVis.render({})</script>"
    outputs = [
        new_output("stream", name="stdout", text="said in ```` backticks"),
        new_output("display_data", {"image/png": "iVBORw0KGgo="}),
        *(new_output("execute_result", {"text/html": view.format(i, i)}) for i in range(2)),
    ]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, output in zip(cells, outputs):
        cell.outputs = [output]
    (tmp_path / "01_first_scope.ipynb").write_text(writes(notebook), encoding="utf-8")
    monkeypatch.setattr(hook, "_EXECUTED", tmp_path)
    files = config.plugins.on_files(Files([]), config=config)
    page = files.get_file_from_path("tutorials/01_first_scope.md")
    made = hook.on_post_page(page.content_string, SimpleNamespace(file=page))
    assert "Shown without outputs" not in made and "data-hole" not in made
    assert "said in ```` backticks" in made and all(f"<p>{i}</p>" in made for i in range(2))
    assert all(f"CircuitsVis.render({i})" in made for i in range(2)) and script not in made
    (picture,) = re.findall(r'src="(outputs/\w+\.png)"', made)
    bundle, again = re.findall(r'<script src="(outputs/\w+\.js)">', made)
    assert bundle == again
    beside = {place: files.get_file_from_path(f"tutorials/{place}") for place in (picture, bundle)}
    assert beside[picture].content_bytes == b"\x89PNG\r\n\x1a\n"
    assert beside[bundle].content_string == script.rstrip()


class Fetched(HTMLParser):
    """What a browser would fetch for a page, other than by a click."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("rel") in ("canonical", "next", "prev"):
            return
        self.found.append(given.get(FETCHES.get(tag, ""), "") or "")
        self.found += re.findall(r"url\(\s*['\"]?([^'\")]+)", given.get("style") or "")


@pytest.mark.teaching
def test_pages_fetch_nothing_from_the_network(site: Path) -> None:
    def outside(address: str) -> bool:
        return re.match(r"(https?:)?//", address.strip()) is not None

    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for path in pages:
        page = Fetched()
        page.feed(path.read_text(encoding="utf-8"))
        assert any(page.found)
        assert not [a for a in page.found if outside(a)], f"{path.name} reaches out"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", text)
        assert not [a for a in found if outside(a)], f"{path.name} reaches out"
