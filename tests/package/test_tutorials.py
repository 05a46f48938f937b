"""Every tutorial runs from top to bottom as the notebook that it is, shows something, and folds its
solutions; its two files say the same."""

from __future__ import annotations

import io
import itertools
import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import drawn_texts
from support.served_app import BROWSER, SCREENSHOTS, Visitor, boxes, browsing, overlap

TESTS = Path(__file__).resolve().parents[1]
FOLDER = TESTS.parent / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]*.py"))
MADE = TESTS.parent / "build" / "tutorials"  # where `make tutorials` looks for what is run already
SECONDS = 600  # a tutorial takes a minute; one that hangs must end
EXERCISES = 3
each_tutorial = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return pytest.importorskip("jupytext").read(path)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def solutions(notebook: Any) -> list[Any]:
    return [cell for cell in code(notebook) if "solution" in cell.metadata.get("tags", [])]


def test_there_are_tutorials() -> None:
    numbers = [path.name[:2] for path in TUTORIALS]
    assert numbers == [f"{i:02d}" for i in range(1, 10)]
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in TUTORIALS}


@each_tutorial
def test_the_notebook_is_the_script(path: Path) -> None:
    script, notebook = read(path), read(path.with_suffix(".ipynb"))
    mend = "run: make notebooks"
    for tutorial in (script, notebook):
        assert tutorial.metadata["jupytext"]["formats"] == "ipynb,py:percent", mend

    def said(tutorial: Any) -> list[Any]:
        return [
            (cell.cell_type, cell.source, cell.metadata.get("tags"), cell.metadata.get("jupyter"))
            for cell in tutorial.cells
        ]

    assert said(notebook) == said(script), mend
    for cell in code(notebook):
        assert not cell.outputs and cell.execution_count is None, f"outputs are committed: {mend}"


@each_tutorial
def test_a_tutorial_asks_first_and_folds_its_solutions(path: Path) -> None:
    notebook = read(path)
    texts = prose(notebook)
    assert notebook.cells[0].cell_type == "markdown" and texts[0].startswith("# ")
    assert re.search(r"\*\*[^*]+\?\*\*", texts[0]), "the first cell asks no question in bold"
    assert any("**Predict" in text for text in texts), "the reader predicts nothing"

    headings = re.findall(r"^### Exercise (\d)", "\n".join(texts), re.M)
    assert headings == [str(i + 1) for i in range(EXERCISES)]
    folded = [text for text in texts if "<details><summary>Solution</summary>" in text]
    assert len(folded) == EXERCISES and all(text.endswith("</details>") for text in folded)
    worked = solutions(notebook)
    assert len(worked) == EXERCISES
    for cell in worked:
        assert cell.metadata["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
        assert "assert" in cell.source, "a solution goes unchecked"


@each_tutorial
def test_the_page_folds_solutions_and_fetches_nothing(path: Path) -> None:
    page = as_page(read(path))
    folds = re.findall(r'<details class="solution">(.*?)</details>', page, re.S)
    answers = [text for text in prose(read(path)) if text.startswith("<details>")]
    assert len(folds) == len(answers) + len(solutions(read(path))) == 2 * EXERCISES
    # Inside, and not before or after: nbconvert's own pages close the fold too early.
    for fold, answer in zip(folds[::2], answers):
        words = re.findall(r"\w{4,}", answer.split("</summary>")[1])[:5]
        assert len(words) == 5 and all(word in fold for word in words)
    for fold, cell in zip(folds[1::2], solutions(read(path))):
        assert "assert" in fold and re.findall(r"\w{4,}", cell.source)[0] in fold
    fetched = re.findall(
        r"""<(?:script|img|link|iframe)[^>]*(?:src|href)=["'](?!data:)[^"']+""", page
    )
    assert not fetched and "import(" not in page, fetched
    others = re.findall(r'<a href="(\d\d_[^"]+)"', page)
    assert all((FOLDER / other).with_suffix(".py").is_file() for other in others)
    assert not [other for other in others if not other.endswith(".html")]
    assert others or path.stem.startswith("09")


def run(path: Path, folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The notebook with its outputs, and what `drawn_texts` says of its figures. Raises with the
    cell that fails."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell

    notebook = read(path)
    seen = folder / "figures.jsonl"
    watch = f"from support import drawn_texts as _; _.watch({str(seen)!r})"
    notebook.cells.insert(
        0, new_code_cell(f"import sys; sys.path.insert(0, {str(TESTS)!r}); {watch}")
    )
    end = time.monotonic() + SECONDS
    client = NotebookClient(
        notebook,
        timeout_func=lambda _: max(1, int(end - time.monotonic())),
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},  # what it writes is thrown away
    )
    client.execute()
    del notebook.cells[0]
    for cell in code(notebook):
        cell.execution_count -= 1
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count -= 1
    return notebook, drawn_texts.seen(seen)


def as_page(notebook: Any) -> str:
    """As `make tutorials` does."""
    nbconvert = pytest.importorskip("nbconvert")
    exporter = nbconvert.HTMLExporter(
        template_name="folded", extra_template_basedirs=[str(FOLDER)], embed_images=True
    )
    return exporter.from_notebook_node(notebook)[0]


def look(page: Path) -> None:
    """Open it as a reader does, without a network, and look at each picture on it."""
    with browsing() as browser:
        visitor = Visitor(browser, (1200, 900), offline=True)
        visitor.page.goto(page.as_uri())
        visitor.page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
        pictures = visitor.page.locator(
            ".jp-OutputArea-output img:not(section.tls img), section.tls"
        )
        assert pictures.count()
        # Before any screenshot, which scrolls.
        places = [picture.bounding_box() for picture in pictures.all()]
        for i in range(pictures.count()):
            shot = pictures.nth(i).screenshot(
                path=SCREENSHOTS / "tutorials" / f"{page.stem}-{i + 1:02d}.png"
            )
            assert not is_empty(shot), f"picture {i + 1} is empty"
        assert all(p["x"] >= 0 and p["x"] + p["width"] <= 1200 for p in places), places
        assert not any(overlap(a, b) for a, b in itertools.combinations(places, 2))
        tokens = boxes(visitor)
        for i, a in enumerate(tokens):
            assert not any(overlap(a, b) for b in tokens[i + 1 : i + 40]), a["text"]
        assert {url for url in visitor.asked if not url.startswith("data:")} == {page.as_uri()}
        visitor.close()


def is_empty(png: bytes) -> bool:
    """Whether nearly all of a picture is of one colour."""
    from matplotlib.image import imread

    pixels = (imread(io.BytesIO(png))[..., :3] * 255).astype(int) @ [65536, 256, 1]
    _, counts = np.unique(pixels, return_counts=True)
    return len(counts) < 10 or counts.max() > 0.99 * counts.sum()


@pytest.mark.slow
@pytest.mark.real("gemma-3-270m", "smollm2-135m-instruct")
@pytest.mark.teaching
@each_tutorial
def test_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes is left for `make tutorials`, which need not run it again."""
    # The kernel of this environment, not one that the user registered; drawn as a notebook draws.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the other tests: two kernels share the cores
    notebook, figures = run(path, tmp_path)

    cells = code(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    pictures = [data for data in shown if "image/png" in data]
    assert pages and all("tls-" in page for page in pages), "no coloured tokens were drawn"
    assert pictures, "no figure was drawn"
    assert len(pages) + len(pictures) == len(shown), "an output is shown as bare text"
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    warned = [text for text in warned if "IProgress" not in text]  # tqdm's wish for ipywidgets
    assert not warned, f"a reader would see: {warned}"
    assert sum("assert" in cell.source for cell in cells) >= 3, "claims go unchecked"
    assert len(figures) >= len(pictures) and all(f["texts"] for f in figures)
    amiss = [f for f in figures if f["overlapping"] or f["cut"]]
    assert not amiss, "text over text, or cut off"

    MADE.mkdir(parents=True, exist_ok=True)
    nbformat = pytest.importorskip("nbformat")
    nbformat.write(notebook, MADE / f"{path.stem}.ipynb")
    if BROWSER is not None and find_spec("playwright"):
        page = tmp_path / f"{path.stem}.html"
        page.write_text(as_page(notebook), encoding="utf-8")
        look(page)


def test_an_empty_picture_is_seen() -> None:
    from matplotlib.figure import Figure

    def drawn(*numbers: float) -> bytes:
        figure, made = Figure(), io.BytesIO()
        figure.subplots().plot(numbers) if numbers else None
        figure.savefig(made, format="png")
        return made.getvalue()

    assert is_empty(drawn()) and not is_empty(drawn(1, 2))
