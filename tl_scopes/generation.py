"""An answer that the model itself writes, and what moved each of its tokens.

Steps: the prompt becomes ids; the model writes tokens after it one by one, with its key-value cache
(`jacobian.decoding`); the reads that predicted them are explained as `attribute_sequence` does; each token
must have the probability in the whole text that it was taken by.

Cost: generation, and one `attribute_sequence` of as many reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Union

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.padding import Ids, chat_of
from tl_scopes.adapter.prompts import Mask, Prompt, encode, resolve_position, texts
from tl_scopes.adapter.sites import SiteRequest
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.attribution import explain_reads, ruled
from tl_scopes.errors import (
    PromptTooLongError,
    ScopeParameterError,
    UnsupportedModelError,
    check_whole,
)
from tl_scopes.jacobian.answers import Limits
from tl_scopes.jacobian.culprits import hooks_named
from tl_scopes.jacobian.decoding import decoding, ends_of_text
from tl_scopes.jacobian.forward import read_under, refuse_nonfinite
from tl_scopes.jacobian.original import allowed
from tl_scopes.jacobian.prompt_run import PromptRun, check_scopes
from tl_scopes.jacobian.requests import check_reads_anywhere
from tl_scopes.jacobian.sampling import Sampler
from tl_scopes.results.attribution import SequenceAttribution
from tl_scopes.results.characters import together
from tl_scopes.results.records import Chat, Token
from tl_scopes.rules import Rules
from tl_scopes.scopes.base import NEXT_TOKEN, Scope
from tl_scopes.scopes.prediction import SemanticScope

Stop = Union[str, int, Sequence[Union[str, int]]]

_EACH_TOKEN = SemanticScope(NEXT_TOKEN)
# Reads whose logits are held at once: 16 of 262,144 tokens are 16 MiB.
_READS = 16


def attribute_generation(
    model: Any,
    prompt: Prompt,
    scope: Scope = _EACH_TOKEN,
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Stop | None = None,
    on_token: Callable[[Token], Any] | None = None,
    sites: SiteRequest = "embed",
    prepend_bos: bool | None = None,
    attention_mask: Mask | None = None,
    chunk_size: int | None = None,
    checkpoint_blocks: bool | None = None,
    rules: Rules | None = None,
) -> SequenceAttribution:
    """Let the model write an answer after `prompt`, and attribute each token of it.

    The model generates with its key-value cache. Under hooks of yours, which may count on the whole text,
    it runs all of it for every token.

    Args:
        model, prompt, sites, prepend_bos, attention_mask, chunk_size, checkpoint_blocks, rules: as in `attribute`.
        scope: what is explained at each read. `SemanticScope(NEXT_TOKEN)`, the default, explains the logit
            of the token that was written there.
        max_new_tokens: the answer's length, unless it ends before. Prompt and answer must fit into the
            model's context.
        temperature: 0 takes the likeliest token each time. Above, tokens are drawn by
            `softmax(logits / temperature)`.
        top_k, top_p: draw among the k likeliest tokens, and among the fewest that hold p of the probability.
        seed: of what is drawn, on the CPU: the same on every device, to rounding of the logits.
        stop: texts or token ids that end the answer, beside the end-of-text tokens of the tokenizer and of
            the wrapped model's `generation_config` (which a HookedTransformer does not have). The token
            that ends it belongs to it, and so does all of a token in which a text of `stop` ends.
        on_token: called with each token as it is written, to show it. It must not run the model; an error
            that it raises ends the call.

    Returns:
        `SequenceAttribution` with one read for each token of the answer: scores Float[Tensor, "read site pos"]
        in the scope's units. `answer_start` is the position of its first token, `log_probs` are those of
        its tokens at temperature 1, in nats, and `predictions` the likeliest tokens at each read.

    Raises:
        PromptTooLongError: where the context would end inside the answer.
        UnsupportedModelError: where the model, token by token, does not compute what it does of the whole text.
        ScopesError: as `attribute_sequence`.

    Source: `||v^T J_t||` of arXiv 2601.16407 at each read.

    Examples:
        >>> answer = attribute_generation(model, "The capital of France is", max_new_tokens=8)
        >>> "".join(answer.str_tokens[answer.answer_start :])
        >>> answer.at(answer.answer_start - 1).top(3)
    """
    view = view_of(model)
    sampler = Sampler(temperature, top_k, top_p, seed)
    check_whole("max_new_tokens", max_new_tokens, 1)
    ids = encode(view, prompt, prepend_bos, attention_mask)
    last = resolve_position(-1, ids)
    _check_room(view, len(ids), max_new_tokens)
    stop_ids, stop_texts = _stops(view, stop)
    scope = ruled(scope, rules)
    check_reads_anywhere(scope, view, ids)
    check_scopes(view, [scope])
    places, limits = view.sites(sites), Limits(chunk_size, checkpoint_blocks)
    run = PromptRun(view, ids, last, view.is_hooked())
    with run.locked():
        text, finite = _Text(view, list(ids), len(ids)), True
        next_logits = decoding(view, run.hooked)
        for _ in range(max_new_tokens):
            logits = next_logits(text.ids)
            finite = bool(torch.isfinite(logits).all())
            if not finite:
                break
            token = text.write(logits, sampler)
            if on_token is not None:
                on_token(token)
            if token.id in stop_ids or any(end in text.answer for end in stop_texts):
                break
        if not finite:
            text.refuse_nonfinite()
    reads = range(last, len(text.ids) - 1)
    whole = Ids(text.ids, chat=_answered(view, ids, text.ids))
    sequence = explain_reads(view, whole, scope, reads, places, limits)
    log_probs = [p for p in sequence.log_probs if p is not None]
    if len(log_probs) < len(reads):  # of a scope that reads elsewhere than at the final state
        with run.locked():
            log_probs = text.log_probs(run.hooked)
    text.refuse_another(log_probs, run.hooked)
    return replace(sequence, answer_start=last + 1, log_probs=tuple(log_probs))


@dataclass(eq=False)
class _Text:
    """A prompt of `n_prompt` tokens, and what is written after it. Inside `view.locked()`.

    `drawn`: of each token written, its log-probability when it was taken, and the spread of all tokens' then.
    """

    view: ModelView
    ids: list[int]
    n_prompt: int
    pieces: list[str] = field(default_factory=list)
    drawn: list[tuple[float, float]] = field(default_factory=list)

    @property
    def answer(self) -> str:
        return together(self.pieces)

    def write(self, logits: Float[Tensor, "d_vocab"], sampler: Sampler) -> Token:
        """Take the next token."""
        token = sampler(logits)
        log_probs = logits.cpu().double().log_softmax(0)
        self.drawn.append((float(log_probs[token]), float(log_probs.std(correction=0))))
        (piece,) = texts(self.view, [token])
        self.ids.append(token)
        self.pieces.append(piece)
        return Token(token, piece)

    def refuse_another(self, log_probs: Sequence[float], hooked: bool) -> None:
        """Raise `UnsupportedModelError` where the model gives the tokens written other log-probabilities, of
        the whole text, than those by which they were taken."""
        shares = [
            (whole - own) / max(spread, 1e-30)
            for whole, (own, spread) in zip(log_probs, self.drawn)
        ]
        off = math.sqrt(sum(share**2 for share in shares) / len(shares))
        most = allowed(self.view.dtype)
        if not off <= most:
            raise UnsupportedModelError(
                "what the model writes token by token is not what it computes of the whole text: "
                f"log-probabilities of the answer's tokens are off by {off:.2g} of their spread, allowed "
                f"{most:g} in {str(self.view.dtype).removeprefix('torch.')}{hooks_named(self.view)}. "
                + (
                    "Remove hooks that count on how long the text is, or that act on its last token alone"
                    if hooked
                    else "Its key-value cache does not hold all that it needs: use another version of "
                    "transformers or transformer-lens, or explain a text from elsewhere by "
                    "attribute_sequence(model, prompt + answer, scope, positions=...)"
                )
            )

    def log_probs(self, hooked: bool) -> list[float]:
        """Those of the tokens written, by one pass over the whole text. Raises `NumericalError`."""
        found: list[float] = []
        end = len(self.ids) - (not hooked)
        tokens = torch.tensor([self.ids[:end]], device=self.view.device)
        reads = range(self.n_prompt - 1, len(self.ids) - 1)
        with torch.no_grad():
            (states,) = read_under(self.view, tokens, {})
            head = self.view.unembedding()
            for start in range(0, len(reads), _READS):
                some = list(reads[start : start + _READS])
                logits = head.logits(head.raw_logits(states[some]))
                if not torch.isfinite(logits).all():
                    self.refuse_nonfinite()
                after = [self.ids[position + 1] for position in some]
                own = logits.cpu().double().log_softmax(-1)[range(len(some)), after]
                found += own.tolist()
        return found

    def refuse_nonfinite(self) -> None:
        """Raise `NumericalError` that says where it comes from."""
        tokens = torch.tensor([self.ids], device=self.view.device)
        refuse_nonfinite(self.view, tokens, "the logits")


def _answered(view: ModelView, ids: Ids, whole: list[int]) -> Chat | None:
    """Whose each token is, where the prompt is a conversation: the answer is its last message's content,
    but for an end of text, which is the template's where it stands in messages that were given."""
    chat = chat_of(Ids(whole, chat=ids.chat), len(whole))
    if chat is None or whole[-1] not in ends_of_text(view):
        return chat
    return replace(chat, is_content=(*chat.is_content[:-1], False))


def _check_room(view: ModelView, n: int, more: int) -> None:
    if view.n_ctx is None or n + more <= view.n_ctx:
        return
    room = view.n_ctx - n
    raise PromptTooLongError(
        f"the prompt has {n} tokens and max_new_tokens is {more}, the model's context is {view.n_ctx}: "
        + (
            f"give max_new_tokens up to {room}, or shorten the prompt"
            if room
            else "shorten the prompt"
        )
    )


def _stops(view: ModelView, stop: Any) -> tuple[set[int], list[str]]:
    """The token ids, and the texts, that end an answer. Raises `ScopeParameterError`."""
    each = [] if stop is None else [stop] if isinstance(stop, (str, int)) else stop
    ids, stop_texts = ends_of_text(view), []
    d_vocab = int(view.cfg.d_vocab)
    for one in each if isinstance(each, (list, tuple, set, frozenset)) else [each]:
        if isinstance(one, str) and one and getattr(view.model, "tokenizer", None) is not None:
            stop_texts.append(one)
        elif isinstance(one, int) and not isinstance(one, bool) and 0 <= one < d_vocab:
            ids.add(one)
        else:
            raise ScopeParameterError(
                f"stop holds {one!r}; allowed: a text (of a model with a tokenizer) that is not empty, a "
                f"token id from 0 to {d_vocab - 1}, or a list of these"
            )
    return ids, stop_texts
