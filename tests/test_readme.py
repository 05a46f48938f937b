"""The README's own code, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.real("gemma-3-270m")
def test_snippets_run_and_print_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in BLOCKS:
        # No model hub here: the bundled model stands in for the one that a reader would name.
        ours = re.sub(r"^from transformer_lens.*$", "", block, flags=re.M)
        ours = re.sub(r"^model = (?!ts\.).*$", "", ours, flags=re.M)
        exec(compile(ours, str(README), "exec"), scope)
        if "found.top(3)" in block:
            said = re.search(r"found\.top\(3\) +# (.*)", block)
            got = [(t, text, f"{score:.2f}") for t, text, score in scope["found"].top(3)]
            assert said is not None
            assert re.sub(r"(\d\.\d\d)\.\.\.", r"'\1'", said[1]) == repr(got)
            assert (tmp_path / "paris.html").stat().st_size > 100_000
        if "layers.scores.shape" in block:
            assert len(scope["layers"].sites) == 20
        if "render.compare" in block:
            for name in ("layers", "both", "next", "spectrum"):
                assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        if "circuits.components" in block:
            check_circuit(scope, tmp_path)
        if "faithfulness_card" in block:
            verdicts = scope["card"].verdicts().set_index("method")["verdict"]
            assert verdicts["random"] == "fail" and verdicts["fisher"] == "pass"
            assert "Faithfulness" in (tmp_path / "card.html").read_text(encoding="utf-8")
    assert len(BLOCKS) == 7


def check_circuit(scope: dict, folder: Path) -> None:
    """What the comments in the circuit section say of the numbers."""
    said = [("L11H2", 10.6), ("L1H2", 5.8), ("L13H3", -4.6)]
    got = [(label, int(value * 10) / 10) for label, value in scope["parts"].top(3, "head")]
    assert got == said
    assert scope["paths"].top(1, source=6)[0][0] == "L11H2"
    assert {label for label, _ in scope["paths"].top(2, source=5)} == {"L6H1", "L4H1"}
    checked = scope["checked"]
    assert [(label, int(real * 10) / 10) for label, _, real in checked.top(2)] == [
        ("L11H2", -8.9), ("L4H1", -2.0)
    ]  # fmt: skip
    assert len(checked.labels) == 72
    for name in ("heads.png", "route.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
