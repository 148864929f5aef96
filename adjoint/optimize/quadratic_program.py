"""Convex quadratic programs with bounds and constraints at a price, by an interior point method.

Minimize g . d + d' B d / 2 + price . |violations of A d + a| within lower <= d <= upper.
Constraints that contradict each other or the bounds are missed by as little as their prices allow,
so that every program has a solution, and repeated constraints share one multiplier. The steps are
Mehrotra's predictor and corrector (Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm
16.4, with a common length for both variables).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.tracing import loops

# The share of the way to the boundary that a step may go (Nocedal and Wright, section 16.6).
TO_BOUNDARY = 0.995
# Interior point methods take 10 to 30 steps, hardly more for larger problems.
MOST_STEPS = 60
# All residuals and complementarity products, in units of the scaled problem.
TOLERANCE = 1e-13
# Room to begin with, in units of d, and multipliers of bounds, in units of g.
ROOM = 0.1
FIRST_MULTIPLIER = 0.1
# Added to the diagonals of linear systems, as a share of their largest entry.
REGULARIZATION = 1e-15


class QuadraticProgram(NamedTuple):
    """One program; g, B and the rows of A should be of order one.

    Attributes
    ----------
    hessian, derivative
        B, symmetric positive definite, and g.
    rows, values
        A and a.
    least, price
        A multiplier is between them: -price for an equation, 0 for A d + a <= 0.
    lower, upper
        Bounds of d with lower <= 0 <= upper; infinite where there is none.
    """

    hessian: Float[Array, "n n"]
    derivative: Float[Array, " n"]
    rows: Float[Array, "m n"]
    values: Float[Array, " m"]
    least: Float[Array, " m"]
    price: Float[Array, " m"]
    lower: Float[Array, " n"]
    upper: Float[Array, " n"]


class Point(NamedTuple):
    """An interior point: d, multipliers, rooms to all limits, and the bounds' multipliers.

    Attributes
    ----------
    below, above
        The two parts of A d + a = above - below.
    room_low, room_high
        d - lower and upper - d; 1 where a bound is infinite.
    at_low, at_high
        Multipliers of the bounds.
    """

    d: Float[Array, " n"]
    multipliers: Float[Array, " m"]
    below: Float[Array, " m"]
    above: Float[Array, " m"]
    room_low: Float[Array, " n"]
    room_high: Float[Array, " n"]
    at_low: Float[Array, " n"]
    at_high: Float[Array, " n"]


class _Residuals(NamedTuple):
    """What is left of the conditions of optimality, without complementarity."""

    dual: Float[Array, " n"]
    rows: Float[Array, " m"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]


class _Products(NamedTuple):
    """The complementarity products, which are to vanish together."""

    below: Float[Array, " m"]
    above: Float[Array, " m"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]


class _Factors(NamedTuple):
    """Factors of the condensed systems."""

    cholesky: Float[Array, "n n"]
    solved_rows: Float[Array, "n m"]
    schur: Float[Array, "m m"]


def solve(problem: QuadraticProgram) -> Point:
    """The solution; where a limit is met its room is zero but for rounding, else its multiplier."""

    def unfinished(carry: tuple[Point, Bool[Array, ""], Int32[Array, ""]]) -> Bool[Array, ""]:
        return ~carry[1] & (carry[2] < MOST_STEPS)

    def advance(
        carry: tuple[Point, Bool[Array, ""], Int32[Array, ""]],
    ) -> tuple[Point, Bool[Array, ""], Int32[Array, ""]]:
        point, _, count = carry
        following = _step(problem, point)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in following]))
        following = jax.tree.map(lambda new, old: jnp.where(finite, new, old), following, point)
        return following, ~finite | _is_solved(problem, following), count + 1

    begun = (_start(problem), jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    return loops.while_loop(unfinished, advance, begun)[0]


def _start(problem: QuadraticProgram) -> Point:
    d = jnp.zeros_like(problem.derivative)
    has_low = jnp.isfinite(problem.lower)
    has_high = jnp.isfinite(problem.upper)
    one = jnp.ones_like(d)
    return Point(
        d=d,
        multipliers=jnp.where(problem.least < 0, 0, jnp.minimum(1, problem.price / 2)),
        below=jnp.maximum(-problem.values, ROOM),
        above=jnp.maximum(problem.values, ROOM),
        room_low=jnp.where(has_low, jnp.maximum(-problem.lower, ROOM), one),
        room_high=jnp.where(has_high, jnp.maximum(problem.upper, ROOM), one),
        at_low=jnp.where(has_low, FIRST_MULTIPLIER, 0).astype(d.dtype),
        at_high=jnp.where(has_high, FIRST_MULTIPLIER, 0).astype(d.dtype),
    )


def _residuals(problem: QuadraticProgram, point: Point) -> _Residuals:
    has_low = jnp.isfinite(problem.lower)
    has_high = jnp.isfinite(problem.upper)
    d = point.d
    pull = problem.derivative + problem.hessian @ d + point.multipliers @ problem.rows
    return _Residuals(
        dual=pull - point.at_low + point.at_high,
        rows=problem.rows @ d + problem.values - point.above + point.below,
        low=jnp.where(has_low, d - jnp.where(has_low, problem.lower, 0) - point.room_low, 0),
        high=jnp.where(has_high, jnp.where(has_high, problem.upper, 0) - d - point.room_high, 0),
    )


def _products(problem: QuadraticProgram, point: Point) -> _Products:
    return _Products(
        point.below * (point.multipliers - problem.least),
        point.above * (problem.price - point.multipliers),
        point.room_low * point.at_low,
        point.room_high * point.at_high,
    )


def _is_solved(problem: QuadraticProgram, point: Point) -> Bool[Array, ""]:
    eps = jnp.finfo(point.d.dtype).eps
    tolerance = jnp.maximum(TOLERANCE, 4 * eps)
    parts = (*_residuals(problem, point), *_products(problem, point))
    return jnp.max(jnp.stack([jnp.max(jnp.abs(part), initial=0.0) for part in parts])) <= tolerance


def _mean(problem: QuadraticProgram, products: _Products) -> Float[Array, ""]:
    count = (
        2 * problem.values.size
        + jnp.sum(jnp.isfinite(problem.lower))
        + jnp.sum(jnp.isfinite(problem.upper))
    )
    return sum(jnp.sum(part) for part in products) / jnp.maximum(count, 1)


def _step(problem: QuadraticProgram, point: Point) -> Point:
    """The next point: a predictor towards the limits, and a corrector towards the central path."""
    residuals = _residuals(problem, point)
    products = _products(problem, point)
    factors = _factorize(problem, point)
    affine = _direction(
        problem, point, factors, residuals, _Products(*(-part for part in products))
    )
    length = _longest(problem, point, affine)
    mean = _mean(problem, products)
    foreseen = _mean(problem, _products(problem, _moved(point, affine, length)))
    centering = (foreseen / jnp.where(mean > 0, mean, 1)) ** 3
    second_order = _Products(
        affine.below * affine.multipliers,
        -affine.above * affine.multipliers,
        affine.room_low * affine.at_low,
        affine.room_high * affine.at_high,
    )
    towards = _Products(
        *(centering * mean - part - more for part, more in zip(products, second_order, strict=True))
    )
    direction = _direction(problem, point, factors, residuals, towards)
    return _moved(
        point, direction, jnp.minimum(1, TO_BOUNDARY * _longest(problem, point, direction))
    )


def _moved(point: Point, direction: Point, length: Float[Array, ""]) -> Point:
    return jax.tree.map(lambda part, change: part + length * change, point, direction)


def _factorize(problem: QuadraticProgram, point: Point) -> _Factors:
    diagonal = point.at_low / point.room_low + point.at_high / point.room_high
    matrix = problem.hessian + jnp.diag(diagonal)
    identity = jnp.eye(diagonal.size, dtype=diagonal.dtype)
    matrix = matrix + REGULARIZATION * jnp.max(jnp.diagonal(problem.hessian)) * identity
    cholesky = jnp.linalg.cholesky(matrix)
    solved = jax.scipy.linalg.cho_solve((cholesky, True), problem.rows.T)
    give = point.above / (problem.price - point.multipliers) + point.below / (
        point.multipliers - problem.least
    )
    schur = problem.rows @ solved
    schur = schur + jnp.diag(
        give + REGULARIZATION * jnp.max(jnp.abs(jnp.diagonal(schur)), initial=0.0)
    )
    return _Factors(cholesky, solved, schur)


def _direction(
    problem: QuadraticProgram,
    point: Point,
    factors: _Factors,
    residuals: _Residuals,
    products: _Products,
) -> Point:
    """Newton's step for the residuals, and for products that are to change by so much."""
    to_least = point.multipliers - problem.least
    to_price = problem.price - point.multipliers
    has_low = jnp.isfinite(problem.lower)
    has_high = jnp.isfinite(problem.upper)
    low = (products.low - point.at_low * residuals.low) / point.room_low
    high = (products.high - point.at_high * residuals.high) / point.room_high
    right = -residuals.dual + low - high
    right_rows = -residuals.rows + products.above / to_price - products.below / to_least
    if problem.values.size:
        multipliers = jnp.linalg.solve(factors.schur, factors.solved_rows.T @ right - right_rows)
    else:
        multipliers = jnp.zeros_like(problem.values)
    d = jax.scipy.linalg.cho_solve((factors.cholesky, True), right - multipliers @ problem.rows)
    room_low = jnp.where(has_low, d + residuals.low, 0)
    room_high = jnp.where(has_high, -d + residuals.high, 0)
    return Point(
        d=d,
        multipliers=multipliers,
        below=(products.below - point.below * multipliers) / to_least,
        above=(products.above + point.above * multipliers) / to_price,
        room_low=room_low,
        room_high=room_high,
        at_low=(products.low - point.at_low * room_low) / point.room_low,
        at_high=(products.high - point.at_high * room_high) / point.room_high,
    )


def _longest(problem: QuadraticProgram, point: Point, direction: Point) -> Float[Array, ""]:
    """The largest length, at most 1 / TO_BOUNDARY, that keeps all that has to be positive so."""

    def most(part: Array, change: Array) -> Array:
        return jnp.min(
            jnp.where(change < 0, -part / jnp.where(change < 0, change, 1), jnp.inf),
            initial=jnp.inf,
        )

    kept = [
        (point.below, direction.below),
        (point.above, direction.above),
        (point.multipliers - problem.least, direction.multipliers),
        (problem.price - point.multipliers, -direction.multipliers),
        (point.room_low, direction.room_low),
        (point.room_high, direction.room_high),
        (point.at_low, direction.at_low),
        (point.at_high, direction.at_high),
    ]
    return jnp.minimum(
        jnp.min(jnp.stack([most(part, change) for part, change in kept])), 1 / TO_BOUNDARY
    )
