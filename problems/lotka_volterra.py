"""Lotka and Volterra's equations: the likelihood of counts, its maximum, intervals and laws."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jaxtyping import Array, Float

import adjoint

# Thousands of pelts of hares and lynxes.
PELTS = np.array([
    [30.0, 4.0], [47.2, 6.1], [70.2, 9.8], [77.4, 35.2], [36.3, 59.4], [20.6, 41.7], [18.1, 19.0],
    [21.4, 13.0], [22.0, 8.3], [25.4, 9.1], [27.1, 7.4], [40.3, 8.0], [57.0, 12.3], [76.6, 19.5],
    [52.3, 45.7], [19.5, 51.1], [11.2, 29.7], [7.6, 15.8], [14.6, 9.7], [16.2, 10.1], [24.7, 8.6],
])  # fmt: skip
YEARS = np.arange(len(PELTS), dtype=float)
NAMES = ("alpha", "beta", "gamma", "delta", "hares_0", "lynxes_0")
# What synthetic data are made from.
TRUTH = np.array([0.55, 0.028, 0.80, 0.024, 34.0, 6.0])
FREEDOM = PELTS.size - len(NAMES)
STEPS = 200  # equal ones, 10 a year: the likelihood is smooth, and the counts fall on their ends
SWEEPS = 32  # iterations of each repetition, which starts close to its minimum


def rates(_: Float[Array, ""], z: Float[Array, " 2"], p: Float[Array, " 4"]) -> Float[Array, " 2"]:
    """z' of z = (ln u, ln v), p = (alpha, beta, gamma, delta)."""
    alpha, beta, gamma, delta = p
    hares, lynxes = jnp.exp(z)
    return jnp.stack([alpha - beta * lynxes, -gamma + delta * hares])


def sizes(_: Float[Array, ""], z: Float[Array, " 2"], __: Float[Array, " 4"]) -> Float[Array, " 2"]:
    """(u, v), to be integrated over time."""
    return jnp.exp(z)


def populations(
    q: Float[Array, " 6"], ts: Float[Array, " times"], mode: Any = "reverse"
) -> Float[Array, "times 2"]:
    """(ln u, ln v) at the times by the discrete adjoint, or with ``"both"`` as `mode`, forward."""
    sensitivity = adjoint.DiscreteAdjoint() if mode == "reverse" else None
    p = jnp.exp(q[:4])
    z = q[4:]
    return adjoint.ode_solve(
        rates, z, p, 0.0, YEARS[-1], ts=ts, steps=STEPS, sensitivity=sensitivity, mode=mode
    ).value


def misfit(q: Float[Array, " 6"], counts: Float[Array, "21 2"]) -> Float[Array, ""]:
    """N/2 ln (mean r_hares^2) + N/2 ln (mean r_lynxes^2): -ln likelihood, but for a constant."""
    r = jnp.log(counts) - populations(q, jnp.asarray(YEARS))
    return len(YEARS) / 2 * jnp.sum(jnp.log(jnp.mean(r**2, axis=0)))


# At the minimum no step improves; a longer search for one is wasted, and holds up all data sets of
# a batch.
LINE_SEARCH = optax.scale_by_zoom_linesearch(max_linesearch_steps=8, initial_guess_strategy="one")
METHOD = optax.lbfgs(memory_size=10, linesearch=LINE_SEARCH)


class Fit(NamedTuple):
    """A point, the method's state, and the misfit and its gradient at the point before."""

    q: Float[Array, " 6"]
    state: Any
    misfit: Float[Array, ""]
    gradient: Float[Array, " 6"]


def start(q: Float[Array, " 6"]) -> Fit:
    """Before the first iteration."""
    fit = Fit(q, METHOD.init(q), jnp.asarray(jnp.inf), jnp.full(6, jnp.inf))
    # Strongly typed, so that all iterations are one compiled function.
    return jax.tree.map(lambda a: jnp.array(a, jnp.result_type(a)), fit)


def improve(fit: Fit, counts: Float[Array, "21 2"]) -> Fit:
    """One iteration of L-BFGS with a line search that satisfies Wolfe's conditions."""

    def objective(q: Array) -> Array:
        return misfit(q, counts)

    value, gradient = optax.value_and_grad_from_state(objective)(fit.q, state=fit.state)
    step: Any
    step, state = METHOD.update(
        gradient, fit.state, fit.q, value=value, grad=gradient, value_fn=objective
    )
    return Fit(fit.q + step, state, jnp.asarray(value), jnp.asarray(gradient))


class Estimate(NamedTuple):
    """q with its deviations and correlations, and the deviation of the noise of each animal."""

    q: Float[Array, " 6"]
    covariance: Float[Array, "6 6"]
    noise: Float[Array, " 2"]


def estimate(q: Float[Array, " 6"], counts: Float[Array, "21 2"]) -> Estimate:
    """The covariance H^-1 at the minimum.

    Each noise has N - 3 degrees of freedom, half of the unknowns being its own.
    """
    ts = jnp.asarray(YEARS)
    J = jax.jacfwd(lambda q: populations(q, ts, "both"))(q)
    r = jnp.log(counts) - populations(q, ts)
    variance = jnp.sum(r**2, axis=0) / (len(YEARS) - len(NAMES) / 2)
    hessian = jnp.einsum("tai,taj,a->ij", J, J, 1 / variance)
    return Estimate(q, jnp.linalg.inv(hessian), jnp.sqrt(variance))


def intervals(found: Estimate, level: float) -> Float[np.ndarray, "... 6 2"]:
    """Lower and upper ends, of the numbers, not their logarithms; leading axes of `found` stay."""
    half = scipy.stats.t.ppf((1 + level) / 2, FREEDOM) * np.sqrt(
        np.diagonal(found.covariance, axis1=-2, axis2=-1)
    )
    return np.exp(np.stack([found.q - half, found.q + half], axis=-1))


def synthetic(noise: float, seed: int, count: int) -> Float[np.ndarray, "count 21 2"]:
    """Data sets made from `TRUTH`."""
    exact = np.asarray(jax.jit(populations)(jnp.log(jnp.asarray(TRUTH)), jnp.asarray(YEARS)))
    return np.exp(exact + noise * np.random.default_rng(seed).normal(size=(count, *exact.shape)))


@jax.jit
def estimates(many: Float[Array, "count 21 2"]) -> tuple[Estimate, Float[Array, " count"]]:
    """Estimates from many data sets at once, from the truth on, and each largest slope left."""

    def one(counts: Array) -> tuple[Estimate, Array]:
        begin = start(jnp.log(jnp.asarray(TRUTH)))
        fit = jax.lax.fori_loop(0, SWEEPS, lambda _, fit: improve(fit, counts), begin)
        return estimate(fit.q, counts), jnp.max(jnp.abs(fit.gradient))

    return jax.vmap(one)(many)


def conserved(z: Float[Array, "... 2"], p: Float[Array, " 4"]) -> Float[Array, "..."]:
    """V = delta u - gamma ln u + beta v - alpha ln v, constant on a solution (Volterra, 1926)."""
    alpha, beta, gamma, delta = p
    return (
        delta * jnp.exp(z[..., 0])
        - gamma * z[..., 0]
        + beta * jnp.exp(z[..., 1])
        - alpha * z[..., 1]
    )


def broken_laws(q: Float[Array, " 6"]) -> dict[str, Float[Array, ""]]:
    """How far solution and sensitivities J are from the equations, relative to the largest term.

    - conserved: V is the same at all times;
    - integral: the integral of u is (gamma T + ln (v(T) / v(0))) / delta, that of v (alpha T - ln
      (u(T) / u(0))) / beta;
    - unit: hares counted in other units change delta and u(0) only, lynxes beta and v(0), so
      (e_u(0) - e_delta) is mapped to (1, 0) by J at all times, and (e_v(0) - e_beta) to (0, 1);
    - clock: the four rates together are the unit of time, so their columns of J add up to t z'.
    """
    ts = jnp.asarray(YEARS)
    p = jnp.exp(q[:4])
    z = populations(q, ts)
    J = jax.jacfwd(lambda q: populations(q, ts, "both"))(q)
    V = conserved(z, p)
    T = ts[-1]
    _, integral = adjoint.ode_solve(rates, q[4:], p, 0.0, T, running_cost=sizes, steps=STEPS).value
    change = z[-1] - z[0]
    expected = jnp.stack([(p[2] * T + change[1]) / p[3], (p[0] * T - change[0]) / p[1]])
    by_unit = jnp.stack([J[..., 4] - J[..., 3], J[..., 5] - J[..., 1]], axis=-1)
    moved = ts[:, None] * jax.vmap(lambda z: rates(ts[0], z, p))(z)
    return {
        "conserved": jnp.max(jnp.abs(V / V[0] - 1)),
        "integral": jnp.max(jnp.abs(integral / expected - 1)),
        "unit": jnp.max(jnp.abs(by_unit - jnp.eye(2)[None])) / jnp.max(jnp.abs(J)),
        "clock": jnp.max(jnp.abs(jnp.sum(J[..., :4], axis=-1) - moved)) / jnp.max(jnp.abs(J)),
    }
