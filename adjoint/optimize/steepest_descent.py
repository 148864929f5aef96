"""Steepest descent along minus the gradient of an inner product.

This product is the whole difference between a good one and a bad one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize.descent import Descent
from adjoint.optimize.line_search import Search, StrongWolfe
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Iterate


class _Length(NamedTuple):
    """tau: the step is -tau gradient."""

    tau: Float[Array, ""]


SEARCH = StrongWolfe()


@dataclass(frozen=True)
class SteepestDescent(Descent):
    """x <- x - t tau M^-1 f'(x), downhill in `minimize`'s inner product; tau = <s, s> / (s . y).

    s and y are those of the last step.

    Parameters
    ----------
    search
        How far a step goes: `StrongWolfe`, `Backtracking`, or an object with the same two methods.

    Notes
    -----
    **Cost** per step: mostly one value and derivative. Source: J. Barzilai, J. M. Borwein, IMA J.
    Numer. Anal. 8 (1988), equation (6), as the first trial of a strong Wolfe search.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> valley = lambda x: x[0] ** 2 + 1e6 * x[1] ** 2  # x_1 in mm, x_2 in m
    >>> units = adjoint.Weighted(jnp.array([1.0, 1e6]))
    >>> method, start = adjoint.SteepestDescent(), jnp.array([1.0, 1e-3])
    >>> solution = adjoint.minimize(valley, start, method, inner_product=units)
    >>> (
    ...     bool(jnp.max(jnp.abs(adjoint.require(solution))) < 1e-6),
    ...     int(solution.stats["iterations"]) <= 3,
    ... )
    (True, True)
    """

    search: Search = SEARCH

    def units(self, x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.ones_like(x)

    def forget(self, x: Float[Array, " n"], domain: Domain) -> _Length:
        return _Length(jnp.ones((), x.dtype))

    def direction(
        self, memory: _Length, at: Iterate, free: Bool[Array, " n"], domain: Domain
    ) -> Float[Array, " n"]:
        return -memory.tau * domain.gradient(at.derivative * free) * free

    def learn(
        self, memory: _Length, s: Float[Array, " n"], y: Float[Array, " n"], domain: Domain
    ) -> _Length:
        return _Length(s @ domain.derivative(s) / (s @ y))
