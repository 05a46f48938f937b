"""What a run was made with: enough to refuse to go on with anything else.

Two things tell whether rows may stand beside each other. What can be read is compared as it is:
versions, configuration, data, settings, the parameters of methods, and hashes of all weights and
buffers. The rest is compared by what it does (`outputs`).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_scopes.adapter.view import view_of
from tl_scopes.errors import RunError
from tl_scopes.evaluation.methods import AnyMethod
from tl_scopes.evaluation.runs.outputs import apart, outputs
from tl_scopes.evaluation.runs.parts import PARTS, ROWS
from tl_scopes.results.files import is_whole, sealed, write_bytes

NAME = "manifest.json"
FORMAT = 4
# Finished runs of these can be looked at. Only one of this format can be gone on with.
_READ = (2, 3, FORMAT)
# What cannot change a number beyond rounding is written down, and may differ.
NOTED = "noted"
# What the model and the methods give for the first prompts: compared to rounding.
OUTPUTS = "outputs"
# Of a configuration: where the model lies, which is said elsewhere or changes no number.
_PLACES = (
    "device", "n_devices", "seed", "dtype", "torch_dtype", "model_name", "tokenizer_name",
    "name_or_path", "_name_or_path", "transformers_version", "architectures",
)  # fmt: skip
_PACKAGES = ("transformer_lens", "torch", "transformers", "numpy", "scipy")
_NOTED_PACKAGES = ("pandas", "pyarrow", "captum", "datasets", "accelerate")


def describe(
    model: Any,
    methods: Mapping[str, AnyMethod],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    units: Mapping[str, Any],
    noted: Mapping[str, Any],
    first: Sequence[list[int]],
    continuation: Any = None,
) -> dict[str, Any]:
    """Everything that decides the numbers, as plain values; under "noted" what does not.

    `first`: token ids of the run's prompts, of which the first few are run. `continuation`: what follows
    the first one, where it is measured.
    """
    view = view_of(model)
    return of_run(
        model,
        noted,
        data=data,
        methods={name: described(method) for name, method in methods.items()},
        order=list(methods),
        settings=settings,
        units=units,
        **{OUTPUTS: outputs(view, methods, first, settings["position"], continuation)},
    )


def of_run(model: Any, noted: Mapping[str, Any], **deciding: Any) -> dict[str, Any]:
    """The same of any run: its model and where it runs, with what else decides its numbers."""
    from tl_scopes import __version__

    view = view_of(model)
    where = view.provenance()
    return plain(
        {
            "format": FORMAT,
            "versions": {"tl_scopes": __version__, **_versions(_PACKAGES)},
            "model": {
                "name": where.model,
                "class": where.model_class,
                "dtype": where.dtype,
                "device": view.device.type,
                "processing": where.processing,
                "sha256": tensors_hash(model.named_parameters()),
                "buffers": tensors_hash(model.named_buffers()),
                "config": _config(model),
                "hooks": where.hooks,
            },
            "threads": torch.get_num_threads(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            **deciding,
            NOTED: {
                "python": platform.python_version(),
                "machine": _machine(view.device),
                "versions": _versions(_NOTED_PACKAGES),
                "provenance": asdict(where),
                **noted,
            },
        }
    )


def of_data(
    prompts: Sequence[Any],
    ids: Sequence[Any],
    first: int,
    continuations: Sequence[Any] | None,
) -> dict[str, Any]:
    """What is measured, in short."""
    hashes = {"sha256": prompts_hash(prompts), "ids_sha256": prompts_hash(ids)}
    if continuations is not None:
        hashes["continuations"] = prompts_hash(continuations)
    return {"prompts": len(prompts), "first": first, **hashes}


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over tensors: name, shape, dtype and bytes, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(model: Any) -> dict[str, Any]:
    """The settings of a model: TransformerLens's, and those of the model that a bridge wraps."""
    settings = {"cfg": vars(model.cfg)}
    wrapped: Any = getattr(getattr(model, "original_model", None), "config", None)
    if hasattr(wrapped, "to_dict"):
        settings["original_model"] = wrapped.to_dict()
    return {
        name: {k: v for k, v in sorted(values.items()) if k not in _PLACES}
        for name, values in settings.items()
    }


def described(method: Any) -> dict[str, Any]:
    """A method's class and every parameter."""
    if is_dataclass(method):
        parameters = {f.name: getattr(method, f.name) for f in fields(method)}
        if parameters.get("rules", 0) is None:  # as of methods that know none
            del parameters["rules"]
    else:
        parameters = method.parameters()
    return {"class": _name(type(method)), **parameters}


def plain(value: Any) -> Any:
    """`value` as JSON gives it back: of a tensor a hash, of a function or an object its name."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    """What stands in JSON for what JSON lacks."""
    if isinstance(value, Tensor):
        return f"tensor sha256 {tensors_hash([('', value)])}"
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__qualname__"):
        return _name(value)
    if is_dataclass(value):
        return described(value)
    text = repr(value)
    return _name(type(value)) if " at 0x" in text else text


def _name(thing: Any) -> str:
    """Where it comes from, and its name. Of this package's own only the package: its files may move."""
    home = "tl_scopes" if thing.__module__.startswith("tl_scopes.") else thing.__module__
    return f"{home}.{thing.__qualname__}"


def prompts_hash(prompts: Sequence[Any]) -> str:
    """SHA-256 of texts or rows of ids."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps(prompt, default=_plain).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return model or platform.processor() or platform.machine()


def settle(mine: dict[str, Any], out: Path) -> list[str]:
    """Write the manifest, or compare with the one that is there.

    Returns what differs of the noted: none of it a reason to stop. Raises `RunError` for a folder
    whose run was made with anything else, naming each difference.
    """
    path = out / NAME
    if not path.is_file():
        foreign = next(
            (p for p in (out / ROWS, *(out / PARTS).glob("*.parquet")) if p.exists()), None
        )
        if foreign is not None:
            raise RunError(
                f"{foreign} is there, but no {out / NAME}, which says what it was made with: give "
                "another folder, or move it away"
            )

        def text(checksum: str) -> bytes:
            whole = {**mine, NOTED: {**mine[NOTED], "checksum": checksum}}
            return f"{json.dumps(whole, indent=2)}\n".encode()

        write_bytes(path, sealed(text))
        return []
    theirs = read(out)
    if theirs["format"] != FORMAT:
        raise RunError(
            f"{out} holds a run that an earlier version of tl_scopes began (format {theirs['format']}, now "
            f"{FORMAT}): give another folder, or end it with that version"
        )
    wrong = differences(theirs, mine)
    if wrong:
        raise RunError(
            f"{out} holds a run that was made with something else, and its rows cannot stand beside "
            f"new ones. {'; '.join(wrong)}. To go on with it, give what it was made with; or give "
            "another folder, or delete this one"
        )
    return _unequal(theirs[NOTED].get("machine", _NONE), mine[NOTED]["machine"], "machine")


def read(out: Path, as_written: bool = False) -> dict[str, Any]:
    """The manifest of the run in a folder. Raises `RunError` if it cannot be used.

    `as_written`: also where it was changed since. What is compared with another needs no such check.
    """
    path = out / NAME
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        if as_written and not is_whole(data):
            raise ValueError("it was changed since it was written")
    except FileNotFoundError:
        raise RunError(f"{out} holds no run: there is no {NAME} in it") from None
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged ({error}): give another folder, or delete this one"
        ) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get(NOTED), dict):
        raise RunError(f"{path} is not a manifest of tl_scopes: give another folder")
    if manifest.get("format") not in _READ:
        raise RunError(
            f"{path} has format {manifest.get('format')!r}, this tl_scopes reads {FORMAT}: give another "
            "folder, or the version of tl_scopes that wrote it"
        )
    return manifest


def digest(mine: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the numbers, and is the same on every machine."""
    deciding = {name: value for name, value in mine.items() if name not in (NOTED, OUTPUTS)}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Each field of two manifests that is not the same, but for what is noted, in words."""
    texts = []
    for name in dict.fromkeys([*theirs, *mine]):
        if name == OUTPUTS:
            texts += apart(theirs.get(name) or {}, mine.get(name) or {})
        elif name != NOTED:
            texts += _unequal(theirs.get(name, _NONE), mine.get(name, _NONE), name)
    return texts


def _unequal(theirs: Any, mine: Any, name: str) -> list[str]:
    """Each field that is not the same, with both values and, for threads, what to do."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = dict.fromkeys([*theirs, *mine])
        each = (_unequal(theirs.get(k, _NONE), mine.get(k, _NONE), f"{name}.{k}") for k in keys)
        return [text for texts in each for text in texts]
    was, now = _told(theirs), _told(mine)
    if was == now:
        return []
    hint = f" (set OMP_NUM_THREADS={was})" if name == "threads" else ""
    return [f"{name} was {_short(was)}, is {_short(now)}{hint}"]


_NONE = object()


def _told(value: Any) -> str:
    # JSON, in which lists and tuples are the same, and NaN is equal to itself.
    return "not there" if value is _NONE else json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
