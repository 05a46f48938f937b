"""Named errors and warnings: each message says what was got, what is allowed and what to do."""


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
