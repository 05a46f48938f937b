"""The scope of a whole answer: tokens that follow the prompt, explained together.

Formula: the scalar is `sum_i log p(c_i | x, c_<i)` (or the sum of logits) over the tokens c_i of the
continuation. The score of token t is `|| sum_i v_i^T J_{p_i,t} ||` with `v_i = W_U D (e_{c_i} - p_i)` at the
read p_i that predicts c_i.

Steps: the continuation is put after the prompt (`rows`), all reads get their vectors (`explain`), and one
backward pass takes them back together. With `versus` a second row holds the other continuation. Its
vectors have the opposite sign, and gradients of both rows are added before the norm.

Cost: one forward and one backward pass, however long the continuation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Union

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tl_scopes.adapter.continuations import check_length, encode_continuation
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import NumericalError, TargetError, check_choice
from tl_scopes.results.characters import together
from tl_scopes.results.records import Continuation
from tl_scopes.rules import Ruled
from tl_scopes.scopes.base import Explained, Read, Row, Scope

# Reads whose logits are held at once: 16 of 262,144 tokens are 16 MiB.
_READS = 16
_NUMBERS = {"log_prob": "log-probability", "logit": "logits"}
# What a record calls the text of ids that were given.
_TEXT = "_text"


@dataclass(frozen=True)
class ContinuationScope(Ruled, Scope):
    """Influence on a whole continuation: the log-probability of all its tokens together.

    Args:
        continuation: what follows the prompt, as text or as token ids. A text begins with its own space
            where there is one (`" Paris, of course"`). It is tokenised by itself, as a model would
            write it. Its tokens are sources too: an early one moves the later ones. None: the one that
            `evaluation.measure(..., continuations=)` measures for each prompt.
        versus: another continuation, of any length: `log p(continuation) - log p(versus)` is explained.
            Scores are then of the prompt's tokens only, which both share.
        of: `"log_prob"`, or the `"logit"`s before the model's output transform.
        reduce: `"sum"` over the tokens, or their `"mean"`.

    The scalar's gradient sees how an early token of the continuation acts on later ones, and not that the
    model might have chosen another. Units: nats (logit) per unit of residual. A result's `continuation`
    holds the reads, the tokens and the log-probability of each.

    Raises `TargetError` for a continuation that is empty, or the same as `versus`; `PromptTooLongError`
    where the context ends inside.

    Source: `||v^T J_t||` of arXiv 2601.16407, with v the gradient of the log-probability at each read.

        >>> attribute(model, "The capital of France is", ContinuationScope(" Paris, the city of light"))
    """

    continuation: Union[str, Sequence[int], None] = None
    versus: Union[str, Sequence[int], None] = None
    of: Literal["log_prob", "logit"] = "log_prob"
    reduce: Literal["sum", "mean"] = "sum"
    name = "continuation"
    asks = "what moves a whole answer?"
    argument = "continuation"
    target_fields = ()
    is_of_logits = True

    def __post_init__(self) -> None:
        check_choice("of", self.of, ("log_prob", "logit"))
        check_choice("reduce", self.reduce, ("sum", "mean"))
        for field in ("continuation", "versus"):
            given = getattr(self, field)
            plain = given.tolist() if hasattr(given, "tolist") else given
            if isinstance(plain, (list, range)):  # a copy, which may be hashed
                object.__setattr__(self, field, tuple(plain))

    @property
    def units(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{'nats' if self.of == 'log_prob' else 'logit'} per unit of residual"

    @property
    def explains(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        mean = "mean " if self.reduce == "mean" else ""
        other = self.placeholder("versus")
        against = "" if self.versus is None else f" against that of {other}"
        return f"the {mean}{_NUMBERS[self.of]} of {self.placeholder('continuation')}{against}"

    def placeholder(self, field: str) -> str:
        """What stands for the text of `continuation`, or of `versus`, in a title."""
        return f"{{{field}{'' if isinstance(getattr(self, field), str) else _TEXT}}}"

    @property
    def explains_centred_logit(self) -> bool:
        return self.of == "logit" and self.versus is None

    def parameters(self) -> dict[str, Any]:
        return {
            "continuation": self.continuation,
            "versus": self.versus,
            "of": self.of,
            "reduce": self.reduce,
        }

    def rows(self, view: ModelView, ids: Sequence[int]) -> list[Row]:
        """The prompt with the continuation, and with `versus`, and where each is read."""
        if self.continuation is None:
            raise TargetError(
                "the continuation is None, which stands for the one that evaluation measures where it gets "
                "continuations=: give a text or token ids"
            )
        after = [encode_continuation(view, self.continuation)]
        if self.versus is not None:
            after.append(encode_continuation(view, self.versus, "versus"))
            if after[0] == after[1]:
                raise TargetError(
                    "versus is the same as the continuation, so that their difference is zero everywhere: "
                    "give another"
                )
        for more in after:
            check_length(view, ids, more)
        start = len(ids) - 1
        return [Row([*ids, *more], range(start, start + len(more))) for more in after]

    def explain(self, read: Read) -> Explained:
        y, shares = read.value, self._shares(read)
        ids = torch.tensor(read.next_ids, device=read.head.W_U.device)
        log_probs, slopes = read.head.log_prob_slopes(y, ids)
        if self.of == "logit":
            slopes = torch.stack([read.head.column(i) for i in read.next_ids])
        out = (slopes * shares[:, None].to(slopes)).to(y.device)
        found = _recorded(read, log_probs.tolist(), bool(torch.isfinite(out).all()))
        weights = torch.ones(1, dtype=torch.float64, device="cpu")
        return Explained(out[None], weights, continuation=found, resolved=self.texts(found))

    def record(self, read: Read) -> Continuation:
        """What is read, without any vectors. Raises `NumericalError`."""
        log_probs: list[float] = []
        for part in self._parts(read):
            _, own, ids = self._predictions(read, part)
            log_probs += own.gather(1, ids)[:, 0].double().tolist()
        return _recorded(read, log_probs)

    def texts(self, found: Continuation) -> dict[str, str]:
        """For the record: the texts of what was given as ids."""
        said = {"continuation": found.tokens, "versus": found.versus_tokens}
        return {
            name + _TEXT: together([token.text for token in tokens])
            for name, tokens in said.items()
            if tokens and not isinstance(getattr(self, name), str)
        }

    def filled(self, ids: Sequence[int]) -> ContinuationScope:
        """Itself, with `ids` where its continuation is None."""
        return replace(self, continuation=tuple(ids)) if self.continuation is None else self

    def scalar(self, read: Read, explained: Explained, at: Read) -> Tensor:
        """The log-probability of the continuation (less that of `versus`), or its logits."""
        return self.total(read)

    def total(self, read: Read) -> Float[Tensor, ""]:
        """`scalar`, which needs no vectors."""
        shares = self._shares(read)
        total = read.value.new_zeros((), dtype=working_dtype(read.value.dtype))
        for part in self._parts(read):
            # Autograd would keep the logits of every read.
            total = total + checkpoint(
                self._total_of, read, part, shares, use_reentrant=False, preserve_rng_state=False
            )
        return total

    def _total_of(self, read: Read, part: slice, shares: Tensor) -> Tensor:
        raw, own, ids = self._predictions(read, part)
        values = raw if self.of == "logit" else own
        return (values.gather(1, ids)[:, 0] * shares[part].to(values)).sum()

    def _parts(self, read: Read) -> Iterator[slice]:
        """Reads, as many at a time as have their logits held."""
        for start in range(0, len(read.places), _READS):
            yield slice(start, min(start + _READS, len(read.places)))

    def _predictions(self, read: Read, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Raw logits and log-probabilities, [read, d_vocab], and the tokens that follow, [read, 1]."""
        raw = read.head.raw_logits(read.value[part]) if read.raw is None else read.raw[part]
        ids = torch.tensor(read.next_ids[part], device=raw.device)[:, None]
        return raw, read.head.logits(raw).log_softmax(-1), ids

    def _shares(self, read: Read) -> Float[Tensor, "read"]:
        """How much each read counts in the scalar."""
        first = torch.tensor([row == 0 for row, _ in read.places], device="cpu")
        signs = torch.where(first, 1.0, -1.0).double()
        if self.reduce == "sum":
            return signs
        return signs / torch.where(first, first.sum(), (~first).sum())


def _recorded(read: Read, log_probs: list[float], finite: bool = True) -> Continuation:
    """Raises `NumericalError` for what is not finite."""
    if not finite or not all(map(math.isfinite, log_probs)):
        raise NumericalError(
            "NaN or infinity in the logits of the continuation: check the model's weights and hooks, "
            "or give a continuation that is possible"
        )
    n = sum(row == 0 for row, _ in read.places)
    tokens = [read.token_of(i) for i in read.next_ids]
    return Continuation(
        reads=tuple(position for _, position in read.places[:n]),
        tokens=tuple(tokens[:n]),
        log_probs=tuple(log_probs[:n]),
        versus_tokens=tuple(tokens[n:]),
        versus_log_probs=tuple(log_probs[n:]),
    )
