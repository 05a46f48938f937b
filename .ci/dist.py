"""What `make dist` made holds what it should: the wheel the package alone, the sdist all that the tests need.

`python .ci/dist.py dist`: git tells which files the package has.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

SOURCES = ["tl_scopes", "tests", "tutorials", "docs", "benchmarks"]
PAPERS = ["LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"]
BESIDE = ["pyproject.toml", "Makefile", "constraints.txt"]


def sources(*folders: str) -> set[str]:
    """The files in `folders` that git has or would take; in an unpacked archive, the Python among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    if shutil.which("git"):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return {name for name in done.stdout.splitlines() if Path(name).is_file()}
    print("no checkout of git here: only Python files are looked for")
    return {path.as_posix() for folder in folders for path in Path(folder).rglob("*.py")}


def only(folder: Path, pattern: str) -> Path:
    archives = sorted(folder.glob(pattern))
    if len(archives) != 1:
        sys.exit(f"{folder} should hold one {pattern}, it holds {[a.name for a in archives]}")
    return archives[0]


def check(archive: Path, missing: set[str], extra: set[str]) -> None:
    for what, names in (("lacks", missing), ("should not hold", extra)):
        if names:
            sys.exit(f"{archive.name} {what}: {', '.join(sorted(names))}")


def main(folder: Path) -> None:
    wheel = only(folder, "*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    about = {name for name in held if ".dist-info/" in name}
    package = sources("tl_scopes")
    code = {name for name in held - about if name.endswith(".py")}
    check(wheel, package - held, code - package)
    outside = {name for name in held - about if not name.startswith("tl_scopes/")}
    check(wheel, set(), outside)
    needed = {"licenses/LICENSE", "entry_points.txt", "METADATA"}
    check(wheel, needed - {name.partition(".dist-info/")[2] for name in about}, set())

    sdist = only(folder, "*.tar.gz")
    with tarfile.open(sdist) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    check(sdist, {*sources(*SOURCES), *PAPERS, *BESIDE} - held, set())
    for archive in (wheel, sdist):
        print(f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB, holds what it should")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
