"""CG, MINRES, GMRES stop on the true residual, transpose M, mind no scale, and never pretend.

M is the preconditioner.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from cases import all_nan, assert_close, matrix

from adjoint import CG, GMRES, MINRES, MatrixFree, Solution, Status, linear_solve

KINDS = {CG: "definite", MINRES: "indefinite", GMRES: "general"}
N = 12


@cache
def compiled(solver: Any) -> Any:
    """(A, b) -> solution and the gradients of sum(x^2), for one solver."""

    def loss(A: jax.Array, b: jax.Array) -> tuple[jax.Array, Solution]:
        solution = linear_solve(A, b, solver)
        return jnp.sum(solution.value**2), solution

    def run(A: jax.Array, b: jax.Array) -> tuple[Solution, Any]:
        (_, solution), gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)(A, b)
        return solution, gradient

    return jax.jit(run)


def true_residual(A: Any, b: Any, x: Any) -> float:
    return float(np.linalg.norm(b - A @ np.asarray(x)) / np.linalg.norm(b))


# --- scales --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_the_size_of_the_right_hand_side_does_not_matter(method: Any, scale: float) -> None:
    A, b = matrix(KINDS[method], N), np.random.default_rng(0).normal(size=N)
    solution, _ = compiled(method())(A, scale * b)
    assert solution.status == Status.SUCCESS
    np.testing.assert_allclose(solution.value / scale, np.linalg.solve(A, b), rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("scale", [1e-25, 1e-20, 1e20])
def test_the_size_of_a_float32_right_hand_side_does_not_matter(method: Any, scale: float) -> None:
    """1e-20 squared is no float32 number: an adjoint b of that size must not vanish."""
    A, b = (
        matrix(KINDS[method], N).astype(np.float32),
        np.random.default_rng(0).normal(size=N).astype(np.float32),
    )
    solution, _ = compiled(method(rtol=1e-5))(A, np.float32(scale) * b)
    assert solution.status == Status.SUCCESS
    np.testing.assert_allclose(solution.value / np.float32(scale), np.linalg.solve(A, b), rtol=1e-3)


@pytest.mark.parametrize("method", KINDS)
def test_float32_converges_by_default(method: Any) -> None:
    A, b = matrix(KINDS[method], N).astype(np.float32), np.ones(N, np.float32)
    assert linear_solve(A, b, method()).status == Status.SUCCESS


@pytest.mark.slow
@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_the_size_of_the_matrix_does_not_matter(method: Any, scale: float) -> None:
    A = matrix(KINDS[method], N)
    solution, _ = compiled(method())(scale * A, np.ones(N))
    assert solution.status == Status.SUCCESS
    np.testing.assert_allclose(solution.value * scale, np.linalg.solve(A, np.ones(N)), rtol=1e-8)


@pytest.mark.parametrize("method", KINDS)
def test_zero_right_hand_side(method: Any) -> None:
    solution, (A_bar, b_bar) = compiled(method())(matrix(KINDS[method], N), np.zeros(N))
    assert solution.status == Status.SUCCESS
    assert solution.stats["iterations"] == 0
    for zero in (solution.value, A_bar, b_bar):
        np.testing.assert_array_equal(zero, 0 * zero)


def test_a_solution_that_overflows_is_no_success() -> None:
    solution = linear_solve(jnp.array([[1e-300]]), jnp.array([1e10]), CG())
    assert solution.status != Status.SUCCESS
    assert all_nan(solution.value)


@pytest.mark.parametrize("method", [CG, GMRES])
def test_atol_is_in_the_units_of_b_and_not_of_the_adjoint(method: Any) -> None:
    """A loss in small units has an adjoint b far below atol; its gradient is not zero."""
    A = matrix("definite", N)
    solver = method(rtol=1e-10, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda b: 1e-9 * jnp.sum(linear_solve(A, b, solver).value)))(
        jnp.ones(N)
    )
    np.testing.assert_allclose(gradient, 1e-9 * np.linalg.solve(A.T, np.ones(N)), rtol=1e-6)


def test_atol_and_tangents() -> None:
    A, b = matrix("definite", N), jnp.ones(N)
    solver = CG(rtol=1e-10, atol=1e-6)
    solve = lambda b: linear_solve(jnp.asarray(A), b, solver).value
    _, x_dot = jax.jit(lambda b_dot: jax.jvp(solve, (b,), (b_dot,)))(1e-9 * b)
    np.testing.assert_allclose(x_dot, 1e-9 * np.linalg.solve(A, np.ones(N)), rtol=1e-6)


# --- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [CG, MINRES])
def test_the_true_residual_decides_where_the_recurrence_drifts(method: Any) -> None:
    """Condition 1e8: CG's recurrence reports convergence with b - A x above the tolerance."""
    n = 60
    Q = scipy.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    A = Q @ np.diag(np.logspace(-8, 0, n)) @ Q.T
    A = (A + A.T) / 2
    b = np.ones(n)
    for rtol in (1e-6, 1e-8, 1e-12):
        solution, _ = compiled(method(rtol=rtol, max_steps=3000))(A, b)
        if solution.status == Status.SUCCESS:
            assert true_residual(A, b, solution.value) <= 1.01 * rtol
            assert solution.stats["residual"] <= rtol
        else:
            assert all_nan(solution.value)
    assert compiled(method(rtol=1e-6, max_steps=3000))(A, b)[0].status == Status.SUCCESS


@pytest.mark.parametrize("method", KINDS)
def test_steps_are_counted_and_limited(method: Any) -> None:
    """Exact after as many steps as distinct eigenvalues; a limit below that ends in a status."""
    diagonal = np.repeat([1.0, 2.0, 4.0, 8.0], 3) * (
        np.repeat([1.0, -1.0], 6) if method is not CG else 1.0
    )
    A = np.diag(diagonal)
    b = np.random.default_rng(0).normal(size=N)
    distinct = np.unique(diagonal).size
    solution, _ = compiled(method(max_steps=distinct))(A, b)
    assert solution.status == Status.SUCCESS
    assert solution.stats["iterations"] == distinct
    solution, gradient = compiled(method(max_steps=distinct - 1))(A, b)
    assert solution.status == Status.NOT_CONVERGED
    assert solution.stats["iterations"] <= distinct - 1
    assert all_nan((solution.value, gradient))


def test_gmres_restarts() -> None:
    A = matrix("general", 40)
    b = np.random.default_rng(0).normal(size=40)
    few, _ = compiled(GMRES(restart=5, max_steps=2000))(A, b)
    all_at_once, _ = compiled(GMRES(restart=40))(A, b)
    assert few.status == Status.SUCCESS
    assert all_at_once.stats["iterations"] <= 40
    assert few.stats["iterations"] > all_at_once.stats["iterations"]
    assert true_residual(A, b, few.value) <= 1e-10


def test_gmres_that_stagnates_says_so() -> None:
    """The cyclic shift has no progress until step n (Saad, Iterative Methods, section 6.5.4).

    That is of the 2nd edition.
    """
    A, b = np.roll(np.eye(N), 1, axis=0), np.eye(N)[0]
    stuck, gradient = compiled(GMRES(restart=5))(A, b)
    assert stuck.status == Status.NOT_CONVERGED
    assert all_nan((stuck.value, gradient))
    assert compiled(GMRES(restart=N))(A, b)[0].status == Status.SUCCESS


@pytest.mark.parametrize("method", KINDS)
def test_many_columns_are_iterated_one_by_one(method: Any) -> None:
    A = matrix(KINDS[method], N)
    B = np.random.default_rng(0).normal(size=(N, 3)) * np.array([1e-9, 1.0, 0.0])
    solution, _ = compiled(method())(A, B)
    assert solution.status == Status.SUCCESS
    for k in range(2):
        assert true_residual(A, B[:, k], solution.value[:, k]) <= 1e-10
    np.testing.assert_array_equal(solution.value[:, 2], 0)


# --- false claims and bad operators --------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "kind"), [(CG, "general"), (CG, "indefinite"), (MINRES, "general")]
)
def test_a_false_claim_ends_in_a_true_solution_or_in_a_status(method: Any, kind: str) -> None:
    A = matrix(kind, N, seed=2)
    claims = {"positive_definite": method is CG, "symmetric": True}
    b = np.ones(N)
    solution = linear_solve(MatrixFree(lambda x: A @ x, N, **claims), jnp.asarray(b), method())
    gradient = jax.grad(
        lambda b: jnp.sum(linear_solve(MatrixFree(lambda x: A @ x, N, **claims), b, method()).value)
    )(b)
    if solution.status == Status.SUCCESS:
        assert true_residual(A, b, solution.value) <= 1e-10
    else:
        assert all_nan((solution.value, gradient))
    if not np.isnan(gradient).any():
        np.testing.assert_allclose(A.T @ gradient, np.ones(N), rtol=1e-8)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_an_affine_function_is_no_matrix(method: Any, scale: float) -> None:
    """A x + c = b has a solution, but no linear solve's, nor is it returned as such."""
    A, c = matrix(KINDS[method], N), np.ones(N)
    b = scale * np.random.default_rng(0).normal(size=N)
    try:
        solution = linear_solve(
            MatrixFree(lambda x: A @ x + c, N),
            jnp.asarray(b),
            method(restart=N) if method is GMRES else method(),
        )
    except ValueError:
        return
    if solution.status == Status.SUCCESS:
        assert np.linalg.norm(A @ np.asarray(solution.value) + c - b) <= 1e-8 * np.linalg.norm(b)
    else:
        assert all_nan(solution.value)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("place", ["A", "b"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_input_is_not_iterated_on(method: Any, place: str, bad: float) -> None:
    A, b = matrix(KINDS[method], N).copy(), np.ones(N)
    (A if place == "A" else b)[3] = bad
    solution, gradient = compiled(method())(A, b)
    assert solution.status == Status.NONFINITE_INPUT
    assert solution.stats["iterations"] == 0
    assert all_nan((solution.value, gradient))


@pytest.mark.parametrize("method", KINDS)
def test_only_the_bad_lane_is_nan(method: Any) -> None:
    A = matrix(KINDS[method], N)
    lanes = jnp.stack([A, A * jnp.nan, 2 * A])
    solution, gradient = jax.vmap(compiled(method()), (0, None))(lanes, jnp.ones(N))
    np.testing.assert_array_equal(solution.status.code, [0, Status.NONFINITE_INPUT.code, 0])
    np.testing.assert_allclose(solution.value[2], np.linalg.solve(2 * A, np.ones(N)), rtol=1e-8)
    assert all_nan((solution.value[1], gradient[0][1], gradient[1][1]))
    assert not any(np.isnan(g[::2]).any() for g in gradient)


# --- preconditioners -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("flaw", ["NaN", "zero", "singular", "wrong"])
def test_a_bad_preconditioner_never_gives_a_wrong_number(method: Any, flaw: str) -> None:
    A, b = matrix(KINDS[method], N), jnp.ones(N)
    M = {
        "NaN": jnp.full(N, jnp.nan),
        "zero": jnp.zeros(N),
        "singular": jnp.ones(N).at[0].set(0),
        "wrong": jnp.where(jnp.arange(N) % 2, -1.0, 1e3),
    }[flaw]

    def loss(A: jax.Array, M: jax.Array) -> tuple[jax.Array, Solution]:
        solution = linear_solve(A, b, method(preconditioner=lambda v: M * v))
        return jnp.sum(solution.value), solution

    gradient, solution = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(A), M)
    if solution.status == Status.SUCCESS:
        assert true_residual(A, np.ones(N), solution.value) <= 1e-10
        np.testing.assert_allclose(solution.value, np.linalg.solve(A, np.ones(N)), rtol=1e-7)
    else:
        assert all_nan((solution.value, gradient))
    if flaw in ("NaN", "zero"):
        assert solution.status == Status.NOT_CONVERGED


def test_the_preconditioner_is_transposed_in_the_adjoint() -> None:
    """With M = A^-1 of a far from normal A both solves take one step or two.

    With M in place of M' the adjoint does not.
    """
    n = 30
    A = matrix("general", n) @ np.diag(np.logspace(0, 3, n))
    inverse = jnp.asarray(np.linalg.inv(A))
    solver = GMRES(rtol=1e-9, max_steps=3, preconditioner=lambda v: inverse @ v)
    f = jax.jit(
        jax.value_and_grad(lambda A, b: jnp.sum(linear_solve(A, b, solver).value ** 2), (0, 1))
    )
    reference = jax.value_and_grad(lambda A, b: jnp.sum(jnp.linalg.solve(A, b) ** 2), (0, 1))
    assert_close(f(jnp.asarray(A), jnp.ones(n)), reference(jnp.asarray(A), jnp.ones(n)), 1e-6)
    untransposed = GMRES(rtol=1e-9, max_steps=3, preconditioner=lambda v: inverse.T @ v)
    assert linear_solve(jnp.asarray(A), jnp.ones(n), untransposed).status == Status.NOT_CONVERGED


@pytest.mark.slow
def test_a_triangular_preconditioner_saves_steps_in_both_directions() -> None:
    n = 30
    A = jnp.asarray(matrix("general", n, banded=True))
    triangle = lambda v: jax.scipy.linalg.solve_triangular(jnp.triu(A), v)
    plain = compiled(GMRES(restart=n))(A, jnp.ones(n))[0].stats["iterations"]
    steps = int(linear_solve(A, jnp.ones(n), GMRES(preconditioner=triangle)).stats["iterations"])
    assert steps < plain
    limited = GMRES(rtol=1e-10, max_steps=steps + 4, preconditioner=triangle)
    gradient = jax.jit(jax.grad(lambda b: jnp.sum(linear_solve(A, b, limited).value)))(jnp.ones(n))
    np.testing.assert_allclose(gradient, np.linalg.solve(np.asarray(A).T, np.ones(n)), rtol=1e-7)


def test_a_preconditioner_may_close_over_what_is_differentiated() -> None:
    """Jacobi's diagonal of A(p): neither the solution nor its derivative depends on it."""
    A = jnp.asarray(matrix("definite", N))

    def ours(p: jax.Array) -> jax.Array:
        Ap = A + p * jnp.diag(jnp.arange(float(N)))
        solver = CG(rtol=1e-13, preconditioner=lambda v: v / jnp.diagonal(Ap))
        return jnp.sum(linear_solve(Ap, jnp.ones(N), solver).value ** 2)

    reference = lambda p: jnp.sum(
        jnp.linalg.solve(A + p * jnp.diag(jnp.arange(float(N))), jnp.ones(N)) ** 2
    )
    p = jnp.array(0.3)
    assert_close(jax.jit(jax.value_and_grad(ours))(p), jax.value_and_grad(reference)(p), 1e-9)
    second = lambda f: jax.jit(jax.jvp, static_argnums=0)(jax.grad(f), (p,), (p,))[1]
    assert_close(second(ours), second(reference), 1e-9)


@pytest.mark.parametrize("method", KINDS)
def test_complex_hermitian_and_general_operators(method: Any) -> None:
    A = jnp.asarray(matrix(KINDS[method], N, np.complex128))
    b = jnp.arange(N) + 1j
    f = lambda A, b: jnp.sum((linear_solve(A, b, method(rtol=1e-13)).value ** 2).imag)
    g = lambda A, b: jnp.sum((jnp.linalg.solve(A, b) ** 2).imag)
    assert_close(
        jax.jit(jax.value_and_grad(f, (0, 1)))(A, b), jax.value_and_grad(g, (0, 1))(A, b), 1e-9
    )


def test_singular_with_an_inconsistent_right_hand_side() -> None:
    A = 2 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1)
    A[0, 0] = A[-1, -1] = 1
    for method in KINDS:
        solution, gradient = compiled(method())(A, np.arange(1.0, N + 1))
        assert solution.status == Status.NOT_CONVERGED
        assert all_nan((solution.value, gradient))
