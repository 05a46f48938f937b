"""How the Fisher information of a prediction is spread over its eigenvectors.

Formula: the eigenvalues of `F = W_U (diag(p) - p p^T) W_U^T`, p the next-token distribution, in nats per
unit^2 of the final state. Cost: one forward pass a prompt, and products with W_U.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tl_scopes.adapter.prompt_lists import encode_all
from tl_scopes.adapter.prompts import Prompts
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import ScopeParameterError, check_number, check_whole
from tl_scopes.evaluation.methods import reads
from tl_scopes.jacobian.prompt_run import check_scopes
from tl_scopes.scopes.fisher import FisherGeometry
from tl_scopes.scopes.prediction import FisherScope

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ["index", "k", "eigenvalue", "share", "trace"]


def fisher_spectrum(
    model: Any,
    prompts: Prompts,
    *,
    position: int = -1,
    prepend_bos: bool | None = None,
    top: int | None = None,
    tail: float = 0.0,
) -> pd.DataFrame:
    """Eigenvalues of F, the Fisher information of the next-token distribution, at the read position.

    Args:
        model: a HookedTransformer or TransformerBridge with raw weights.
        prompts: texts, or lists of token ids.
        position: the read position in each prompt.
        prepend_bos: overrides the model's own default for text.
        top: how many of the largest eigenvalues; None: all that differ from 0 (each prompt then costs
            a d_model^2 x d_vocab product).
        tail: the share of tr F that the unlikeliest tokens may hold and be left out; `share` and
            `trace` still count all of it. 1e-3 takes about a tenth of the time on a vocabulary of
            262,144, and leading eigenvalues are then low by 2e-3 at most.

    Returns:
        One row an eigenvalue, largest first: `index` (of the prompt), `k` (from 1), `eigenvalue`
        (nats per unit^2 of the final state), `share` (of tr F held by the first k, in [0, 1]), `trace`
        (tr F, nats per unit^2). A prediction without any uncertainty has F = 0, and no rows.

    Raises:
        ProcessedWeightsError: where the final norm is folded away, which makes F another quadratic form.
        ScopeParameterError: for `top` or `tail`.
        ScopesError: as `attribute`, for bad prompts and positions.

    Examples:
        >>> frame = evaluation.fisher_spectrum(model, ["The capital of France is"], top=16)
        >>> evaluation.ranks_holding(frame, [0.9])

    Source: arXiv 2601.16407, `F = W_U (diag(p) - p p^T) W_U^T`.
    """
    import pandas as pd

    view = view_of(model)
    hint = f": F of this model has {view.d_model} eigenvalues"
    check_whole("top", top, 1, view.d_model, also=[None], hint=hint)
    check_number("tail", tail, lambda x: 0 <= x < 1, "a share from 0 to below 1")
    check_scopes(view, [FisherScope(rank=1, tail=tail)])
    parts = []
    # Inside, the user's autocast is off: torch has no eigenvalues in half precision.
    with view.locked():
        for index, read in enumerate(reads(view, encode_all(view, prompts, prepend_bos), position)):
            assert read.raw is not None
            geometry = FisherGeometry.at(read.head, read.raw)
            pairs = geometry.eigenpairs(tail) if top is None else geometry.leading(top, tail)
            values, trace = pairs[0].cpu().double(), geometry.trace
            values = values[values > 0]
            shares = (values.cumsum(0) / trace).clamp(max=1)
            entries = zip(range(1, len(values) + 1), values.tolist(), shares.tolist())
            parts += [(index, *entry, trace) for entry in entries]
    return pd.DataFrame(parts, columns=_COLUMNS).astype({"index": int, "k": int})


def ranks_holding(frame: pd.DataFrame, shares: Sequence[float] = (0.5, 0.9, 0.99)) -> pd.DataFrame:
    """The fewest eigenvalues that hold each share of tr F, prompt by prompt.

    `frame`: what `fisher_spectrum` gives. Returns rows of `index`, `share` and `k`; `k` is NaN where the
    eigenvalues of the frame do not hold the share (raise `top`). Raises `ScopeParameterError` for another
    frame, or a share outside (0, 1].

        >>> evaluation.ranks_holding(evaluation.fisher_spectrum(model, prompts), [0.5])["k"].median()
    """
    import pandas as pd

    missing = set(_COLUMNS) - set(getattr(frame, "columns", ()))
    if missing:
        raise ScopeParameterError(
            f"the frame has no column {sorted(missing)[0]!r}: give what fisher_spectrum returned"
        )
    numbers = (int, float)
    wrong = [s for s in shares if not (isinstance(s, numbers) and 0 < s <= 1 and s is not True)]
    if wrong:
        raise ScopeParameterError(f"a share of tr F lies in (0, 1], not {wrong[0]!r}")
    rows = []
    for index, own in frame.groupby("index", sort=False):
        for share in shares:
            enough = own.loc[own["share"] >= share, "k"]
            rows.append((index, float(share), float(enough.min())))
    return pd.DataFrame(rows, columns=["index", "share", "k"])
