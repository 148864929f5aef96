"""Solves by the factors of a nearby matrix, on nonsymmetric, non-normal ones; and what the stages of stiff steps make of them.

Expected are NumPy's solutions, and the exponential for the linear equation of 70 states (`ode_cases.py`).
"""

import re
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ode_cases import coupled, error, exact, exponential, nonnormal, solved

import adjoint
from adjoint.ode import runge_kutta
from adjoint.ode.refinement import solve_by_nearby_factors

SIZES = (1, 2, 7, 50)


def matrices(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, one close to it, and two vectors."""
    rng = np.random.default_rng(n)
    A = np.eye(n) + np.triu(rng.normal(size=(n, n)), 1) / np.sqrt(n) + 0.3 * rng.normal(size=(n, n)) / np.sqrt(n)
    return A, A * rng.uniform(0.97, 1.03, (n, n)), *rng.normal(size=(2, n))


def solve(A: Any, b: Any, factors: Any) -> Any:
    return solve_by_nearby_factors(lambda v: A @ v, b, factors)


def factorizations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every matrix that is factorized for a solve of its own."""
    count: list[int] = []
    by_its_own = jnp.linalg.solve
    monkeypatch.setattr(
        jnp.linalg, "solve", lambda *a: (jax.debug.callback(lambda: count.append(1)), by_its_own(*a))[1]
    )
    return count


@pytest.mark.parametrize("n", SIZES)
def test_forward_backward_and_batched(n, monkeypatch):
    count = factorizations(monkeypatch)
    A, nearby, b, w = matrices(n)
    factors = jax.scipy.linalg.lu_factor(nearby)
    x, pull = jax.vjp(lambda A, b: solve(A, b, factors), jnp.asarray(A), jnp.asarray(b))
    np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=0, atol=1e-13 * np.linalg.norm(b))
    A_bar, b_bar = pull(jnp.asarray(w))
    lam = np.linalg.solve(A.T, w)
    np.testing.assert_allclose(b_bar, lam, rtol=0, atol=1e-12)
    np.testing.assert_allclose(A_bar, -np.outer(lam, x), rtol=0, atol=1e-11)
    jax.effects_barrier()
    assert not count
    several = jnp.stack([b, 1e3 * w, 0 * b])
    found = jax.jit(jax.vmap(lambda b: solve(A, b, factors)))(several)
    np.testing.assert_allclose(found, np.linalg.solve(A, several.T).T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_second_derivatives(n):
    """b' A^-1 b along A + t E: its second derivative is 2 b' A^-1 E A^-1 E A^-1 b."""
    A, nearby, b, _ = matrices(n)
    E = np.random.default_rng(5).normal(size=(n, n)) / n
    factors = jax.scipy.linalg.lu_factor(nearby)
    g = lambda t: b @ solve(A + t * E, jnp.asarray(b), factors)  # noqa: E731
    step = np.linalg.solve(A, E)
    expected = 2 * b @ step @ step @ np.linalg.solve(A, b)
    for second in (jax.jacfwd(jax.grad(g)), jax.grad(jax.grad(g)), jax.jacfwd(jax.jacfwd(g))):
        np.testing.assert_allclose(jax.jit(second)(0.0), expected, rtol=1e-9)


@pytest.mark.parametrize("far", [1.0, 3.0, -1.0, 1e-3], ids=str)
def test_factors_that_are_too_far_away_are_not_believed(far, monkeypatch):
    count = factorizations(monkeypatch)
    A, _, b, w = matrices(7)
    factors = jax.scipy.linalg.lu_factor(far * np.diag(np.arange(1.0, 8.0)))
    x, pull = jax.vjp(lambda b: solve(A, b, factors), jnp.asarray(b))
    np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=0, atol=1e-12)
    np.testing.assert_allclose(pull(jnp.asarray(w))[0], np.linalg.solve(A.T, w), rtol=0, atol=1e-12)
    jax.effects_barrier()
    assert len(count) == 2


def test_small_entries_that_converge_more_slowly_are_as_exact():
    """Entries whose error falls to 0.1 % and to 40 % each time; one is 1e-8 of the other."""
    A, b = np.array([[1.0, 0.0], [1e-9, 1.0]]), np.array([1.0, 1e-8])
    x = solve(A, jnp.asarray(b), jax.scipy.linalg.lu_factor(np.diag([1.001, 1.6])))
    np.testing.assert_allclose(x, [1.0, 0.9e-8], rtol=1e-12)


def test_nan_singular_and_single_precision():
    A, nearby, b, _ = matrices(7)
    factors = jax.scipy.linalg.lu_factor(nearby)
    assert np.all(np.isnan(solve(A, jnp.full(7, jnp.nan), factors)))
    assert not np.all(np.isfinite(solve(np.zeros((7, 7)), jnp.asarray(b), factors)))
    single = solve(*(jnp.asarray(v, jnp.float32) for v in (A, b)), jax.scipy.linalg.lu_factor(jnp.float32(nearby)))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, np.linalg.solve(A, b), rtol=0, atol=1e-5)


TIGHT = {"rtol": 1e-9, "atol": 1e-11, "solver": diffrax.Kvaerno5()}


@pytest.mark.parametrize(
    "name",
    ["discrete", pytest.param("interpolating", marks=pytest.mark.slow), pytest.param("both", marks=pytest.mark.slow)],
)
def test_seventy_states(name):
    A, b, c, y0, w = nonnormal(70)
    given = {"A": A, "b": b, "c": c, "y0": y0, "t0": np.asarray(0.3), "t1": np.asarray(1.4)}
    if name == "both":
        del given["A"]
    kinds: dict[str, dict[str, Any]] = {
        "discrete": {"sensitivity": adjoint.DiscreteAdjoint()},
        "interpolating": {"sensitivity": adjoint.InterpolatingAdjoint()},
        "both": {"mode": "both"},
    }

    @jax.jit
    @jax.value_and_grad
    def found(q):
        f = lambda t, y, _: q.get("A", A) @ y + q["b"] + t * q["c"]  # noqa: E731
        return w @ adjoint.ode_solve(f, q["y0"], None, q["t0"], q["t1"], **kinds[name], **TIGHT).value

    value, bars = exponential(A, b, c, y0, w, 0.3, 1.4)
    assert error(found(given), (value, {k: bars[k] for k in given})) < 1e2 * TIGHT["rtol"]


@pytest.mark.parametrize("kind", [pytest.param("mixed", marks=pytest.mark.slow), "samples"])
def test_gradient_and_hessian_when_all_stages_are_so_solved(kind, monkeypatch):
    monkeypatch.setattr(runge_kutta, "MANY", 1)
    case = coupled()
    g = lambda case: solved(adjoint.ode_solve, kind, case, sensitivity=adjoint.DiscreteAdjoint(), **TIGHT)  # noqa: E731
    e = lambda case: exact(kind, case)  # noqa: E731
    assert error(jax.jit(jax.value_and_grad(g))(case), jax.value_and_grad(e)(case)) < 1e2 * TIGHT["rtol"]
    along = jax.tree.map(jnp.ones_like, case)._replace(ts=jnp.array([0.0, 1.0, 2.0, 0.0]))
    found, expected = (jax.jit(lambda c, f=f: jax.jvp(jax.grad(f), (c,), (along,))[1])(case) for f in (g, e))
    assert error(found, expected) < 1e3 * TIGHT["rtol"]


@pytest.mark.parametrize(("differentiate", "most"), [(lambda g: g, 1), (jax.grad, 2)], ids=["value", "gradient"])
def test_a_single_sample_costs_no_step_of_its_own_in_every_step(differentiate, most):
    """XLA computes ahead of a loop what is the same in all its turns: for a single sample the step to it, wanted or not.

    A step factorizes one matrix, its transpose one more for the stages.
    """
    relax = lambda t, y, k: -k * (y - jnp.sin(t))  # noqa: E731
    options: dict[str, Any] = {"solver": diffrax.Kvaerno5(), "sensitivity": adjoint.DiscreteAdjoint()}

    def g(k):
        return adjoint.ode_solve(relax, jnp.ones(3), k, 0.0, 1.0, ts=jnp.array([1.0]), **options).value.sum()

    text = jax.jit(differentiate(g)).lower(1e3).compile().as_text()
    assert "getrf" in text
    assert (
        max(part.count('custom_call_target="lapack_dgetrf_ffi"') for part in re.split(r"\n(?=%|ENTRY)", text)) == most
    )
