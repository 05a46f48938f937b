"""Named errors and warnings, and the checks of arguments that raise them.

Each message says what was got, what is allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any


class ScopesError(Exception):
    """Base class of every error that tl_scopes raises on purpose."""


class UnsupportedModelError(ScopesError, TypeError):
    """The model is not one whose scopes can be computed correctly."""


class ModelUnavailableError(ScopesError, LookupError):
    """A model was named that cannot be found or built on this machine."""


class ProcessedWeightsError(ScopesError, ValueError):
    """Weight processing changed the basis of the final state, so the scope would be meaningless."""


class TrainingModeError(ScopesError, ValueError):
    """The model is in training mode and has dropout: two runs would differ."""


class EmptyPromptError(ScopesError, ValueError):
    """The prompt, or the list of prompts, holds nothing to attribute."""


class PromptError(ScopesError, ValueError):
    """The prompt is neither text nor a row of token ids of this model."""


class PromptTooLongError(PromptError):
    """The prompt has more tokens than the model's context."""


class DoubleBosError(PromptError):
    """The prompt begins with two BOS tokens in a row."""


class PaddingError(PromptError):
    """Padding stands where text is read, or an attention mask does not fit its prompt."""


class LengthMismatchError(PromptError):
    """A second prompt, or logits of one, has another length than the first."""


class NonAdditiveError(UnsupportedModelError):
    """What the model's heads, MLPs and embedding write does not add up to its residual stream."""


class PositionError(ScopesError, IndexError):
    """A read position lies outside the prompt."""


class TargetError(ScopesError, ValueError):
    """A target is not exactly one token of this model's vocabulary."""


class SiteError(ScopesError, ValueError):
    """A site does not exist, is not reached, or has no position axis."""


class ScopeParameterError(ScopesError, ValueError):
    """A scope's own parameter (rank, samples, direction, function) cannot be used."""


class NumericalError(ScopesError, ArithmeticError):
    """NaN or infinity appeared in an activation, a logit or a gradient."""


class ResultFileError(ScopesError, ValueError):
    """A saved result cannot be read: truncated, foreign, or written by a newer version."""


class OutputFileError(ScopesError, OSError):
    """A file cannot be written: its name is a folder's, a device's or a pipe's, or it is read-only."""


class RenderError(ScopesError, ValueError):
    """A drawing option is unknown, or the result has nothing to draw."""


class DisconnectedError(ScopesError, ValueError):
    """The edges that were chosen lead from the embedding nowhere, or not to the read."""


class DataError(ScopesError, ValueError):
    """A data set cannot be found or read, or lacks the column, split or texts asked for."""


class RunError(ScopesError, RuntimeError):
    """A run over a data set cannot start, or go on, in its folder."""


class LostProcessError(RunError):
    """Another process of the launch did not come, ended, or gave no sign of life."""


class ScopesWarning(UserWarning):
    """Base class of the package's warnings."""


class ProcessedWeightsWarning(ScopesWarning):
    """The number returned is right but explains a processed quantity, such as a centred logit."""


def check_whole(
    name: str,
    value: Any,
    least: int,
    most: int | None = None,
    *,
    also: Collection[Any] = (),
    hint: str = "",
    error: type[ScopesError] = ScopeParameterError,
) -> None:
    """Raise `error` unless `value` is an int from `least` (to `most`), or one of `also`.

    True and False are no numbers. `hint` ends the message. `check_whole("samples", 0, 1, also=[None])`
    raises "samples is 0; allowed: a whole number from 1, or None".
    """

    def fits(number: int | float) -> bool:
        return isinstance(number, int) and least <= number and (most is None or number <= most)

    allowed = f"a whole number from {least}" + ("" if most is None else f" to {most}")
    check_number(name, value, fits, allowed, also=also, hint=hint, error=error)


def check_seed(seed: Any) -> None:
    """Raise `ScopeParameterError` unless `seed` is an int that generators of torch take."""
    allowed = "a whole number from 0 to 2**63 - 1"
    check_number("seed", seed, lambda n: isinstance(n, int) and 0 <= n < 2**63, allowed)


def check_number(
    name: str,
    value: Any,
    fits: Callable[[Any], bool],
    allowed: str,
    *,
    also: Collection[Any] = (),
    hint: str = "",
    error: type[ScopesError] = ScopeParameterError,
) -> None:
    """Raise `error` unless `value` is an int or a float that `fits`, or one of `also`.

    True and False are no numbers. `allowed` says in words what `fits`, and `hint` ends the message.
    `check_number("noise", -1, lambda x: 0 < x < math.inf, "a number above 0")` raises "noise is -1;
    allowed: a number above 0".
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and fits(value)) and not _is_one_of(value, also):
        others = "".join(f", or {other!r}" for other in also)
        raise error(f"{name} is {value!r}; allowed: {allowed}{others}{hint}")


def check_choice(
    name: str,
    value: Any,
    choices: Collection[Any],
    *,
    hint: str = "",
    error: type[ScopesError] = ScopeParameterError,
) -> None:
    """Raise `error` unless `value` is one of `choices`, of the same type: 1 is not True.

    `hint` ends the message. `check_choice("of", "loss", ["log_prob", "logit"])` raises "of is 'loss';
    allowed: 'log_prob', 'logit'".
    """
    if not _is_one_of(value, choices):
        raise error(f"{name} is {value!r}; allowed: {', '.join(map(repr, choices))}{hint}")


def _is_one_of(value: Any, choices: Collection[Any]) -> bool:
    return any(isinstance(value, type(choice)) and value == choice for choice in choices)
