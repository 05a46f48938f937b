"""Build a model from a Hugging Face folder on this disk, as either class, without network."""

from __future__ import annotations

import contextlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes.errors import ModelUnavailableError
from tl_scopes.models import gemma
from tl_scopes.models.foreign import refused
from tl_scopes.models.gguf import dtype_keyword
from tl_scopes.models.installed import known_names, model_classes
from tl_scopes.models.weights import hand_over, read_not_mapped

if TYPE_CHECKING:
    import torch

# transformer-lens 2.x keeps a mask of [n_ctx, n_ctx] per layer: at Gemma's 8192, 1.2 GB of masks
# and twice the time to load. Rotary models may be cut at will, so this is where `load` cuts them.
_HOOKED_N_CTX = 2048
# What a model built from another may be off by: rms of log-probabilities over their spread. Right ones
# give 4e-6 in float32, 0.06 in bfloat16 (another kernel of attention); a wrong rotation 0.4.
AGREEMENT = {"float64": 1e-3, "float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}
# Tokens on which two models are compared.
_COMPARED = 16


class DisagreementError(ModelUnavailableError):
    """A model that computes something else than Hugging Face's: `model`, for who wants to look at it."""

    def __init__(self, message: str, model: Any = None) -> None:
        super().__init__(message)
        self.model = model


@dataclass(frozen=True)
class Wanted:
    """What `load` was asked for, checked. `name`: by which results name the model."""

    name: str
    backend: str
    dtype: torch.dtype
    device: str
    n_ctx: int | None
    architecture: str | None
    trusted: bool


def from_folder(folder: Path, wanted: Wanted) -> Any:
    """The model of a folder. Raises `DisagreementError` for one whose log-probabilities are not Hugging
    Face's, and `ModelUnavailableError` where there is none."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": wanted.trusted}
    advice = (
        "Check that the folder holds a causal language model in Hugging Face format with its "
        "tokenizer, that transformer-lens supports the architecture, or try the other backend"
        + (" or dtype='float32'." if wanted.dtype.itemsize < 4 else ".")
    )
    what = f"{wanted.name!r} could not be loaded as a {wanted.backend} model from {folder}"
    with unavailable(lambda why: f"{what} ({why}). {advice}"), refused(folder, wanted.trusted):
        # What may be refused comes before the weights. And a config object lets the argument
        # below win: else a kernel that config.json names is fetched from the hub and run.
        config = AutoConfig.from_pretrained(folder, **source)
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        # Hooks on attention patterns need the eager implementation; it is also what
        # HookedTransformer is compared with.
        eager = {"config": config, "attn_implementation": "eager"}
        stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
        as_stored = wanted.backend == "bridge" and stored == wanted.dtype
        with contextlib.nullcontext() if as_stored else read_not_mapped():
            hf_model: Any = auto_class(config).from_pretrained(
                folder, **eager, **source, **dtype_keyword(wanted.dtype)
            )
        if tokenizer.bos_token_id is not None and tokenizer.encode("") == [tokenizer.bos_token_id]:
            # It adds BOS by itself; unless it says so, transformer-lens reads it a second time.
            tokenizer.init_kwargs["add_bos_token"] = True
        # Before a bridge puts its modules into the model.
        ids = spread_ids(hf_model.config, config.get_text_config().vocab_size, wanted.n_ctx)
        with torch.no_grad():
            logits = hf_model.to(wanted.device).eval()(ids.to(wanted.device)).logits
        if wanted.backend == "bridge":
            # The whole path: what an adapter looks for by this name lies there or nowhere.
            model = model_classes()["bridge"].boot_transformers(
                str(folder.resolve()),
                hf_model=hf_model,
                tokenizer=tokenizer,
                device=wanted.device,
                dtype=wanted.dtype,
                trust_remote_code=wanted.trusted,
            )
            cut_context(model, wanted.n_ctx)
        else:
            model = _hooked(folder, hf_model, tokenizer, wanted)
        model.cfg.model_name = wanted.name
        _check_agreement(model.eval(), ids, logits, wanted)
        return model


def auto_class(config: Any) -> Any:
    """What loads a model of this config: some that read images too have no class for text alone."""
    import transformers

    only_both = (
        type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    )
    return (
        transformers.AutoModelForImageTextToText if only_both else transformers.AutoModelForCausalLM
    )


def _hooked(folder: Path, hf_model: Any, tokenizer: Any, wanted: Wanted) -> Any:
    """A HookedTransformer with `hf_model`'s raw weights."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading
    from transformers import CONFIG_MAPPING

    config = hf_model.config.get_text_config()
    architecture, n_ctx = wanted.architecture, wanted.n_ctx
    published = gemma.PUBLISHED.get(config.model_type)
    if not (architecture or published or hf_model.config.model_type in CONFIG_MAPPING):
        raise ModelUnavailableError(
            f"{str(folder)!r} is of a type of its own, {hf_model.config.model_type!r}, which "
            "transformer-lens has no HookedTransformer for: use backend='bridge' (transformer-lens 3 "
            "or 4), or pass architecture=, the transformer-lens name of one that computes the same."
        )
    rotary = hasattr(config, "rope_theta") or hasattr(config, "rope_parameters")
    if n_ctx is None and rotary:
        n_ctx = min(_HOOKED_N_CTX, config.max_position_embeddings)
    accepted = inspect.signature(loading.get_pretrained_model_config).parameters
    # Before 2.17 there is no n_ctx: the model's own context is all there is.
    sizes: dict[str, Any] = {"n_ctx": n_ctx} if n_ctx is not None and "n_ctx" in accepted else {}
    official = known_names().get((architecture or published or "").lower())
    # The steps of from_pretrained_no_processing, which takes no folders and spends seconds on
    # loading one tensor at a time. transformer-lens guesses from words in a path ("llama", "gemma")
    # before it reads the config there, so that it gets a path without words.
    with tempfile.TemporaryDirectory(prefix="tl_scopes_") as neutral:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        plain.pop("auto_map", None)  # what code had to run has made `hf_model`
        if config.model_type == "gpt2":
            plain.setdefault("n_ctx", config.n_positions)  # asked for, and no longer written
        (Path(neutral) / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        source = official or neutral
        cfg = loading.get_pretrained_model_config(
            source,
            hf_cfg=hf_model.config.to_dict(),
            fold_ln=False,
            device=wanted.device,
            dtype=wanted.dtype,
            trust_remote_code=False,
            **sizes,
        )
        if published:
            cfg = gemma.resized(cfg, config)
        state = loading.get_pretrained_state_dict(source, cfg, hf_model, dtype=wanted.dtype)
    rope = getattr(hf_model.config, "rope_parameters", None) or {}
    base = getattr(hf_model.config, "rope_theta", None) or rope.get("rope_theta")
    if cfg.positional_embedding_type == "rotary" and base:
        cfg.rotary_base = base  # 2.x leaves 10000 here for most architectures
    model = HookedTransformer(cfg, tokenizer, move_to_device=False, default_padding_side="right")
    hand_over(model.fill_missing_keys(state), hf_model, model)
    model.move_model_modules_to_device()
    return model


def spread_ids(config: Any, d_vocab: int, n_ctx: int | None) -> Any:
    """Some ids, [1, pos], over the whole vocabulary: none that stands for an image or the like."""
    import torch

    levels = [config.to_dict()] if hasattr(config, "to_dict") else []
    levels += [value for value in (levels or [{}])[0].values() if isinstance(value, dict)]
    named = [v for level in levels for k, v in level.items() if str(k).endswith(("_id", "_index"))]
    n = min(_COMPARED, n_ctx or _COMPARED)
    ids = torch.linspace(5, d_vocab - 1, n, device="cpu").long().tolist()
    return torch.tensor([[i - 1 if i in named else i for i in ids]], device="cpu")


def disagreement(wanted: Any, got: Any) -> float:
    """The rms difference of two models' log-probabilities, over their spread. NaN where one has any."""
    width = min(wanted.shape[-1], got.shape[-1])
    wanted, got = (x.float().cpu().log_softmax(-1)[..., :width] for x in (wanted, got))
    spread = (wanted - wanted.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((wanted - got).square().mean().sqrt() / spread.clamp_min(1e-30))


def _check_agreement(model: Any, ids: Any, logits: Any, wanted: Wanted) -> None:
    """Raise `DisagreementError` where log-probabilities are not those of Hugging Face's `logits`."""
    import torch

    as_run = {"use_cache": False} if wanted.backend == "bridge" else {}
    with torch.no_grad():
        off = disagreement(logits, model(ids.to(logits.device), **as_run))
    if off <= AGREEMENT[str(model.cfg.dtype).removeprefix("torch.")]:
        return
    kind, other = type(model).__name__, "bridge" if wanted.backend == "hooked" else "hooked"
    raise DisagreementError(
        f"transformer-lens builds {wanted.name!r} as a {kind} whose log-probabilities are "
        f"off by {off:.2g} of their spread from Hugging Face's; it is refused. Use "
        f"backend={other!r}, another version of transformer-lens"
        + (", or pass architecture=." if wanted.backend == "hooked" else ", or another dtype."),
        model,
    )


def cut_context(bridge: Any, n_ctx: int | None) -> None:
    """A bridge allocates nothing by context length: only the limit is set."""
    if n_ctx is None:
        return
    if n_ctx > bridge.cfg.n_ctx:
        raise ModelUnavailableError(f"n_ctx is {n_ctx}; this model's own is {bridge.cfg.n_ctx}.")
    bridge.cfg.n_ctx = n_ctx


@contextlib.contextmanager
def unavailable(message: Callable[[str], str]) -> Iterator[None]:
    """Raise any error inside as a `ModelUnavailableError`: `message` of what went wrong, in one line."""
    try:
        yield
    except ModelUnavailableError:
        raise
    except Exception as error:
        raise ModelUnavailableError(message(first_line(error))) from error


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else ""
    return f"{type(error).__name__}: {line[:200]}"
