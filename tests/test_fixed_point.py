"""fixed_point: closed forms, a linear case, every solver and mode, and what has no fixed point.

The linear case is that of a linear solve.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint

SOLVERS = {"Picard": adjoint.Picard(), "Anderson": adjoint.Anderson()}
LINEAR = {
    "GMRES": adjoint.GMRES(rtol=1e-13),
    "TransposedIteration": adjoint.TransposedIteration(rtol=1e-13),
}


def contraction(n: int) -> Any:
    """A nonsymmetric, non-normal matrix of spectral radius below 0.7 whose powers grow at first."""
    rng = np.random.default_rng(n)
    T = np.triu(rng.normal(size=(n, n)), 1) + np.diag(rng.uniform(-0.6, 0.6, n))
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return jnp.asarray(Q @ T @ Q.T)


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_a_linear_step_is_a_linear_solve(n: int) -> None:
    S = contraction(n) if n < 50 else contraction(50) / 4
    b, w = jnp.linspace(1.0, 2.0, n), jnp.linspace(-1.0, 1.0, n) + 0.1

    @jax.jit
    def gradients(p: Any) -> Any:
        def g(p: Any, linear: Any) -> Any:
            return (
                w
                @ adjoint.fixed_point(
                    lambda x, p: p[0] @ x + p[1], jnp.zeros(n), p, linear_solver=linear
                ).value
            )

        return [jax.grad(g)(p, linear) for linear in LINEAR.values()]

    A = np.eye(n) - np.asarray(S)
    x, lam = np.linalg.solve(A, b), np.linalg.solve(A.T, w)
    for S_bar, b_bar in gradients((S, b)):
        scale = np.abs(lam).max()
        np.testing.assert_allclose(b_bar, lam, rtol=1e-9, atol=1e-10 * scale)
        np.testing.assert_allclose(
            S_bar, np.outer(lam, x), rtol=1e-8, atol=1e-9 * scale * np.abs(x).max()
        )


def kepler(E: Any, p: Any) -> Any:
    """E = M + e sin E, Kepler's equation; p = (e, M)."""
    return p[1] + p[0] * jnp.sin(E)


@pytest.mark.parametrize(
    ("solver", "linear"),
    [pytest.param("Anderson", "GMRES", marks=pytest.mark.slow), ("Picard", "TransposedIteration")],
)
def test_keplers_equation_in_every_mode(solver: str, linear: str) -> None:
    """dE/dM = 1 / (1 - e cos E), dE/de = sin E / (1 - e cos E); the Hessian by hand from these."""
    E, e = 1.2, 0.4
    p = jnp.array([e, E - e * np.sin(E)])

    def anomaly(p: Any, mode: Any = "reverse") -> Any:
        return adjoint.fixed_point(
            kepler, jnp.ones(1), p, SOLVERS[solver], linear_solver=LINEAR[linear], mode=mode
        ).value[0]

    d = 1 - e * np.cos(E)
    E_e, E_M = np.sin(E) / d, 1 / d
    # d_e d = -cos E + e sin E E_e, and so on.
    d_e, d_M = -np.cos(E) + e * np.sin(E) * E_e, e * np.sin(E) * E_M
    H = np.array([
        [np.cos(E) * E_e / d - np.sin(E) * d_e / d**2, -d_e / d**2],
        [np.cos(E) * E_M / d - np.sin(E) * d_M / d**2, -d_M / d**2],
    ])  # fmt: skip
    two = lambda p: jax.lax.scan(lambda s, _: (s + anomaly(p), None), 0.0, length=2)[0]

    @jax.jit
    def everything(p: Any) -> Any:
        return (
            anomaly(p),
            jax.grad(anomaly)(p),
            jax.jacfwd(lambda p: anomaly(p, "both"))(p),
            jax.vmap(jax.grad(anomaly))(jnp.stack([p, p])),
            jax.hessian(anomaly)(p),
            jax.jacrev(jax.grad(anomaly))(p),
            jax.hessian(two)(p) / 2,
        )

    value, gradient, forward, lanes, *hessians = everything(p)
    np.testing.assert_allclose(value, E, rtol=1e-11)
    for found in (gradient, forward, *lanes):
        np.testing.assert_allclose(found, [E_e, E_M], rtol=1e-9)
    for found in hessians:
        np.testing.assert_allclose(found, H, rtol=1e-8)


@pytest.mark.slow
def test_anderson_converges_where_picard_does_not_and_in_fewer_steps() -> None:
    diverging = lambda x, p: p - 3.0 * x
    x = adjoint.fixed_point(diverging, jnp.zeros(2), jnp.ones(2))
    np.testing.assert_allclose(adjoint.require(x), 0.25, rtol=1e-12)
    assert (
        adjoint.fixed_point(diverging, jnp.zeros(2), jnp.ones(2), adjoint.Picard()).status.name
        == "NOT_CONVERGED"
    )
    S = contraction(7)
    slow = lambda x, p: S @ x + p
    steps = [
        int(adjoint.fixed_point(slow, jnp.zeros(7), jnp.ones(7), solver).stats["iterations"])
        for solver in (adjoint.Picard(), adjoint.Anderson(memory=7))
    ]
    # On a linear step Anderson's acceleration with n vectors is GMRES (Walker and Ni, theorem 2.2):
    # n + 1 steps, rounding aside.
    assert steps[1] <= 12 < steps[0]


def test_memory_runs_over() -> None:
    S = contraction(7)
    solution = adjoint.fixed_point(
        lambda x, p: S @ x + p, jnp.zeros(7), jnp.ones(7), adjoint.Anderson(memory=2)
    )
    np.testing.assert_allclose(
        adjoint.require(solution), np.linalg.solve(np.eye(7) - np.asarray(S), np.ones(7)), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("step", "p", "statuses"),
    [
        (lambda x, p: x + p, 1.0, {"NOT_CONVERGED", "SINGULAR"}),
        (lambda x, p: x + p * x**2, 1.0, {"NOT_CONVERGED", "SINGULAR", "DEGENERATE"}),
        (lambda x, p: jnp.cos(p * x), np.nan, {"NONFINITE_INPUT"}),
        (lambda x, p: jnp.exp(p + x), 1.0, {"NOT_CONVERGED", "NONFINITE_INPUT"}),
    ],
    ids=["drift", "double", "NaN", "explosion"],
)
def test_what_is_no_fixed_point_is_nan_in_value_and_gradient(
    step: Any, p: float, statuses: set[str]
) -> None:
    solve = lambda p: adjoint.fixed_point(step, jnp.ones(1), p, adjoint.Picard(max_steps=200))
    solution, gradient = jax.jit(lambda p: (solve(p), jax.grad(lambda p: solve(p).value[0])(p)))(
        jnp.asarray(p)
    )
    assert solution.status.name in statuses
    assert np.isnan(solution.value).all()
    assert np.isnan(gradient)
    with pytest.raises(adjoint.SolveError, match="fixed_point with Picard"):
        adjoint.require(solution)


@pytest.mark.slow
def test_the_transposed_iteration_that_diverges_says_so() -> None:
    # Newton finds the fixed point of a step that expands; the transposed iteration then cannot.
    solve = lambda p: adjoint.fixed_point(
        lambda x, p: p - 3.0 * x,
        jnp.zeros(1),
        p,
        adjoint.Newton(),
        linear_solver=adjoint.TransposedIteration(),
    )
    assert solve(jnp.ones(1)).status.name == "NOT_CONVERGED"
    assert np.isnan(jax.grad(lambda p: solve(p).value[0])(jnp.ones(1))).all()


def test_what_is_no_fixed_point_problem_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step\(x, p\) with .*\(1,\).*expected .*\(2,\)"):
        adjoint.fixed_point(lambda x, p: x[:1] * p, jnp.ones(2), jnp.ones(1))
    with pytest.raises(ValueError, match="memory"):
        adjoint.Anderson(memory=0)
    with pytest.raises(ValueError, match="rtol"):
        adjoint.Picard(rtol=0.0)
    with pytest.raises(ValueError, match="max_steps"):
        adjoint.Picard(max_steps=0)
    with pytest.raises(TypeError, match="fixed_point: got solver"):
        adjoint.fixed_point(lambda x, p: x * p, jnp.ones(1), jnp.ones(1), "Anderson")
