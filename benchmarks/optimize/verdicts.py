"""Whether a run has solved its problem.

Nobody's word counts, neither the solver's nor the collection's: only f, f' and f''. **Scale** of a
problem at a value f: max(|f|, min(1, f(x0) - f)). Differences count relative to it, so what is
solved is never less exact than 1e-6 max(1, |f|), and more exact where all values are small.

**Minimum**: a point where f'' is positive semidefinite up to rounding and a Newton step promises no
more than 1e-6 of the scale, f' f''^-1 f' / 2 (the squared Newton decrement; S. Boyd, L.
Vandenberghe, Convex Optimization, Cambridge (2004), section 9.5.1); in units of the unknowns in
which f'' has a unit diagonal. It is **strict** when f rises visibly over changes of x as large as x
in every direction: on a plateau without end it does not.

**Reference**: the lowest value at a strict minimum, whoever has found it, as f'' proves it one, or
at a minimum that two methods agree on to 1e-6 of the scale. A problem without one counts for
nobody.

**Solved**: f is above the reference by at most 1e-6 of the scale, or the run has ended at another
strict minimum: that is what a local method is asked for. **Saddle**: a point where a Newton step
promises nothing and f'' is visibly indefinite, at which a second library has ended, too. It is not
solved, but f' cannot tell it from a minimum, so that only who sees f'' is wrong to claim it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.optimize.solvers import ADJOINT, DEFAULT

TOLERANCE = 1e-6
# An eigenvalue of f'' with a unit diagonal is rounding when it is smaller than the largest by this.
ROUNDING = 1e-12
# On a plateau f'' promises less than this of f for a change of x as large as x.
PLATEAU = 1e-10
# An unknown counts as no smaller than this beside the largest.
SMALL = 1e-3


class Ending(NamedTuple):
    """What can be said of the point where a run ended.

    Attributes
    ----------
    value
        f; infinite when not finite.
    promise
        What a Newton step would gain; infinite when f' or f'' is not finite.
    convex
        Whether f'' is positive semidefinite up to rounding.
    strict
        Whether f'' says that f rises visibly in every direction.
    saddle
        Whether it says that f falls visibly in some.
    """

    value: float
    promise: float
    convex: bool
    strict: bool
    saddle: bool


def ending(
    x: Float[np.ndarray, " n"],
    value: float,
    gradient: Float[np.ndarray, " n"],
    hessian: Float[np.ndarray, "n n"],
) -> Ending:
    """Examine a point.

    Examples
    --------
    >>> ending(np.ones(2), 1.0, np.array([0.0, 2.0]), np.diag([-1.0, 2.0]))
    Ending(value=1.0, promise=1.0, convex=False, strict=False, saddle=True)
    """
    finite = np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))
    if not finite:
        return Ending(float(value) if np.isfinite(value) else np.inf, np.inf, False, False, False)
    hessian = (hessian + hessian.T) / 2
    diagonal = np.abs(np.diag(hessian))
    unit = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    eigenvalues, vectors = np.linalg.eigh(unit[:, None] * hessian * unit)
    smallest = ROUNDING * max(float(np.max(np.abs(eigenvalues))), float(np.finfo(float).tiny))
    slopes = vectors.T @ (unit * gradient)
    curvatures = np.maximum(np.abs(eigenvalues), smallest)
    convex = bool(eigenvalues[0] >= -smallest)
    size = np.maximum(np.abs(x), SMALL * np.max(np.abs(x)))
    rise = np.linalg.eigvalsh(size[:, None] * hessian * size)[0] / 2
    promise = float(np.sum(slopes**2 / curvatures) / 2)
    visible = PLATEAU * abs(value)
    return Ending(
        float(value), promise, convex, bool(convex and rise > visible), bool(rise < -visible)
    )


def scale(value: float, start: float) -> float:
    """Of differences of f, around a value in a problem that starts at another."""
    return max(abs(value), min(1.0, start - value)) if np.isfinite(start) else max(abs(value), 1.0)


def reference(rows: Sequence[dict[str, Any]]) -> float | None:
    """The lowest minimum of one problem's rows that is strict, or that two methods agree on."""
    minima = [row for row in rows if _stationary(row) and row["convex"]]
    known = [
        row["value"]
        for row in minima
        if row["strict"] or any(_same(row, other) and _independent(row, other) for other in minima)
    ]
    return min(known, default=None)


def judge(rows: Sequence[dict[str, Any]]) -> None:
    """Note in one problem's rows how far each is above the reference, and whether it is solved.

    It is None without a reference.
    """
    lowest = reference(rows)
    saddles = [row for row in rows if _stationary(row) and row["saddle"]]
    at_saddle = [
        any(_same(row, o) and row["library"] != o["library"] for o in saddles) for row in rows
    ]
    for row, there in zip(rows, at_saddle, strict=True):
        row["saddle"] = there and row in saddles
        if lowest is None:
            row["gap"] = row["solved"] = None
            continue
        row["gap"] = row["value"] - lowest
        at_reference = row["gap"] <= TOLERANCE * scale(lowest, row["start_value"])
        row["solved"] = bool(at_reference or (_stationary(row) and row["strict"]))


def _independent(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether these are two methods: our default is one of our others."""
    ours = row["library"] == other["library"] == ADJOINT
    return row["solver"] != other["solver"] and not (
        ours and DEFAULT in (row["solver"], other["solver"])
    )


def _stationary(row: dict[str, Any]) -> bool:
    return row["promise"] <= TOLERANCE * scale(row["value"], row["start_value"])


def _same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return abs(row["value"] - other["value"]) <= TOLERANCE * scale(row["value"], row["start_value"])
