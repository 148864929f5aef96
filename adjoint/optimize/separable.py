"""The subproblem of moving asymptotes, solved by a primal-dual interior point iteration.

Minimize g_0(h) + d sum(y + y^2 / 2) subject to g_i(h) <= y_i, lower <= h <= upper and y >= 0, where

    g_i(h) = r_i + sum_j p_ij (1 / (1 - h_j) - 1) + q_ij (1 / (1 + h_j) - 1),  p, q >= 0, r_0 = 0.

All g are convex and separable, so that a Newton step costs a system in the multipliers alone. The y
make every subproblem feasible. The barrier falls as in A. Waechter, L. T. Biegler, Math. Program.
106, 25-57 (2006), equations (6) to (8).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.tracing import loops

# Newton steps, and halvings of one, until the subproblem is given up; 20 to 40 and none are usual.
MAX_STEPS = 100
MAX_HALVINGS = 10
# A step may go this share of the way to the boundary.
TO_BOUNDARY = 0.995
# The first barrier, as a share of the first products of multipliers and their distances.
FIRST_BARRIER = 0.1
# The start is this share of upper - lower away from the bounds.
CENTER = 0.1


class Separable(NamedTuple):
    """The data of a subproblem; row 0 of p, q and r is the objective.

    Attributes
    ----------
    penalty
        d, the price of a violation.
    """

    p: Float[Array, "1+m n"]
    q: Float[Array, "1+m n"]
    r: Float[Array, "1+m"]
    lower: Float[Array, " n"]
    upper: Float[Array, " n"]
    penalty: Float[Array, ""]

    def values(self, h: Float[Array, " n"]) -> Float[Array, "1+m"]:
        """g(h)."""
        return self.r + self.p @ (h / (1 - h)) - self.q @ (h / (1 + h))

    def slopes(self, h: Float[Array, " n"]) -> Float[Array, "1+m n"]:
        """g'(h)."""
        return self.p / (1 - h)[None, :] ** 2 - self.q / (1 + h)[None, :] ** 2

    def curvature(self, h: Float[Array, " n"], weights: Float[Array, "1+m"]) -> Float[Array, " n"]:
        """The diagonal of (weights . g)''(h)."""
        return 2 * (weights @ self.p) / (1 - h) ** 3 + 2 * (weights @ self.q) / (1 + h) ** 3


class Point(NamedTuple):
    """The unknowns: h, y, slacks, and the multipliers of constraints and of bounds on h and y."""

    h: Float[Array, " n"]
    y: Float[Array, " m"]
    slack: Float[Array, " m"]
    multipliers: Float[Array, " m"]
    at_lower: Float[Array, " n"]
    at_upper: Float[Array, " n"]
    at_zero: Float[Array, " m"]


class _Iteration(NamedTuple):
    """`residual` is what the conditions of optimality leave, with no barrier."""

    point: Point
    residual: Point
    barrier: Float[Array, ""]
    count: Int32[Array, ""]
    falls: Bool[Array, ""]


class _Search(NamedTuple):
    """A step of length t, and the residual after it."""

    t: Float[Array, ""]
    residual: Point
    falls: Bool[Array, ""]
    halvings: Int32[Array, ""]


def solve(problem: Separable) -> Point:
    """The solution, to a complementarity of eps^0.7."""
    last = jnp.asarray(jnp.finfo(problem.r.dtype).eps ** 0.7, problem.r.dtype)

    def unfinished(iteration: _Iteration) -> Bool[Array, ""]:
        error = _error(_with_barrier(iteration.residual, iteration.barrier))
        # Rounding of large multipliers may be all that is left.
        done = (iteration.barrier <= last) & ((error <= 10 * iteration.barrier) | ~iteration.falls)
        return ~done & (iteration.count < MAX_STEPS)

    def advance(iteration: _Iteration) -> _Iteration:
        point, residual, barrier, count, _ = iteration
        lower = jnp.maximum(last, jnp.minimum(0.2 * barrier, barrier**1.5))
        reached = _error(_with_barrier(residual, barrier)) <= 10 * barrier
        barrier = jnp.where(reached, lower, barrier)
        step = _newton_step(problem, point, _with_barrier(residual, barrier))
        search = _search(problem, point, step, residual, barrier)
        return _Iteration(
            _moved(point, step, search.t), search.residual, barrier, count + 1, search.falls
        )

    start = _start(problem)
    barrier = FIRST_BARRIER * jnp.max(start.at_lower, initial=1.0)
    begun = _Iteration(
        start, _residual(problem, start), barrier, jnp.zeros((), jnp.int32), jnp.ones((), bool)
    )
    return loops.while_loop(unfinished, advance, begun).point


def _start(problem: Separable) -> Point:
    # Near h = 0, where the approximations are the functions, and away from the bounds.
    room = CENTER * (problem.upper - problem.lower)
    h = jnp.clip(0.0, problem.lower + room, problem.upper - room)
    values = problem.values(h)[1:]
    slack = jnp.maximum(1 - values, 1)
    # Where constraints are broken at first, y may be needed to the end: from multipliers of half
    # its price all are far from zero.
    broken = jnp.any(values > 0)
    half = problem.penalty / 2
    size = jnp.where(broken, half, 1)
    bounds = size * jnp.ones_like(h)
    one = jnp.ones_like(slack)
    return Point(
        h, one, slack, size / slack, bounds, bounds, jnp.where(broken, half, problem.penalty) * one
    )


def _residual(problem: Separable, point: Point) -> Point:
    """What the conditions of optimality leave."""
    return Point(
        _weights(point) @ problem.slopes(point.h) - point.at_lower + point.at_upper,
        problem.penalty * (1 + point.y) - point.multipliers - point.at_zero,
        problem.values(point.h)[1:] - point.y + point.slack,
        point.slack * point.multipliers,
        (point.h - problem.lower) * point.at_lower,
        (problem.upper - point.h) * point.at_upper,
        point.y * point.at_zero,
    )


def _with_barrier(residual: Point, barrier: Float[Array, ""]) -> Point:
    """What is left when every product of a multiplier and its distance is to be the barrier."""
    return Point(*residual[:3], *(part - barrier for part in residual[3:]))


def _weights(point: Point) -> Float[Array, "1+m"]:
    return jnp.concatenate([jnp.ones(1, point.h.dtype), point.multipliers])


def _error(residual: Point) -> Float[Array, ""]:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(part), initial=0.0) for part in residual]))


def _newton_step(problem: Separable, point: Point, residual: Point) -> Point:
    """The step to first order, by elimination of all but the multipliers."""
    h, y, slack, multipliers, at_lower, at_upper, at_zero = point
    to_lower = h - problem.lower
    to_upper = problem.upper - h
    G = problem.slopes(h)[1:]
    H = problem.curvature(h, _weights(point)) + at_lower / to_lower + at_upper / to_upper
    right_h = -residual.h - residual.at_lower / to_lower + residual.at_upper / to_upper
    D = problem.penalty + at_zero / y
    right_y = -residual.y - residual.at_zero / y
    # G dh - dy + dslack = -residual.slack, where dh, dy and dslack are linear in the step of the
    # multipliers.
    right = residual.slack - residual.multipliers / multipliers + G @ (right_h / H) - right_y / D
    matrix = (G / H[None, :]) @ G.T + jnp.diag(1 / D + slack / multipliers)
    d_multipliers = jnp.linalg.solve(matrix, right)
    d_h = (right_h - d_multipliers @ G) / H
    d_y = (right_y + d_multipliers) / D
    return Point(
        d_h,
        d_y,
        -(residual.multipliers + slack * d_multipliers) / multipliers,
        d_multipliers,
        -(residual.at_lower + at_lower * d_h) / to_lower,
        -(residual.at_upper - at_upper * d_h) / to_upper,
        -(residual.at_zero + at_zero * d_y) / y,
    )


def _search(
    problem: Separable, point: Point, step: Point, residual: Point, barrier: Float[Array, ""]
) -> _Search:
    """As far along the step as everything stays positive and the residual falls."""
    room = (*point[1:], point.h - problem.lower, problem.upper - point.h)
    rates = (*step[1:], step.h, -step.h)
    most = [
        jnp.max(-rate / size, initial=TO_BOUNDARY) for size, rate in zip(room, rates, strict=True)
    ]
    t = TO_BOUNDARY / jnp.max(jnp.stack(most))
    before = _size(_with_barrier(residual, barrier))

    def halve(search: _Search) -> _Search:
        t = search.t / 2
        after = _residual(problem, _moved(point, step, t))
        falls = _size(_with_barrier(after, barrier)) <= (1 - 0.01 * t) * before
        return _Search(t, after, falls, search.halvings + 1)

    begun = _Search(2 * t, residual, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    return loops.while_loop(
        lambda search: ~search.falls & (search.halvings <= MAX_HALVINGS), halve, begun
    )


def _moved(point: Point, step: Point, t: Float[Array, ""]) -> Point:
    return jax.tree.map(lambda a, b: a + t * b, point, step)


def _size(residual: Point) -> Float[Array, ""]:
    return jnp.sqrt(sum((part @ part for part in residual), jnp.zeros((), residual.h.dtype)))
