"""Methods of one gradient, or of gradients at noisy copies of the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt
from tl_scopes.adapter.sites import Site, SiteRequest
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.attribution import attribute
from tl_scopes.baselines.target import (
    NUMBERS,
    UNITS,
    Explaining,
    Of,
    Reduce,
    check_reduce,
    value_of,
)
from tl_scopes.errors import check_choice, check_number, check_seed, check_whole
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.attribution import Attribution
from tl_scopes.rules import Ruled
from tl_scopes.scopes.base import Explained, Read, Scope, Target, plain_target


@dataclass(frozen=True)
class GradientNorm(Ruled, Scope):
    """`||grad_t log p(target)||_2`, or of the raw logit: a scope, so `tl_scopes.attribute` takes it.

    `target` as in `SemanticScope`, whose scores `of="logit"` gives. Units: nats (logit) per unit of
    residual. Source: Simonyan, Vedaldi, Zisserman, arXiv 1312.6034, for token embeddings.

        >>> baselines.GradientNorm(" Paris").attribute(model, "The capital of France is").top(3)
    """

    target: Target = None
    of: Of = "log_prob"
    name = "gradient_norm"
    is_of_logits = True

    def __post_init__(self) -> None:
        check_choice("of", self.of, UNITS)

    @property
    def units(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{UNITS[self.of]} per unit of residual"

    @property
    def explains(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return NUMBERS[self.of]

    def parameters(self) -> dict[str, Any]:
        return {"target": plain_target(self.target), "of": self.of}

    @property
    def explains_centred_logit(self) -> bool:
        return self.of == "logit"

    def explain(self, read: Read) -> Explained:
        token = read.resolve(self.target)
        if self.of == "logit":
            return Explained.single(read.head.column(token.id), token)
        with torch.enable_grad():
            y = read.value.detach().to(working_dtype(read.value.dtype)).requires_grad_()
            (v,) = torch.autograd.grad(value_of(read.head, y, token.id, self.of), y)
        return Explained.single(v, token)

    def scalar(self, read: Read, explained: Explained, at: Read) -> Tensor:
        """The log-probability of the target, or its raw logit."""
        assert read.raw is not None and explained.target is not None
        if self.of == "logit":
            return read.raw[explained.target.id]
        return read.head.logits(read.raw).log_softmax(-1)[explained.target.id]

    def attribute(
        self,
        model: Any,
        prompt: Prompt,
        *,
        sites: SiteRequest = "embed",
        position: int = -1,
        prepend_bos: bool | None = None,
    ) -> Attribution:
        """`tl_scopes.attribute` with this scope."""
        return attribute(
            model, prompt, self, sites=sites, position=position, prepend_bos=prepend_bos
        )


@dataclass(frozen=True)
class InputXGradient(Explaining):
    """Gradient times activation, elementwise, then its 2-norm or (signed) sum over d_model.

    Units: nats (`of="logit"`: logit). The published evaluation takes the norm, of the log-probability.
    Source: Shrikumar et al., arXiv 1605.01713.

        >>> baselines.InputXGradient(" Paris").attribute(model, "The capital of France is").top(3)
    """

    reduce: Reduce = "norm"
    name = "input_x_gradient"
    label = "Input × gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self.reduce)

    def products(self, prompt_run: PromptRun, site: Site) -> Float[Tensor, "pos *d"]:
        return self.gradient(prompt_run, site) * prompt_run.activation(site)[0]


@dataclass(frozen=True)
class SmoothGrad(Explaining):
    """The mean gradient over noisy copies of the activation, then its 2-norm.

    `draws` copies with normal noise whose standard deviation is `noise` times that of the activation
    at the site. `times_input=True`: each gradient times its noisy activation (units then without
    "per unit"). `seed`: of the noise. By captum's `NoiseTunnel`. Units: nats (logit) per unit of
    residual. Source: Smilkov et al., arXiv 1706.03825.

        >>> baselines.SmoothGrad(draws=50).attribute(model, "The capital of France is").top(3)
    """

    draws: int = 20
    noise: float = 0.15
    seed: int = 0
    times_input: bool = False
    name = "smoothgrad"
    argument = "draws"
    label = "SmoothGrad"
    joining = "norm"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("draws", self.draws, 1)
        check_number("noise", self.noise, lambda x: 0 < x < math.inf, "a number above 0")
        check_seed(self.seed)

    @property
    def units(self) -> str:
        return UNITS[self.of] + ("" if self.times_input else " per unit of residual")

    def products(self, prompt_run: PromptRun, site: Site) -> Float[Tensor, "pos *d"]:
        from captum.attr import InputXGradient as Product
        from captum.attr import NoiseTunnel, Saliency

        x = prompt_run.activation(site).requires_grad_()
        explained = self.explained(prompt_run, site)
        method = Product(explained) if self.times_input else Saliency(explained)
        devices = [x.device] if x.device.type == "cuda" else []
        # captum draws from the global generator, of the activation's device.
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(self.seed)
            for device in devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(self.seed)
            found = NoiseTunnel(method).attribute(
                x,
                nt_type="smoothgrad",
                nt_samples=self.draws,
                nt_samples_batch_size=min(self.draws, prompt_run.rows_at_once(gradients=True)),
                stdevs=self.noise * float(x.detach().double().std()),
                **({} if self.times_input else {"abs": False}),
            )
        assert isinstance(found, Tensor)  # as what was given
        scale = 1.0
        if site.is_embed and not self.times_input:
            scale = prompt_run.view.embed_scale
        return found[0] / scale
