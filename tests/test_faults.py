"""Promise 3, no finite wrong number: every fault of `faults.py` ends in NaN, with its status.

The NaN is in value and gradient. The modes are eager, jit, vmap (one bad lane between two good
ones), grad, and jit of grad. A matrix-free operator is compiled anew at every eager call, so those
forms run eagerly only with the faults that a matrix cannot have.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import (
    ADJOINT_FAULTS,
    DEFINITE,
    FAULTS,
    FORMS,
    FULL,
    INDEFINITE,
    NONSYMMETRIC,
    NONSYMMETRIC_SPREAD,
    AdjointFault,
    B,
    Fault,
    N,
    System,
)

import adjoint
from adjoint import CG, GMRES, LU, MINRES, Cholesky, Solution, SparseDirect, Status

ONES = np.ones(N)
SUPERLU = SparseDirect("superlu")


def solve_and_pull_back(form: str) -> Callable[[System, Any, Any], tuple[Solution, System]]:
    """(p, held, x_bar) -> the solution and the gradient of <x_bar, x> with respect to all of p."""

    def evaluate(p: System, held: Any, x_bar: Any) -> tuple[Solution, System]:
        def value_and_solution(p: System) -> tuple[Any, Solution]:
            solution = FORMS[form].solve(p, held)
            return solution.value, solution

        _, pull_back, solution = jax.vjp(value_and_solution, p, has_aux=True)
        return solution, pull_back(x_bar)[0]

    return evaluate


@cache
def compiled_solve(form: str) -> Callable[..., Solution]:
    return jax.jit(FORMS[form].solve)


@cache
def compiled_gradient(form: str) -> Callable[..., tuple[Solution, System]]:
    return jax.jit(solve_and_pull_back(form))


@cache
def batched_gradient(form: str) -> Callable[..., tuple[Solution, System]]:
    return jax.jit(jax.vmap(solve_and_pull_back(form)))


def eager(faults: tuple[Any, ...]) -> Any:
    cheap = [f for f in faults if not FORMS[f.form].matrix_free or "preconditioner" in f.name]
    return pytest.mark.parametrize("fault", cheap, ids=str)


def on_device(system: tuple[System, Any]) -> tuple[System, Any]:
    return jax.tree.map(jnp.asarray, system)


def assert_failed(solution: Solution, statuses: tuple[str, ...]) -> None:
    assert solution.status.name in statuses
    assert np.all(np.isnan(solution.value)), "a failed solve returned a finite number"
    with pytest.raises(adjoint.SolveError):
        adjoint.require(solution)


def assert_all_nan(gradient: System) -> None:
    for name, leaf in gradient.items():
        assert np.all(np.isnan(leaf)), (
            f"the gradient with respect to {name} is finite somewhere: {leaf}"
        )


class TestEveryFault:
    @eager(FAULTS)
    def test_eager(self, fault: Fault) -> None:
        assert_failed(FORMS[fault.form].solve(*on_device(fault.spoiled)), fault.statuses)

    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_jit(self, fault: Fault) -> None:
        assert_failed(compiled_solve(fault.form)(*fault.spoiled), fault.statuses)

    @eager(FAULTS)
    def test_grad(self, fault: Fault) -> None:
        solution, gradient = solve_and_pull_back(fault.form)(*on_device(fault.spoiled), jnp.ones(N))
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)

    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_jit_of_grad(self, fault: Fault) -> None:
        solution, gradient = compiled_gradient(fault.form)(*fault.spoiled, ONES)
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)

    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_vmap_spoils_only_the_bad_lane(self, fault: Fault) -> None:
        p, held = FORMS[fault.form].healthy
        other = (p | {"b": B[::-1].copy()}, held)
        lanes = [(p, held, ONES), (*fault.spoiled, ONES), (*other, 2 * ONES)]
        solution, gradient = lane_results(fault.form, lanes)
        assert Status(solution.status.code[1]).name in fault.statuses
        assert np.all(np.isnan(solution.value[1]))
        assert_all_nan(jax.tree.map(lambda leaf: leaf[1], gradient))
        with pytest.raises(
            adjoint.SolveError, match=r"lane 1, the first of 1 that failed out of 3"
        ):
            adjoint.require(solution)


def lane_results(form: str, lanes: list[Any]) -> tuple[Solution, System]:
    """The batched results, once the healthy first and last lane were compared with serial ones."""
    solution, gradient = batched_gradient(form)(
        *jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
    )
    # A batched Krylov method sums in another order, and stops at 1e-10.
    rtol = 1e-8 if FORMS[form].krylov else 1e-12
    for lane in (0, len(lanes) - 1):
        serial, serial_gradient = compiled_gradient(form)(*lanes[lane])
        assert serial.status.name == "SUCCESS"
        np.testing.assert_allclose(solution.value[lane], serial.value, rtol=rtol, atol=1e-12)
        for name, leaf in gradient.items():
            np.testing.assert_allclose(leaf[lane], serial_gradient[name], rtol=rtol, atol=1e-12)
    return solution, gradient


@pytest.mark.parametrize("form", FORMS)
def test_healthy_systems_are_solved(form: str) -> None:
    """x = A^-1 b, lam = A'^-1 x_bar, A_bar = -(1 + theta) lam x', theta_bar = -lam' A x.

    These expected values are NumPy's.
    """
    p, held = FORMS[form].healthy
    solution, gradient = compiled_gradient(form)(p, held, ONES)
    A = 1.25 * p["A"]
    x, lam = np.linalg.solve(A, p["b"]), np.linalg.solve(A.T, ONES)
    assert solution.status.name == "SUCCESS"
    for found, expected in (
        (solution.value, x),
        (gradient["b"], lam),
        (gradient["A"], -1.25 * np.outer(lam, x)),
        (gradient["theta"], -lam @ p["A"] @ x),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)


class TestEveryFaultOfTheAdjointAlone:
    @eager(ADJOINT_FAULTS)
    def test_grad(self, fault: AdjointFault) -> None:
        solution, gradient = solve_and_pull_back(fault.form)(
            *on_device(fault.system), jnp.asarray(fault.x_bar)
        )
        self.assert_solved_without_gradient(solution, gradient)

    @pytest.mark.parametrize("fault", ADJOINT_FAULTS, ids=str)
    def test_jit_of_grad(self, fault: AdjointFault) -> None:
        solution, gradient = compiled_gradient(fault.form)(*fault.system, fault.x_bar)
        self.assert_solved_without_gradient(solution, gradient)

    @pytest.mark.parametrize("fault", ADJOINT_FAULTS, ids=str)
    def test_vmap_spoils_only_the_bad_lane(self, fault: AdjointFault) -> None:
        p, held = FORMS[fault.form].healthy
        lanes = [(p, held, ONES), (*fault.system, fault.x_bar), (p, held, 2 * ONES)]
        solution, gradient = lane_results(fault.form, lanes)
        self.assert_solved_without_gradient(
            *jax.tree.map(lambda leaf: leaf[1], (solution, gradient))
        )

    @staticmethod
    def assert_solved_without_gradient(solution: Solution, gradient: System) -> None:
        assert solution.status.name == "SUCCESS"
        assert np.all(np.isfinite(solution.value))
        assert_all_nan(gradient)


@pytest.mark.parametrize("form", ["LU", "SparseDirect"])
class TestOtherDerivatives:
    def test_forward_mode_and_second_order_of_a_failed_solve_are_nan(self, form: str) -> None:
        A, b = np.zeros((N, N)), B

        def x(A: Any) -> Any:
            if form == "SparseDirect":
                return adjoint.linear_solve(FULL.matrix(A.ravel()), b, SUPERLU).value
            return adjoint.linear_solve(A, b).value

        _, x_dot = jax.jvp(x, (A,), (NONSYMMETRIC,))
        assert np.all(np.isnan(x_dot))
        product = adjoint.hvp(lambda A: jnp.sum(x(A) ** 2), A, NONSYMMETRIC)
        assert np.all(np.isnan(product))

    def test_the_log_determinant_of_a_singular_matrix_is_nan(self, form: str) -> None:
        (p, _), *_ = (
            f.spoiled for f in FAULTS if f.form == form and f.name == "rank-deficient product"
        )

        def logdet(A: Any) -> Any:
            return adjoint.factorize(A if form == "LU" else FULL.matrix(A.ravel())).logdet()

        value, gradient = jax.value_and_grad(logdet)(jnp.asarray(p["A"]))
        assert np.isnan(value)
        assert np.all(np.isnan(gradient))

    def test_one_failed_column_fails_the_block(self, form: str) -> None:
        b = np.stack([B, B, B], axis=1)
        b[2, 1] = np.nan

        def total(A: Any, b: Any) -> tuple[Any, Solution]:
            solution = adjoint.linear_solve(A if form == "LU" else FULL.matrix(A.ravel()), b)
            return jnp.sum(solution.value), solution

        (_, solution), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
            jnp.asarray(NONSYMMETRIC), b
        )
        assert_failed(solution, ("NONFINITE_INPUT",))
        assert_all_nan(dict(zip("Ab", gradients, strict=True)))


class TestOperatorsThatAreNone:
    """A matvec that is not linear is no number's fault: the residual or the transpose finds it."""

    @staticmethod
    def solve(f: Callable[[Any], Any]) -> tuple[Solution, Any]:
        def total(b: Any) -> tuple[Any, Solution]:
            solution = adjoint.linear_solve(adjoint.MatrixFree(f, N), b, GMRES(max_steps=2 * N))
            return jnp.sum(solution.value), solution

        with jax.disable_jit():
            (_, solution), b_bar = jax.value_and_grad(total, has_aux=True)(jnp.asarray(B))
        return solution, b_bar

    def test_an_affine_matvec_fails_the_residual(self) -> None:
        solution, b_bar = self.solve(lambda x: jnp.asarray(NONSYMMETRIC) @ x + 1)
        assert_failed(solution, ("NOT_CONVERGED", "RESIDUAL_TOO_LARGE"))
        assert np.all(np.isnan(b_bar))

    def test_a_nonlinear_matvec_has_no_gradient(self) -> None:
        """Its x solves matvec(x) = b, so the residual is silent; but it has no transpose."""
        with pytest.raises(NotImplementedError, match=r"[Tt]ranspose"):
            self.solve(lambda x: jnp.asarray(NONSYMMETRIC) @ x + 1e-7 * x**2)


class TestSparse:
    @pytest.mark.parametrize("rows", [[0, 0, 2], []], ids=["empty row", "no entry"])
    def test_a_pattern_that_is_singular_whatever_the_values(self, rows: list[int]) -> None:
        pattern = adjoint.SparsePattern(np.array(rows, int), np.arange(len(rows)), (3, 3))

        def total(values: Any, b: Any) -> tuple[Any, Solution]:
            solution = adjoint.linear_solve(pattern.matrix(values), b, SUPERLU)
            return jnp.sum(solution.value), solution

        (_, solution), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
            jnp.ones(len(rows)), jnp.ones(3)
        )
        assert_failed(solution, ("SINGULAR",))
        assert_all_nan(dict(zip("Ab", gradients, strict=True)))

    def test_float32_without_boundary_conditions(self) -> None:
        """Rounding makes the Neumann matrix regular, at 1e-8; no digit of a solution is certain.

        It is the pure Neumann matrix.
        """
        k = ((1 + 0.3 * np.sin(np.arange(49))) / 3).astype(np.float32)
        diagonal = np.zeros(50, np.float32)
        diagonal[:-1] += k
        diagonal[1:] += k
        i = np.arange(49)
        rows, cols = (
            np.concatenate([i, i + 1, np.arange(50)]),
            np.concatenate([i + 1, i, np.arange(50)]),
        )
        A = adjoint.SparsePattern(rows, cols, (50, 50)).matrix(np.concatenate([-k, -k, diagonal]))
        assert_failed(
            adjoint.linear_solve(A, jnp.ones(50, jnp.float32), SUPERLU),
            ("SINGULAR", "ILL_CONDITIONED"),
        )

    @pytest.mark.skipif(importlib.util.find_spec("pypardiso") is None, reason="needs pypardiso")
    def test_pardiso_sees_every_singular_matrix(self) -> None:
        faults = [f for f in FAULTS if f.form == "SparseDirect" and "SINGULAR" in f.statuses]
        assert len(faults) > 5
        for fault in faults:
            p, _ = fault.spoiled
            A = FULL.matrix(jnp.asarray(p["A"].ravel()))
            assert_failed(
                adjoint.linear_solve(A, p["b"], adjoint.SparseDirect("pardiso")), fault.statuses
            )

    def test_a_failure_in_the_branch_not_taken_does_not_raise(self) -> None:
        def solve(singular: Any, values: Any) -> Any:
            regular = lambda v: adjoint.linear_solve(FULL.matrix(v), B, SUPERLU).value
            return jax.lax.cond(singular, lambda _: jnp.zeros(N), regular, values)

        values = np.stack([np.zeros(N * N), NONSYMMETRIC.ravel()])
        x = jax.jit(jax.vmap(solve))(np.array([True, False]), values)
        np.testing.assert_allclose(x, [np.zeros(N), np.linalg.solve(NONSYMMETRIC, B)], rtol=1e-12)


# (dtype, size of A, size of b): ordinary, and such that squares or the solution itself leave the
# range of the numbers.
EXTREMES = [
    ("float32", 1.0, 1.0),
    ("float32", 1.0, 1e-24),
    ("float32", 1e19, 1.0),
    ("float32", 1.0, 1e25),
    ("float32", 1e-30, 1e30),
    ("float64", 1.0, 1e-170),
    ("float64", 1e-200, 1e200),
]
OFTEN = {
    "LU": (LU(), NONSYMMETRIC),
    "Cholesky": (Cholesky(), DEFINITE),
    "Cholesky, false claim": (Cholesky(), NONSYMMETRIC_SPREAD),
    "SparseDirect": (SUPERLU, NONSYMMETRIC),
    "GMRES": (GMRES(rtol=1e-5), NONSYMMETRIC),
    "CG": (CG(rtol=1e-5), DEFINITE),
    "MINRES": (MINRES(rtol=1e-5), INDEFINITE),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dtype", "A_size", "b_size"), EXTREMES)
@pytest.mark.parametrize("name", OFTEN)
def test_at_the_ends_of_the_number_range_finite_is_right(
    name: str, dtype: str, A_size: float, b_size: float
) -> None:
    """The expected values are NumPy's for the system in ordinary units."""
    solver, matrix = OFTEN[name]
    A, b = jnp.asarray(A_size * matrix, dtype), jnp.asarray(b_size * B, dtype)

    def solve(b: Any) -> tuple[Any, Solution]:
        solution = adjoint.linear_solve(
            FULL.matrix(A.ravel()) if solver == SUPERLU else A, b, solver
        )
        return solution.value, solution

    x, pull_back, solution = jax.vjp(solve, b, has_aux=True)
    (lam,) = pull_back(b)
    for found, transposed in ((x, False), (lam, True)):
        if np.all(np.isnan(found)):
            continue
        expected = np.linalg.solve(matrix.T if transposed else matrix, B)
        in_ordinary_units = np.asarray(found, np.longdouble) * (
            np.longdouble(A_size) / np.longdouble(b_size)
        )
        np.testing.assert_allclose(in_ordinary_units, expected, rtol=1e-3)
    assert bool(solution.status.ok) == bool(np.all(np.isfinite(x)))
