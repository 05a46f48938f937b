"""Tokens taken away: activations at some positions replaced, or hidden from attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.unembedding import Unembedding, widest_dtype
from tl_scopes.adapter.view import Edit
from tl_scopes.baselines.replacements import likely, replacement
from tl_scopes.errors import NumericalError, SiteError
from tl_scopes.jacobian.prefix import states_after_prefix
from tl_scopes.jacobian.prompt_run import PromptRun

# Rows of logits that are held at once: 16 of 262,144 are 16 MiB.
_ROWS = 16


@dataclass(frozen=True)
class Alteration:
    """Positions whose activation is replaced by one of `REPLACEMENTS`; no position: intact.

    `draw`: which one of those with a `seed`, of what is drawn.
    """

    positions: tuple[int, ...]
    by: str = "zero"
    seed: int = 0
    draw: int = 0

    def draws(self, n: int) -> list[Alteration]:
        """What it takes to measure it: `n` draws where it is drawn, else itself."""
        return [replace(self, draw=i) for i in range(n)] if self.by == "likely" else [self]


INTACT = Alteration(())


def final_states(
    prompt_run: PromptRun,
    alterations: Sequence[Alteration],
    site: Site | None = None,
    component: tuple[int, ...] = (),
) -> Float[Tensor, "row *read d_model"]:
    """The final state under each alteration at `site` (None: the embedding), equal ones run once; of a
    span one for each read. Where that pays, what stands before the first replaced token is run once for all
    of them (`jacobian.prefix`).

    `component`: the head whose activation is replaced, where the site has heads. Inside
    `prompt_run.locked()`. Raises `ScopeParameterError`, `SiteError` or `NumericalError`.
    """
    site = embed_site() if site is None else site
    known = prompt_run.remembered if site.is_embed else {}
    keys = {a: ("altered", site.label, component, a) for a in alterations}
    with torch.no_grad():
        for hidden in (False, True):
            alike = [a for a, key in keys.items() if key not in known and _hides(a) is hidden]
            run = _hidden if hidden else _replaced
            known.update(zip([keys[a] for a in alike], run(prompt_run, alike, site, component)))
    states = torch.stack([known[keys[a]] for a in alterations])
    if not torch.isfinite(states).all():
        row = int((~torch.isfinite(states)).flatten(1).any(1).nonzero()[0])
        raise NumericalError(
            f"NaN or infinity in the final state with positions {list(alterations[row].positions)} "
            f"replaced by {alterations[row].by!r}: check the weights and hooks, or use another "
            "replacement"
        )
    return states


def _where(
    prompt_run: PromptRun, alterations: Sequence[Alteration], width: int
) -> Bool[Tensor, "row pos"]:
    where = torch.zeros(len(alterations), width, dtype=torch.bool, device="cpu")
    for row, alteration in enumerate(alterations):
        # Those after the read position were not run, and cannot matter.
        where[row, [t for t in alteration.positions if t < width]] = True
    return where.to(prompt_run.view.device)


def _hides(alteration: Alteration) -> bool:
    return alteration.by == "hide" and bool(alteration.positions)


def _replaced(
    prompt_run: PromptRun, alterations: Sequence[Alteration], site: Site, component: tuple[int, ...]
) -> Float[Tensor, "row *read d_model"] | list[Tensor]:
    def edits(rows: Sequence[int | None], start: int) -> dict[Site, Edit]:
        chunk = [INTACT if row is None else alterations[row] for row in rows]
        return _replacing(prompt_run, chunk, site, component, start)

    width, most = len(prompt_run.run), prompt_run.rows_at_once()
    firsts = [min((t for t in a.positions if t < width), default=None) for a in alterations]
    states = states_after_prefix(prompt_run, firsts, edits)
    if states is not None:
        return states
    chunks = [range(i, min(i + most, len(firsts))) for i in range(0, len(firsts), most)]
    return [y for rows in chunks for y in prompt_run.states(len(rows), edits(rows, 0))]


def _replacing(
    prompt_run: PromptRun,
    alterations: Sequence[Alteration],
    site: Site,
    component: tuple[int, ...],
    start: int,
) -> dict[Site, Edit]:
    """Edits of passes that begin with the position `start`."""
    where = _where(prompt_run, alterations, len(prompt_run.run))[:, start:]
    new = [
        likely(prompt_run, site, a.seed, a.draw)[start:]
        if a.by == "likely" and a.positions
        else replacement(prompt_run, site, a.by if a.positions else "zero")
        for a in alterations
    ]
    # That of all heads, where one is replaced.
    new = [v[component] if v.ndim and component else v for v in new]

    def edit(a: Tensor) -> Tensor:
        if start and a.shape[1] != where.shape[1]:
            raise SiteError(f"{site.label!r} has positions that were run before")
        own = a[(slice(None), slice(None), *component)]
        rows = torch.stack([v.to(own).expand(own.shape[1:]) for v in new])
        mask = where.to(own.device).reshape(*where.shape, *[1] * (own.ndim - 2))
        changed = torch.where(mask, rows, own)
        if not component:
            return changed
        out = a.clone()
        out[(slice(None), slice(None), *component)] = changed
        return out

    return {site: edit}


def _hidden(
    prompt_run: PromptRun, alterations: Sequence[Alteration], site: Site, component: tuple[int, ...]
) -> list[Tensor]:
    most = prompt_run.rows_at_once()
    chunks = [alterations[i : i + most] for i in range(0, len(alterations), most)]
    return [y for chunk in chunks for y in _hiding(prompt_run, chunk, site)]


def _hiding(
    prompt_run: PromptRun, alterations: Sequence[Alteration], site: Site
) -> Float[Tensor, "row *read d_model"]:
    """Positions that no query attends to, in any layer or head; all tokens keep their places.

    Not by an attention mask: TransformerLens derives from it the places of the tokens that follow.
    """
    if not site.is_embed:
        raise SiteError(
            f'"hide" takes tokens out of attention in every layer, so it has no site {site.label!r}; '
            'use "embed", or another replacement'
        )
    view = prompt_run.view
    where = _where(prompt_run, alterations, len(prompt_run.run))[:, None, None, :]
    itself = torch.eye(where.shape[-1], dtype=torch.bool, device=where.device)
    kept_out: list[bool] = []

    def hide(scores: Tensor) -> Tensor:
        # Some models take the softmax of any scores in float32.
        lowest = max(torch.finfo(scores.dtype).min, torch.finfo(torch.float32).min)
        scores = scores.masked_fill((where & ~itself).to(scores.device), lowest)
        # Above the others, so that a query with nothing else left attends to itself.
        return scores.masked_fill((where & itself).to(scores.device), lowest / 2)

    def check(pattern: Tensor) -> Tensor:
        left_alone = itself.to(pattern.device) & (pattern == 1)
        seen = where.to(pattern.device)
        kept_out.append(not pattern.masked_fill(~seen | left_alone, 0).any())
        return pattern

    edits: dict[Site, Edit] = {}
    for layer in range(view.n_layers):
        for hook, edit in (("hook_attn_scores", hide), ("hook_pattern", check)):
            name = f"blocks.{layer}.attn.{hook}"
            if name in view.hooks:
                edits[view.site(name)] = edit
    states = prompt_run.states(len(where), edits)
    if kept_out != [True] * view.n_layers:
        raise SiteError(
            '"hide" needs attention scores that can be edited in every layer, which this model does '
            "not give (OPT, GPT-J and native bridges do not): use another replacement, or a "
            "HookedTransformer"
        )
    return states


@dataclass(frozen=True, eq=False)
class Effects:
    """What alterations did to the prediction, against the intact one, row by row (float64, CPU).

    `fall`: of the log-probability of a token, nats. `logit`: the fall of its raw logit. `kl`:
    KL(intact || altered), nats. `flip`: whether the top prediction became another; of several draws
    together, in which share of them.
    """

    fall: Float[Tensor, "row"]
    logit: Float[Tensor, "row"]
    kl: Float[Tensor, "row"]
    flip: Bool[Tensor, "row"] | Float[Tensor, "row"]

    def means(self, sizes: Sequence[int]) -> Effects:
        """Those of rows that belong together, so many each."""

        lengths = torch.tensor(sizes, device="cpu")

        def mean(values: Tensor) -> Tensor:
            return torch.segment_reduce(values.double(), "mean", lengths=lengths)

        return Effects(mean(self.fall), mean(self.logit), mean(self.kl), mean(self.flip))


def effects(
    head: Unembedding,
    intact: Float[Tensor, "d_model"],
    altered: Float[Tensor, "row d_model"],
    token: int,
) -> Effects:
    """Compare final states under alterations with the intact one, for the log-prob of `token`."""

    # What float32 rounds away of a KL, about 1e-6, ties the tokens of a confident prediction.
    exact = widest_dtype(intact.device)

    def predictions(y: Tensor) -> tuple[Tensor, Tensor]:
        raw = head.raw_logits(y)
        return raw, head.logits(raw).to(exact).log_softmax(-1)

    with torch.no_grad():
        raw, before = (x[0] for x in predictions(intact[None]))
        probabilities, top = before.exp(), before.argmax()
        columns: list[tuple[Tensor, ...]] = []
        for start in range(0, len(altered), _ROWS):
            after_raw, after = predictions(altered[start : start + _ROWS])
            kl = torch.where(probabilities > 0, probabilities * (before - after), 0).sum(-1)
            columns.append(
                (
                    before[token] - after[:, token],
                    raw[token] - after_raw[:, token],
                    kl.clamp_min(0),  # rounding of what is zero
                    after.argmax(-1) != top,
                )
            )
    fall, logit, kl, flip = (torch.cat(c).cpu() for c in zip(*columns))
    return Effects(fall.double(), logit.double(), kl.double(), flip)


def by_read(prompt_run: PromptRun, states: Tensor) -> Float[Tensor, "row read d_model"]:
    """Final states with an axis for what is read, of single reads too."""
    return states if prompt_run.span else states[:, None]


def effects_of_all(
    head: Unembedding,
    intact: Float[Tensor, "read d_model"],
    altered: Float[Tensor, "row read d_model"],
    tokens: Sequence[int],
) -> Effects:
    """`effects` of all reads together: sums of them, and whether any top prediction became another."""
    first, *others = (
        effects(head, before, after, token)
        for before, after, token in zip(intact, altered.unbind(1), tokens)
    )
    for one in others:
        first = Effects(
            first.fall + one.fall,
            first.logit + one.logit,
            first.kl + one.kl,
            first.flip | one.flip,
        )
    return first


def leave_one_out(
    prompt_run: PromptRun,
    each: Alteration,
    draws: int,
    tokens: Sequence[int],
    site: Site | None = None,
    component: tuple[int, ...] = (),
) -> Effects:
    """The effect of each position up to the last read one being taken away alone, as `each` says, on the
    `tokens` at the reads."""
    rows = [replace(each, positions=(t,)).draws(draws) for t in range(prompt_run.position + 1)]
    states = final_states(prompt_run, [INTACT, *chain(*rows)], site, component)
    states = by_read(prompt_run, states)
    effect = effects_of_all(prompt_run.read.head, states[0], states[1:], tokens)
    return effect.means([len(row) for row in rows])
