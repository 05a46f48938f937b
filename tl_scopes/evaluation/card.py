"""Everything that is known to tell a faithful attribution from a pretty one, in one call."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tl_scopes.adapter.prompt_lists import list_of_prompts
from tl_scopes.adapter.prompts import Prompts
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import NumericalError, ScopesWarning, check_choice, check_whole
from tl_scopes.evaluation.ablations import COLUMNS, Row, error_row, measure
from tl_scopes.evaluation.methods import Methods, check_continuations, check_methods, labelled
from tl_scopes.evaluation.runs.units import encoded, units
from tl_scopes.evaluation.sanity import Depth, parse_depths, randomisation
from tl_scopes.evaluation.sensitivity import input_stability
from tl_scopes.evaluation.settings import OF_CONTINUATIONS, Settings
from tl_scopes.evaluation.spectra import fisher_spectrum
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.rules import rules_of
from tl_scopes.scopes.pinning import pinned
from tl_scopes.scopes.prediction import FisherScope

if TYPE_CHECKING:
    import pandas as pd

# Prompts that are measured together.
_UNIT = 8
_DEPTHS = (0.25, 0.5, 1.0)


def faithfulness_card(
    model: Any,
    prompts: Prompts,
    methods: Methods,
    *,
    settings: Settings | None = None,
    randomised: bool | Sequence[Depth] = True,
    stability: bool | int = True,
    spectra: bool | int = True,
    reference: str | None = None,
    continuations: Sequence[Any] | None = None,
    progress: bool | None = None,
) -> FaithfulnessCard:
    """How faithful attribution methods are on some prompts: every measure and check of this module.

    Args:
        model: a HookedTransformer or TransformerBridge.
        prompts: texts, or lists of token ids. One that fails is recorded with its error.
        methods: scopes and baselines, in a list or in a dict by label.
        settings: what is ablated and measured; default: `Settings(leave_one_out="zero", matched=1)`.
        randomised: whether to randomise the model's blocks from the output; depths as
            `randomisation` takes them, True for a quarter, half and all of the blocks.
        stability: whether to add noise to the embeddings; how many draws, True for 4.
        spectra: whether to take the eigenvalues of F; how many, True for 64.
        reference: label of the method that reports hold the others against; None for every pair.
        continuations: a text, or token ids, that follow each prompt. They are measured, and explained by
            methods of `ContinuationScope()`, as in `measure`; the card's settings say so (target
            "continuation"). Spectra stay those of the prompt's next token.
        progress: a bar on stderr. Default: where stderr is a terminal.

    Returns:
        `FaithfulnessCard`: `.to_frame()`, `.comparisons()`, `.verdicts()`, `.to_html()`,
        `.to_markdown()`, `.plot(kind)`, `.save(folder)`.

    Raises:
        ScopesError: for arguments, methods or a model that cannot be used, before anything is
            measured. A check that meets NaN or infinity afterwards is left out, with a warning.

    Examples:
        >>> card = evaluation.faithfulness_card(model, prompts, [ts.SemanticScope(), ts.FisherScope()])
        >>> card.to_html("card.html")

    Sources: see `measure`, `randomisation`, `input_stability`, `fisher_spectrum`.
    """
    settings = settings or Settings(leave_one_out="zero", matched=1)
    named = labelled(methods)
    check_choice("reference", reference, (*named, None))
    given = list_of_prompts(prompts)
    view = view_of(model)
    check_continuations(
        continuations, len(given), named.values(), settings.position, settings.target
    )
    encoding = encoded(model, given, settings.prepend_bos)
    plan = units(encoding.ids, _UNIT)
    depths = _DEPTHS if randomised is True else randomised
    # Checked before hours of measuring, not after.
    depths = depths and parse_depths(depths, view.n_layers)
    draws = _number("stability", stability, 4)
    top = _number("spectra", spectra, 64)
    check_methods(view, [*named.values(), *([FisherScope(rank=1)] if top else [])])
    for method in named.values() if depths or draws else ():
        pinned(method, 0)
    measured: list[Row] = [error_row(i, 0, error) for i, error in encoding.errors.items()]
    checks: dict[str, pd.DataFrame] = {}
    with _bar(len(given), progress) as bar:
        bar.update(len(encoding.errors))
        for unit in plan:
            ids = [encoding.ids[i] or [] for i in unit]
            rows = measure(model, ids, named, settings, continuations=_after(continuations, unit))
            measured += [{**row, "index": unit[row["index"]]} for row in rows]
            bar.update(len(unit))
        failed = {row["index"] for row in measured if row["error"]}
        kept = {i: ids for i, ids in enumerate(encoding.ids) if ids is not None and i not in failed}
        measurable = list(kept.values())
        where: dict[str, Any] = {"position": settings.position}
        seeded = {**where, "seed": settings.seed, "continuations": _after(continuations, kept)}
        if measurable and depths:
            with _kept(bar, "random blocks"):
                checks["randomisation"] = randomisation(
                    model, measurable, named, depths=depths, **seeded
                )
        if measurable and draws:
            with _kept(bar, "noise"):
                checks["stability"] = input_stability(
                    model, measurable, named, draws=draws, **seeded
                )
        if measurable and top:
            with _kept(bar, "spectra of F"):
                top = min(top, view.d_model)
                checks["spectra"] = fisher_spectrum(model, measurable, top=top, **where)
    places = dict(enumerate(kept))
    told = settings.to_dict() | (OF_CONTINUATIONS if continuations is not None else {})
    ruled = {label: rules_of(method) for label, method in named.items()}
    if any(ruled.values()):
        # Whatever the methods are called.
        told["rules"] = "; ".join(f"{label}: {rules}" for label, rules in ruled.items() if rules)
    return FaithfulnessCard(
        rows=_rows(measured),
        methods=tuple(named),
        settings=told,
        provenance=view.provenance(),
        reference=reference,
        **{k: frame.assign(index=frame["index"].map(places)) for k, frame in checks.items()},
    )


def _after(continuations: Sequence[Any] | None, prompts: Iterable[int]) -> list[Any] | None:
    return None if continuations is None else [continuations[i] for i in prompts]


def _number(name: str, value: Any, usual: int) -> int:
    count = (usual if value else 0) if isinstance(value, bool) else value
    check_whole(name, count, 0)
    return count


@contextmanager
def _kept(bar: Any, what: str) -> Iterator[None]:
    """A check whose numbers cannot be had is left out, with a warning: the others took hours."""
    bar.set_description(what)
    try:
        yield
    except NumericalError as error:
        warnings.warn(f"the card has no {what}: {error}", ScopesWarning, stacklevel=4)


def _rows(rows: list[Row]) -> pd.DataFrame:
    import pandas as pd

    ordered = sorted(rows, key=lambda row: row["index"])
    return pd.DataFrame(ordered, columns=list(COLUMNS))


@contextmanager
def _bar(total: int, progress: bool | None) -> Iterator[Any]:
    from tqdm import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    with tqdm(total=total, unit="prompt", disable=not shown) as bar:
        yield bar
