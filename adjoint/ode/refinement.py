"""A'x = b by the factors of a matrix close to A.

It is for the transposes of stages, whose matrices differ little within a step. Each refinement x <-
x + A_0'^-1 (b - A'x) makes the error smaller by |1 - A_0'^-1 A'|, in n^2 operations where factors
of A take n^3. That a change is small tells nothing: factors that are far too large make small
changes. What tells is the backward error

    max_i |b - A'x|_i / (|A'| |x| + |b|)_i

the share by which entries of A and b have to be changed for x to be their exact solution (W.
Oettli, W. Prager, Numer. Math. 6, 1964; N. J. Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., SIAM, 2002, sections 7.2 and 12.2). Where it is the rounding of the entries, no
factors could do better; where it does not get there soon, A has factors of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.tracing import loops

# As many times the rounding of the entries may the backward error be.
ROUNDING = 4
# A refinement that leaves more than this share of the backward error does not pay; mostly three or
# four leave rounding.
SLOW = 0.5
MOST_REFINEMENTS = 20


def solve_by_nearby_factors(
    A: Float[Array, "n n"], b: Float[Array, " n"], factors: PyTree
) -> Float[Array, " n"]:
    """x with A x = b, differentiable by A and b; `factors` are the `lu_factor` of a nearby matrix.

    They serve in the transposed system of reverse mode, where each A meets one right-hand side, or
    two. The directions of forward mode share the factors of A, and so do those of a `vmap` over A,
    under which the two ways would both be gone.
    """

    def forward(_: object, b: Array) -> Array:
        return jnp.linalg.solve(A, b)

    def backward(_: object, b: Array) -> Array:
        return _solve_transposed(A, *factors, b)

    return loops.custom_linear_solve(lambda v: A @ v, b, forward, backward)


@jax.custom_batching.custom_vmap
def _solve_transposed(A: Array, lu: Array, pivots: Array, b: Array) -> Float[Array, " n"]:
    x, is_solution = refine(A, (lu, pivots), b)
    return loops.cond(is_solution, lambda: x, lambda: _by_its_own(A, b))


def _by_its_own(A: Array, b: Array) -> Float[Array, " n"]:
    return jnp.linalg.solve(A.T, b)


@_solve_transposed.def_vmap
def _(_: int, is_batched: Any, A: Array, lu: Array, pivots: Array, b: Array) -> tuple[Array, bool]:
    if is_batched == [False, False, False, True]:
        return _solve_transposed_together(A, lu, pivots, b), True
    axes = tuple(0 if batched else None for batched in (is_batched[0], is_batched[3]))
    if axes == (None, None):
        return _by_its_own(A, b), False
    return jax.vmap(_by_its_own, axes)(A, b), True


@jax.custom_batching.custom_vmap
def _solve_transposed_together(
    A: Array, lu: Array, pivots: Array, b: Float[Array, "k n"]
) -> Float[Array, "k n"]:
    """For several right-hand sides of one A, as a gradient and its error estimate have them."""
    x, is_solution = jax.vmap(lambda b: refine(A, (lu, pivots), b))(b)
    # One A has one factorization.
    return loops.cond(jnp.all(is_solution), lambda: x, lambda: _by_its_own(A, b.T).T)


@_solve_transposed_together.def_vmap
def _(_: int, is_batched: Any, A: Array, lu: Array, pivots: Array, b: Array) -> tuple[Array, bool]:
    axes = tuple(0 if batched else None for batched in (is_batched[0], is_batched[3]))
    if axes == (None, None):
        return _by_its_own(A, b.T).T, False
    return jax.vmap(lambda A, b: _by_its_own(A, b.T).T, axes)(A, b), True


def refine(
    A: Float[Array, "n n"], factors: PyTree, b: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """x with A'x = b by factors of a matrix near A, and whether its backward error is rounding."""
    size = jnp.abs(A)
    enough = ROUNDING * jnp.finfo(b.dtype).eps

    def measured(x: Array) -> tuple[Array, Array]:
        residual = b - x @ A
        scale = jnp.abs(x) @ size + jnp.abs(b)
        return residual, jnp.max(jnp.where(residual == 0, 0, jnp.abs(residual) / scale))

    def improve(carry: PyTree) -> PyTree:
        x, residual, last, _, count = carry
        x = x + jax.scipy.linalg.lu_solve(factors, residual, trans=1)
        residual, error = measured(x)
        return x, residual, error, error <= SLOW * last, count + 1

    def proceed(carry: PyTree) -> Array:
        _, _, error, pays, count = carry
        return (error > enough) & pays & (count < MOST_REFINEMENTS)

    zero = jnp.zeros_like(b)
    start = (zero, b, jnp.asarray(jnp.inf, b.dtype), jnp.array(True), 0)
    x, _, error, _, _ = loops.while_loop(proceed, improve, start)
    return x, error <= enough
