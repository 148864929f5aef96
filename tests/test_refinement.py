"""Solves by the factors of a nearby matrix, nonsymmetric and non-normal; and in stiff stages.

Expected are NumPy's solutions, and the exponential for the linear equation of 70 states
(`ode_cases.py`).
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ode_cases import coupled, error, exact, exponential, nonnormal, solved

import adjoint
from adjoint.ode import refinement, runge_kutta
from adjoint.ode.refinement import solve_by_nearby_factors

SIZES = (1, 2, 7, 50)


def matrices(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, one close to it, and two vectors."""
    rng = np.random.default_rng(n)
    A = (
        np.eye(n)
        + np.triu(rng.normal(size=(n, n)), 1) / np.sqrt(n)
        + 0.3 * rng.normal(size=(n, n)) / np.sqrt(n)
    )
    return A, A * rng.uniform(0.97, 1.03, (n, n)), *rng.normal(size=(2, n))


def transposed(A: Any, w: Any, factors: Any) -> Any:
    """A'^-1 w, as reverse mode asks for it."""
    solve = jax.linear_transpose(
        lambda b: solve_by_nearby_factors(jnp.asarray(A), b, factors), jnp.asarray(w)
    )
    return jax.jit(solve)(jnp.asarray(w))[0]


@pytest.fixture
def factorizations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every matrix that is factorized for a transposed solve of its own."""
    count: list[int] = []
    by_its_own = refinement._by_its_own
    monkeypatch.setattr(
        refinement,
        "_by_its_own",
        lambda *a: (jax.debug.callback(lambda: count.append(1)), by_its_own(*a))[1],
    )
    return count


@pytest.mark.parametrize("n", SIZES)
def test_forward_and_backward(n, factorizations):
    A, nearby, b, w = matrices(n)
    factors = jax.scipy.linalg.lu_factor(nearby)
    x, pull = jax.vjp(
        lambda A, b: solve_by_nearby_factors(A, b, factors), jnp.asarray(A), jnp.asarray(b)
    )
    np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=0, atol=1e-13 * np.linalg.norm(b))
    A_bar, b_bar = pull(jnp.asarray(w))
    lam = np.linalg.solve(A.T, w)
    np.testing.assert_allclose(b_bar, lam, rtol=0, atol=1e-12)
    np.testing.assert_allclose(A_bar, -np.outer(lam, x), rtol=0, atol=1e-11)
    jax.effects_barrier()
    assert not factorizations


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("batched", ["w", "A", "factors", "all"])
def test_under_vmap(n, batched):
    A, nearby, b, w = matrices(n)
    factors = jax.scipy.linalg.lu_factor(jnp.stack([nearby, nearby * 1.01]))
    As, ws = jnp.stack([A, A + 0.1 * np.eye(n)]), jnp.stack([w, 1e3 * b])
    axes = (0 if batched in ("A", "all") else None, 0 if batched in ("w", "all") else None)
    along_factors = 0 if batched in ("factors", "all") else None

    def pull(A: Any, w: Any, factors: Any) -> Any:
        return jax.vjp(lambda b: solve_by_nearby_factors(A, b, factors), jnp.asarray(b))[1](w)[0]

    given = [v if axis == 0 else v[0] for v, axis in zip((As, ws), axes, strict=True)]
    lu = factors if along_factors == 0 else jax.tree.map(lambda v: v[0], factors)
    found = jax.jit(jax.vmap(pull, (*axes, along_factors)))(*given, lu)
    for k in range(2):
        expected = np.linalg.solve((As[k] if axes[0] == 0 else A).T, ws[k] if axes[1] == 0 else w)
        np.testing.assert_allclose(
            found[k], expected, rtol=0, atol=1e-12 * np.max(np.abs(expected))
        )


@pytest.mark.parametrize("n", SIZES)
def test_second_derivatives(n):
    """b' A^-1 b along A + t E: its second derivative is 2 b' A^-1 E A^-1 E A^-1 b."""
    A, nearby, b, _ = matrices(n)
    E = np.random.default_rng(5).normal(size=(n, n)) / n
    factors = jax.scipy.linalg.lu_factor(nearby)
    g = lambda t: b @ solve_by_nearby_factors(A + t * E, jnp.asarray(b), factors)
    step = np.linalg.solve(A, E)
    expected = 2 * b @ step @ step @ np.linalg.solve(A, b)
    for second in (jax.jacfwd(jax.grad(g)), jax.grad(jax.grad(g)), jax.jacfwd(jax.jacfwd(g))):
        np.testing.assert_allclose(jax.jit(second)(0.0), expected, rtol=1e-9)


@pytest.mark.parametrize("far", [1.0, 3.0, -1.0, 1e-3, 1e12], ids=str)
def test_factors_that_are_too_far_away_are_not_believed(far, factorizations):
    """Those of 1e12 I change x by less than rounding, and have done nothing."""
    A, _, _, w = matrices(7)
    factors = jax.scipy.linalg.lu_factor(far * jnp.diag(jnp.arange(1.0, 8.0)))
    np.testing.assert_allclose(
        transposed(A, w, factors), np.linalg.solve(A.T, w), rtol=0, atol=1e-12
    )
    jax.effects_barrier()
    assert len(factorizations) == 1


def test_entries_that_are_small_beside_others_are_as_exact():
    """Entries whose error falls to 0.1 % and to 40 % each time; one is 1e-8 of the other."""
    A, w = np.array([[1.0, 1e-9], [0.0, 1.0]]), np.array([1.0, 1e-8])
    x = transposed(A, w, jax.scipy.linalg.lu_factor(jnp.diag(jnp.array([1.001, 1.6]))))
    np.testing.assert_allclose(x, [1.0, 0.9e-8], rtol=1e-12)


def test_one_entry_that_the_factors_do_not_find():
    """Factors that are right but for one entry, of which they are 1e9 times too large."""
    A, _, _, w = matrices(7)
    w[3] = 1e-6
    nearby = A.copy()
    nearby[3, 3] = 1e9
    found = transposed(A, w, jax.scipy.linalg.lu_factor(nearby))
    np.testing.assert_allclose(found, np.linalg.solve(A.T, w), rtol=0, atol=1e-12)


def test_nan_singular_zero_and_single_precision():
    A, nearby, b, _ = matrices(7)
    factors = jax.scipy.linalg.lu_factor(nearby)
    assert np.all(np.isnan(transposed(A, jnp.full(7, jnp.nan), factors)))
    assert not np.all(np.isfinite(transposed(np.zeros((7, 7)), b, factors)))
    assert np.all(transposed(A, np.zeros(7), factors) == 0)
    single = transposed(
        *(jnp.asarray(v, jnp.float32) for v in (A, b)),
        jax.scipy.linalg.lu_factor(jnp.float32(nearby)),
    )
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, np.linalg.solve(A.T, b), rtol=0, atol=1e-5)


TIGHT = {"rtol": 1e-9, "atol": 1e-11, "solver": diffrax.Kvaerno5()}


@pytest.mark.parametrize("name", ["discrete", pytest.param("both", marks=pytest.mark.slow)])
def test_seventy_states(name, factorizations, monkeypatch):
    monkeypatch.setattr(runge_kutta, "MANY", 70)
    A, b, c, y0, w = nonnormal(70)
    given = {"A": A, "b": b, "c": c, "y0": y0, "t0": np.asarray(0.3), "t1": np.asarray(1.4)}
    if name == "both":
        del given["A"]
    kinds: dict[str, dict[str, Any]] = {
        "discrete": {"sensitivity": adjoint.DiscreteAdjoint()},
        "both": {"mode": "both"},
    }

    @jax.jit
    @jax.value_and_grad
    def found(q):
        f = lambda t, y, _: q.get("A", A) @ y + q["b"] + t * q["c"]
        return (
            w @ adjoint.ode_solve(f, q["y0"], None, q["t0"], q["t1"], **kinds[name], **TIGHT).value
        )

    value, bars = exponential(A, b, c, y0, w, 0.3, 1.4)
    assert error(found(given), (value, {k: bars[k] for k in given})) < 1e2 * TIGHT["rtol"]
    jax.effects_barrier()
    assert not factorizations


@pytest.mark.parametrize("kind", [pytest.param("mixed", marks=pytest.mark.slow), "samples"])
@pytest.mark.slow
def test_gradient_and_hessian_when_all_stages_are_so_solved(kind, monkeypatch):
    monkeypatch.setattr(runge_kutta, "MANY", 1)
    case = coupled()
    g = lambda case: solved(
        adjoint.ode_solve, kind, case, sensitivity=adjoint.DiscreteAdjoint(), **TIGHT
    )
    e = lambda case: exact(kind, case)
    assert (
        error(jax.jit(jax.value_and_grad(g))(case), jax.value_and_grad(e)(case))
        < 1e2 * TIGHT["rtol"]
    )
    along = jax.tree.map(jnp.ones_like, case)._replace(ts=jnp.array([0.0, 1.0, 2.0, 0.0]))
    found, expected = (
        jax.jit(lambda c, f=f: jax.jvp(jax.grad(f), (c,), (along,))[1])(case) for f in (g, e)
    )
    assert error(found, expected) < 1e3 * TIGHT["rtol"]
