"""Attribution methods that are no scopes: what they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tl_scopes.encoding import Prompt, described
from tl_scopes.engine import candidates, components_of
from tl_scopes.errors import NumericalError
from tl_scopes.guards import check_scope
from tl_scopes.passes import refuse_noncausal
from tl_scopes.prompted import Prompted
from tl_scopes.records import ScopeInfo, Token
from tl_scopes.result import Attribution
from tl_scopes.sites import Site, SiteRequest


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores at one site, [pos, ...] over the positions that were run, and what gives facts for the
    record, which may cost forward passes."""

    values: Tensor
    facts: Callable[[], dict[str, Any]] = dict


class Method(ABC):
    """An attribution method with the result of `tl_scopes.attribute`. Subclasses are frozen dataclasses."""

    name: str
    needs_raw_weights: str | None = None
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
    def scores(self, prompted: Prompted, site: Site) -> Scored:
        """Scores of one prompt at one site, inside `prompted.frozen()`."""

    def target_of(self, prompted: Prompted) -> Token | None:
        """The token that is explained, if there is one. Raises `TargetError`."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Plain values for the result's record."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType]

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
        """
        prompted = Prompted.ask(model, prompt, position, prepend_bos)
        check_scope(model, self)
        return self.whole(prompted, prompted.engine.sites(sites))

    def whole(self, prompted: Prompted, places: Sequence[Site]) -> Attribution:
        """`attribute`, for a prompt that several methods share."""
        engine = prompted.engine
        labels: list[str] = []
        rows: list[Tensor] = []
        facts: dict[str, Any] = {}
        end = prompted.position + 1
        with prompted.frozen(self.needs_gradients):
            prompted.look(places)
            read = prompted.read
            target = self.target_of(prompted)
            for site in places:
                scored = self.scores(prompted, site)
                values = scored.values.detach().cpu().double()
                for label, index in components_of(site, values[None]):
                    labels.append(label)
                    rows.append(values[(slice(None), *index)])
                    if self.shows_causality and (rows[-1][end:].abs() > 0).any():
                        refuse_noncausal(label, prompted.position)
                for key, value in scored.facts().items():
                    facts[key if len(places) == 1 else f"{key} at {site.label}"] = value
            assert read.raw is not None
            prediction = candidates(engine, read.head.logits(read.raw))
        scores = torch.zeros(len(rows), len(prompted.ids), dtype=torch.float32, device="cpu")
        scores[:, :end] = torch.stack(rows)[:, :end].float()
        bad = (~torch.isfinite(scores)).nonzero()
        if len(bad):
            s, t = bad[0].tolist()
            raise NumericalError(
                f"{self.name} gives NaN or infinity at site {labels[s]!r}, token {t}: check the "
                "weights and hooks, or use another baseline or replacement"
            )
        return Attribution(
            **described(engine, prompted.ids),
            scores=scores,
            sites=tuple(labels),
            position=prompted.position,
            scope=ScopeInfo(self.name, {**self.parameters(), **facts}),
            target=target,
            units=self.units,
            prediction=prediction,
            fisher=None,
            standard_error=None,
        )
