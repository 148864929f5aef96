"""The Lorenz attractor: its flow, averages over many trajectories, and its midpoint shadow."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint

SIGMA = 10.0
BETA = 8 / 3
TRANSIENT = 30.0
RHO_OFFSETS = np.linspace(-2.0, 2.0, 9)
# The fifth order steps of the ensemble; halving them changes no average by more than its standard
# error.
STEPS_PER_TIME = 50


def lorenz(t: Array, state: Float[Array, " 3"], rho: Array) -> Float[Array, " 3"]:
    """The right-hand side; rho alone is a parameter."""
    del t
    x, y, z = state
    return jnp.array([SIGMA * (y - x), x * (rho - z) - y, x * y - BETA * z])


def height(t: Array, state: Float[Array, " 3"], rho: Array) -> Float[Array, ""]:
    """z, the running cost."""
    del t, rho
    return state[2]


START = np.array([1.0, 1.0, 20.0])


@dataclass(frozen=True)
class Ensemble:
    """Averages over many trajectories at several rho, with standard errors.

    The slope is that of a parabola through them.
    """

    rho: Float[np.ndarray, " rhos"]
    average: Float[np.ndarray, " rhos"]
    error: Float[np.ndarray, " rhos"]
    slope: float
    slope_error: float


@partial(jax.jit, static_argnums=2)
def _average(
    starts: Float[Array, "members 3"], rhos: Float[Array, " rhos"], duration: float
) -> Array:
    def member(start: Array, rho: Array) -> Array:
        steps = round(TRANSIENT * STEPS_PER_TIME), round(duration * STEPS_PER_TIME)
        start = adjoint.ode_solve(lorenz, start, rho, 0.0, TRANSIENT, steps=steps[0]).value
        solution = adjoint.ode_solve(
            lorenz, start, rho, 0.0, duration, running_cost=height, steps=steps[1]
        )
        return solution.value[1] / duration

    return jax.vmap(jax.vmap(member, (0, None)), (None, 0))(starts, rhos)


def ensemble(rho: float, members: int, duration: float) -> Ensemble:
    """Averages at nine rho around the given one."""
    starts = START + np.random.default_rng(0).normal(scale=5.0, size=(members, 3))
    rhos = rho + RHO_OFFSETS
    averages = np.asarray(_average(jnp.asarray(starts), jnp.asarray(rhos), duration))
    error = averages.std(axis=1, ddof=1) / members**0.5
    coefficients, covariance = np.polyfit(
        RHO_OFFSETS, averages.mean(axis=1), 2, w=1 / error, cov="unscaled"
    )
    return Ensemble(
        rhos, averages.mean(axis=1), error, float(coefficients[1]), float(covariance[1, 1] ** 0.5)
    )


@dataclass(frozen=True)
class MidpointShadow:
    """The shadow v = dy/drho along a trajectory, and the slope it gives."""

    t: Float[np.ndarray, " points"]
    y: Float[np.ndarray, "points 3"]
    v: Float[np.ndarray, "points 3"]
    slope: float


def midpoint_shadow(
    rho: float, duration: float, h: float = 0.01, alpha: float = 10.0
) -> MidpointShadow:
    """Least squares shadowing in the paper's midpoint discretization.

    It is solved with SciPy's integrator and sparse factors.
    """
    from scipy import integrate, sparse
    from scipy.sparse import linalg

    def rate(_: float, y: np.ndarray) -> list[float]:
        return [SIGMA * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - BETA * y[2]]

    count = round(duration / h)
    t = h * np.arange(count + 1)
    start = integrate.solve_ivp(
        rate, (0, TRANSIENT), START, method="DOP853", rtol=1e-9, atol=1e-9
    ).y[:, -1]
    y = integrate.solve_ivp(
        rate, (0, t[-1]), start, method="DOP853", t_eval=t, rtol=1e-9, atol=1e-9
    ).y.T
    x, y_middle, z = ((y[1:] + y[:-1]) / 2).T
    f = np.diff(y, axis=0) / h
    zero = np.zeros(count)
    rows = [[zero - SIGMA, zero + SIGMA, zero], [rho - z, zero - 1, -x], [y_middle, x, zero - BETA]]
    f_y = np.moveaxis(np.array(rows), 2, 0)
    f_rho = np.stack([zero, x, zero], axis=1)

    # (v_{i+1} - v_i) / h = f_y (v_{i+1} + v_i) / 2 + f_rho + eta_i f, the smallest of all sums of
    # |v|^2 + alpha^2 eta^2.
    def blocks(parts: np.ndarray) -> Any:
        return sparse.block_diag(list(parts), format="csr")

    empty = sparse.csr_matrix((3 * count, 3))
    left = blocks(-np.eye(3) / h - f_y / 2)
    right = blocks(np.eye(3) / h - f_y / 2)
    B = sparse.hstack([left, empty]) + sparse.hstack([empty, right])
    E = blocks(-f[:, :, None])
    w = linalg.spsolve((B @ B.T + E @ E.T / alpha**2).tocsc(), f_rho.ravel())
    v = (B.T @ w).reshape(-1, 3)
    eta = E.T @ w / alpha**2
    return MidpointShadow(t, y, v, float(v[:, 2].mean() + np.mean(eta * (z - z.mean()))))
