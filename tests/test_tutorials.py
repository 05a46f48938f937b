"""Every tutorial runs from top to bottom as the notebook that it is, shows something, and folds its
solutions; its two files say the same."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]*.py"))
EXECUTED = FOLDER.parent / "build" / "tutorials"  # by `make tutorials`
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
    assert numbers == [f"{i:02d}" for i in range(1, 8)]
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
    nbconvert = pytest.importorskip("nbconvert")
    exporter = nbconvert.HTMLExporter(
        template_name="folded", extra_template_basedirs=[str(FOLDER)], embed_images=True
    )
    page, _ = exporter.from_notebook_node(read(path))
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


def run(path: Path, folder: Path) -> Any:
    """The notebook with its outputs. Raises with the cell that fails."""
    from nbclient import NotebookClient

    notebook = read(path)
    end = time.monotonic() + SECONDS
    client = NotebookClient(
        notebook,
        timeout_func=lambda _: max(1, int(end - time.monotonic())),
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},  # what it writes is thrown away
    )
    return client.execute()


@pytest.mark.slow
@pytest.mark.real("gemma-3-270m", "smollm2-135m-instruct")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=[pytest.mark.teaching] * (p > TUTORIALS[0]))
        for p in TUTORIALS
    ],
)
def test_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first are left to `make tutorials` and `-m teaching`, which takes what that made."""
    # The kernel of this environment, not one that the user registered; drawn as a notebook draws.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the other tests: two kernels share the cores
    made = EXECUTED / f"{path.stem}.ipynb"
    fresh = made.exists() and made.stat().st_mtime >= path.stat().st_mtime
    notebook = read(made) if fresh and path > TUTORIALS[0] else run(path, tmp_path)

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
