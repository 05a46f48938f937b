"""Every tutorial runs from top to bottom as the notebook that it is, and shows something."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.py"))
SECONDS_A_CELL = 300  # the first load on a machine converts the model


def test_there_are_tutorials() -> None:
    assert TUTORIALS, f"{FOLDER} holds no tutorial"


@pytest.mark.real("gemma-3-270m")
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jupytext
    from nbclient import NotebookClient

    # The kernel of this environment, not one that the user registered; drawn as a notebook draws.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = jupytext.read(path)
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},  # what it writes is thrown away
    )
    client.execute()  # raises CellExecutionError, with the cell and its traceback

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    pictures = [data for data in shown if "image/png" in data]
    assert pages and all("tls-" in page for page in pages), "no coloured tokens were drawn"
    assert pictures, "no figure was drawn"
    assert len(pages) + len(pictures) == len(shown), "an output is shown as bare text"
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    warned = [text for text in warned if "IProgress" not in text]  # tqdm's wish for ipywidgets
    assert not warned, f"a reader would see: {warned}"
    assert sum("assert" in cell.source for cell in code) >= 3, "claims go unchecked"
