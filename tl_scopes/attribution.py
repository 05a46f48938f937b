"""The main job: scores of every token, for one prompt, a batch, or every prediction of a sequence.

Formula: the score of token t is `||v^T J_t||`, where J_t is the Jacobian of the final state at the read
position (the token whose next-token prediction is explained) with respect to the token's activation. The
scope gives the vectors v; the squares of several add up, each times its weight.

Steps: prompts become ids and read positions; those of similar length share a forward pass
(`jacobian.batches`); one backward pass per vector gives the norms at all sites (`jacobian.answers`).

Cost: one forward pass a batch, and one backward pass a vector of the scope (1, or the Fisher rank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from tl_scopes.adapter.padding import Ids
from tl_scopes.adapter.prompt_lists import entry
from tl_scopes.adapter.prompts import Mask, Prompt, Prompts, encode
from tl_scopes.adapter.sites import Site, SiteRequest
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.errors import (
    EmptyPromptError,
    ScopeParameterError,
    check_whole,
)
from tl_scopes.jacobian.answers import Limits, run
from tl_scopes.jacobian.backward import default_chunk
from tl_scopes.jacobian.batches import BATCH_TOKENS, grouped
from tl_scopes.jacobian.likely import N_LIKELY, NORM, Kind, Measure
from tl_scopes.jacobian.prompt_run import PromptRun, check_scopes
from tl_scopes.jacobian.requests import (
    check_reads_anywhere,
    encoded_prompts,
    one_each,
    read_positions,
    reads_of_span,
)
from tl_scopes.jacobian.stability import compare, widened, wider
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.rules import Rules, under
from tl_scopes.scopes.base import NEXT_TOKEN, Scope, check_is_scope
from tl_scopes.scopes.pinning import pinned_as
from tl_scopes.scopes.span import SampledSpan

# At least so many read positions share a forward pass, which ends at the last of them.
_FEW_READS = 8


def attribute(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    *,
    sites: SiteRequest = "embed",
    position: int = -1,
    prepend_bos: bool | None = None,
    attention_mask: Mask | None = None,
    chunk_size: int | None = None,
    checkpoint_blocks: bool | None = None,
    stability: bool = False,
    span: Any = None,
    samples: int | None = None,
    rules: Rules | None = None,
    measure: Kind = "norm",
    n_likely: int = N_LIKELY,
) -> Attribution:
    """Influence of every token of `prompt` on what `scope` explains, at one or more sites.

    Args:
        model: a HookedTransformer or TransformerBridge, with raw weights where the scope needs them.
        prompt: text, or token ids (list, or tensor [pos] or [1, pos]), or what a tokenizer returned
            for one text (a mapping with `input_ids` and `attention_mask`), or a conversation: a list
            of messages (`{"role": ..., "content": ...}`), or a mapping with `messages` and, where
            wanted, `tools`, `chat_template` and `chat_template_kwargs`. The tokenizer's chat template
            writes it, up to where the answer begins; an assistant's message at the end goes on.
        scope: what is explained, such as `FisherScope(rank=4)`.
        sites: `"embed"`, `"all"` (embed, then resid(0)..resid(n_layers)), an int layer, a hook
            name, or a list of these. All share the forward and backward passes. A hook with a head
            axis gives one row a head, labelled `hook_z[0]`, ...; ask for one as `"...hook_z[2]"`
            (heads are the attention's own, which multi-head latent attention has fewer of than
            TransformerLens's axis).
        position: the read position, whose next-token prediction is explained.
        prepend_bos: overrides the model's own default for text. A conversation gets a BOS only where
            its template writes none.
        attention_mask: for token ids, 1 at tokens that are meant and 0 at padding before or after
            them, [pos] or [1, pos]. Padding is taken away: the result holds the other tokens, and
            `position` counts over them. Without a mask a prompt must not begin with pad tokens, nor
            be read at those that end it; pad tokens after the read change no score.
        chunk_size: directions per backward pass; None chooses by memory.
        checkpoint_blocks: whether the backward pass runs each block again rather than have the
            forward pass keep its activations, which takes half as long again, and memory for one
            block instead of all. None: where they would take more than 2 GiB (on a GPU: half of
            its free memory). Blocks with hooks of yours inside are never run twice.
        stability: also run in the next wider precision (float32 for a model in half precision,
            float64 for one in float32), which takes a second copy of the weights meanwhile, and
            say in the result's `stability` how far the scores are from that. The model itself stays
            as it is: other threads may run it.
        span: tokens of the prompt whose predictions are explained together, each from the ones before
            it, as a text that stands in the prompt once or a half-open range `(start, end)` of
            positions. Squares of the scope's scores add up (`SequenceAttribution.over_reads`), with a
            backward pass for every token and vector. In place of `position`.
        samples: for a span, so many random draws in place of that: one backward pass each for all tokens,
            unbiased for the sum of squares, with a standard error. `ContinuationScope` is the scope of
            a span's log-probability.
        rules: gradient rules, such as `tl_scopes.rules.GIM()`; None: those of the scope, which has none
            unless it was given some. Values stay as they are, gradients are no slopes any more.
        measure: `"norm"` of a gradient asks about every direction; `"tokens"`, at the embedding, about the `n_likely`
            tokens that the model held likeliest there: root of the mean square (Fisher: the mean square) of what they
            would move in its place, to first order, in the unit of what is explained; 0 for the first token.

    Returns:
        `Attribution` whose scores are Float[Tensor, "site pos"] in the scope's units.

    Raises:
        ScopesError: one of its named subclasses in `tl_scopes.errors`, for bad input.

    Source: arXiv 2601.16407; score `||v^T J_t||` (squared and summed for Fisher).

        >>> attribution = attribute(model, "The capital of France is", FisherScope(rank=4))
        >>> attribution.top(3)
    """
    limits: dict[str, Any] = {"chunk_size": chunk_size, "checkpoint_blocks": checkpoint_blocks}
    limits |= {"measure": measure, "n_likely": n_likely}
    if span is not None or samples is not None:
        if position != -1 or stability:
            raise ScopeParameterError(
                "span is in place of position, and stability cannot be measured for it: drop them"
            )
        check_whole("samples", samples, 1, also=[None])
        view = view_of(model)
        scope, rules = ruled(scope, rules), None
        prompt = encode(view, prompt, prepend_bos, attention_mask)
        prepend_bos = attention_mask = None
        reads = reads_of_span(view, prompt, span, scope)
        if samples is None:
            whole = attribute_sequence(model, prompt, scope, positions=reads, sites=sites, **limits)
            return whole.over_reads()
        scope = SampledSpan(scope, tuple(reads), samples)
    (result,) = attribute_batch(
        model,
        [prompt],
        [scope],
        sites=sites,
        position=[position],
        prepend_bos=prepend_bos,
        attention_mask=None if attention_mask is None else [attention_mask],
        stability=stability,
        rules=rules,
        **limits,
    )
    return result


def attribute_batch(
    model: Any,
    prompts: Prompts,
    scope: Scope | Sequence[Scope],
    *,
    sites: SiteRequest = "embed",
    position: int | Sequence[int] = -1,
    prepend_bos: bool | None = None,
    attention_mask: Mask | None = None,
    chunk_size: int | None = None,
    checkpoint_blocks: bool | None = None,
    batch_tokens: int = BATCH_TOKENS,
    stability: bool = False,
    rules: Rules | None = None,
    measure: Kind = "norm",
    n_likely: int = N_LIKELY,
) -> list[Attribution]:
    """`attribute` for several prompts, of any lengths, that share forward and backward passes.

    `scope` and `position` are one for all, or one a prompt. Prompts of similar length are run
    together, padded on the right to `batch_tokens` tokens at most. Results come in the order of the
    prompts; each equals its own `attribute` call to rounding. Arguments and errors otherwise as there.

    A batch of token ids, [batch, pos], is taken too, with its `attention_mask`, [batch, pos]: rows
    are prompts. So is what a tokenizer returned for several texts, padded or not. For a list of
    prompts `attention_mask` is a list, with None for a prompt without one.

    Returns:
        One `Attribution` a prompt, scores Float[Tensor, "site pos"] in the scope's units.

        >>> prompts = ["The capital of France is", "The capital of Italy is"]
        >>> france, italy = attribute_batch(model, prompts, SemanticScope())
    """
    view = view_of(model)
    limits = Limits(chunk_size, checkpoint_blocks)
    if stability:
        wider(view)
    encoded = encoded_prompts(view, prompts, prepend_bos, attention_mask)
    check_whole("batch_tokens", batch_tokens, 1)
    scopes = [ruled(s, rules) for s in one_each(scope, len(encoded), "scopes")]
    hooked = view.is_hooked()
    runs = []
    for ids, s, p in zip(encoded, scopes, one_each(position, len(encoded), "positions")):
        with entry(len(runs), len(encoded)):
            runs.append(PromptRun.explaining(view, ids, s, p, hooked))
    check_scopes(view, scopes)
    places = view.sites(sites)
    measured = Measure(measure, n_likely)
    by_index: dict[int, Attribution] = {}
    for group in grouped(runs, batch_tokens):
        answers = run([runs[i] for i in group], places, limits, measured.over(places))
        for i, (answer,) in zip(group, answers):
            by_index[i] = measured.named(answer.attribution(view, runs[i].shown))
    results = [by_index[i] for i in range(len(runs))]
    if not stability:
        return results
    with widened(view):
        wide_results = attribute_batch(
            model,
            encoded,
            [pinned_as(s, a) for s, a in zip(scopes, results)],
            sites=sites,
            position=[-1 if one.span else one.position for one in runs],
            chunk_size=chunk_size,
            checkpoint_blocks=checkpoint_blocks,
            batch_tokens=batch_tokens,
            measure=measure,
            n_likely=n_likely,
        )
    return [replace(a, stability=compare(a, wide)) for a, wide in zip(results, wide_results)]


def attribute_sequence(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    *,
    positions: Literal["all"] | Sequence[int] = "all",
    sites: SiteRequest = "embed",
    prepend_bos: bool | None = None,
    attention_mask: Mask | None = None,
    chunk_size: int | None = None,
    checkpoint_blocks: bool | None = None,
    rules: Rules | None = None,
    measure: Kind = "norm",
    n_likely: int = N_LIKELY,
) -> SequenceAttribution:
    """Influence of every token on the prediction at several read positions of one prompt.

    Reads share forward passes over the shortest prefix that holds them, and batched backward passes.

    Args:
        model, prompt, sites, prepend_bos, attention_mask, chunk_size, checkpoint_blocks: as in `attribute`.
        scope, rules, measure, n_likely: too; `SemanticScope(NEXT_TOKEN)` explains what follows each read position.
        positions: read positions, or "all". Where the scope explains the token that follows, "all" leaves
            out the last position, which has none.

    Returns:
        `SequenceAttribution` whose scores are Float[Tensor, "read site pos"], in the scope's units.

    Raises:
        PositionError: for a position outside the prompt, or none.
        ScopesError: as `attribute`.

    Examples:
        >>> sequence = attribute_sequence(model, "The capital of France is", SemanticScope(NEXT_TOKEN))
        >>> sequence.at(3).top(2)
    """
    view, limits = view_of(model), Limits(chunk_size, checkpoint_blocks)
    ids = encode(view, prompt, prepend_bos, attention_mask)
    scope = ruled(scope, rules)
    check_reads_anywhere(scope, view, ids)
    reads = read_positions(positions, ids, any(v is NEXT_TOKEN for v in vars(scope).values()))
    if not reads:
        raise EmptyPromptError('positions is empty: give read positions, or "all"')
    check_scopes(view, [scope])
    measured = Measure(measure, n_likely)
    return explain_reads(view, ids, scope, reads, view.sites(sites), limits, measured)


def ruled(scope: Scope, rules: Rules | None) -> Scope:
    """A scope under the rules of a call, if it has some. Raises `ScopeParameterError`."""
    check_is_scope(scope)
    return under(scope, rules)


def explain_reads(
    view: ModelView,
    ids: Ids,
    scope: Scope,
    reads: Sequence[int],
    places: tuple[Site, ...],
    limits: Limits,
    measure: Measure = NORM,
) -> SequenceAttribution:
    """The rest of `attribute_sequence`, once all that it was given is checked."""
    ordered, over = sorted(set(reads)), measure.over(places)
    hooked = view.is_hooked()
    group = default_chunk(view, 1, ordered[-1] + 1)
    if not hooked:
        group = min(group, max(_FEW_READS, -(-len(ordered) // 4)))
    results: dict[int, Attribution] = {}
    log_probs: dict[int, float | None] = {}
    for start in range(0, len(ordered), group):
        share = [(p, scope) for p in ordered[start : start + group]]
        (answers,) = run([PromptRun(view, ids, share[-1][0], hooked, share)], places, limits, over)
        for answer in answers:
            results[answer.position] = answer.attribution(view, ids)
            log_probs[answer.position] = answer.log_prob
    each = [results[p] for p in reads]
    first = each[0]
    errors = [a.standard_error for a in each]
    whole = SequenceAttribution(
        scores=torch.stack([a.scores for a in each]),
        positions=tuple(reads),
        sites=first.sites,
        tokens=first.tokens,
        str_tokens=first.str_tokens,
        has_bos=first.has_bos,
        scope=first.scope,
        targets=tuple(a.target for a in each),
        units=first.units,
        predictions=tuple(a.prediction for a in each),
        fishers=tuple(a.fisher for a in each),
        standard_error=None
        if errors[0] is None
        else torch.stack([e for e in errors if e is not None]),
        provenance=first.provenance,
        log_probs=tuple(log_probs[p] for p in reads),
        chat=first.chat,
    )
    return measure.named(whole)
