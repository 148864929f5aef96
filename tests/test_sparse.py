"""SparseDirect: statuses, float32, batches, and matrices of practice, sound and singular."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from cases import all_nan, matrix, system

from adjoint import SparseDirect, SparsePattern, Status, factor_cache, linear_solve

BACKENDS = [
    "superlu",
    pytest.param(
        "pardiso",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("pypardiso") is None, reason="not installed"
        ),
    ),
]


def pattern_of(A: Any) -> tuple[SparsePattern, jax.Array]:
    A = scipy.sparse.coo_matrix(A)
    return SparsePattern(A.row, A.col, A.shape), jnp.asarray(A.data)


def solve(A: Any, b: Any, backend: Any) -> Any:
    """The solution and the gradients of its sum with respect to values and b."""
    pattern, values = pattern_of(A)
    f = lambda v, b: linear_solve(pattern.matrix(v), b, SparseDirect(backend))
    gradient = jax.grad(lambda v, b: jnp.sum(f(v, b).value), (0, 1))
    return f(values, jnp.asarray(b)), gradient(values, jnp.asarray(b))


def laplacian(n: int, neumann: bool) -> Any:
    ends = [1.0] if neumann else [2.0]
    diagonal = np.concatenate([ends, np.full(n - 2, 2.0), ends])
    return scipy.sparse.diags_array(
        [diagonal, -np.ones(n - 1), -np.ones(n - 1)], offsets=[0, 1, -1]
    )


def grid(n: int, neumann: bool) -> Any:
    L, I = laplacian(n, neumann), scipy.sparse.eye_array(n)
    return scipy.sparse.kron(L, I) + scipy.sparse.kron(I, L)


def truss(n: int, supported: bool, contrast: float = 1.0) -> Any:
    """Plane elasticity in miniature: n x n joints and braced bars, one half `contrast` stiff."""
    joints = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
    bars = [
        (i, j)
        for i, p in enumerate(joints)
        for j, q in enumerate(joints[:i])
        if np.abs(p - q).max() == 1
    ]
    K = np.zeros((2 * n * n, 2 * n * n))
    for i, j in bars:
        e = (joints[i] - joints[j]) / np.linalg.norm(joints[i] - joints[j])
        dofs = [2 * i, 2 * i + 1, 2 * j, 2 * j + 1]
        v = np.concatenate([e, -e])
        K[np.ix_(dofs, dofs)] += np.outer(v, v) * (contrast if joints[i][0] > n // 2 else 1.0)
    return scipy.sparse.coo_matrix(K[2 * n :, 2 * n :] if supported else K)


def graph(seed: int) -> Any:
    """The Laplacian of a random weighted grid without supports; weights over six decades."""
    rng, index = np.random.default_rng(seed), np.arange(400).reshape(20, 20)
    A = scipy.sparse.lil_matrix((400, 400))
    for i, j in ((index[:, :-1], index[:, 1:]), (index[:-1], index[1:])):
        for a, b, k in zip(i.ravel(), j.ravel(), 10 ** rng.uniform(-3, 3, i.size), strict=True):
            A[a, a] += k
            A[b, b] += k
            A[a, b] -= k
            A[b, a] -= k
    return A


SINGULAR = {
    "1-D Neumann": laplacian(50, True),
    "2-D Neumann": grid(30, True),
    "2-D Neumann, units": 2.1e11 / 3 * grid(30, True),
    "weighted graph": graph(0),
    "floating truss": truss(8, False),
    "dependent rows": np.vstack([matrix("general", 20)[:-1], matrix("general", 20)[:1]]),
    "rank deficient": np.random.default_rng(0).normal(size=(20, 19))
    @ np.random.default_rng(1).normal(size=(19, 20)),
    "a value of zero throughout a row": np.where(
        np.arange(9)[:, None] == 2, 0.0, matrix("general", 9)
    )
    + 0.0,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SINGULAR)
def test_singular_is_refused_also_with_a_consistent_right_hand_side(
    name: str, backend: Any
) -> None:
    A = SINGULAR[name]
    consistent = A @ np.random.default_rng(0).normal(size=A.shape[0])
    solution, gradient = solve(A, consistent, backend)
    assert solution.status in (Status.SINGULAR, Status.ILL_CONDITIONED)
    assert all_nan((solution.value, gradient))


@pytest.mark.parametrize("backend", BACKENDS)
def test_structurally_singular(backend: Any) -> None:
    for rows, cols in (([0, 1], [0, 0]), ([0, 0], [0, 1]), ([0], [0]), ([], [])):
        pattern = SparsePattern(np.array(rows, int), np.array(cols, int), (2, 2))
        solution = linear_solve(
            pattern.matrix(jnp.ones(len(rows))), jnp.ones(2), SparseDirect(backend)
        )
        assert solution.status == Status.SINGULAR
        assert all_nan(solution.value)


def convection(n: int, speed: float) -> Any:
    upwind = scipy.sparse.diags_array([np.full(n, 1.0), np.full(n - 1, -1.0)], offsets=[0, -1])
    return grid(n, False) + speed * scipy.sparse.kron(upwind, scipy.sparse.eye_array(n))


SOUND = {
    "2-D Dirichlet": grid(20, False),
    "truss": truss(8, True),
    "truss with void, contrast 1e-9": truss(8, True, 1e-9),
    "convection-diffusion": convection(20, 1e4),
    "rows in other units": scipy.sparse.diags_array(np.where(np.arange(400) % 2, 1e12, 1.0))
    @ convection(20, 10),
    "columns in other units": convection(20, 10)
    @ scipy.sparse.diags_array(np.where(np.arange(400) % 3, 1e-12, 1.0)),
    "a permutation": np.eye(9)[np.random.default_rng(0).permutation(9)],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SOUND)
def test_sound_matrices_are_solved(name: str, backend: Any) -> None:
    A = scipy.sparse.csr_matrix(SOUND[name])
    x = np.random.default_rng(0).normal(size=A.shape[0]) / np.abs(A).max(axis=0).toarray().ravel()
    solution, (_, b_bar) = solve(A, A @ x, backend)
    assert solution.status == Status.SUCCESS
    assert solution.stats["residual"] < 1e-13
    conditioned = 1e-15 * (1e9 if "contrast" in name else 1e6)
    units = np.abs(A).max(axis=0).toarray().ravel()
    np.testing.assert_allclose(
        units * solution.value, units * x, atol=conditioned * np.abs(units * x).max()
    )
    residual = A.T @ np.asarray(b_bar) - 1
    assert np.abs(residual).max() <= 1e-11 * max(
        1.0, np.abs(A).sum(axis=0).max() * np.abs(b_bar).max()
    )


SADDLE_POINT = """
import jax, jax.numpy as jnp, numpy as np, adjoint
jax.config.update("jax_enable_x64", True)
A = np.block([[4 * np.eye(6) + np.ones((6, 6)), np.eye(6, 3)], [np.eye(3, 6), np.zeros((3, 3))]])
rows, cols = np.nonzero(A)
pattern = adjoint.SparsePattern(rows, cols, (9, 9))
solver = adjoint.SparseDirect("BACKEND")
x = adjoint.require(adjoint.linear_solve(pattern.matrix(A[rows, cols]), jnp.ones(9), solver))
assert np.allclose(x, np.linalg.solve(A, np.ones(9)), rtol=1e-10)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saddle_point_without_entries_on_part_of_the_diagonal(backend: Any) -> None:
    """In a process of its own: MKL reads beyond a symmetric matrix whose diagonal is not stored."""
    script = SADDLE_POINT.replace("BACKEND", backend)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["A", "b"])
def test_nonfinite_input(place: str, bad: float, backend: Any) -> None:
    pattern, values = pattern_of(grid(4, False))
    b = jnp.ones(16)
    values, b = (values.at[5].set(bad), b) if place == "A" else (values, b.at[5].set(bad))
    f = lambda v, b: linear_solve(pattern.matrix(v), b, SparseDirect(backend))
    assert f(values, b).status == Status.NONFINITE_INPUT
    assert all_nan(jax.value_and_grad(lambda v, b: jnp.sum(f(v, b).value), (0, 1))(values, b))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "small", "large"), [(np.float64, 1e-300, 1e300), (np.float32, 1e-30, 1e30)]
)
def test_a_solution_that_overflows_is_no_success(
    dtype: Any, small: float, large: float, backend: Any
) -> None:
    pattern = SparsePattern(np.arange(1), np.arange(1), (1, 1))
    A, b = pattern.matrix(jnp.full(1, small, dtype)), jnp.full(1, large, dtype)
    solution = linear_solve(A, b, SparseDirect(backend))
    assert solution.status != Status.SUCCESS
    assert all_nan(solution.value)
    fine = linear_solve(A, jnp.full(1, small, dtype), SparseDirect(backend))
    assert fine.status == Status.SUCCESS
    assert float(fine.value[0]) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_is_solved_in_double_precision(backend: Any) -> None:
    """Condition number about 1e6: float32 factors would leave one digit."""
    A = scipy.sparse.coo_matrix(grid(10, False) - 0.162 * scipy.sparse.eye_array(100))
    pattern, values = SparsePattern(A.row, A.col, A.shape), jnp.asarray(A.data, jnp.float32)
    b = jnp.ones(100, jnp.float32)
    solution = linear_solve(pattern.matrix(values), b, SparseDirect(backend))
    exact = np.linalg.solve(np.asarray(pattern.matrix(values).todense(), np.float64), np.ones(100))
    assert solution.value.dtype == jnp.float32
    np.testing.assert_allclose(solution.value, exact, rtol=3e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_of_matrices_right_hand_sides_and_both(backend: Any) -> None:
    pattern, values = pattern_of(matrix("general", 9, banded=True))
    V = jnp.stack([values, 2 * values, 0 * values])
    B = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9, 2)))
    f = lambda v, b: linear_solve(pattern.matrix(v), b, SparseDirect(backend))
    dense = np.asarray(pattern.matrix(values).todense())
    expected = np.linalg.solve(dense, B)
    np.testing.assert_allclose(jax.vmap(f, (None, 0))(values, B).value, expected, rtol=1e-11)
    both = jax.jit(jax.vmap(f))(V, B)
    np.testing.assert_array_equal(both.status.code, [0, 0, Status.SINGULAR.code])
    np.testing.assert_allclose(both.value[:2], [expected[0], expected[1] / 2], rtol=1e-11)
    assert all_nan(both.value[2])
    nested = jax.vmap(jax.vmap(f, (None, 0)), (0, None))(V[:2], B)
    np.testing.assert_allclose(nested.value, np.stack([expected, expected / 2]), rtol=1e-11)
    outer = jax.vmap(jax.vmap(f, (0, None)), (None, 0))(V[:2], B)
    np.testing.assert_allclose(outer.value, np.stack([expected, expected / 2], 1), rtol=1e-11)


def test_one_bad_column_fails_the_block() -> None:
    case = system("general", 7, "sparse", columns=3)
    b = case.b.at[2, 1].set(jnp.nan)
    assert linear_solve(case.operator(case.theta), b).status == Status.NONFINITE_INPUT


def test_complex_matrices_go_to_superlu_and_pardiso_says_so() -> None:
    case = system("general", 7, "sparse", np.complex128)
    assert (
        linear_solve(case.operator(case.theta), case.b, SparseDirect("auto")).status
        == Status.SUCCESS
    )
    if importlib.util.find_spec("pypardiso"):
        with pytest.raises(TypeError, match=r"complex128.*backend=\"superlu\""):
            linear_solve(case.operator(case.theta), case.b, SparseDirect("pardiso"))


def test_a_missing_backend_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pypardiso installed.*adjoint\[fast\]"):
        SparseDirect("pardiso")


def test_logdet_in_a_batch_with_a_singular_and_a_nonfinite_lane() -> None:
    from adjoint import factorize

    pattern, values = pattern_of(matrix("general", 9, banded=True))
    factor_cache.clear()
    logdet = jax.vmap(lambda v: factorize(pattern.matrix(v)).logdet())
    result = logdet(jnp.stack([values, 0 * values, values * jnp.nan, -2 * values]))
    expected = np.linalg.slogdet(np.asarray(pattern.matrix(values).todense()))[1]
    np.testing.assert_allclose(
        result, [expected, np.nan, np.nan, expected + 9 * np.log(2)], rtol=1e-12
    )
