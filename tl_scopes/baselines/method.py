"""Attribution methods that are no scopes: what they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tl_scopes.adapter.guards import check_scope
from tl_scopes.adapter.prompts import Prompt, described, encode
from tl_scopes.adapter.sites import Site, SiteRequest
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import NumericalError
from tl_scopes.jacobian.answers import candidates
from tl_scopes.jacobian.forward import refuse_noncausal
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Continuation, ScopeInfo, Token
from tl_scopes.rules import rules_of
from tl_scopes.scopes.base import plain_target
from tl_scopes.scopes.continuation import ContinuationScope


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
    def whole_answer(self) -> ContinuationScope | None:
        """The scope whose scalar is explained, where `target` is one."""
        target = getattr(self, "target", None)
        return target if isinstance(target, ContinuationScope) else None

    @property
    @abstractmethod
    def units(self) -> str:
        """What a score is measured in."""

    @abstractmethod
    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        """Scores of one prompt at one site, inside `prompt_run.locked()`.

        Of two continuations that are compared: those of the tokens that both rows of `prompt_run.alone`
        begin with.
        """

    def target_of(self, prompt_run: PromptRun) -> Token | None:
        """The token that is explained, if there is one. Raises `TargetError`."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Plain values for the result's record."""
        named = [f.name for f in fields(self) if f.name != "rules"]  # pyright: ignore[reportArgumentType]
        values = {name: getattr(self, name) for name in named}
        scope = self.whole_answer
        if scope is None:
            return {k: plain_target(v) if k == "target" else v for k, v in values.items()}
        del values["target"]
        told = scope.parameters()
        # `reduce` of a method is over d_model.
        return told | {"over_reads": told.pop("reduce")} | values

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
        scope = self.whole_answer
        if scope is None:
            prompt_run = PromptRun.ask(model, prompt, position, prepend_bos)
        else:
            view = view_of(model)
            ids = encode(view, prompt, prepend_bos)
            prompt_run = PromptRun.explaining(view, ids, scope, position, view.is_hooked())
        check_scope(model, self)
        return self.whole(prompt_run, prompt_run.view.sites(sites))

    def whole(self, prompt_run: PromptRun, places: Sequence[Site]) -> Attribution:
        """`attribute`, for a prompt that several methods share."""
        view, ids, answer = prompt_run.view, prompt_run.shown, self.whole_answer
        labels: list[str] = []
        rows: list[Tensor] = []
        facts: dict[str, Any] = {}
        end = min(prompt_run.position + 1, len(ids))
        prediction, target, continuation = (), None, None
        with prompt_run.locked(self.needs_gradients):
            for one in prompt_run.alone:
                one.look(places)
            if answer is None:
                raw = prompt_run.read.raw
                assert raw is not None
                prediction = candidates(view, prompt_run.read.head.logits(raw))
                target = self.target_of(prompt_run)
            else:
                continuation = _recorded(answer, prompt_run)
                facts |= answer.texts(continuation)
            for site in places:
                scored = self.scores(prompt_run, site)
                values = scored.values.detach().cpu().double()
                for label, index in site.components(values.shape[1:]):
                    labels.append(label)
                    rows.append(values[(slice(None), *index)])
                    if self.shows_causality and (rows[-1][end:].abs() > 0).any():
                        refuse_noncausal(label, end - 1)
                for key, value in scored.facts().items():
                    facts[key if len(places) == 1 else f"{key} at {site.label}"] = value
        scores = torch.zeros(len(rows), len(ids), dtype=torch.float32, device="cpu")
        scores[:, :end] = torch.stack(rows)[:, :end].float()
        bad = (~torch.isfinite(scores)).nonzero()
        if len(bad):
            s, t = bad[0].tolist()
            raise NumericalError(
                f"{self.name} gives NaN or infinity at site {labels[s]!r}, token {t}: check the "
                "weights and hooks, or use another baseline or replacement"
            )
        about = described(view, ids, rules_of(self))
        made = about["provenance"]
        about["provenance"] = replace(made, precision=self.precision(made.precision))
        return Attribution(
            **about,
            scores=scores,
            sites=tuple(labels),
            position=end - 1,
            scope=self.info(facts),
            target=target,
            units=self.units,
            prediction=prediction,
            fisher=None,
            standard_error=None,
            continuation=continuation,
        )


def _recorded(scope: ContinuationScope, prompt_run: PromptRun) -> Continuation:
    """What is read of each row. Raises `NumericalError`."""
    own, *others = (scope.record(one.read) for one in prompt_run.alone)
    for other in others:
        own = replace(own, versus_tokens=other.tokens, versus_log_probs=other.log_probs)
    return own
