"""Linear equations with solutions in closed form.

One of two states by elementary functions, one of any size by the exponential. The two states are
coupled one way, y' = c(t) [[a, b], [0, d]] y, which is as far from normal as b is large; the clock
c(t) = 1 + drive t makes them functions of tau = integral of c. Their derivatives in closed form are
those of JAX through the formulas.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg


class Coupled(NamedTuple):
    """All that can be differentiated; f closes over `drive`."""

    y0: Any
    p: dict[str, Any]
    drive: Any
    t0: Any
    t1: Any
    ts: Any


def coupled(backwards: bool = False) -> Coupled:
    """Two slowly decaying states, sampled at both ends and between."""
    t0, t1 = (1.4, 0.3) if backwards else (0.3, 1.4)
    ts = t0 + (t1 - t0) * np.array([0.0, 0.17, 0.6, 1.0])
    p = {"own": np.array([-0.8, -0.3]), "across": 1.7}
    return jax.tree.map(jnp.asarray, Coupled(np.array([0.9, -0.6]), p, 0.4, t0, t1, ts))


def coupling(drive: Any) -> Any:
    """The right-hand side f(t, y, p)."""
    return lambda t, y, p: (
        (1 + drive * t) * (p["own"] * y + jnp.stack([p["across"] * y[1], 0 * y[1]]))
    )


def cost_of(drive: Any) -> Any:
    """A running cost g(t, y, p); a dictionary, since costs may be pytrees."""
    return lambda t, y, p: {
        "first": p["across"] * (1 + drive * t) * y[0],
        "second": (1 + drive * t) * y[1] ** 2,
    }


def _modes(case: Coupled, t: Any) -> Any:
    """tau from t0 to t, and (alpha, beta) with y_0 = alpha exp(a tau) + beta exp(d tau)."""
    a, d = case.p["own"]
    beta = case.p["across"] * case.y0[1] / (d - a)
    return t - case.t0 + case.drive * (t**2 - case.t0**2) / 2, case.y0[0] - beta, beta


def exact_states(case: Coupled, ts: Any) -> Any:
    """y at the times ts."""
    a, d = case.p["own"]
    tau, alpha, beta = _modes(case, ts)
    return jnp.stack(
        [alpha * jnp.exp(a * tau) + beta * jnp.exp(d * tau), case.y0[1] * jnp.exp(d * tau)], axis=1
    )


def exact_costs(case: Coupled) -> Any:
    """The integrals of the running cost from t0 to t1."""
    a, d = case.p["own"]
    tau, alpha, beta = _modes(case, case.t1)
    first = alpha * jnp.expm1(a * tau) / a + beta * jnp.expm1(d * tau) / d
    return {
        "first": case.p["across"] * first,
        "second": case.y0[1] ** 2 * jnp.expm1(2 * d * tau) / (2 * d),
    }


WEIGHTS = np.array([[0.7, -1.3], [1.1, 0.4], [-0.5, 2.0], [1.9, 0.8]])


def objective(states: Any = None, integrals: Any = None) -> Any:
    """A number that is curved in all that it is given, and different in each."""
    total: Any = 0.0
    if states is not None:
        states = jnp.atleast_2d(states)
        total += jnp.sum(WEIGHTS[-states.shape[0] :].astype(states.dtype) * jnp.sin(states))
    if integrals is not None:
        total += jnp.sin(integrals["first"]) + 0.3 * integrals["second"] ** 2
    return total


KINDS = ("terminal", "samples", "cost", "mixed")


def exact(kind: str, case: Coupled) -> Any:
    """The objective in closed form: of y(t1), the samples, y(t1) and cost, or samples and cost."""
    states = exact_states(case, case.ts if kind in ("samples", "mixed") else case.t1[None])
    return objective(states, exact_costs(case) if kind in ("cost", "mixed") else None)


def solved(ode_solve: Any, kind: str, case: Coupled, **options: Any) -> Any:
    """The objective by `ode_solve`."""
    ts = case.ts if kind in ("samples", "mixed") else None
    running_cost = cost_of(case.drive) if kind in ("cost", "mixed") else None
    f, ends = coupling(case.drive), (case.t0, case.t1)
    value = ode_solve(f, case.y0, case.p, *ends, ts=ts, running_cost=running_cost, **options).value
    return objective(value) if running_cost is None else objective(*value)


def by_hand(tableau: Any, steps: int, case: Coupled) -> Any:
    """The objective of kind "cost" after equal steps of a Runge-Kutta method, by its formulas.

    It is diagonally implicit, and the formulas are the textbook's.
    """
    f, g = coupling(case.drive), cost_of(case.drive)
    h, stages = (case.t1 - case.t0) / steps, tableau.num_stages
    a, c = np.zeros((stages, stages)), np.concatenate([[tableau.c1], tableau.c])
    for i, row in enumerate(tableau.a_lower, start=1):
        a[i, :i] = row
    if tableau.a_diagonal is not None:
        a += np.diag(tableau.a_diagonal)
    # Some digits of the tableaus' weights are rounded; where the last stage is the end of the step,
    # its row is what counts.
    weights = a[-1] if tableau.fsal else tableau.b_sol
    y, integrals = case.y0, {"first": jnp.zeros(()), "second": jnp.zeros(())}
    for k in range(steps):
        slopes, costs = [], []
        for i in range(stages):
            t = case.t0 + (k + c[i]) * h
            known = y + h * sum((a[i, j] * slopes[j] for j in range(i)), jnp.zeros(2))
            # Y = known + h a_ii f(t, Y), by back substitution.
            ha = h * a[i, i] * (1 + case.drive * t)
            second = known[1] / (1 - ha * case.p["own"][1])
            first = (known[0] + ha * case.p["across"] * second) / (1 - ha * case.p["own"][0])
            Y = jnp.stack([first, second])
            slopes.append(f(t, Y, case.p))
            costs.append(g(t, Y, case.p))
        y = y + h * sum(b * k_i for b, k_i in zip(weights, slopes, strict=True))
        for name in integrals:
            integrals[name] += h * sum(b * g_i[name] for b, g_i in zip(weights, costs, strict=True))
    return objective(y, integrals)


def nonnormal(n: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """(A, b, c, y0, w) of y' = A y + b + c t, g = w' y(t1): non-normal, slowly damped."""
    rng = np.random.default_rng(seed)
    A = (
        np.triu(rng.normal(size=(n, n)), 1) / np.sqrt(n)
        + 0.3 * rng.normal(size=(n, n)) / np.sqrt(n)
        - 0.7 * np.eye(n)
    )
    return A, *rng.normal(size=(4, n))


def exponential(
    A: Any, b: Any, c: Any, y0: Any, w: Any, t0: float, t1: float
) -> tuple[Any, dict[str, Any]]:
    """w' y(t1) and its gradient, by SciPy.

    z = (y, t, 1) has z' = M z, and g = w' exp(M T) z0 has M_bar = T L(M' T, w z0'), L the Frechet
    derivative of the exponential (Al-Mohy and Higham, SIAM J. Matrix Anal. Appl. 30, 2009).
    """
    n, T = A.shape[0], t1 - t0
    M, z0, w = (
        np.zeros((n + 2, n + 2)),
        np.concatenate([y0, [t0, 1.0]]),
        np.concatenate([w, [0.0, 0.0]]),
    )
    M[:n] = np.column_stack([A, c, b])
    M[n, n + 1] = 1
    flow, M_bar = scipy.linalg.expm_frechet(M.T * T, np.outer(w, z0) * T)
    z0_bar = flow @ w
    rate = w @ M @ flow.T @ z0
    bars = {
        "A": M_bar[:n, :n],
        "b": M_bar[:n, n + 1],
        "c": M_bar[:n, n],
        "y0": z0_bar[:n],
        "t0": z0_bar[n] - rate,
        "t1": rate,
    }
    return z0_bar @ z0, bars


def error(found: Any, expected: Any) -> float:
    """The largest error of any leaf, relative to the largest number of that leaf."""

    def of_leaf(f: Any, e: Any) -> float:
        return (
            float(np.max(np.abs(f - e)) / np.max(np.abs(e)))
            if np.any(e)
            else float(np.max(np.abs(f), initial=0))
        )

    return max(jax.tree.leaves(jax.tree.map(of_leaf, found, expected)))
