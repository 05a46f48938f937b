"""Everything that is written: through links, into the mode that was there, or not at all."""

from __future__ import annotations

import functools
import os
import resource
import signal
import stat
import time
from unittest.mock import Mock

import pytest

from support import chosen, forks, run_cases
from support.cli_calls import call, refused, save_tiny
from support.faithfulness_cards import METHODS, card
from support.stored_results import attribution, sequence
from tl_scopes.errors import OutputFileError
from tl_scopes.results import files
from tl_scopes.results.attribution import Attribution

# Each of them takes the name of a file.
WRITERS = {
    "save": lambda path: attribution().save(path),
    "a sequence": lambda path: sequence().save(path),
    "html": lambda path: attribution().to_html(path),
    "figure": lambda path: attribution().plot().savefig(path, format="png"),
    "markdown": lambda path: made_card().to_markdown(path),
    "text": lambda path: files.write_text(path, "text"),
}


@functools.cache
def made_card(prompts=2):
    return card(METHODS[:2], prompts=prompts)


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def write_bytes(path):
    files.write_bytes(path, b"new")


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def earlier(path, given: int):
    """A file that is there before, of that mode."""
    path.write_bytes(b"before")
    path.chmod(given)
    return path


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_link_stays_and_what_it_points_at_is_written(write, tmp_path):
    (tmp_path / "there").mkdir()
    real, link, far = tmp_path / "there" / "real", tmp_path / "link", tmp_path / "far"
    earlier(real, 0o600)
    link.symlink_to("there/real")
    far.symlink_to(link)
    write(far)
    assert far.is_symlink() and link.is_symlink() and not real.is_symlink()
    assert real.read_bytes() != b"before" and mode(real) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["far", "link", "there"]
    assert os.listdir(tmp_path / "there") == ["real"]


def test_a_dangling_link_gets_its_target(write, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("not yet")
    write(link)
    assert link.is_symlink() and (tmp_path / "not yet").stat().st_size
    link.unlink()
    link.symlink_to("nowhere/file")
    with pytest.raises(FileNotFoundError, match="no folder"):
        write(link)
    link.unlink()
    link.symlink_to("link")
    with pytest.raises(OSError, match="levels of symbolic links"):
        write(link)


@pytest.mark.parametrize(("writer", "given"), chosen.each(WRITERS, [0o600, 0o640, 0o666, 0o755]))
def test_the_mode_stays(writer, tmp_path, given):
    write = WRITERS[writer]
    path = earlier(tmp_path / "file", given)
    write(path)
    assert mode(path) == given and path.read_bytes() != b"before"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_stays(tmp_path):
    path = earlier(tmp_path / "file", 0o640)
    os.chown(path, 1234, 5678)
    write_bytes(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, mode(path)) == (1234, 5678, 0o640)


def test_a_group_that_cannot_be_kept_lends_its_rights_to_nobody(tmp_path, monkeypatch):
    path = earlier(tmp_path / "file", 0o660)
    monkeypatch.setattr(os, "chown", Mock(side_effect=PermissionError("not root")))
    write_bytes(path)
    assert mode(path) == 0o600


@pytest.mark.parametrize(("writer", "given"), chosen.each(WRITERS, [0o400, 0o444, 0o000]))
def test_a_read_only_file_is_refused_by_root_too(writer, tmp_path, given):
    write = WRITERS[writer]
    path, link = earlier(tmp_path / "file", given), tmp_path / "link"
    link.symlink_to("file")
    for name in (path, link):
        with pytest.raises(OutputFileError, match="read-only"):
            write(name)
    path.chmod(0o600)
    assert path.read_bytes() == b"before" and sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_what_is_no_regular_file_is_refused(write, tmp_path):
    pipe, socket, folder, link = (tmp_path / name for name in ("pipe", "socket", "folder", "link"))
    os.mkfifo(pipe)
    os.mknod(socket, 0o600 | stat.S_IFSOCK)
    folder.mkdir()
    link.symlink_to("/dev/null")
    for path, kind in [(pipe, "pipe"), (socket, "socket"), (folder, "folder"), (link, "device")]:
        before = path.lstat()[:6]
        with pytest.raises(OutputFileError, match=f"a {kind}, not a regular file"):
            write(path)
        assert path.lstat()[:6] == before
    with pytest.raises(OutputFileError, match="device"):
        write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    for name in ("a\0b", "\ud83d"):
        with pytest.raises(OutputFileError, match="no name of a file"):
            write(str(tmp_path / name))
    assert len(os.listdir(tmp_path)) == 4


def test_a_card_keeps_its_modes_and_refuses_a_folder_in_which_a_file_is_read_only(tmp_path):
    folder = made_card().save(tmp_path / "card")
    for path in folder.iterdir():
        path.chmod(0o600)
    made_card(3).save(folder)
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    for name in ("FaithfulnessCard.json", "rows-*.parquet"):
        (path,) = folder.glob(name)
        path.chmod(0o400)
        before = contents(folder)
        with pytest.raises(OutputFileError, match="read-only"):
            made_card().save(folder)
        assert before == contents(folder)
        path.chmod(0o600)


def test_a_run_keeps_the_mode_of_its_table(tmp_path):
    given = run_cases.prompts(2)
    done = run_cases.go(tmp_path / "out", given)
    done.rows.chmod(0o600)
    run_cases.go(tmp_path / "out", given)
    assert mode(done.rows) == 0o600
    done.rows.chmod(0o400)
    with pytest.raises(OutputFileError, match="read-only"):
        run_cases.go(tmp_path / "out", given)


def test_a_long_name(tmp_path):
    path = tmp_path / ("é" * 127)
    for _ in range(2):
        write_bytes(path)
    assert os.listdir(tmp_path) == [path.name]


def test_figures_take_their_format_from_the_name(tmp_path):
    figure = attribution().plot()
    kinds = {"a.svg": b"<?xml", "a.PDF": b"%PDF", "b.png": b"\x89PNG"}
    for name in ("a.svg", "a.PDF", "b"):
        figure.savefig(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == sorted(kinds)
    for name, start in kinds.items():
        assert (tmp_path / name).read_bytes().startswith(start)


def test_the_command_line_writes_the_same_way(tmp_path):
    model = save_tiny(tmp_path / "model")
    asked = ["attribute", "The cat", "--model", model]
    for option, name in [("--save", "a.st"), ("--html", "a.html"), ("--plot", "a.svg")]:
        real, link = earlier(tmp_path / name, 0o600), tmp_path / f"link to {name}"
        link.symlink_to(name)
        assert call(*asked, option, str(link)).exit_code == 0
        assert link.is_symlink() and mode(real) == 0o600 and real.read_bytes() != b"before"
        real.chmod(0o400)
        assert "read-only" in refused(call(*asked, option, str(link)))
    assert "device" in refused(call(*asked, "--html", "/dev/null"))
    # Two names of one file.
    both = ["--html", str(tmp_path / "x"), "--save", str(tmp_path / "y")]
    (tmp_path / "y").symlink_to("x")
    assert "given twice" in refused(call(*asked, *both))


# --- what stops a write ---


@pytest.fixture(params=["nameless", "named"])
def system(request, monkeypatch):
    """As on a system without nameless files, too."""
    if request.param == "named":
        monkeypatch.setattr(files, "_nameless", lambda folder, mode: None)
    return request.param


def limited(work):
    """In a process whose files may hold 64 bytes: a full disk, of which the system tells as late."""

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(OSError) as caught:
            work()
        assert type(caught.value).__module__ in ("builtins", "tl_scopes.errors")
        assert caught.value.filename is not None

    return run


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("kind", ["save", "html", "figure"])
def test_a_full_disk(system, kind, there, tmp_path):
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"before")
    assert forks.wait(forks.start(limited(lambda: WRITERS[kind](path)))) == 0
    assert os.listdir(tmp_path) == ["file"] * there
    assert not there or path.read_bytes() == b"before"


def test_a_full_disk_stops_a_card_and_a_run(tmp_path):
    folder = made_card().save(tmp_path / "card")
    before, other = contents(folder), made_card(3)
    assert forks.wait(forks.start(limited(lambda: other.save(folder)))) == 0
    assert before == contents(folder)
    given = run_cases.prompts(2)
    assert forks.wait(forks.start(limited(lambda: run_cases.go(tmp_path / "out", given)))) == 0
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="a system without nameless files")
def test_sigterm_while_a_file_is_written_leaves_nothing(tmp_path, monkeypatch):
    """The signal comes when all is written and nothing has a name yet, and at random moments."""
    real = os.fsync

    def ended(handle):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    for there in (False, True):
        monkeypatch.setattr(os, "fsync", ended)
        pid = forks.start(lambda: attribution().save(tmp_path / "file"))
        assert forks.wait(pid) == -signal.SIGTERM
        assert os.listdir(tmp_path) == ["file"] * there
        monkeypatch.setattr(os, "fsync", real)
        attribution().save(tmp_path / "file")
    for i in range(10):

        def writing() -> None:
            while True:
                attribution().to_html(tmp_path / f"{time.monotonic_ns()}.html")

        pid = forks.start(writing)
        time.sleep(0.02 + 0.01 * i)
        os.kill(pid, signal.SIGTERM)
        assert forks.wait(pid) == -signal.SIGTERM
    assert not list(tmp_path.glob("*.partial"))
    assert all(path.read_bytes().endswith(b"</html>\n") for path in list(tmp_path.glob("*.html")))


def test_a_named_file_is_taken_away_after_any_error(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_nameless", lambda folder, mode: None)
    for stop in (KeyboardInterrupt, MemoryError, SystemExit):
        with monkeypatch.context() as patch:
            patch.setattr(files, "appear", Mock(side_effect=stop))
            with pytest.raises(stop):
                attribution().save(tmp_path / "file")
    assert os.listdir(tmp_path) == []
    attribution().save(tmp_path / "file")
    assert repr(Attribution.load(tmp_path / "file")) == repr(attribution())
