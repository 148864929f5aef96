"""Every mutant of the linear rules is killed by the check it names, and the healthy library passes
every check.

The checks compare with `jnp.linalg.solve` and NumPy on small nonsymmetric, non-normal systems,
where a transpose that is missing shows. They run eagerly on a fresh copy of the library (see
`mutants.library`); Krylov loops run step by step in Python (`jax.disable_jit`), which compiles
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
from mutants import HOME, MUTANTS, SLOW, Mutant, library, occurrences

import adjoint

N = 6
Library = Any
Solve = Callable[[Any, Any], Any]
CHECKS: dict[str, Callable[[Library], None]] = {}


def check(function: Callable[[Library], None]) -> Callable[[Library], None]:
    CHECKS[function.__name__] = function
    return function


_rng = np.random.default_rng(7)


def _random(*shape: int) -> np.ndarray:
    return _rng.normal(size=shape)


# Rows are cycled, so that the row order of LU is not its own inverse, as it is for a single
# exchange.
REAL = np.roll(_random(N, N) + np.diag([9.0, 8.0, 7.0, 6.0, 5.0, 4.0]), 1, axis=0)
COMPLEX = REAL + 1j * _random(N, N)
_C = _random(N, N) + 1j * _random(N, N)
HERMITIAN = _C @ _C.conj().T + np.eye(N)
DIRECTION = {np.dtype(float): _random(N, N), np.dtype(complex): _random(N, N) + 1j * _random(N, N)}
B, B_DOT = _random(N), _random(N)
WEIGHTS = _random(N) + 1j * _random(N)
# A cyclic chain with its mirror images, and a pattern with few of them.
CHAIN = np.abs(np.subtract.outer(np.arange(N), np.arange(N))) % (N - 1) <= 1
ONE_SIDED = np.triu(np.ones((N, N), bool)) | np.eye(N, k=-1, dtype=bool)


def objective(solve: Solve, A: Any, b: Any) -> Any:
    """Re sum w sin(x), real for real and complex systems, curved, and different in each
    component.
    """
    weights = WEIGHTS.astype(A.dtype) if jnp.iscomplexobj(A) else WEIGHTS.real
    return jnp.sum(weights.reshape(N, *[1] * (b.ndim - 1)) * jnp.sin(solve(A, b))).real


def derivatives(solve: Solve, A: Any, b: Any, order: int) -> Any:
    """The gradient with respect to (A, b) and, for order 2, the Hessian times a direction, forward
    and in reverse.
    """
    A, b = jnp.asarray(A), jnp.asarray(b, A.dtype)
    gradient = jax.grad(lambda p: objective(solve, *p))
    if order == 1:
        return gradient((A, b))
    v = (jnp.asarray(DIRECTION[A.dtype]), jnp.asarray(B_DOT, A.dtype))

    def along_v(p: Any) -> Any:
        return sum(jnp.sum(g * d).real for g, d in zip(gradient(p), v, strict=True))

    return jax.jvp(gradient, ((A, b),), (v,)), jax.grad(along_v)((A, b))


@functools.cache
def _reference(name: str, order: int) -> Any:
    A, mask = {
        "real": (REAL, True),
        "complex": (COMPLEX, True),
        "hermitian": (HERMITIAN, True),
        "chain": (REAL + 9 * np.eye(N), CHAIN),
        "one-sided": (REAL + 9 * np.eye(N), ONE_SIDED),
        "complex chain": (COMPLEX + 9 * np.eye(N), CHAIN),
    }[name]
    return A, derivatives(lambda A, b: jnp.linalg.solve(jnp.where(mask, A, 0), b), A, B, order)


def assert_exact(solve: Solve, name: str, order: int = 1) -> None:
    A, expected = _reference(name, order)
    assert_same(derivatives(solve, A, B, order), expected)


def assert_same(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=rtol, atol=1e-11), found, expected
    )


def dense(lib: Library, solver: str = "LU", **mode: Any) -> Solve:
    return lambda A, b: lib.solve.linear_solve(A, b, getattr(lib.dense, solver)(), **mode).value


def superlu(lib: Library, mask: np.ndarray) -> Solve:
    """Each entry is given twice, as 1/4 and 3/4, and the order of elimination is fixed, and not its
    own inverse.
    """
    lib.superlu.metis_order = lambda _rows, _cols, n: np.roll(np.arange(n), 2)
    rows, cols = np.nonzero(mask)
    pattern = lib.sparse_pattern.SparsePattern(np.tile(rows, 2), np.tile(cols, 2), mask.shape)

    def solve(A: Any, b: Any) -> Any:
        values = jnp.concatenate([0.25 * A[rows, cols], 0.75 * A[rows, cols]])
        return lib.solve.linear_solve(
            pattern.matrix(values), b, lib.sparse.SparseDirect("superlu")
        ).value

    return solve


def full_pattern(lib: Library) -> Any:
    return lib.sparse_pattern.SparsePattern(
        np.repeat(np.arange(N), N), np.tile(np.arange(N), N), (N, N)
    )


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
    """NaN in value and in all the gradient, where the matrix itself is healthy and a zero cotangent
    would hide it.
    """
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
    """Factors of another matrix, as of a broken backend: refinement cannot repair them, and the
    residual shows it.
    """

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
    """NumPy's slogdet, and d log|det A| = Re tr(A^-1 dA), so that JAX's gradient is A'^-1 (nowhere
    conjugated).
    """
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


def matrix_free(lib: Library, solver: Any) -> Solve:
    return lambda A, b: (
        lib.solve.linear_solve(lib.operators.MatrixFree(lambda x: A @ x, N), b, solver).value
    )


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
    """With M = A^-1 the solve takes one step; the adjoint solve does too if M is transposed with
    A.
    """
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
    """3 right-hand sides: a value takes 1 factorization and 3 solves; its gradient 3 more and 3
    transpose solves.
    """
    solve, b = superlu(lib, CHAIN), jnp.asarray(np.random.default_rng(1).normal(size=(N, 3)))
    with lib.host_call.count_solves() as count:
        objective(solve, jnp.asarray(REAL) + 9 * jnp.eye(N), b)
        assert (count.factorizations, count.solves, count.transpose_solves) == (1, 3, 0)
        derivatives(solve, REAL + 9 * np.eye(N), b, 1)
    assert (count.factorizations, count.solves, count.transpose_solves) == (1, 6, 3)


@check
def compiled_counts(lib: Library) -> None:
    """What a compiled solver counts: as many solves as right-hand sides, in every lane, and it
    passes its number on.
    """
    x = jnp.arange(6.0).reshape(2, 3)
    with lib.host_call.count_solves() as count:
        passed = jax.vmap(lambda x: lib.host_call.tick("solves", x, 3))(x)
        assert (count.factorizations, count.solves, count.transpose_solves) == (0, 6, 0)
    np.testing.assert_array_equal(passed, x)


# Counting in compiled solvers drops what JAX has compiled, so that what comes after it compiles
# again: it comes last.
CASES = sorted(
    [(name, None) for name in CHECKS] + [(mutant.killed_by, mutant) for mutant in MUTANTS],
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
    assert {mutant.killed_by for mutant in MUTANTS} == set(CHECKS)
    assert (
        len({(m.file, m.original, m.wrong) for m in MUTANTS})
        == len({m.name for m in MUTANTS})
        == len(MUTANTS)
    )


def test_code_is_found_by_its_tokens() -> None:
    code = "def f(x):\n    return g(\n        x + 1,  # why\n        y,\n    )\n"
    ((begin, end),) = occurrences("g(x + 1, y)", code)
    assert code[begin:end] == code[code.index("g(") : code.rindex(")") + 1]
    for other in ("g(x + 1)", "f(x): return g(x - 1", "(x+1,y,)z"):
        assert list(occurrences(other, code)) == []
    assert len(list(occurrences("x", code))) == 2


def test_a_mutant_without_its_text_is_refused() -> None:
    gone = Mutant("gone", "linear/solve.py", "no such text", "", "dense_gradient")
    with pytest.raises(LookupError, match=r"stands 0 times in linear/solve\.py"):
        gone.source()


def test_a_copy_shares_no_code_with_the_library() -> None:
    with library(None) as copy:
        assert copy.solve.linear_solve is not adjoint.linear_solve
        assert copy.factor_cache.factor_cache is not adjoint.factor_cache
        assert copy.sparse.factor_cache is copy.factor_cache.factor_cache


def test_every_mutant_finds_its_text() -> None:
    for mutant in MUTANTS:
        assert mutant.source() != (HOME / mutant.file).read_text()
