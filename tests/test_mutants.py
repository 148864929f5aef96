"""Mutants of linear rules are killed by the checks they name; the healthy library passes all.

The checks compare with `jnp.linalg.solve` and NumPy on small nonsymmetric, non-normal systems,
where a transpose that is missing shows. They run eagerly on a fresh copy of the library (see
`mutation.library`); Krylov loops run step by step in Python (`jax.disable_jit`), which compiles
nothing.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_mutants import LINEAR_MUTANTS
from mutant_cases import (
    CHAIN,
    COMPLEX,
    DIRECTION,
    HERMITIAN,
    ONE_SIDED,
    REAL,
    B,
    Library,
    N,
    assert_exact,
    assert_same,
    dense,
    derivatives,
    full_pattern,
    matrix_free,
    objective,
    superlu,
)
from mutation import HOME, Mutant, library

import adjoint

CHECKS: dict[str, Callable[[Library], None]] = {}


def check(function: Callable[[Library], None]) -> Callable[[Library], None]:
    CHECKS[function.__name__] = function
    return function


@check
def dense_gradient(lib: Library) -> None:
    assert_exact(dense(lib), "real")


@check
def dense_tangent(lib: Library) -> None:
    at, dots = (REAL, jnp.asarray(B)), (DIRECTION[np.dtype(float)], jnp.arange(1.0, 1.0 + N))
    assert_same(*(jax.jvp(solve, at, dots)[1] for solve in (dense(lib), jnp.linalg.solve)))


@check
def verified_gradient(lib: Library) -> None:
    """The library's own judge, which takes no other solver's word."""
    assert adjoint.verify_gradient(
        lambda t: objective(dense(lib), REAL + jnp.diag(t), t + B), jnp.ones(N)
    ).trusted


@check
def dense_second_order(lib: Library) -> None:
    assert_exact(dense(lib), "real", order=2)


@check
def complex_lu(lib: Library) -> None:
    assert_exact(dense(lib), "complex", order=2)


@check
def complex_cholesky(lib: Library) -> None:
    assert_exact(dense(lib, "Cholesky"), "hermitian")


@check
def transposed_second_order(lib: Library) -> None:
    def solve(A: Any, b: Any) -> Any:
        return lib.solve.factorize(A.T).solve_transpose(b).value

    assert_exact(solve, "real", order=2)


@check
def nan_in_b(lib: Library) -> None:
    """NaN in value and gradient, of a healthy matrix, that a zero cotangent would hide."""
    b = np.where(np.arange(N) == 2, np.nan, B)
    assert lib.solve.linear_solve(REAL, b).status.name == "NONFINITE_INPUT"
    for leaf in jax.grad(lambda p: jnp.sum(dense(lib)(*p)))((jnp.asarray(REAL), b)):
        assert np.all(np.isnan(leaf))


@check
def false_claim(lib: Library) -> None:
    nonsymmetric = np.diag(np.arange(1.0, 7.0)) + 0.5 * np.eye(N, k=1)
    assert (
        lib.solve.linear_solve(nonsymmetric, B, lib.dense.Cholesky()).status.name
        == "RESIDUAL_TOO_LARGE"
    )
    assert np.isnan(lib.solve.factorize(nonsymmetric, lib.dense.Cholesky()).logdet())
    own = lib.solve.factorize(nonsymmetric)
    stale = dataclasses.replace(own, A=lib.operators.Dense(jnp.asarray(2 * nonsymmetric)))
    assert stale.solve(B).status.name == "RESIDUAL_TOO_LARGE"


@check
def singular(lib: Library) -> None:
    A = _singular()
    for operator in (A, full_pattern(lib).matrix(A.ravel())):
        solution = lib.solve.linear_solve(operator, B)
        assert solution.status.name == "SINGULAR"
        assert np.all(np.isnan(solution.value))
        assert np.isnan(lib.solve.factorize(operator).logdet())


@functools.cache
def _singular() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(N, N - 1)) @ rng.normal(size=(N - 1, N))


@check
def lying_backend(lib: Library) -> None:
    """Another matrix's factors, as of a broken backend: beyond refinement, seen by the residual."""

    class Lying(lib.superlu.SuperLUFactors):
        def solve(self, b: np.ndarray, transpose: bool) -> np.ndarray:
            return 1.3 * super().solve(b, transpose)

    lib.sparse.BACKENDS["lying"] = Lying
    A = full_pattern(lib).matrix(REAL.ravel())
    assert (
        lib.solve.linear_solve(A, B, lib.sparse.SparseDirect("lying")).status.name
        == "RESIDUAL_TOO_LARGE"
    )


@check
def logdet(lib: Library) -> None:
    """NumPy's slogdet, d log|det A| = Re tr(A^-1 dA): JAX's gradient is A'^-1, never conjugated."""
    sparse = lambda A: full_pattern(lib).matrix(A.ravel())
    for A, solver, operator in (
        (COMPLEX, lib.dense.LU(), jnp.asarray),
        (HERMITIAN, lib.dense.Cholesky(), jnp.asarray),
        (COMPLEX, lib.sparse.SparseDirect("superlu"), sparse),
    ):
        value, gradient = jax.value_and_grad(
            lambda A, f=operator, s=solver: lib.solve.factorize(f(A), s).logdet()
        )(A)
        np.testing.assert_allclose(value, np.linalg.slogdet(A)[1], rtol=1e-12)
        np.testing.assert_allclose(gradient, np.linalg.inv(A).T, rtol=1e-9)


@check
def sparse_derivatives(lib: Library) -> None:
    assert_exact(superlu(lib, CHAIN), "chain", order=2)
    assert_exact(superlu(lib, ONE_SIDED), "one-sided")


@check
def sparse_complex(lib: Library) -> None:
    assert_exact(superlu(lib, CHAIN), "complex chain")


@check
def many_right_hand_sides(lib: Library) -> None:
    b = jnp.asarray(np.random.default_rng(5).normal(size=(N, 3)))
    A = REAL + 9 * np.eye(N)
    for solve, mask in ((dense(lib), True), (superlu(lib, CHAIN), CHAIN)):
        expected = derivatives(
            lambda A, b, mask=mask: jnp.linalg.solve(jnp.where(mask, A, 0), b), A, b, 1
        )
        assert_same(derivatives(solve, A, b, 1), expected)


@check
def sparse_lanes(lib: Library) -> None:
    """vmap over matrices, over right-hand sides, over both, and over all pairs."""
    matrices = np.stack([REAL + k * np.eye(N) for k in (9, 10, 12)])
    bs = np.random.default_rng(6).normal(size=(2, N))
    pattern = full_pattern(lib)

    def solve(A: Any, b: Any) -> Any:
        return lib.solve.linear_solve(
            pattern.matrix(A.ravel()), b, lib.sparse.SparseDirect("superlu")
        ).value

    expected = np.array([[np.linalg.solve(A, b) for b in bs] for A in matrices])
    assert_same(jax.vmap(solve, (0, None))(matrices, bs[0]), expected[:, 0])
    assert_same(jax.vmap(solve, (None, 0))(matrices[0], bs), expected[0])
    assert_same(jax.vmap(solve)(matrices[:2], bs), expected[[0, 1], [0, 1]])
    assert_same(jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(matrices, bs), expected)


@check
def cache(lib: Library) -> None:
    """Other values, one other value, another pattern, another backend: other factors.

    The same values again: the same.
    """
    SparseDirect = lib.sparse.SparseDirect
    values = jnp.asarray((REAL + 9 * np.eye(N))[ONE_SIDED])
    lib.sparse.BACKENDS["another"] = lib.superlu.SuperLUFactors
    with lib.host_call.count_solves() as count:
        for mask in (ONE_SIDED, ONE_SIDED.T):
            pattern = lib.sparse_pattern.SparsePattern(*np.nonzero(mask), mask.shape)
            for scale in (1.0, 2.0, 1.0):
                A = np.zeros((N, N))
                A[mask] = scale * values
                for backend in ("superlu", "another"):
                    x = lib.solve.linear_solve(
                        pattern.matrix(scale * values), B, SparseDirect(backend)
                    ).value
                    assert_same(x, np.linalg.solve(A, B))
    assert count.factorizations == 2 * 2 * 2

    held = lib.factor_cache.FactorCache()
    numbers = np.arange(1.0, 101.0)
    factors = held.find_or_make("A", numbers, lambda: np.array(-1))
    for k in range(100):
        other = numbers.copy()
        other[k] = 0.0
        assert held.find_or_make("A", other, lambda k=k: np.array(k)) == k
        assert held.find_or_make("A", numbers, lambda: np.array(-2)) is factors
    numbers[50] = 0.0
    assert held.find_or_make("A", np.arange(1.0, 101.0), lambda: np.array(-3)) is factors


@check
def krylov_gradient(lib: Library) -> None:
    with jax.disable_jit():
        solve = matrix_free(lib, lib.iterative.GMRES(rtol=1e-13))
        assert_exact(solve, "real")
        # Right-hand sides are solved in the power of two of their size, which is 1 for B itself.
        np.testing.assert_allclose(solve(REAL, 1e3 * B), np.linalg.solve(REAL, 1e3 * B), rtol=1e-9)


@check
def complex_krylov(lib: Library) -> None:
    with jax.disable_jit():
        assert_exact(matrix_free(lib, lib.iterative.GMRES(rtol=1e-13)), "complex")
        assert_exact(matrix_free(lib, lib.iterative.CG(rtol=1e-13)), "hermitian")


@check
def preconditioner(lib: Library) -> None:
    """With M = A^-1 the solve takes one step, as does the adjoint if M is transposed with A."""
    inverse = np.linalg.inv(REAL)
    solver = lib.iterative.GMRES(rtol=1e-11, max_steps=2, preconditioner=lambda v: inverse @ v)
    with jax.disable_jit():
        assert_exact(matrix_free(lib, solver), "real")


@check
def step_limit(lib: Library) -> None:
    with jax.disable_jit():
        assert (
            lib.solve.linear_solve(REAL, B, lib.iterative.GMRES(max_steps=2)).status.name
            == "NOT_CONVERGED"
        )


@check
def absolute_tolerance(lib: Library) -> None:
    """atol is in the units of b: |b - A x| <= atol; each step gains about two digits here."""
    A, b = np.eye(N) + 0.003 * REAL, 1e6 * B
    with jax.disable_jit():
        x = lib.solve.linear_solve(A, b, lib.iterative.GMRES(rtol=0.0, atol=1e-6)).value
    assert np.linalg.norm(b - A @ x) <= 1.01e-6


@check
def sparse_counts(lib: Library) -> None:
    """3 columns: a value takes 1 factorization, 3 solves; its gradient 3 and 3 transposed more."""
    solve, b = superlu(lib, CHAIN), jnp.asarray(np.random.default_rng(1).normal(size=(N, 3)))
    with lib.host_call.count_solves() as count:
        objective(solve, jnp.asarray(REAL) + 9 * jnp.eye(N), b)
        assert (count.factorizations, count.solves, count.transpose_solves) == (1, 3, 0)
        derivatives(solve, REAL + 9 * np.eye(N), b, 1)
    assert (count.factorizations, count.solves, count.transpose_solves) == (1, 6, 3)


@check
def compiled_counts(lib: Library) -> None:
    """What a compiled solver counts: as many solves as columns, in every lane.

    It passes its number on.
    """
    x = jnp.arange(6.0).reshape(2, 3)
    with lib.host_call.count_solves() as count:
        passed = jax.vmap(lambda x: lib.host_call.count_event("solves", x, 3))(x)
        assert (count.factorizations, count.solves, count.transpose_solves) == (0, 6, 0)
    np.testing.assert_array_equal(passed, x)


# Their checks take seconds each.
SLOW = (
    "sparse A v is A' v",
    "sparse A' v is A v",
    "A_bar = -conj(lam) x'",
    "A^H lam = x_bar",
    "b_dot dropped",
    "A_dot x dropped",
    "block counted as one when compiled",
    "columns mixed",
    "logdet: sign",
    "logdet: A^-1 for A'^-1",
    "GMRES without conjugate",
    "CG without conjugate",
    "step limit ignored",
)
# Counting in compiled solvers drops what JAX has compiled, so that what comes after it compiles
# again: it comes last.
CASES = sorted(
    [(name, None) for name in CHECKS] + [(mutant.killed_by, mutant) for mutant in LINEAR_MUTANTS],
    key=lambda case: case[0] == "compiled_counts",
)


@pytest.mark.parametrize(
    ("name", "mutant"),
    # That the checks pass the healthy library takes as long as all mutants, and the other tests say
    # so, too.
    [
        pytest.param(*case, marks=[] if case[1] and case[1].name not in SLOW else pytest.mark.slow)
        for case in CASES
    ],
    ids=[f"{m or 'healthy'}: {name}" for name, m in CASES],
)
def test_the_check_passes_the_healthy_library_and_kills_the_mutant(
    name: str, mutant: Mutant | None
) -> None:
    with library(mutant) as lib:
        if mutant is None:
            CHECKS[name](lib)
        else:
            with pytest.raises(AssertionError):
                CHECKS[name](lib)


def test_every_check_kills_and_no_two_mutants_are_the_same() -> None:
    assert {mutant.killed_by for mutant in LINEAR_MUTANTS} == set(CHECKS)
    assert (
        len({(m.file, m.original, m.wrong) for m in LINEAR_MUTANTS})
        == len({m.name for m in LINEAR_MUTANTS})
        == len(LINEAR_MUTANTS)
    )


def test_every_mutant_finds_its_text() -> None:
    for mutant in LINEAR_MUTANTS:
        assert mutant.source() != (HOME / mutant.file).read_text()
