"""One way to write a file for the whole package, and the checksum that a file holds of itself."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from tl_scopes.errors import OutputFileError

_MARK, _DIGITS = "tl_scopes sha256 ", 64
_SEAL = re.compile(_MARK.encode() + rb"([0-9a-f]{64})")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def target(path: str | Path) -> Path:
    """The file that writing to `path` makes or replaces: where it is a link, what that points at.

    Raises `OutputFileError` for what is there but no regular file, or read-only: a file that nobody
    has leave to write is so for root too. Raises `FileNotFoundError` where the folder does not exist.
    """
    real, found = _looked_up(path)
    if found is None:
        if not real.parent.is_dir():
            raise FileNotFoundError(f"no folder {real.parent} to write {real.name} into: create it")
    elif not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OutputFileError(f"{path} is {kind}, not a regular file: give the name of a file")
    elif not found.st_mode & 0o222 or not os.access(real, os.W_OK):
        raise OutputFileError(
            f"{path} is read-only for this user (mode {stat.S_IMODE(found.st_mode):04o}): give another "
            "name, or make it writable"
        )
    return real


def _looked_up(path: str | Path) -> tuple[Path, os.stat_result | None]:
    try:
        real = Path(os.path.realpath(path))
        try:
            return real, os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return real, None
    except ValueError as error:  # a null character, or text that is no Unicode
        raise OutputFileError(
            f"{str(path)!r} is no name of a file ({error}): give another"
        ) from None


def write_bytes(path: str | Path, data: bytes, like: Path | None = None) -> Path:
    """Write `data`; the file appears whole or not at all, and is on the disk before it appears.

    A link stays, and what it points at is written; other hard links of a file keep what they held.
    A file that is replaced keeps its mode and, where we may, its owner and group; a new one takes
    those of `like`, or what the umask leaves. Raises as `target` does, and OSError.

    A signal that ends the process leaves nothing where the system knows files without a name
    (Linux, on most file systems); elsewhere a `*.partial` may stay.
    """
    file = target(path)
    before = _looked_up(file)[1]
    if before is None and like is not None:
        before = target(like).stat()
    partial = file.with_name(f"{file.name[:40]}{secrets.token_hex(6)}.partial")
    mode = 0o666 if before is None else 0o600
    try:
        # While it is written it has no name, where the system knows such files: no handler of a
        # library's may stand between a process and the signal that ends it.
        nameless = _nameless(file.parent, mode)
        handle = os.open(partial, _NEW, mode) if nameless is None else nameless
        with open(handle, "wb") as out:
            out.write(data)
            out.flush()
            if before is not None:
                _keep(handle if os.chmod in os.supports_fd else partial, before)
            os.fsync(handle)
            if nameless is not None:
                appear(file, partial, nameless)
        if nameless is None:
            appear(file, partial)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only file system has none to take away
            partial.unlink(missing_ok=True)
        if error.errno is None or error.filename == str(file):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` in UTF-8. Half of a surrogate pair becomes the letters of its escape."""
    return write_bytes(path, in_utf8(text).encode("utf-8"))


def in_utf8(text: str) -> str:
    """`text`, with each half of a surrogate pair, which no file can hold, as the letters `\\ud83d`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def _nameless(folder: Path, mode: int) -> int | None:
    """A file without a name, which vanishes with its process; None where there is no such thing."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_WRONLY | os.O_TMPFILE, mode)
    except OSError:  # a file system that knows none; any other reason will be met again
        return None


def appear(file: Path, partial: Path, nameless: int | None = None) -> None:
    """Give the file `partial`, or one without a name, the name `file`."""
    if nameless is not None:
        # The argument src_dir_fd, which an absolute path needs not, makes os.link follow the link.
        source = f"/proc/self/fd/{nameless}"
        try:
            return os.link(source, file, src_dir_fd=nameless)
        except FileExistsError:  # the one step for which it needs two names
            os.link(source, partial, src_dir_fd=nameless)
    partial.replace(file)


def _keep(where: int | Path, before: os.stat_result) -> None:
    """Give a new file the owner, group and mode of the one that it replaces."""
    mode = stat.S_IMODE(before.st_mode)
    if hasattr(os, "chown"):
        try:
            os.chown(where, -1, before.st_gid)
        except OSError:  # another group must not be able to do more than everybody
            mode = mode & ~0o070 | (mode & 0o007) << 3
        with contextlib.suppress(OSError):
            os.chown(where, before.st_uid, -1)
    os.chmod(where, mode)


def sealed(make: Callable[[str], bytes]) -> bytes:
    """What `make` gives for a text in the place of the checksum, with the checksum in that place.

    `make` is called again where its data hold the very same text elsewhere.
    """
    slots = (f"{_MARK}{i:064x}" for i in itertools.count())
    tries = ((make(slot), slot.encode()) for slot in slots)
    data, slot = next((data, slot) for data, slot in tries if data.count(slot) == 1)
    start = data.index(slot) + len(_MARK)
    return data[:start] + _digest_without(data, start) + data[start + _DIGITS :]


def is_whole(data: bytes) -> bool:
    """Whether `data` is what `sealed` made. Files of older versions, which hold no checksum, are."""
    found = list(_SEAL.finditer(data))
    return not found or any(_digest_without(data, own.start(1)) == own[1] for own in found)


def _digest_without(data: bytes, start: int) -> bytes:
    """The checksum of `data`, zeros in its own place, which begins at `start`."""
    digest = hashlib.sha256(memoryview(data)[:start])
    digest.update(b"0" * _DIGITS)
    digest.update(memoryview(data)[start + _DIGITS :])
    return digest.hexdigest().encode()
