"""Load a model by name, folder or bundle: a HookedTransformer or a TransformerBridge, raw weights.

    >>> model = load()                                    # Gemma-3 270M, no network
    >>> model = load("smollm2-135m-instruct", dtype="float64")
    >>> model = load("./my-finetune", backend="hooked", n_ctx=4096)

Raw always: `HookedTransformer.from_pretrained_no_processing`, or a bridge as it is booted. Folding
and centring change the basis of the final state, and with it most scopes.
"""

from __future__ import annotations

import difflib
import inspect
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tl_scopes._quiet import undisturbed
from tl_scopes.bundled import BUNDLES, BundleState, available, ensure
from tl_scopes.errors import ModelUnavailableError

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_MODEL", "BundleState", "available", "ensure", "load"]

DEFAULT_MODEL = "gemma-3-270m"
Backend = Literal["auto", "hooked", "bridge"]

# transformer-lens 2.x keeps a mask of [n_ctx, n_ctx] per layer: at Gemma's 8192, 1.2 GB of masks
# and twice the time to load. Rotary models may be cut at will, so this is where `load` cuts them.
_HOOKED_N_CTX = 2048
# Agreement, in nats of log-probability, asked of a HookedTransformer built from a folder. Right
# conversions give 1e-4 or better in float32, a wrong rotary base or norm 1e-2 to 10.
_AGREEMENT = {"float64": 1e-3, "float32": 1e-3, "float16": 0.3, "bfloat16": 1.0}
# Published as bare HookedTransformer weights: there is no Hugging Face model for a bridge to hold.
_HOOKED_ONLY = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")


def load(
    name: str | Path = DEFAULT_MODEL,
    backend: Backend = "auto",
    *,
    dtype: torch.dtype | str = "float32",
    device: torch.device | str | None = None,
    n_ctx: int | None = None,
    architecture: str | None = None,
    progress: bool = True,
) -> Any:
    """Load a model with raw weights, in eval mode, ready for `tl_scopes.attribute`.

    Args:
        name: a bundled model (`available()` lists them: no network, converted on the first load,
            hash checked on each), a Hugging Face folder on this disk, or a name that
            transformer-lens knows (fetched from the model hub, or from its local cache).
        backend: "bridge" (`TransformerBridge`, transformer-lens 3 and 4), "hooked"
            (`HookedTransformer`, transformer-lens 2 and 3), or "auto": the bridge where the installed
            transformer-lens has it and the model is not published for HookedTransformer alone.
        dtype: a torch floating dtype or its name. "float64" loads in float64 from the start.
        device: default: CUDA if there is one, else the CPU.
        n_ctx: longest prompt. Default: the model's own, except that rotary models loaded from a
            bundle or a folder as a HookedTransformer get at most 2048, to spare memory.
        architecture: for a folder and "hooked": the transformer-lens name of the same architecture
            (such as "meta-llama/Llama-3.2-1B"), if its config alone is not understood.
        progress: show on stderr what takes long. stdout is never written.

    Returns:
        `HookedTransformer` or `TransformerBridge`. `model.cfg.model_name` is the name given here
        (a folder's last component), so that a result's provenance names what was loaded.

    Raises:
        ModelUnavailableError: nothing has that name, a package or the network is missing, or this
            transformer-lens cannot hold the model in that class. The message says what to do.
    """
    if backend not in ("auto", "hooked", "bridge"):
        raise ModelUnavailableError(f"backend is {backend!r}; use 'auto', 'hooked' or 'bridge'.")
    if n_ctx is not None and n_ctx < 1:
        raise ModelUnavailableError(f"n_ctx is {n_ctx}; it must be 1 or more.")
    text = str(name)
    if text in BUNDLES:
        folder: Path | None = ensure(text, progress=progress)
        recorded, architecture = text, BUNDLES[text].hub_name
    else:
        folder = _local_folder(text)
        recorded = folder.resolve().name if folder else text
    # Hub files are fetched with their bars; a folder's loads in seconds, without.
    with undisturbed(show_progress_bars=progress and folder is None):
        chosen = _choose_backend(text, backend)
        kind = _floating_dtype(dtype)
        where = str(device) if device is not None else _default_device()
        if folder is None:
            model = _from_hub(text, chosen, kind, where, n_ctx)
        else:
            model = _from_folder(folder, recorded, chosen, kind, where, n_ctx, architecture)
        model.cfg.model_name = recorded
        model.eval()
    return model


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


def _classes() -> dict[str, Any]:
    """The model classes that the installed transformer-lens has."""
    found: dict[str, Any] = {}
    try:
        from transformer_lens.model_bridge import TransformerBridge

        found["bridge"] = TransformerBridge
    except ImportError:
        pass
    try:
        # Removed in 4.0, where even reading the name from the package raises.
        from transformer_lens import HookedTransformer

        found["hooked"] = HookedTransformer
    except ImportError:
        pass
    return found


def _choose_backend(name: str, backend: Backend) -> str:
    from importlib.metadata import version

    classes = _classes()
    if backend == "auto":
        hooked_only = _known_names().get(name.lower(), name).startswith(_HOOKED_ONLY)
        if hooked_only or "bridge" not in classes:
            return "hooked"
        return "bridge"
    if backend not in classes:
        have = version("transformer-lens")
        needs = "2.x or 3.x" if backend == "hooked" else "3.x or 4.x"
        raise ModelUnavailableError(
            f"backend {backend!r} needs transformer-lens {needs}; {have} is installed. "
            f"Use backend={next(iter(classes), 'auto')!r}, or install another transformer-lens."
        )
    return backend


def _known_names() -> dict[str, str]:
    """Every name and alias that transformer-lens knows, in lower case, with the official one."""
    try:
        from transformer_lens import supported_models as table
    except ImportError:  # 2.x
        from transformer_lens import loading_from_pretrained as table  # type: ignore[no-redef]
    names = {official.lower(): official for official in table.OFFICIAL_MODEL_NAMES}
    for official, aliases in table.MODEL_ALIASES.items():
        names |= {alias.lower(): official for alias in aliases}
    return names


def _floating_dtype(dtype: torch.dtype | str) -> torch.dtype:
    import torch

    kind = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(kind, torch.dtype) or str(kind).removeprefix("torch.") not in _AGREEMENT:
        raise ModelUnavailableError(f"dtype is {dtype!r}; use one of {', '.join(_AGREEMENT)}.")
    return kind


def _default_device() -> str:
    import torch

    # Not MPS: transformer-lens warns that it may give wrong numbers. Ask for it by name.
    return "cuda" if torch.cuda.is_available() else "cpu"


def _from_folder(
    folder: Path,
    recorded: str,
    backend: str,
    dtype: torch.dtype,
    device: str,
    n_ctx: int | None,
    architecture: str | None,
) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tl_scopes._gguf import dtype_keyword

    try:
        # Hooks on attention patterns need the eager implementation; it is also what
        # HookedTransformer is compared with.
        hf_model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, attn_implementation="eager", **dtype_keyword(dtype)
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if tokenizer.bos_token_id is not None and tokenizer.encode("") == [tokenizer.bos_token_id]:
            # It adds BOS by itself; unless it says so, transformer-lens reads it a second time.
            tokenizer.init_kwargs["add_bos_token"] = True
        if backend == "bridge":
            model = _classes()["bridge"].boot_transformers(
                recorded,
                hf_model=hf_model.to(device),
                tokenizer=tokenizer,
                device=device,
                dtype=dtype,
            )
            _cut_context(model, n_ctx)
            return model
        rotary = hasattr(hf_model.config, "rope_theta") or hasattr(
            hf_model.config, "rope_parameters"
        )
        if n_ctx is None and rotary:
            n_ctx = min(_HOOKED_N_CTX, hf_model.config.max_position_embeddings)
        return _hooked(folder, hf_model, tokenizer, dtype, device, n_ctx, architecture)
    except ModelUnavailableError:
        raise
    except Exception as error:
        raise ModelUnavailableError(
            f"{recorded!r} could not be loaded as a {backend} model from {folder} "
            f"({_first_line(error)}). Check that the folder holds a causal language model in "
            "Hugging Face format with its tokenizer, that transformer-lens supports the "
            "architecture, or try the other backend."
        ) from error


def _hooked(
    folder: Path,
    hf_model: Any,
    tokenizer: Any,
    dtype: torch.dtype,
    device: str,
    n_ctx: int | None,
    architecture: str | None,
) -> Any:
    """A HookedTransformer of `hf_model`, by transformer-lens' table if it has an entry there."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    sizes = {} if n_ctx is None else {"n_ctx": n_ctx}
    if "n_ctx" not in inspect.signature(HookedTransformer.from_pretrained).parameters and sizes:
        sizes = {}  # before 2.17: the model's own context is all there is
    official = _known_names().get((architecture or "").lower())
    if official:
        model = HookedTransformer.from_pretrained_no_processing(
            official, hf_model=hf_model, tokenizer=tokenizer, dtype=dtype, device=device, **sizes
        )
        _check_agreement(model, hf_model, folder.name)
        return model
    # The steps of from_pretrained, from the config alone. transformer-lens guesses from words in the
    # path ("llama", "gemma") before it reads the config: give it a path without words.
    with tempfile.TemporaryDirectory(prefix="tl_scopes_") as neutral:
        shutil.copy(folder / "config.json", neutral)
        cfg = loading.get_pretrained_model_config(
            neutral,
            hf_cfg=hf_model.config.to_dict(),
            fold_ln=False,
            device=device,
            dtype=dtype,
            **sizes,
        )
        state = loading.get_pretrained_state_dict(neutral, cfg, hf_model, dtype=dtype)
    rope = getattr(hf_model.config, "rope_parameters", None) or {}
    base = getattr(hf_model.config, "rope_theta", None) or rope.get("rope_theta")
    if cfg.positional_embedding_type == "rotary" and base:
        cfg.rotary_base = base  # 2.x leaves 10000 here for most architectures
    model = HookedTransformer(cfg, tokenizer, move_to_device=False, default_padding_side="right")
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    model.move_model_modules_to_device()
    _check_agreement(model, hf_model, folder.name)
    return model


def _check_agreement(model: Any, hf_model: Any, name: str) -> None:
    """Refuse a conversion whose log-probabilities are not the Hugging Face model's."""
    import torch

    length = min(48, model.cfg.n_ctx)
    ids = torch.linspace(5, hf_model.config.vocab_size - 1, length).long()[None]
    with torch.no_grad():
        wanted = hf_model.eval()(ids).logits.float().log_softmax(-1)
        got = model.eval()(ids.to(model.cfg.device)).float().cpu().log_softmax(-1)
    width = min(wanted.shape[-1], got.shape[-1])
    gap = (wanted[..., :width] - got[..., :width]).abs().max().item()
    if not gap <= _AGREEMENT[str(model.cfg.dtype).removeprefix("torch.")]:
        raise ModelUnavailableError(
            f"transformer-lens builds {name!r} as a HookedTransformer whose log-probabilities are "
            f"off by up to {gap:.2g} nats from Hugging Face's; it is refused. Use "
            "backend='bridge' (transformer-lens 3 or 4), or pass architecture=."
        )


def _cut_context(bridge: Any, n_ctx: int | None) -> None:
    """A bridge allocates nothing by context length: only the limit is set."""
    if n_ctx is None:
        return
    if n_ctx > bridge.cfg.n_ctx:
        raise ModelUnavailableError(f"n_ctx is {n_ctx}; this model's own is {bridge.cfg.n_ctx}.")
    bridge.cfg.n_ctx = n_ctx


def _from_hub(name: str, backend: str, dtype: torch.dtype, device: str, n_ctx: int | None) -> Any:
    known = _known_names()
    if name.lower() not in known and "/" not in name:
        near = difflib.get_close_matches(name.lower(), [*BUNDLES, *known], n=3, cutoff=0.5)
        raise ModelUnavailableError(
            f"no model is called {name!r}. Bundled, without network: {', '.join(BUNDLES)}. "
            + (f"Close names: {', '.join(near)}. " if near else "")
            + "A folder path or any name that transformer-lens knows is allowed too."
        )
    cls = _classes()[backend]
    try:
        if backend == "bridge":
            official = known.get(name.lower(), name)
            model = cls.boot_transformers(official, dtype=dtype, device=device)
            _cut_context(model, n_ctx)
            return model
        sizes = {} if n_ctx is None else {"n_ctx": n_ctx}
        return cls.from_pretrained_no_processing(name, dtype=dtype, device=device, **sizes)
    except ModelUnavailableError:
        raise
    except Exception as error:
        raise ModelUnavailableError(
            f"{name!r} could not be fetched or loaded as a {backend} model ({_first_line(error)}). "
            "It comes from the Hugging Face hub: check the name, the network and, for gated models, "
            f"HF_TOKEN; or give a folder on this disk; or use a bundled model: {', '.join(BUNDLES)}."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else ""
    return f"{type(error).__name__}: {line[:200]}"
