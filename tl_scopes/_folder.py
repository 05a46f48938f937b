"""Build a model from a Hugging Face folder on this disk, as either class, without network."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes._foreign import refused
from tl_scopes._gguf import dtype_keyword
from tl_scopes._table import known_names, model_classes
from tl_scopes.errors import ModelUnavailableError

if TYPE_CHECKING:
    import torch

# transformer-lens 2.x keeps a mask of [n_ctx, n_ctx] per layer: at Gemma's 8192, 1.2 GB of masks
# and twice the time to load. Rotary models may be cut at will, so this is where `load` cuts them.
_HOOKED_N_CTX = 2048
# Agreement, in nats of log-probability, asked of a HookedTransformer built from a folder. Right
# conversions give 1e-4 or better in float32, a wrong rotary base or norm 1e-2 to 10.
AGREEMENT = {"float64": 1e-3, "float32": 1e-3, "float16": 0.3, "bfloat16": 1.0}


def from_folder(
    folder: Path,
    recorded: str,
    backend: str,
    dtype: torch.dtype,
    device: str,
    n_ctx: int | None,
    architecture: str | None,
    trusted: bool = False,
) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trusted}
    try:
        with refused(folder, trusted):
            # What may be refused comes before the weights. And a config object lets the argument
            # below win: else a kernel that config.json names is fetched from the hub and run.
            config = AutoConfig.from_pretrained(folder, **source)
            tokenizer = AutoTokenizer.from_pretrained(folder, **source)
            # Hooks on attention patterns need the eager implementation; it is also what
            # HookedTransformer is compared with.
            eager = {"config": config, "attn_implementation": "eager"}
            hf_model: Any = AutoModelForCausalLM.from_pretrained(
                folder, **eager, **source, **dtype_keyword(dtype)
            )
            if tokenizer.bos_token_id is not None and tokenizer.encode("") == [
                tokenizer.bos_token_id
            ]:
                # It adds BOS by itself; unless it says so, transformer-lens reads it a second time.
                tokenizer.init_kwargs["add_bos_token"] = True
            if backend == "bridge":
                # The whole path: what an adapter looks for by this name lies there or nowhere.
                model = model_classes()["bridge"].boot_transformers(
                    str(folder.resolve()),
                    hf_model=hf_model.to(device),
                    tokenizer=tokenizer,
                    device=device,
                    dtype=dtype,
                    trust_remote_code=trusted,
                )
                cut_context(model, n_ctx)
                return model
            config = hf_model.config
            rotary = hasattr(config, "rope_theta") or hasattr(config, "rope_parameters")
            if n_ctx is None and rotary:
                n_ctx = min(_HOOKED_N_CTX, config.max_position_embeddings)
            return _hooked(
                folder, recorded, hf_model, tokenizer, dtype, device, n_ctx, architecture
            )
    except ModelUnavailableError:
        raise
    except Exception as error:
        raise ModelUnavailableError(
            f"{recorded!r} could not be loaded as a {backend} model from {folder} "
            f"({first_line(error)}). Check that the folder holds a causal language model in "
            "Hugging Face format with its tokenizer, that transformer-lens supports the "
            "architecture, or try the other backend."
        ) from error


def _hooked(
    folder: Path,
    recorded: str,
    hf_model: Any,
    tokenizer: Any,
    dtype: torch.dtype,
    device: str,
    n_ctx: int | None,
    architecture: str | None,
) -> Any:
    """A HookedTransformer with `hf_model`'s raw weights."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    known = inspect.signature(loading.get_pretrained_model_config).parameters
    # Before 2.17 there is no n_ctx: the model's own context is all there is.
    sizes: dict[str, Any] = {"n_ctx": n_ctx} if n_ctx is not None and "n_ctx" in known else {}
    official = known_names().get((architecture or "").lower())
    # The steps of from_pretrained_no_processing, which takes no folders and spends seconds on
    # loading one tensor at a time. transformer-lens guesses from words in a path ("llama", "gemma")
    # before it reads the config there, so that it gets a path without words.
    with tempfile.TemporaryDirectory(prefix="tl_scopes_") as neutral:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        plain.pop("auto_map", None)  # what code had to run has made `hf_model`
        (Path(neutral) / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        source = official or neutral
        cfg = loading.get_pretrained_model_config(
            source,
            hf_cfg=hf_model.config.to_dict(),
            fold_ln=False,
            device=device,
            dtype=dtype,
            trust_remote_code=False,
            **sizes,
        )
        state = loading.get_pretrained_state_dict(source, cfg, hf_model, dtype=dtype)
    rope = getattr(hf_model.config, "rope_parameters", None) or {}
    base = getattr(hf_model.config, "rope_theta", None) or rope.get("rope_theta")
    if cfg.positional_embedding_type == "rotary" and base:
        cfg.rotary_base = base  # 2.x leaves 10000 here for most architectures
    model = HookedTransformer(cfg, tokenizer, move_to_device=False, default_padding_side="right")
    model.load_state_dict(model.fill_missing_keys(state), strict=False)
    model.move_model_modules_to_device()
    _check_agreement(model, hf_model, recorded)
    return model


def _check_agreement(model: Any, hf_model: Any, name: str) -> None:
    """Refuse a conversion whose log-probabilities are not the Hugging Face model's."""
    import torch

    length = min(16, model.cfg.n_ctx)
    ids = torch.linspace(5, hf_model.config.vocab_size - 1, length).long()[None]
    with torch.no_grad():
        wanted = hf_model.eval()(ids).logits.float().log_softmax(-1)
        got = model.eval()(ids.to(model.cfg.device)).float().cpu().log_softmax(-1)
    width = min(wanted.shape[-1], got.shape[-1])
    gap = (wanted[..., :width] - got[..., :width]).abs().max().item()
    if not gap <= AGREEMENT[str(model.cfg.dtype).removeprefix("torch.")]:
        raise ModelUnavailableError(
            f"transformer-lens builds {name!r} as a HookedTransformer whose log-probabilities are "
            f"off by up to {gap:.2g} nats from Hugging Face's; it is refused. Use "
            "backend='bridge' (transformer-lens 3 or 4), or pass architecture=."
        )


def cut_context(bridge: Any, n_ctx: int | None) -> None:
    """A bridge allocates nothing by context length: only the limit is set."""
    if n_ctx is None:
        return
    if n_ctx > bridge.cfg.n_ctx:
        raise ModelUnavailableError(f"n_ctx is {n_ctx}; this model's own is {bridge.cfg.n_ctx}.")
    bridge.cfg.n_ctx = n_ctx


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else ""
    return f"{type(error).__name__}: {line[:200]}"
