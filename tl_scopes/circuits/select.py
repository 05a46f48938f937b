"""The strongest nodes or edges, as a circuit."""

from __future__ import annotations

from typing import Any

from tl_scopes.circuits.judging.candidates import Candidates, Scores, floor_share
from tl_scopes.errors import DisconnectedError, ScopeParameterError, check_number, check_whole
from tl_scopes.results.circuit import Circuit


def select(
    scores: Scores,
    n: int | None = None,
    *,
    share: float | None = None,
    role: str | None = None,
) -> Circuit:
    """Choose the `n` strongest nodes or edges, and keep of them what connects input and read.

    Strength is the magnitude of the mean effect over pairs. Edges stay where they lie on a path from
    the embedding to the read: a path enters a head by any of its query, key or value readers, those
    of a key-value head being readers of every query head that shares it. So a circuit may have fewer
    edges than were asked for. Of nodes all stay: the stream connects them. The embedding is
    part of every circuit, and is not counted; neither are biases, which write the same in every run.

    Args:
        scores: `PairedComponents` (nodes), `Edges`, or a dict of numbers by label: `"L5H2"`, or
            `"L0H1 -> L5H2.q"` for edges.
        n, share: how many; or which share of all candidates, above 0 and up to 1, rounded down. One of
            them.
        role: the position role whose effects count; None: the sum over all.

    Returns:
        `Circuit`.

    Raises:
        DisconnectedError: where no path is left, with how many more edges would be needed.
        ScopeParameterError: for a number, share, role or label that cannot be.
        NumericalError: for scores that are not finite.

    Source: the top n by magnitude, then pruned, as EAP-IG (arXiv 2403.17806) and MIB (arXiv 2504.13151) do.

    Examples:
        >>> circuit = select(edges, 100)
        >>> circuit.plot().savefig("circuit.pdf")
    """
    candidates = Candidates.told(scores, role)
    count = counted(candidates, n, share)
    kept = candidates.connected(candidates.first(count))
    if not kept.any():
        least = candidates.needed()
        raise DisconnectedError(
            f"none of the {count} strongest edges lies on a path from the embedding to the read: "
            + (
                f"{least - count} more are needed, n={least}"
                if least is not None
                else "nor would all of them connect the two, so score every edge of the model"
            )
        )
    return candidates.circuit(kept, count)


def counted(candidates: Candidates, n: Any, share: Any) -> int:
    """How many of them are asked for. Raises `ScopeParameterError`."""
    what = candidates.of
    if (n is None) == (share is None):
        raise ScopeParameterError(
            f"n is {n!r} and share {share!r}: give one, how many {what} or which share of them"
        )
    if share is not None:
        check_number("share", share, lambda x: 0 < x <= 1, "a share above 0 and up to 1")
        n = floor_share(share, len(candidates))
        if not n:
            raise ScopeParameterError(
                f"share={share!r} of {len(candidates)} {what} is none: give at least "
                f"{1 / len(candidates):.3g}"
            )
    check_whole("n", n, 1, len(candidates), hint=f" (of {what})")
    return n
