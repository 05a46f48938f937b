"""Tiny random models, one for each trait of an architecture, on both TransformerLens classes.

Nothing here touches a network or a file: models come from configurations, weights from seeded generators, the
tokenizer from a word list. Every weight is a multiple of 1/1024, so that it is the same number in float32 and
float64 and conversions such as Gemma's `1 + gain` lose nothing. Norm gains and biases are far from one and zero,
so that code which forgets them is caught.

    zoo.names("bridge", "rotary")       names of what exists on the installed version
    zoo.kinds("bridge")                 of these, some that differ in kind: all their traits
    zoo.build("bridge/gemma2")          a model of one's own: float64, evaluation mode
    zoo.shared("bridge/gemma2")         the same, built once per process, for tests that leave no trace
    zoo.pair("gemma2")                  (HookedTransformer, TransformerBridge) of the same weights
    with zoo.exact_float64(): ...       Hugging Face's inner float32 casts become float64

`zoo_unfit` holds models whose weights were processed and models to turn away.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # a tiny model never needs the hub: fail at once if something asks

import tokenizers
import torch
import transformers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors
from torch.overrides import TorchFunctionMode

from support.chosen import covering
from support.zoo_tables import (
    ARCHITECTURES,
    D_MODEL,
    N_CTX,
    N_LAYERS,
    NATIVE_BRIDGE,
    RAW_HOOKED,
    UNUSUAL,
)

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions
except ImportError:  # transformer-lens >= 4
    HookedTransformer = HookedTransformerConfig = weight_conversions = None
try:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
except ImportError:  # transformer-lens < 3
    TransformerBridge = TransformerBridgeConfig = None

_WORDS = (
    "The the capital of France Germany Spain is in Paris London Berlin Rome Madrid cat sat on mat and a dog truth"
    " not never old happy Because John Mary"
).split()
TEXT = "The capital of France is"
LONG_TEXT = "The cat sat on the mat and the dog is in Paris not London"
ONE_TOKEN, SPLIT_WORD = " Paris", " Parisian"  # the second is " Paris", "i", "a", "n"


def _vocabulary() -> dict[str, int]:
    special, marks = ["<bos>", "<eos>", "<pad>", "<unk>"], [" ", ".", ",", "!", "\n", "'", "<", ">"]
    tokens = [
        *special,
        *(" " + word for word in _WORDS),
        "The",
        "Paris",
        *"abcdefghilmnoprstuyCTP",
        *marks,
    ]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


D_VOCAB = len(_vocabulary())


def tokenizer(prepends_bos: bool = True, padding_side: str = "right") -> Any:
    """A fast tokenizer over about 60 tokens: most words, with their leading space, are one token each.

    `prepends_bos` says whether encoding puts `<bos>` in front by itself, as Llama's and Gemma's tokenizers do;
    GPT-2's does not. Longest match first inside a word, so `" Parisian"` is several tokens.
    """
    vocabulary = _vocabulary()
    core = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix="")
    )
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\s|[^\sA-Za-z]"), "isolated")
    core.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
        model_max_length=N_CTX,
        add_bos_token=True,
        name_or_path="tiny",  # what keeps TransformerLens from reloading it from the hub
    )
    bos = (
        "<bos> " if prepends_bos else ""
    )  # set last: transformers 5 makes a template of its own, 4 makes none
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos}$A", pair=f"{bos}$A $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return fast


class _Float64Mode(TorchFunctionMode):
    """Answers every request for float32 with float64: casts, softmax(dtype=...), factory functions."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextlib.contextmanager
def exact_float64() -> Iterator[None]:
    """Run a model wholly in float64.

    Hugging Face casts RMS norms, the attention softmax and rotary tables to float32 whatever the model's dtype,
    which limits a float64 bridge to about 1e-6. Inside this context those casts go to float64. Only the forward
    pass needs it; anything else that asks for float32 inside gets float64 too.
    """
    with _Float64Mode():
        yield


def randomise(model: torch.nn.Module, seed: str, gain_offset: float = 1.0) -> None:
    """Fill every parameter from a generator seeded by its name: gains about `gain_offset`, biases and matrices about 0.

    Standard deviations: 0.3, and 0.5 for embeddings. `gain_offset` is 0 for Gemma, which multiplies by `1 + w`.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).clamp(
                -2.5, 2.5
            )
            is_gain = parameter.ndim == 1 and name.rsplit(".", 1)[-1] in ("weight", "w")
            is_embedding = parameter.ndim == 2 and any(
                s in name for s in ("emb", "wte", "wpe", "pos.")
            )
            value = noise * (0.5 if is_embedding else 0.3) + (gain_offset if is_gain else 0.0)
            parameter.copy_((value * 1024).round() / 1024)


# ------------------------------------------------------------------------------------------------------- builders
HOOKED_COMMON = dict(d_model=D_MODEL, n_layers=N_LAYERS, n_ctx=N_CTX, d_vocab=D_VOCAB, device="cpu")
_SPECIAL = dict(bos_token_id=0, eos_token_id=1, pad_token_id=2)


@contextlib.contextmanager
def building(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Without deprecation notices, without moving the random state, with position tables exact in float64."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if dtype == torch.float64:
            stack.enter_context(exact_float64())
        yield


def hf_model(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """The Hugging Face model behind `bridge/<name>` and `hooked/<name>`: eager attention, evaluation mode."""
    architecture = (ARCHITECTURES | UNUSUAL)[name]
    config = getattr(transformers, architecture.config)(
        **_SPECIAL | dict(vocab_size=D_VOCAB) | architecture.fields
    )
    config._experts_implementation = (
        "eager"  # the grouped kernel of mixtures of experts refuses float64
    )
    with building(torch.float64):
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager"
        ).double()
    model.config.architectures = [
        type(model).__name__
    ]  # what a saved checkpoint would say; the Bridge looks here
    randomise(model, name, gain_offset=0.0 if name.startswith("gemma") else 1.0)
    if dtype != torch.float64:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        for buffer in (
            model.buffers()
        ):  # as `from_pretrained` does: rotary tables stay float32 in a bfloat16 model
            buffer.data = buffer.data.float() if buffer.is_floating_point() else buffer.data
    return model.eval()


def boot(model: Any, dtype: torch.dtype = torch.float64, name: str = "tiny/model") -> Any:
    """A TransformerBridge over a given Hugging Face model, with the zoo's tokenizer."""
    with building():
        return TransformerBridge.boot_transformers(
            name, hf_model=model, tokenizer=tokenizer(), dtype=dtype, device="cpu"
        )


def _bridge(name: str, dtype: torch.dtype) -> Any:
    return boot(hf_model(name, dtype), dtype, f"tiny/{name}")


def _native_bridge(name: str, dtype: torch.dtype) -> Any:
    config = TransformerBridgeConfig(**HOOKED_COMMON | NATIVE_BRIDGE[name][0])
    with building(dtype):
        model = TransformerBridge.boot_native(
            config, tokenizer=tokenizer(), device="cpu", dtype=dtype
        )
    randomise(model.original_model, name)
    with torch.no_grad():
        model.b_U.zero_()  # 3.x adds an unembedding bias as a parameter to a model that has none
    return model.eval()


def _hooked(name: str, dtype: torch.dtype) -> Any:
    architecture = ARCHITECTURES[name]
    source = hf_model(name, dtype)
    config = HookedTransformerConfig(
        **HOOKED_COMMON | architecture.hooked,
        dtype=dtype,
        model_name=f"tiny/{name}",
        original_architecture=type(source).__name__,
    )
    with building(dtype):
        model = HookedTransformer(config, tokenizer=tokenizer())
    # Not `load_and_process_state_dict`: 3.x sends everything, the rotary tables too, through float32.
    weights = getattr(weight_conversions, architecture.converter)(source, model.cfg)
    for name, parameter in model.named_parameters():
        if name not in weights:
            assert name.rsplit(".", 1)[-1].startswith(("b_", "_b_", "W_pos")), (
                f"{name} would stay uninitialised"
            )
            torch.nn.init.zeros_(parameter)
    model.load_state_dict(weights, strict=False)
    return model.eval()


def raw_hooked(name: str, dtype: torch.dtype, **changes: Any) -> Any:
    config = HookedTransformerConfig(**HOOKED_COMMON | RAW_HOOKED[name][0] | changes, dtype=dtype)
    with building(dtype):
        model = HookedTransformer(config, tokenizer=tokenizer())
    randomise(model, name)
    return model.eval()


# ----------------------------------------------------------------------------------------------------- front door
_Entry = tuple[frozenset[str], Callable[[torch.dtype], Any]]


def _catalogue() -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}

    def add(kind: str, name: str, traits: str, make: Callable[[str, torch.dtype], Any]) -> None:
        entries[f"{kind}/{name}"] = (frozenset(traits.split()), functools.partial(make, name))

    if HookedTransformer is not None:
        for name, (_, has) in RAW_HOOKED.items():
            add("hooked", name, has + " untied unembed_bias", raw_hooked)
        for name, architecture in ARCHITECTURES.items():
            if architecture.converter:
                add("hooked", name, architecture.traits, _hooked)
    if TransformerBridge is not None:
        for name, architecture in ARCHITECTURES.items():
            # transformer-lens 3 rotates Cohere's pairs as Llama's: refused, see test_original.py.
            if name != "cohere" or HookedTransformer is None:
                add("bridge", name, architecture.traits, _bridge)
        for name, (_, has) in NATIVE_BRIDGE.items():
            add("bridge", name, has + " untied", _native_bridge)
    return entries


_CATALOGUE = _catalogue()


def names(kind: str = "", *traits: str) -> list[str]:
    """Names of the models of a kind ("hooked", "bridge" or "" for both) that have every given trait."""
    return [
        name
        for name, (has, _) in _CATALOGUE.items()
        if name.startswith(kind) and has.issuperset(traits)
    ]


def kinds(kind: str = "", *traits: str) -> list[str]:
    """Some of `names`: as few as have between them, on each class, every trait that any of them has there."""
    wanted = names(kind, *traits)
    return covering(wanted, lambda name: [(name.split("/")[0], has) for has in _CATALOGUE[name][0]])


def known(*wanted: str) -> list[str]:
    """Those of these names that exist on the installed version."""
    return [name for name in wanted if name in _CATALOGUE]


def traits(name: str) -> frozenset[str]:
    """What a model is here to cover, such as `rms rotary gqa untied softcap`; see `zoo_tables`."""
    return _CATALOGUE[name][0]


def build(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """A fresh model of that name in evaluation mode; the same weights on every call, whatever the random state."""
    return _CATALOGUE[name][1](dtype)


@functools.cache
def shared(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """`build`, once per process: for tests that leave the model as they found it."""
    return build(name, dtype)


def pairs() -> list[str]:
    """Architectures whose weights both classes can hold here; empty where one class is missing."""
    return [n for n in ARCHITECTURES if f"hooked/{n}" in _CATALOGUE and f"bridge/{n}" in _CATALOGUE]


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """(HookedTransformer, TransformerBridge) of the same unprocessed weights."""
    return build(f"hooked/{name}", dtype), build(f"bridge/{name}", dtype)
