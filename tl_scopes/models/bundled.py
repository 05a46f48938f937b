"""The bundled models: found in an installed package, converted once, kept in the user's cache.

A cached model is a plain Hugging Face folder. The package itself knows the SHA-256 of its files, so
that nothing in a cache vouches for itself. The folder appears by one rename, so it is either whole or
absent; a file lock makes two processes convert once, not twice.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tl_scopes.errors import ModelUnavailableError
from tl_scopes.models.packages import BUNDLES, CONFIG, Bundle
from tl_scopes.models.quiet import say, undisturbed

# Part of the folder's name: raise it when the conversion changes, and old copies are left alone.
_FORMAT = 2
_BLOCK = 1 << 22


@dataclass(frozen=True)
class BundleState:
    """What `available()` tells of one bundled model. Nothing is hashed or converted to tell it."""

    name: str
    description: str
    licence: str
    installed: bool
    """Whether its package and the GGUF reader are there, so that it can be converted."""
    cached: bool
    path: Path
    """Where its converted folder is, or will be."""
    size: int
    """Bytes on disk: of the cached folder, or expected."""
    pip_command: str

    @property
    def ready(self) -> bool:
        """Whether `load` can give it without installing anything."""
        return self.installed or self.cached


def available() -> list[BundleState]:
    """The bundled models and their state on this machine, the default model first.

    Examples:
        >>> [state.name for state in available() if state.ready]
        ['gemma-3-270m', 'smollm2-135m-instruct']
    """
    states = []
    for bundle in BUNDLES.values():
        folder = cache_folder(bundle)
        cached = all((folder / name).is_file() for name in bundle.files)
        size = sum(f.stat().st_size for f in folder.iterdir()) if cached else bundle.size
        installed = _spec_folder(bundle.module) is not None and _spec_folder("gguf") is not None
        states.append(
            BundleState(
                name=bundle.name,
                description=bundle.description,
                licence=bundle.licence,
                installed=installed,
                cached=cached,
                path=folder,
                size=size,
                pip_command=bundle.pip_command,
            )
        )
    return states


def cache_root() -> Path:
    """`$TL_SCOPES_CACHE`, else `$XDG_CACHE_HOME/tl_scopes`, else `~/.cache/tl_scopes`."""
    if ours := os.environ.get("TL_SCOPES_CACHE"):
        return Path(ours).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tl_scopes"


def cache_folder(bundle: Bundle) -> Path:
    """The folder of a converted model; its name holds the source's hash and the format."""
    return cache_root() / f"{bundle.name}-{bundle.sha256[:12]}-v{_FORMAT}"


def ensure(name: str, *, progress: bool = True) -> Path:
    """The Hugging Face folder of a bundled model, converted now if it is not in the cache.

    Every file is first checked against the SHA-256 that this package ships (about 1 s per GB), so a
    cache may lie where others write: a folder that was changed, or holds one file more, is converted
    again. What changes after this check and before the model is loaded is not seen. With `progress`,
    stderr shows what goes on.

    Raises:
        ModelUnavailableError: the name is not bundled, its package is missing or altered, it converts
            to other bytes here, or the cache cannot be written. The message says what to install or
            set.

    Examples:
        >>> sorted(path.name for path in ensure("gemma-3-270m").iterdir())
        ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    """
    if name not in BUNDLES:
        raise ModelUnavailableError(
            f"no bundled model is called {name!r}; bundled: {', '.join(BUNDLES)}."
        )
    bundle = BUNDLES[name]
    folder = cache_folder(bundle)
    if (fault := _fault(folder, bundle)) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, progress):
            # Another process may have finished it while this one waited.
            if (fault := _fault(folder, bundle)) is None:
                return folder
            if folder.exists():
                say(f"the cached {name} is damaged ({fault}): converting it again")
            _build(bundle, folder, progress)
    except OSError as error:
        raise ModelUnavailableError(
            f"{name!r} in the cache {folder.parent} cannot be used ({fault}), and could not be written "
            f"there ({error}). Free about "
            f"{2 * bundle.size / 1e9:.1f} GB there, or set TL_SCOPES_CACHE to a folder with room."
        ) from error
    return folder


def _locked(folder: Path, progress: bool) -> AbstractContextManager[Any]:
    """The lock of a folder, which lets go at the end; waits for another process that has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        return lock.acquire(timeout=0.1)
    except Timeout:
        if progress:
            say("another process is converting this model: waiting for it")
        return lock.acquire()


def _build(bundle: Bundle, folder: Path, progress: bool) -> None:
    """Convert into a temporary folder beside `folder`, then rename. The lock is held."""
    parts = _source_parts(bundle)
    # Whoever left these was killed: the lock is ours, so nobody works in them.
    for stale in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if progress:
            say(f"preparing {bundle.name}, once ({bundle.size / 1e9:.1f} GB in {folder.parent})")
        gguf_file = _checked_source(bundle, parts, work, progress)
        converted = work / "model"
        converted.mkdir()
        _convert(gguf_file, converted, progress)
        (converted / CONFIG).write_bytes(bundle.config_json)
        for file in converted.iterdir():  # safetensors makes files for their owner alone
            file.chmod((converted / CONFIG).stat().st_mode)
        if (fault := _fault(converted, bundle)) is not None:
            raise ModelUnavailableError(
                f"{bundle.name!r} converts to other bytes here than everywhere it was tried ({fault}); it "
                f"is refused. Installed: transformers {version('transformers')}, gguf "
                f"{version('gguf')}; tried: transformers 4.57.6 and 5.23.0, gguf 0.19.0."
            )
        if os.path.lexists(folder):
            folder.rename(work / "damaged")
        converted.rename(folder)
    finally:
        # Also after Ctrl-C: nothing half-made stays, and the damaged copy and the GGUF go.
        shutil.rmtree(work, ignore_errors=True)


def _source_parts(bundle: Bundle) -> list[Path]:
    """The installed files that make up the GGUF file, in order."""
    missing = [module for module in (bundle.module, "gguf") if _spec_folder(module) is None]
    if missing:
        raise ModelUnavailableError(
            f"the model {bundle.name!r} needs the package(s) {', '.join(missing)}, not installed "
            f"here. Run: {bundle.pip_command}"
        )
    if bundle.source:
        # The package is only located: importing it would pull in its own heavy dependencies.
        location = _spec_folder(bundle.module)
        parts = [location / bundle.source] if location else []
    else:
        try:
            parts = list(importlib.import_module(bundle.module).chunk_paths())
        except ImportError as error:
            raise ModelUnavailableError(
                f"the package {bundle.module} of {bundle.name!r} is incomplete ({error}). "
                f"Run: {bundle.pip_command}"
            ) from error
    if absent := [part.name for part in parts if not part.is_file()]:
        raise ModelUnavailableError(
            f"the package {bundle.module} lacks {', '.join(absent)}. Install it again: "
            f"{bundle.pip_command}"
        )
    return parts


def _checked_source(bundle: Bundle, parts: list[Path], work: Path, progress: bool) -> Path:
    """The whole GGUF file, joined in `work` if it comes in parts, its hash compared."""
    source = parts[0]
    if len(parts) > 1:
        source = work / f"{bundle.name}.gguf"
        with source.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
    digest = _sha256(source, "checking" if progress else None)
    if digest != bundle.sha256:
        raise ModelUnavailableError(
            f"the model file in {bundle.module} has SHA-256 {digest}, not {bundle.sha256}: it was "
            f"altered or cut short. Install it again: {bundle.pip_command}"
        )
    return source


def _sha256(path: Path, label: str | None = None) -> str:
    """The hash of a file; with a `label`, a bar shows how far it is."""
    from tqdm import tqdm

    digest, size = hashlib.sha256(), path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm.wrapattr(file, "read", size, desc=label, disable=label is None) as watched,
    ):
        while block := watched.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _convert(gguf_file: Path, folder: Path, progress: bool) -> None:
    from tl_scopes.models.gguf import convert

    with undisturbed(show_progress_bars=progress):
        convert(gguf_file, folder)


def _fault(folder: Path, bundle: Bundle) -> str | None:
    """What is wrong with a converted folder, or None if it is what conversion makes, to the byte."""
    try:
        there = {path.name for path in folder.iterdir()}
        if absent := bundle.files.keys() - there:
            return f"{min(absent)} is missing"
        # transformers runs or prefers some files by their names alone.
        if others := there - bundle.files.keys():
            return f"{min(others)} does not belong there"
        for name, expected in bundle.files.items():
            if not (folder / name).is_file() or _sha256(folder / name) != expected:
                return f"{name} was changed"
    except OSError as error:
        return f"it cannot be read: {error}"
    return None


def _spec_folder(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None
