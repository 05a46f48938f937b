"""Refusals: models on which a scope would be wrong or meaningless, and what to do instead."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tl_scopes.adapter import head, internals
from tl_scopes.errors import (
    ProcessedWeightsError,
    ProcessedWeightsWarning,
    TrainingModeError,
    UnsupportedModelError,
)

# Dropouts of heads that a language model does not have, though its config names them.
_NOT_IN_LANGUAGE_MODELS = ("summary_first_dropout", "classifier_dropout")
# Of the unembedding, whose mean over the vocabulary is taken: rows that a cache line holds, and the
# columns that tell how large weights are.
_ROWS_AT_ONCE, _SAMPLED_COLUMNS = 16, 4096
# Fields of a configuration that are rates of something random in training.
_RANDOM = ("dropout", "pdrop", "_drop", "layerdrop", "drop_path", "jitter")
_UNDO_COMPILE = "Load it again without .compile(), or set _compiled_call_impl = None on the modules that have it"
_SUPPORTED = ("HookedTransformer", "TransformerBridge")
_HOW_TO_LOAD = "Load one with tl_scopes.models.load, or TransformerBridge.boot_transformers(name, hf_model=...)"


def transformer_lens_class(model: Any) -> str | None:
    """The supported class that `model` is an instance of, by name: either may be missing from
    the installed transformer-lens, and asking 4.x for HookedTransformer raises."""
    for cls in type(model).__mro__:
        if cls.__name__ in _SUPPORTED and cls.__module__.startswith("transformer_lens"):
            return cls.__name__
    return None


def every_module(root: nn.Module | None, known: Sequence[nn.Module] = ()) -> list[nn.Module]:
    """`known`, and each module below `root` that is not among them.

    `root.modules()` recurses through generators, which takes as long as a transformer block.
    """
    found = {id(module): module for module in known}
    left = [root]
    while left:
        module = left.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            left += internals.children(module).values()
    return list(found.values())


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module of a model, each once, those that the model it wraps alone holds included."""
    return every_module(getattr(model, "original_model", None), every_module(model))


def every_parameter(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Each parameter of the modules once."""
    return _each_once(map(internals.parameters, modules))


def every_buffer(modules: Iterable[nn.Module]) -> list[torch.Tensor]:
    """Each buffer of the modules once."""
    return _each_once(map(internals.buffers, modules))


def _each_once(stores: Iterable[dict[str, Any]]) -> list[Any]:
    held = (x for store in stores for x in store.values() if x is not None)
    return list({id(x): x for x in held}.values())


def refuse_unsupported(model: Any) -> list[nn.Module]:
    """The model's modules. Raises `UnsupportedModelError` or `TrainingModeError` unless scopes are
    right on it."""
    if transformer_lens_class(model) is None:
        raise UnsupportedModelError(
            f"got a {type(model).__module__}.{type(model).__name__}; allowed: a HookedTransformer "
            "(transformer-lens 2.16 to 3.x) or a TransformerBridge (3.x, 4.x). "
            + (_wrapped(model) or _HOW_TO_LOAD)
        )
    cfg = model.cfg
    wrapped = getattr(model, "original_model", None)
    config = getattr(wrapped, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        _refuse(cfg, "is an encoder-decoder model")
    if getattr(cfg, "is_audio_model", False) or getattr(cfg, "is_visual_model", False):
        _refuse(cfg, "does not read text")
    adapter = getattr(model, "adapter", None)
    if getattr(cfg, "attention_dir", "causal") != "causal" or (
        adapter is not None and not getattr(adapter, "supports_generation", True)
    ):
        _refuse(cfg, "is an encoder, or otherwise not causal")
    if not all(hasattr(model, name) for name in ("embed", "blocks", "unembed")):
        _refuse(cfg, "has no single stack of embed, blocks and unembed")
    _processing.pop(model, None)
    modules = every_module(model)
    every = every_module(wrapped, modules)
    parameters = every_parameter(every)
    if any(p.is_inference() for p in parameters):
        raise UnsupportedModelError(
            "the model's weights are inference tensors, which cannot take part in a gradient: load "
            "the model outside torch.inference_mode()"
        )
    _refuse_offloaded(model, wrapped, [*parameters, *every_buffer(every)])
    _refuse_compiled(model, wrapped, every)
    head.stored(model)
    _refuse_training(model, config, modules)
    return modules


def _wrapped(outer: Any) -> str:
    """Where inside another module (torch.compile's, DataParallel, FSDP, one's own) a model is."""
    inside = outer.named_modules() if isinstance(outer, nn.Module) else ()
    for name, module in inside:
        kind = transformer_lens_class(module)
        if kind is not None:
            return f"It holds a {kind}: pass its .{name}"
    return ""


def _refuse(cfg: Any, what: str) -> None:
    raise UnsupportedModelError(
        f"model {getattr(cfg, 'model_name', None)!r} {what}; scopes explain the next-token "
        "prediction of a decoder-only language model: use one of those"
    )


def _refuse_offloaded(
    model: nn.Module, wrapped: nn.Module | None, tensors: Sequence[torch.Tensor]
) -> None:
    if any(x.is_meta for x in tensors):
        held = (x for root in (model, wrapped) if root is not None for x in _named_tensors(root))
        name = next(name for name, x in held if x.is_meta)
        raise UnsupportedModelError(
            f"the model's weights are not in memory between forward passes ({name} is on the meta "
            "device): it was offloaded (cpu_offload, disk_offload or a device_map with cpu or disk), "
            "or never loaded. Load it whole on one device, or on several with a device_map that "
            "offloads nothing"
        )


def _named_tensors(root: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from root.named_parameters()
    yield from root.named_buffers()


def _refuse_compiled(
    model: nn.Module, wrapped: nn.Module | None, modules: Sequence[nn.Module]
) -> None:
    for module in modules:
        wrapper = type(module).__name__ == "OptimizedModule"
        if wrapper or internals.is_compiled(module):
            inner = () if wrapped is None else wrapped.named_modules(prefix="original_model")
            named = (*model.named_modules(), *inner)
            name = next((name for name, m in named if m is module), "")
            raise UnsupportedModelError(
                f"the model was compiled ({name or type(module).__name__}): code compiled before "
                "does not call hooks that are added later, which scopes need. "
                + (f"Put {name}._orig_mod back in its place" if wrapper else _UNDO_COMPILE)
            )


def _refuse_training(model: nn.Module, config: Any, modules: Sequence[nn.Module]) -> None:
    """Refuse what in training mode is random, looks at other rows, or is run again on the way back.

    What none of this names shows itself when `slope` runs the same tokens twice.
    """
    training = [module for module in modules if module.training]
    if not training:
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in training):
        raise TrainingModeError(
            "the model is in training mode with gradient checkpointing, which runs its blocks again "
            "on the way back, without what scopes read there. Call model.eval() first, or "
            "gradient_checkpointing_disable() on the Hugging Face model; checkpoint_blocks=True of "
            "tl_scopes saves memory in its place"
        )
    named = [(name, module) for name, module in model.named_modules() if module.training]
    active = [f"{name}.p = {module.p}" for name, module in named if internals.dropped(module) > 0]
    active += [
        f"{name} ({type(module).__name__})"
        for name, module in named
        if internals.looks_at_other_rows(module) or isinstance(module, nn.RReLU)
    ]
    # Attention dropout is a plain function in most Hugging Face models: only the config knows.
    values = vars(config).items() if config is not None else ()
    active += [
        f"config.{name} = {value}"
        for name, value in values
        if any(word in name for word in _RANDOM)
        and name not in _NOT_IN_LANGUAGE_MODELS
        and isinstance(value, float)
        and value > 0
    ]
    if active:
        raise TrainingModeError(
            "the model is in training mode with dropout or the like "
            f"({', '.join(sorted(set(active))[:4])}): two runs would differ. Call model.eval() first"
        )


@dataclass(frozen=True)
class Processing:
    """What weight processing was found: a folded final norm, a mean-centred unembedding."""

    folded: bool
    centred: bool

    @property
    def description(self) -> str:
        found = [
            *(["final norm folded into W_U"] if self.folded else []),
            *(["W_U mean-centred"] if self.centred else []),
        ]
        return "processed: " + ", ".join(found) if found else "raw"


_processing: WeakKeyDictionary[Any, Processing] = WeakKeyDictionary()


def processing(model: Any) -> Processing:
    """Which weight processing `model` has had, as `refuse_unsupported` of the same call found it: weights
    edited through `.data` tell nobody, so nothing is remembered from call to call."""
    found = _processing.get(model)
    if found is None:
        found = _processing[model] = _found_processing(model)
    return found


def _found_processing(model: Any) -> Processing:
    if transformer_lens_class(model) == "HookedTransformer":
        folded = str(model.cfg.normalization_type or "").endswith("Pre")
        return Processing(folded, _is_centred(model.unembed.W_U))
    processed = internals.may_be_processed(model)
    # Anyone may centre W_U; a gain of one is a sign of folding only where processing was asked for.
    return Processing(processed and _gain_is_one(model), _is_centred(head.weight(model)))


@torch.no_grad()
def _is_centred(W_U: torch.Tensor) -> bool:
    """Whether the mean over the vocabulary is zero to rounding (raw: 1e-2 to 1e-1 of the largest
    weight; processed in float32: 1e-8). Raw weights show it in their first rows."""
    # Casting centred weights to half precision rounds their mean away from zero.
    allowed = max(1e-5, 0.1 * torch.finfo(W_U.dtype).eps)
    columns = slice(None, None, max(1, W_U.shape[1] // _SAMPLED_COLUMNS))
    largest = 0.0
    for rows in W_U.split(_ROWS_AT_ONCE):
        mean = float(rows.mean(dim=-1, dtype=torch.float32).abs().max())
        size = float(rows[:, columns].abs().max())
        if not (mean <= allowed * size and mean < torch.inf):
            return False
        largest = max(largest, size)
    return largest > 0


def _gain_is_one(bridge: Any) -> bool:
    """Whether a processed bridge's final norm has lost its gain (Gemma stores gain - 1)."""
    gain = getattr(getattr(bridge, "ln_final", None), "weight", None)
    if gain is None:
        return True
    return bool((gain == 1).all()) or bool((gain == 0).all())


def _gives_one_length(model: Any) -> bool:
    """Whether the final norm has neither a gain nor a bias that tells coordinates apart."""
    norm = getattr(model, "ln_final", None)
    if norm is None or isinstance(getattr(norm, "original_component", None), nn.Identity):
        return False
    return all(bool((p == p.flatten()[0]).all()) for p in every_parameter(every_module(norm)))


def _level_outside() -> int:
    """The stacklevel of a warning that shall point at the line that called this package."""
    package = __name__.partition(".")[0]
    frame, level, found = sys._getframe(1), 1, 1
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == package:
            found = level + 1
        frame, level = frame.f_back, level + 1
    return found


def check_scope(model: Any, scope: Any) -> None:
    """Refuse a scope, or other method, that weight processing or a final norm without a gain made
    meaningless; warn where processing only shifts it.

    Raises `ProcessedWeightsError` or `UnsupportedModelError`; warns with `ProcessedWeightsWarning`.
    """
    found = processing(model)
    if found.folded and scope.needs_raw_weights:
        raise ProcessedWeightsError(
            f"the model's weights are {found.description}, which changes the basis of the final "
            f"state y; {scope.name}: {scope.needs_raw_weights}. Load raw weights: "
            "HookedTransformer.from_pretrained_no_processing(...), a freshly booted "
            "TransformerBridge, tl_scopes.models.load(...); or, for a model of your own, "
            "normalization_type LN or RMS instead of LNPre or RMSPre"
        )
    if getattr(scope, "needs_gain", False) and _gives_one_length(model):
        raise UnsupportedModelError(
            f"the model's final norm ({type(model.ln_final).__name__}) has no gain, or the same for "
            f"every coordinate: ||y|| is constant, so {scope.name} would explain rounding. Use "
            "FisherScope(), or FunctionScope(fn) with the entropy as fn; a model made at random "
            "needs a gain that varies, such as a trained one has"
        )
    if found.centred and scope.explains_centred_logit:
        warnings.warn(
            f"the model's weights are {found.description}: {scope.name} explains the logit minus "
            "the mean logit, whose scores differ (on SmolLM2-135M by up to 40% of the largest), "
            "unless it is a function that a constant added to all logits leaves alone. Logit "
            "differences and log-probabilities are unchanged; for the raw logit load raw weights "
            "(from_pretrained_no_processing)",
            ProcessedWeightsWarning,
            stacklevel=_level_outside(),
        )
