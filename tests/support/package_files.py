"""The files of the package, by their dotted names."""

from __future__ import annotations

from pathlib import Path

# The file, not the module: importing it here would be too early for nothing, and its place is all that is needed.
PACKAGE = Path(__file__).resolve().parents[2] / "tl_scopes"


def _modules() -> dict[str, Path]:
    """Dotted name below the package: its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()
