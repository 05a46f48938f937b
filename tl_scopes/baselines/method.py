"""Attribution methods that are no scopes: what they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tl_scopes.adapter.guards import check_scope
from tl_scopes.adapter.prompts import Prompt, described
from tl_scopes.adapter.sites import Site, SiteRequest
from tl_scopes.errors import NumericalError
from tl_scopes.jacobian.answers import candidates
from tl_scopes.jacobian.forward import refuse_noncausal
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import ScopeInfo, Token
from tl_scopes.scopes.base import plain_target


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores at one site, [pos, ...] over the positions that were run, and what gives facts for the
    record, which may cost forward passes."""

    values: Tensor
    facts: Callable[[], dict[str, Any]] = dict


class Method(ABC):
    """An attribution method with the result of `tl_scopes.attribute`. Subclasses are frozen dataclasses."""

    name: str
    argument: str = ""
    """The parameter that stands after a colon where the method is named on the command line."""
    needs_raw_weights: str | None = None
    title: str = ""
    """What the scores are, for pictures: `{target}` stands for the explained token."""
    signs: tuple[str, str] = ("", "")
    """What a score above zero says, and one below."""
    joining: Literal["sum", "norm", "none", ""] = ""
    """How scores of tokens join to that of a span exactly; "": as `reduce` or the units say."""
    # Whether it asks for the model's gradient, which must then be its slope.
    needs_gradients = True
    # Whether scores after the read position are zero only where the model looks at none of these.
    shows_causality = False

    @property
    def explains_centred_logit(self) -> bool:
        """Whether a mean-centred unembedding changes what the method explains."""
        return False

    @property
    @abstractmethod
    def units(self) -> str:
        """What a score is measured in."""

    @abstractmethod
    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        """Scores of one prompt at one site, inside `prompt_run.locked()`."""

    def target_of(self, prompt_run: PromptRun) -> Token | None:
        """The token that is explained, if there is one. Raises `TargetError`."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Plain values for the result's record."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType]
        return {k: plain_target(v) if k == "target" else v for k, v in values.items()}

    def info(self, facts: Mapping[str, Any]) -> ScopeInfo:
        """The result's record of this method, with the `facts` that it found."""
        return ScopeInfo(
            self.name,
            {**self.parameters(), **facts},
            title=self.title,
            signs=self.signs,
            joining=self.joining,
        )

    def precision(self, recorded: str) -> str:
        """What `recorded`, the model's line for scopes, says of this method: only scopes reduce their
        norms apart, and some methods differentiate nothing."""
        first = recorded.split(",")[0]
        return first if self.needs_gradients else first.replace("differentiated", "forward passes")

    def attribute(
        self,
        model: Any,
        prompt: Prompt,
        *,
        sites: SiteRequest = "embed",
        position: int = -1,
        prepend_bos: bool | None = None,
    ) -> Attribution:
        """Scores of every token of `prompt` at one or more sites, site by site.

        Arguments, result and errors as of `tl_scopes.attribute`: scores are Float[Tensor, "site pos"]
        in `units`, zero after the read position. They may be negative where the method is signed.

            >>> IntegratedGradients().attribute(model, "The capital of France is", sites=["embed", 3])
        """
        prompt_run = PromptRun.ask(model, prompt, position, prepend_bos)
        check_scope(model, self)
        return self.whole(prompt_run, prompt_run.view.sites(sites))

    def whole(self, prompt_run: PromptRun, places: Sequence[Site]) -> Attribution:
        """`attribute`, for a prompt that several methods share."""
        view = prompt_run.view
        labels: list[str] = []
        rows: list[Tensor] = []
        facts: dict[str, Any] = {}
        end = prompt_run.position + 1
        with prompt_run.locked(self.needs_gradients):
            prompt_run.look(places)
            read = prompt_run.read
            target = self.target_of(prompt_run)
            for site in places:
                scored = self.scores(prompt_run, site)
                values = scored.values.detach().cpu().double()
                for label, index in site.components(values.shape[1:]):
                    labels.append(label)
                    rows.append(values[(slice(None), *index)])
                    if self.shows_causality and (rows[-1][end:].abs() > 0).any():
                        refuse_noncausal(label, prompt_run.position)
                for key, value in scored.facts().items():
                    facts[key if len(places) == 1 else f"{key} at {site.label}"] = value
            assert read.raw is not None
            prediction = candidates(view, read.head.logits(read.raw))
        scores = torch.zeros(len(rows), len(prompt_run.ids), dtype=torch.float32, device="cpu")
        scores[:, :end] = torch.stack(rows)[:, :end].float()
        bad = (~torch.isfinite(scores)).nonzero()
        if len(bad):
            s, t = bad[0].tolist()
            raise NumericalError(
                f"{self.name} gives NaN or infinity at site {labels[s]!r}, token {t}: check the "
                "weights and hooks, or use another baseline or replacement"
            )
        about = described(view, prompt_run.ids)
        made = about["provenance"]
        about["provenance"] = replace(made, precision=self.precision(made.precision))
        return Attribution(
            **about,
            scores=scores,
            sites=tuple(labels),
            position=prompt_run.position,
            scope=self.info(facts),
            target=target,
            units=self.units,
            prediction=prediction,
            fisher=None,
            standard_error=None,
        )
