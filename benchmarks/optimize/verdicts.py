"""Whether a run has solved its problem. Nobody's word counts, neither the solver's nor the collection's: only f, f' and f''.

**Scale** of a problem at a value f: max(|f|, min(1, f(x0) - f)). Differences count relative to it, so what is solved is never
less exact than 1e-6 max(1, |f|), and more exact where all values are small.

**Minimum**: a point where f'' is positive semidefinite up to rounding and a Newton step promises no more than 1e-6 of the scale,
f' f''^-1 f' / 2 (the squared Newton decrement; S. Boyd, L. Vandenberghe, Convex Optimization, Cambridge (2004), section 9.5.1).

**Known minimum**: a value that solvers of at least two libraries have reached, both at a minimum, to 1e-6 of the scale.
**Reference**: the lowest known minimum. A problem without one counts for nobody.

**Solved**: f is above the reference by at most 1e-6 of the scale, or it is another known minimum and the run ended at a minimum:
a local minimum is what a local method is asked for.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

TOLERANCE = 1e-6
# An eigenvalue of f'' is rounding when it is smaller than the largest by this.
ROUNDING = 1e-10


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
    """

    value: float
    promise: float
    convex: bool


def ending(value: float, gradient: Float[np.ndarray, " n"], hessian: Float[np.ndarray, "n n"]) -> Ending:
    """Examine a point.

    Examples
    --------
    >>> ending(1.0, np.array([0.0, 2.0]), np.diag([-1.0, 2.0]))
    Ending(value=1.0, promise=1.0, convex=False)
    """
    finite = np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))
    if not finite:
        return Ending(float(value) if np.isfinite(value) else np.inf, np.inf, False)
    eigenvalues, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    smallest = ROUNDING * max(float(np.max(np.abs(eigenvalues))), np.finfo(float).tiny)
    slopes = vectors.T @ gradient
    curvatures = np.maximum(np.abs(eigenvalues), smallest)
    return Ending(float(value), float(np.sum(slopes**2 / curvatures) / 2), bool(eigenvalues[0] >= -smallest))


def scale(value: float, start: float) -> float:
    """Of differences of f, around a value in a problem that starts at another."""
    return max(abs(value), min(1.0, start - value)) if np.isfinite(start) else max(abs(value), 1.0)


def known_minima(rows: Sequence[dict[str, Any]]) -> list[float]:
    """The values of the rows of one problem that two libraries agree on, ascending."""
    minima = sorted((row for row in rows if _at_minimum(row)), key=lambda row: row["value"])
    return [
        row["value"]
        for row in minima
        if any(other["library"] != row["library"] and _same(other["value"], row) for other in minima)
    ]


def judge(rows: Sequence[dict[str, Any]]) -> None:
    """Note in the rows of one problem how far each is above the reference, and whether it is solved; None without one."""
    known = known_minima(rows)
    for row in rows:
        if not known:
            row["gap"] = row["solved"] = None
            continue
        row["gap"] = row["value"] - known[0]
        lowest = row["gap"] <= TOLERANCE * scale(known[0], row["start_value"])
        row["solved"] = bool(lowest or (_at_minimum(row) and any(_same(value, row) for value in known)))


def _at_minimum(row: dict[str, Any]) -> bool:
    return row["convex"] and row["promise"] <= TOLERANCE * scale(row["value"], row["start_value"])


def _same(value: float, row: dict[str, Any]) -> bool:
    return abs(value - row["value"]) <= TOLERANCE * scale(row["value"], row["start_value"])
