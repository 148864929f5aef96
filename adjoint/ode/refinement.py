"""A x = b by the factors of a matrix close to A: for the derivatives of stages, whose matrices differ little within a step.

Each iteration x <- x + A_0^-1 (b - A x) makes the error smaller by |1 - A_0^-1 A|, to the accuracy that factors of A itself would
give (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM (2002), section 12.1). It takes n^2 operations
and a product A v, where factors of A take n^3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Operator = Callable[[Array], Array]

# Slower than halving the error each time it does not pay; from 1 to rounding are 52 halvings, and mostly it takes 5 to 10.
MOST_ITERATIONS = 30


def solve_by_nearby_factors(A: Operator, b: Float[Array, " n"], factors: Any) -> Float[Array, " n"]:
    """x with A x = b, differentiable by A and b; `factors` are those that `lu_factor` makes of a matrix close to A."""

    def forward(A: Operator, b: Array) -> Array:
        return _iterate(A, b, factors, transposed=False)

    def backward(A_transposed: Operator, b: Array) -> Array:
        return _iterate(A_transposed, b, factors, transposed=True)

    return jax.lax.custom_linear_solve(A, b, forward, backward)


def _iterate(A: Operator, b: Array, factors: Any, transposed: bool) -> Array:
    eps = jnp.finfo(b.dtype).eps

    def improve(carry: Any) -> Any:
        x, scale, last, _, count = carry
        step = jax.scipy.linalg.lu_solve(factors, b - A(x), trans=int(transposed))
        x, change = x + step, jnp.abs(step)
        # Each entry by itself: those of states that are small beside others may converge more slowly.
        scale = jnp.maximum(scale, jnp.abs(x))
        return x, scale, change, jnp.any((change < last / 2) & (change > eps * scale)), count + 1

    def proceed(carry: Any) -> Array:
        _, _, _, shrinks, count = carry
        return shrinks & (count < MOST_ITERATIONS)

    nothing = jnp.zeros_like(b)
    start = (nothing, nothing, nothing + jnp.inf, jnp.array(True), 0)
    x, scale, change, _, _ = jax.lax.while_loop(proceed, improve, start)
    # Changes that no longer shrink are rounding when they are small, and else a sign of factors too far away.
    converged = jnp.all(change <= eps ** (2 / 3) * scale)

    def by_its_own(_: Array) -> Array:
        return jnp.linalg.solve(jax.vmap(A, out_axes=1)(jnp.eye(b.size, dtype=b.dtype)), b)

    return jax.lax.cond(converged, lambda x: x, by_its_own, x)
