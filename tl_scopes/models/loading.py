"""Load a model by name, folder or bundle: a HookedTransformer or a TransformerBridge, raw weights.

Examples:
    >>> model = load()                                    # Gemma-3 270M, no network
    >>> model = load("smollm2-135m-instruct", dtype="float64")
    >>> model = load("./my-finetune", backend="hooked", n_ctx=4096)

Raw always: `HookedTransformer.from_pretrained_no_processing`, or a bridge as it is booted. Folding
and centring change the basis of the final state, and with it most scopes.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes.errors import ModelUnavailableError, check_choice
from tl_scopes.models.bundled import BUNDLES, ensure
from tl_scopes.models.folder import (
    AGREEMENT,
    Wanted,
    auto_class,
    cut_context,
    first_line,
    from_folder,
    unavailable,
)
from tl_scopes.models.foreign import check_folder, nothing_installed, refused, weights_only
from tl_scopes.models.gguf import dtype_keyword
from tl_scopes.models.installed import known_names, model_classes, official_name
from tl_scopes.models.quiet import local_only_if_unreachable, undisturbed

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "gemma-3-270m"

# Published as bare HookedTransformer weights: there is no Hugging Face model for a bridge to hold.
_HOOKED_ONLY = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")


def load(
    name: str | Path = DEFAULT_MODEL,
    backend: str = "auto",
    *,
    dtype: torch.dtype | str = "float32",
    device: torch.device | str | None = None,
    n_ctx: int | None = None,
    architecture: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Any:
    """Load a model with raw weights, in eval mode, ready for `tl_scopes.attribute`.

    Args:
        name: a bundled model (`available()` lists them: no network, converted on the first load,
            hash checked on each), a Hugging Face folder on this disk, or a name that
            transformer-lens knows (fetched from the model hub, or from its local cache).
        backend: "bridge" (`TransformerBridge`, transformer-lens 3 and 4), "hooked"
            (`HookedTransformer`, transformer-lens 2 and 3), or "auto": the bridge if the installed
            transformer-lens has it and the model is not published for HookedTransformer alone.
        dtype: a torch floating dtype or its name. "float64" loads in float64 from the start.
        device: default: CUDA if there is one, else the CPU. A tensor is put there before anything
            is loaded.
        n_ctx: longest prompt. Default: the model's own, except that rotary models loaded from a
            bundle or a folder as a HookedTransformer get at most 2048, to spare memory.
        architecture: for a folder and "hooked": the transformer-lens name of the same architecture
            (such as "meta-llama/Llama-3.2-1B"), if its config alone is not understood.
        trust_remote_code: whether Python files that come with the model may run. Without, a model
            that needs them is refused, and no pickle is read but for its tensors. Where transformers
            has the architecture itself, that is used, and the model's own file is not looked at.
        progress: show on stderr what takes long. stdout is never written.

    Returns:
        `HookedTransformer` or `TransformerBridge`. `model.cfg.model_name` is the name given here
        (a folder's last component), so that a result's provenance names what was loaded.

    Raises:
        ModelUnavailableError: nothing has that name, a package or the network is missing, the device
            cannot be used, the model needs code of its own, or this transformer-lens cannot hold the
            model in that class, or gives other log-probabilities than Hugging Face's. The message
            says what to do.

    Examples:
        >>> model = load("smollm2-135m-instruct", dtype="float64")
        >>> tl_scopes.attribute(model, "The capital of France is")
    """
    check_choice("backend", backend, ("auto", "hooked", "bridge"), error=ModelUnavailableError)
    if n_ctx is not None and n_ctx < 1:
        raise ModelUnavailableError(f"n_ctx is {n_ctx}; it must be 1 or more.")
    # "no" would count as yes.
    check_choice("trust_remote_code", trust_remote_code, (True, False), error=ModelUnavailableError)
    kind, where = _floating_dtype(dtype), usable_device(device)
    text = str(name)
    folder = _folder(text, trust_remote_code, progress)
    # Hub files are fetched with their bars; a folder's loads in seconds, without.
    with nothing_installed(), undisturbed(show_progress_bars=progress and folder is None):
        wanted = Wanted(
            name=text if folder is None or text in BUNDLES else folder.resolve().name,
            backend=_choose_backend(text, backend),
            dtype=kind,
            device=where,
            n_ctx=n_ctx,
            architecture=BUNDLES[text].hub_name if text in BUNDLES else architecture,
            trusted=trust_remote_code,
        )
        return from_folder(folder, wanted) if folder else _from_hub(wanted)


def load_original(
    name: str | Path = DEFAULT_MODEL,
    *,
    dtype: torch.dtype | str = "float32",
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The Hugging Face model that `load` wraps, with nothing around it: to compare logits with.

    Args:
        name: a bundled model, a folder on this disk, or a name that transformer-lens knows.
        dtype: a torch floating dtype or its name.
        device: default: CUDA if there is one, else the CPU.
        trust_remote_code: whether Python files that come with the model may run.

    Returns a model of `transformers`, in eval mode. Raises `ModelUnavailableError` where `load` would.

        >>> original = load_original("smollm2-135m-instruct")
        >>> original(input_ids).logits  # [batch, pos, d_vocab]
    """
    from transformers import AutoConfig

    kind, where, text = _floating_dtype(dtype), usable_device(device), str(name)
    folder = _folder(text, trust_remote_code, progress=False)
    source = folder or official_name(text)
    options: dict[str, Any] = {
        "local_files_only": folder is not None,
        "trust_remote_code": trust_remote_code,
    }
    what = f"{text!r} could not be loaded as a Hugging Face model"
    with (
        undisturbed(),
        local_only_if_unreachable(),
        unavailable(lambda why: f"{what} ({why})."),
        refused(source, trust_remote_code),
    ):
        config = AutoConfig.from_pretrained(source, **options)
        options |= {"config": config, "attn_implementation": "eager", **dtype_keyword(kind)}
        model: Any = auto_class(config).from_pretrained(source, **options)
        return model.to(where).eval()


def _folder(name: str, trusted: bool, progress: bool) -> Path | None:
    """Where the model lies on this disk; None for a name on the hub. Raises `ModelUnavailableError`."""
    folder = ensure(name, progress=progress) if name in BUNDLES else _local_folder(name)
    if folder is not None:
        check_folder(folder, trusted)
    else:
        check_name(name)
    return folder


def check_name(name: str) -> None:
    """Raise `ModelUnavailableError` where `name` is no bundled model, folder or hub name; fetches nothing."""
    if name in BUNDLES or _local_folder(name) is not None or "/" in name:
        return
    known = known_names()
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), {*BUNDLES, *known}, n=3, cutoff=0.5)
        raise ModelUnavailableError(
            f"no model is called {name!r}. Bundled, without network: {', '.join(BUNDLES)}. "
            + (f"Close names: {', '.join(near)}. " if near else "")
            + "A folder path or any name that transformer-lens knows is allowed too."
        )


def _local_folder(text: str) -> Path | None:
    """The folder that `text` names, None if it is a model name rather than a path."""
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelUnavailableError(
                f"{text!r} is a folder without config.json; a Hugging Face model folder "
                "(config.json, weights, tokenizer) is needed."
            )
        return path
    if path.exists() or text.startswith((".", "~", "/")) or text.count("/") > 1:
        raise ModelUnavailableError(f"{text!r} looks like a path, but there is no such folder.")
    return None


def _choose_backend(name: str, backend: str) -> str:
    from importlib.metadata import version

    classes = model_classes()
    if backend == "auto":
        hooked_only = official_name(name).startswith(_HOOKED_ONLY)
        backend = "hooked" if hooked_only or "bridge" not in classes else "bridge"
    if backend not in classes:
        have = version("transformer-lens")
        needs = "2.x or 3.x" if backend == "hooked" else "3.x or 4.x"
        raise ModelUnavailableError(
            f"{name!r} as backend {backend!r} needs transformer-lens {needs}; {have} is installed. "
            f"Install another transformer-lens, or use backend={next(iter(classes), 'auto')!r} "
            "with a model that has it."
        )
    return backend


def _floating_dtype(dtype: torch.dtype | str) -> torch.dtype:
    import torch

    kind = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(kind, torch.dtype) or str(kind).removeprefix("torch.") not in AGREEMENT:
        raise ModelUnavailableError(f"dtype is {dtype!r}; use one of {', '.join(AGREEMENT)}.")
    return kind


def usable_device(device: torch.device | str | None) -> str:
    """The device's name, after a tensor was put there. Raises `ModelUnavailableError`."""
    import torch

    if device is None:
        # Not MPS: transformer-lens warns that it may give wrong numbers. Ask for it by name.
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device has its own
        raise ModelUnavailableError(
            f"the device {str(device)!r} cannot be used ({first_line(error)}); try cpu, or cuda, "
            "cuda:1, mps on a machine that has one."
        ) from error
    return str(torch.device(device))


def _from_hub(wanted: Wanted) -> Any:
    cls, official = model_classes()[wanted.backend], official_name(wanted.name)
    options: dict[str, Any] = {"dtype": wanted.dtype, "device": wanted.device}
    if not official.startswith(_HOOKED_ONLY):
        options["trust_remote_code"] = wanted.trusted
    elif not wanted.trusted:
        weights_only()  # these are pickles, which transformer-lens would let run
    what = f"{wanted.name!r} could not be fetched or loaded as a {wanted.backend} model"
    advice = (
        "It comes from the Hugging Face hub: check the name, the network and, for a gated model, "
        f"HF_TOKEN; or give a folder on this disk, or a bundled model: {', '.join(BUNDLES)}."
    )
    with (
        unavailable(lambda why: f"{what} ({why}). {advice}"),
        local_only_if_unreachable(),
        refused(wanted.name, wanted.trusted),
    ):
        if wanted.backend == "bridge":
            model = cls.boot_transformers(official, **options)
            cut_context(model, wanted.n_ctx)
        else:
            sizes = {} if wanted.n_ctx is None else {"n_ctx": wanted.n_ctx}
            model = cls.from_pretrained_no_processing(wanted.name, **options, **sizes)
        model.cfg.model_name = wanted.name
        model.eval()
        return model
