"""Hanging at rest, how must a double pendulum be kicked, and made, for its tip to meet points?

    minimize   1/2 sum over k of |tip(t_k) - point_k|^2
    over       velocities, ln lengths, ln (t_k - t_k-1)

The points are met in their order, at times that are free. L-BFGS-B needs the gradient by all
unknowns, also by the times; it takes one adjoint solve. With as many unknowns as coordinates, that
is up to four points, they can be met exactly.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

import adjoint
from problems.pendulum import Pendulum, State, joints, motion

STEPS = 200  # equal ones, so that the cost is smooth and the verdict on its gradient can be strict
KICK = 4.0  # rad/s, both velocities at first
GAP = 0.3  # s from point to point at first


@dataclass(frozen=True, eq=False)
class Job:
    """The points in m, and the given masses and gravity; lengths in m to begin with."""

    points: Float[np.ndarray, "points 2"]
    pendulum: Pendulum


def read_points(text: str) -> Float[np.ndarray, "points 2"]:
    """The points of a text such as ``"1.2,-1.2 1,0.2"``.

    Raises
    ------
    ValueError
        When it is not a list of one to four points, each of two finite numbers.
    """
    try:
        points = np.array(
            [[float(number) for number in point.split(",")] for point in text.split()]
        )
        fits = (
            points.ndim == 2
            and points.shape[1] == 2
            and len(points) <= 4
            and bool(np.isfinite(points).all())
        )
    except ValueError:
        fits = False
        points = np.zeros((0, 2))
    if not fits:
        raise ValueError(
            f"points = {text!r}: expected one to four points x,y in m with spaces between, such as "
            "'1.2,-1.2 1,0.2'"
        )
    return points


class Design(NamedTuple):
    """The unknowns: velocities in rad/s, ln of lengths in m and of times between points in s."""

    velocities: Float[Array, " 2"]
    log_lengths: Float[Array, " 2"]
    log_gaps: Float[Array, " points"]


def first_design(job: Job) -> Design:
    """Both rods kicked to one side, the lengths to begin with, equal times from point to point."""
    return Design(
        jnp.full(2, KICK), jnp.log(job.pendulum.lengths), jnp.full(len(job.points), np.log(GAP))
    )


def swing(job: Job, x: Design, ts: Float[Array, " times"]) -> Float[Array, "times 2 2"]:
    """Both masses at the times, the last of which ends the motion."""
    p = job.pendulum._replace(lengths=jnp.exp(x.log_lengths))
    start = State(jnp.zeros(2), x.velocities)
    sensitivity = adjoint.DiscreteAdjoint()
    solution = adjoint.ode_solve(
        motion, start, p, 0.0, ts[-1], ts=ts, steps=STEPS, sensitivity=sensitivity
    )
    return joints(solution.value.angles, p.lengths)


def times_of(x: Design) -> Float[Array, " points"]:
    """When each point is met, in s."""
    return jnp.cumsum(jnp.exp(x.log_gaps))


def misses(job: Job, x: Design) -> Float[Array, "points 2"]:
    """By what the tip misses each point, in m."""
    return swing(job, x, times_of(x))[:, 1] - job.points


def cost(job: Job, x: Design) -> Float[Array, ""]:
    """1/2 sum over k of |tip(t_k) - point_k|^2 in m^2."""
    return jnp.sum(misses(job, x) ** 2) / 2


def improve(job: Job, max_iterations: int) -> list[tuple[Design, float]]:
    """The designs of all iterations and their costs in m^2, the first and the last included."""
    flat, unravel = jax.flatten_util.ravel_pytree(first_design(job))
    analyze = jax.jit(jax.value_and_grad(lambda x: cost(job, unravel(x))))
    path = [np.asarray(flat)]
    scipy.optimize.minimize(
        lambda x: tuple(np.asarray(v) for v in analyze(x)),
        path[0],
        jac=True,
        method="L-BFGS-B",
        callback=lambda x: path.append(x.copy()),
        options={"maxiter": max_iterations, "ftol": 0.0, "gtol": 1e-12, "maxcor": 20, "maxls": 40},
    )
    return [(unravel(jnp.asarray(x)), float(analyze(x)[0])) for x in path]
