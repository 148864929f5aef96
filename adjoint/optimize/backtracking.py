"""The simplest line search: shorter until f falls enough."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import refuse
from adjoint.optimize.line_search import Knot


class BacktrackingState(NamedTuple):
    """Where a search stands; see `adjoint.optimize.line_search.SearchState`.

    `low` is where it began.
    """

    t: Float[Array, ""]
    low: Knot
    low_derivative: Float[Array, " n"]
    trials: Int32[Array, ""]
    contradicted_by: Float[Array, ""]
    accepted: Bool[Array, ""]
    fell_back: Bool[Array, ""]
    failed: Bool[Array, ""]


@dataclass(frozen=True)
class Backtracking:
    """phi(t) <= phi(0) + c1 t phi'(0), for t = 1, then `shrink` times the one before.

    It looks at values alone, so that a step is never longer than the model says; where phi'(t) is
    still steep, BFGS learns little.

    Parameters
    ----------
    c1, shrink
        Between 0 and 1.
    trials
        The most evaluations along one direction.

    Raises
    ------
    ValueError
        For a share that is not between 0 and 1, or no trial.

    Notes
    -----
    Source: L. Armijo, Pacific J. Math. 16, 1-3 (1966); Nocedal and Wright, Numerical Optimization,
    2nd ed., algorithm 3.1.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> method = adjoint.BFGS(search=adjoint.Backtracking(shrink=0.3))
    >>> valley = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> x = adjoint.require(adjoint.minimize(valley, jnp.array([-1.2, 1.0]), method))
    >>> [round(float(v), 3) for v in x]
    [1.0, 1.0]
    """

    c1: float = 1e-4
    shrink: float = 0.5
    trials: int = 40

    def __post_init__(self) -> None:
        if not (0 < self.c1 < 1 and 0 < self.shrink < 1 and self.trials >= 1):
            refuse(
                "Backtracking",
                f"c1 = {self.c1}, shrink = {self.shrink}, trials = {self.trials}",
                "shares between 0 and 1, and at least one trial",
                "1e-4 and 0.5 are usual.",
            )

    def begin(
        self,
        value: Float[Array, ""],
        slope: Float[Array, ""],
        derivative: Float[Array, " n"],
        t: Float[Array, ""],
        longest: Float[Array, ""],
    ) -> BacktrackingState:
        """A search that first tries t, from phi(0) = value and phi'(0) = slope < 0."""
        no = jnp.zeros((), bool)
        return BacktrackingState(
            t=jnp.minimum(t, longest).astype(value.dtype),
            low=Knot(jnp.zeros_like(value), value, slope),
            low_derivative=derivative,
            trials=jnp.zeros((), jnp.int32),
            contradicted_by=jnp.zeros_like(value),
            accepted=no,
            fell_back=no,
            failed=no,
        )

    def advance(
        self,
        search: BacktrackingState,
        value: Float[Array, ""],
        slope: Float[Array, ""],
        derivative: Float[Array, " n"],
        noise: Float[Array, ""],
    ) -> BacktrackingState:
        """The search after phi and phi' at its t; differences below `noise` are not believed."""
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(derivative))
        start = search.low
        enough = value <= start.value + self.c1 * search.t * start.slope + noise
        accepted = finite & enough
        trials = search.trials + 1
        return search._replace(
            t=jnp.where(accepted, search.t, self.shrink * search.t),
            trials=trials,
            accepted=accepted,
            failed=~accepted & (trials >= self.trials),
        )
