"""factorize: solves with A and A', log|det A|, all differentiable, from one factorization."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_nan, assert_close, matrix, run_mode, system
from test_solve import make_solver

import adjoint
from adjoint import LU, Cholesky, SparseDirect, Status, factorize, linear_solve

DIRECT = [
    ("LU", "general", "dense"),
    ("Cholesky", "definite", "dense"),
    ("SuperLU", "general", "sparse"),
]
DIRECT += [("PARDISO", "general", "sparse"), ("PARDISO", "definite", "bcoo")]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("solver", "kind", "form"), DIRECT)
def test_factorize_solves_with_A_and_its_transpose(
    solver: str, kind: str, form: str, dtype: Any
) -> None:
    if solver == "PARDISO" and dtype == np.complex128:
        pytest.skip("PARDISO serves real matrices")
    case = system(kind, 7, form, dtype)

    def ours(arguments: Any) -> jax.Array:
        factors = factorize(case.operator(arguments[0]), make_solver(solver, case))
        x = factors.solve(arguments[1]).value
        return case.loss(factors.solve_transpose(jnp.sin(x)).value)

    def dense(arguments: Any) -> jax.Array:
        A = case.dense(arguments[0])
        return case.loss(jnp.linalg.solve(A.T, jnp.sin(jnp.linalg.solve(A, arguments[1]))))

    for name in ("value and grad", "jvp of grad"):
        assert_close(run_mode(ours, name, case), run_mode(dense, name, case), 1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("solver", "kind", "form"), DIRECT)
def test_logdet(solver: str, kind: str, form: str, dtype: Any) -> None:
    if solver == "PARDISO" and dtype == np.complex128:
        pytest.skip("PARDISO serves real matrices")
    case = system(kind, 7, form, dtype)
    ours = lambda arguments: factorize(
        case.operator(arguments[0]), make_solver(solver, case)
    ).logdet()
    A = case.matrix
    value, (gradient, _) = jax.value_and_grad(ours)(case.arguments)
    assert float(value) == pytest.approx(np.linalg.slogdet(A)[1], rel=1e-13)
    inverse_transpose = np.linalg.inv(A).T
    if form == "dense":
        np.testing.assert_allclose(gradient, inverse_transpose, atol=1e-12)
    else:
        # d log|det A| / d values[m] = (A^-T)[rows[m], cols[m]], found here through the dense form's
        # own scatter.
        _, to_values = jax.vjp(case.dense, case.theta)
        np.testing.assert_allclose(
            gradient, to_values(jnp.asarray(inverse_transpose))[0], atol=1e-12
        )
    dense = lambda arguments: jnp.linalg.slogdet(case.dense(arguments[0]))[1]
    assert_close(run_mode(ours, "hessian", case), run_mode(dense, "hessian", case), 1e-9)


@pytest.mark.parametrize(
    ("solver", "form"),
    [(LU(), "dense"), (Cholesky(), "dense"), (SparseDirect("superlu"), "sparse")],
)
def test_logdet_of_a_failed_factorization_is_nan(solver: Any, form: str) -> None:
    rows, cols = (v.ravel() for v in np.indices((3, 3)))
    pattern = adjoint.SparsePattern(rows, cols, (3, 3))

    def logdet(A: jax.Array) -> jax.Array:
        return factorize(pattern.matrix(A.ravel()) if form == "sparse" else A, solver).logdet()

    singular = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    value, gradient = jax.value_and_grad(logdet)(singular)
    assert np.isnan(value)
    assert all_nan(gradient)


@pytest.mark.slow
def test_the_second_derivative_of_a_sparse_logdet_inside_scan() -> None:
    """Against JAX's slogdet; a rule that JAX drops there makes it raise, or zero."""
    rows, cols = (v.ravel() for v in np.indices((4, 4)))
    pattern = adjoint.SparsePattern(rows, cols, (4, 4))
    A = jnp.asarray(matrix("general", 4))

    def total(logdet: Any, s: jax.Array) -> jax.Array:
        body = lambda total, k: (total + logdet(A + k * s * jnp.eye(4)) ** 2, None)
        return jax.lax.scan(body, jnp.zeros(()), jnp.array([1.0, 2.0]))[0]

    sparse = lambda A: factorize(pattern.matrix(A.ravel()), SparseDirect("superlu")).logdet()
    dense = lambda A: jnp.linalg.slogdet(A)[1]
    for second in (jax.hessian, lambda f: jax.grad(jax.grad(f))):
        found, expected = (
            jax.jit(second(lambda s, f=f: total(f, s)))(0.3) for f in (sparse, dense)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_logdet_does_not_believe_a_false_claim_of_symmetry() -> None:
    """The symmetric part of A has another determinant than A."""
    A = jnp.asarray(matrix("definite", 7) + 0.3 * np.triu(np.ones((7, 7)), 1))
    assert linear_solve(A, jnp.ones(7), Cholesky()).status != Status.SUCCESS
    assert np.isnan(factorize(A, Cholesky()).logdet())


@pytest.mark.parametrize(("solver", "kind", "form"), DIRECT)
def test_factors_are_reused(solver: str, kind: str, form: str) -> None:
    case = system(kind, 7, form)
    adjoint.factor_cache.clear()
    with adjoint.count_solves() as count:
        factors = factorize(case.operator(case.theta), make_solver(solver, case))
        for k in range(3):
            x = factors.solve(case.b + k).value
            y = factors.solve_transpose(case.b + k).value
    assert (count.factorizations, count.solves, count.transpose_solves) == (1, 3, 3)
    np.testing.assert_allclose(x, np.linalg.solve(case.matrix, case.b + 2), rtol=1e-12)
    np.testing.assert_allclose(y, np.linalg.solve(case.matrix.T, case.b + 2), rtol=1e-12)


def test_a_factorization_crosses_jit_and_vmap() -> None:
    A = jnp.asarray(matrix("general", 7))
    factors = jax.jit(factorize)(A)
    b = jnp.asarray(np.random.default_rng(0).normal(size=(4, 7)))
    x = jax.jit(jax.vmap(lambda F, b: F.solve_transpose(b).value, in_axes=(None, 0)))(factors, b)
    np.testing.assert_allclose(x, np.linalg.solve(np.asarray(A).T, b.T).T, rtol=1e-12)
    batch = jax.vmap(factorize)(jnp.stack([A, 2 * A]))
    expected = [np.linalg.slogdet(k * np.asarray(A))[1] for k in (1, 2)]
    np.testing.assert_allclose(jax.vmap(lambda F: F.logdet())(batch), expected, rtol=1e-13)
