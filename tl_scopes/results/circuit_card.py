"""All that is known of circuits on some pairs: what a model does there, what carries it, whether it lasts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from torch import Tensor

from tl_scopes.errors import ResultFileError, ScopeParameterError, check_choice
from tl_scopes.results.base import Result, render
from tl_scopes.results.edges import Edges
from tl_scopes.results.faithfulness import Faithfulness, What
from tl_scopes.results.fields import Axis, check_fields
from tl_scopes.results.paired import PairedComponents, PairedResult
from tl_scopes.results.records import KINDS, Provenance
from tl_scopes.results.stability import CircuitStability
from tl_scopes.results.statistics import summaries
from tl_scopes.results.storage import plain, read_file, rebuilt, write_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Of = Literal["nodes", "edges"]
_PARTS: dict[str, type[Result]] = {
    kind.__name__: kind for kind in (PairedComponents, Edges, Faithfulness, CircuitStability)
}
# Between the name of a tensor and the part of the card that it belongs to.
_JOIN = "/"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CircuitCard(Result):
    """What `tl_scopes.circuits.circuit_card` found, part by part; each part is a result of its own.

    `names`: of the scopes that nodes and edges were found by, the pairs' own first. For each of them
    `nodes` and `edges` (effects over pairs), `node_curves` and `edge_curves` (how much circuits of each
    size keep of the pairs' own metric, on the pairs that judge), and `node_stability` and
    `edge_stability` (the pairs with themselves, and with each of the `paraphrases`). `paraphrased`: the
    nodes by the pairs' own scope of each paraphrase. `judged_apart`: whether other pairs judge than those that
    nodes and edges were found on. `settings`: plain values.
    """

    names: Annotated[tuple[str, ...], Axis("scope")]
    nodes: Annotated[tuple[PairedComponents, ...], Axis("scope")]
    edges: Annotated[tuple[Edges, ...], Axis("scope")]
    node_curves: Annotated[tuple[Faithfulness, ...], Axis("scope")]
    edge_curves: Annotated[tuple[Faithfulness, ...], Axis("scope")]
    node_stability: Annotated[tuple[CircuitStability, ...], Axis("scope")]
    edge_stability: Annotated[tuple[CircuitStability, ...], Axis("scope")]
    paraphrases: Annotated[tuple[str, ...], Axis("paraphrase")]
    paraphrased: Annotated[tuple[PairedComponents, ...], Axis("paraphrase")]
    judged_apart: bool
    settings: Mapping[str, Any]
    provenance: Provenance

    def __post_init__(self) -> None:
        # As a file gives them back, so that a card that was loaded is equal.
        object.__setattr__(self, "settings", json.loads(json.dumps(dict(self.settings))))

    def metrics(self) -> pd.DataFrame:
        """What the model does on each set of pairs, by the pairs' own metric: one row a set.

        Columns: set ("found on", "judged on", or a paraphrase's name), pairs, clean and corrupted (mean
        of the metric), clean_error and corrupted_error (its standard error), apart (the share of pairs in
        which the metric is higher on the clean prompt; lower where it is squared, as it is 0 there),
        above_zero (the share of clean prompts with a metric above 0: for the difference of two logits the
        model's accuracy).

            >>> card.metrics().set_index("set")["apart"]
        """
        import pandas as pd

        sets: dict[str, Any] = {"found on": self.nodes[0]}
        if self.judged_apart:
            sets["judged on"] = self.node_curves[0]
        sets |= dict(zip(self.paraphrases, self.paraphrased))
        rows = []
        for name, own in sets.items():
            clean, corrupted = summaries(
                [own.clean.double().numpy(), own.corrupted.double().numpy()]
            )
            change = own.corrupted - own.clean if own.squared else own.clean - own.corrupted
            apart = float((change > 0).double().mean())
            above = float((own.clean > 0).double().mean())
            rows.append(
                (
                    name,
                    len(own.clean),
                    clean.mean,
                    clean.sem,
                    corrupted.mean,
                    corrupted.sem,
                    apart,
                    above,
                )
            )
        columns = ["set", "pairs", "clean", "clean_error", "corrupted", "corrupted_error", "apart",
                   "above_zero"]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    def members(self, of: Of = "nodes", name: str | None = None) -> pd.DataFrame:
        """The k largest nodes or edges by one scope (None: the pairs' own), largest first.

        Columns: label, effect (mean over pairs), low and high (95%, over resampled pairs), sign_share
        (of pairs with the mean's sign), stays (share of resamples in which it is among the k largest).

            >>> card.members("edges").query("stays > 0.95")
        """
        s = self._at(name)
        found: PairedResult = (self.nodes if of == "nodes" else self.edges)[s]
        table = self.stability(of, name).members()
        rows = {label: i for i, label in enumerate(found.row_labels())}
        effects = found.effects.double().sum(-1)[:, [rows[label] for label in table["label"]]]
        signs = (effects.sign() == effects.mean(0).sign()).double().mean(0)
        table.insert(4, "sign_share", signs.tolist())
        return table

    def curve(self, of: Of = "nodes", name: str | None = None) -> Faithfulness:
        """How much circuits keep, of nodes or edges by one scope (None: the pairs' own).

        Examples:
            >>> card.curve("edges").plot()
        """
        check_choice("of", of, ("nodes", "edges"))
        return (self.node_curves if of == "nodes" else self.edge_curves)[self._at(name)]

    def stability(self, of: Of = "nodes", name: str | None = None) -> CircuitStability:
        """Whether it lasts, of nodes or edges by one scope (None: the pairs' own).

        Examples:
            >>> card.stability("edges").verdict().text
        """
        check_choice("of", of, ("nodes", "edges"))
        return (self.node_stability if of == "nodes" else self.edge_stability)[self._at(name)]

    def to_frame(self) -> pd.DataFrame:
        """pandas table of the whole card: one row a scope, of nodes and of edges.

        Columns: scope, of, cpr and cmd, each with its interval (95%, over pairs) and the mean of random
        circuits (cpr_random); jaccard, ranks (of halves of the pairs) and verdict.

            >>> card.to_frame().set_index(["scope", "of"])["cpr"]
        """
        import pandas as pd

        rows = []
        for name in self.names:
            for of in ("nodes", "edges"):
                curve, stability = self.curve(of, name), self.stability(of, name)
                row: dict[str, Any] = {"scope": name, "of": of}
                areas: dict[What, Tensor] = {"cpr": curve.random_cpr, "cmd": curve.random_cmd}
                for what, random in areas.items():
                    low, high = curve.interval(what).tolist()
                    row |= {what: getattr(curve, what), f"{what}_low": low, f"{what}_high": high}
                    row[f"{what}_random"] = float(random.mean()) if len(random) else float("nan")
                halves = stability.row(0, 0, "halves")
                row["jaccard"] = float(stability.jaccard[halves, -1])
                row["ranks"] = stability.ranks[halves].value
                row["verdict"] = stability.verdict().kind
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(self, kind: str = "faithfulness", **options: Any) -> Figure:
        """Draw a matplotlib figure. Kinds and options: see `tl_scopes.render.figure`.

        Examples:
            >>> card.plot("stability")
        """
        return super().plot(kind=kind, **options)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The report as Markdown, tables alone; written to `path` if given.

        Examples:
            >>> card.to_markdown("circuits.md")
        """
        return render().markdown(self, path)

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file with all parts in it, whole or not at all.

        Examples:
            >>> card.save("circuits.safetensors")
        """
        tensors: dict[str, Tensor] = {}
        payload: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value and isinstance(value[0], Result):
                own = [
                    _taken_apart(part, f"{field.name}.{i}", tensors) for i, part in enumerate(value)
                ]
                payload[field.name] = own
            else:
                payload[field.name] = plain(value)
        return write_file(path, type(self).__name__, tensors, payload)

    @classmethod
    def load(cls, path: str | Path) -> CircuitCard:
        """Read what `save` wrote. Raises `ResultFileError` for any other file.

        Examples:
            >>> circuits.CircuitCard.load("circuits.safetensors").to_frame()
        """
        tensors, payload = read_file(path, cls.__name__)
        try:
            card = cls(
                **{name: _put_together(value, name, tensors) for name, value in payload.items()}
            )
            check_fields(card)
            return card
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise ResultFileError(
                f"{path} does not describe a whole {cls.__name__} ({error}): save it again"
            ) from error

    def _at(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self.names:
            raise ScopeParameterError(
                f"got the scope {name!r}; this card holds {', '.join(map(repr, self.names))}: give one of "
                "these"
            )
        return self.names.index(name)

    def __repr__(self) -> str:
        told = "; ".join(
            f"{of}: CPR {self.curve(of).cpr:.2f}, {self.stability(of).verdict().kind}"
            for of in ("nodes", "edges")
        )
        return f"CircuitCard({len(self.nodes[0].clean)} pairs, {self.provenance.model}; {told})"


def _taken_apart(part: Result, where: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What JSON holds of a part of the card; its tensors go to `tensors`."""
    described: dict[str, Any] = {"__part__": type(part).__name__}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            tensors[f"{where}{_JOIN}{field.name}"] = value
        else:
            described[field.name] = plain(value)
    return described


def _put_together(value: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    """A field of the card as it was before `_taken_apart`."""
    if not (
        isinstance(value, list) and value and isinstance(value[0], dict) and "__part__" in value[0]
    ):
        return rebuilt(value, KINDS)
    parts = []
    for i, described in enumerate(value):
        where = f"{name}.{i}{_JOIN}"
        own: dict[str, Any] = {
            key.removeprefix(where): tensor
            for key, tensor in tensors.items()
            if key.startswith(where)
        }
        own |= {k: rebuilt(v, KINDS) for k, v in described.items() if k != "__part__"}
        parts.append(_PARTS[described["__part__"]](**own))
        check_fields(parts[-1])
    return tuple(parts)
