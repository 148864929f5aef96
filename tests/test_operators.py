"""The forms of A: what they hold, what they do to a vector, and what their pytrees promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from cases import FORMS, matrix, system
from jax.experimental.sparse import BCOO

from adjoint import MatrixFree, SparsePattern, linear_solve
from adjoint.linear.conversion import as_operator
from adjoint.linear.operators import Dense, Operator


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("form", FORMS)
def test_matvec_and_its_plain_transpose(form: str, dtype: Any) -> None:
    case = system("general", 7, form, dtype)
    A = as_operator(case.operator(case.theta), dtype)
    assert isinstance(A, Operator)
    assert (A.n, A.dtype) == (7, dtype)
    X = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), dtype)
    for x in (X, X[:, 0]):
        np.testing.assert_allclose(A.matvec(x), case.matrix @ x, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(A.transpose_matvec(x), case.matrix.T @ x, rtol=1e-12, atol=1e-13)


def test_pattern_sums_duplicates_as_scipy_does() -> None:
    rng = np.random.default_rng(1)
    rows, cols, values = rng.integers(0, 9, 60), rng.integers(0, 9, 60), rng.normal(size=60)
    pattern = SparsePattern(rows, cols, (9, 9))
    A = pattern.matrix(jnp.asarray(values))
    expected = scipy.sparse.coo_matrix((values, (rows, cols)), shape=(9, 9)).tocsr()
    expected.sort_indices()
    np.testing.assert_array_equal(pattern.indptr, expected.indptr)
    np.testing.assert_array_equal(pattern.cols, expected.indices)
    np.testing.assert_allclose(A.values, expected.data, rtol=1e-14)
    np.testing.assert_allclose(A.todense(), expected.toarray(), rtol=1e-14)
    assert pattern.nnz == expected.nnz < pattern.entries == 60


def test_mirror_finds_the_transposed_entry() -> None:
    rows, cols = np.nonzero(matrix("definite", 9, banded=True))
    pattern = SparsePattern(rows, cols, (9, 9))
    mirror = pattern.mirror
    assert mirror is not None
    np.testing.assert_array_equal(pattern.rows[mirror], pattern.cols)
    np.testing.assert_array_equal(pattern.cols[mirror], pattern.rows)
    np.testing.assert_array_equal(pattern.rows[pattern.diagonal], np.arange(9))
    assert SparsePattern(np.array([0, 0, 1]), np.array([0, 1, 1]), (2, 2)).mirror is None


def test_column_order_is_the_compressed_sparse_column_form() -> None:
    rows, cols = np.nonzero(matrix("general", 9, banded=True))
    pattern = SparsePattern(rows, cols, (9, 9))
    order, pointers = pattern.column_order
    expected = scipy.sparse.csc_matrix((np.ones(rows.size), (rows, cols)), shape=(9, 9))
    expected.sort_indices()
    np.testing.assert_array_equal(pattern.rows[order], expected.indices)
    np.testing.assert_array_equal(pointers, expected.indptr)
    assert not pattern.has_empty_line
    assert SparsePattern(np.array([0, 1]), np.array([0, 0]), (2, 2)).has_empty_line
    assert SparsePattern(np.array([0, 0]), np.array([0, 1]), (2, 2)).has_empty_line


def test_a_pattern_compares_by_identity() -> None:
    first, second = (SparsePattern(np.arange(2), np.arange(2), (2, 2)) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2
    traces = []

    @jax.jit
    def values(A: Any) -> Any:
        traces.append(1)
        return A.values

    for k in range(3):
        values(first.matrix(jnp.ones(2) * k))
    assert len(traces) == 1


def test_large_indices_do_not_overflow() -> None:
    n = 200_000  # n * n > 2**32
    pattern = SparsePattern(np.array([n - 1, 0, n - 1]), np.array([n - 1, 0, 0]), (n, n))
    np.testing.assert_array_equal(pattern.rows, [0, n - 1, n - 1])
    np.testing.assert_array_equal(pattern.cols, [0, 0, n - 1])


@pytest.mark.slow
def test_bcoo_with_duplicates_and_padding() -> None:
    """JAX marks padding by indices out of range; duplicates count twice."""
    dense = matrix("general", 5, banded=True)
    A = BCOO.fromdense(jnp.asarray(dense), nse=40)
    np.testing.assert_allclose(
        as_operator(A, np.float64).matvec(jnp.ones(5)), dense @ np.ones(5), rtol=1e-14
    )
    twice = BCOO(
        (jnp.concatenate([A.data, A.data]), jnp.concatenate([A.indices, A.indices])), shape=A.shape
    )
    np.testing.assert_allclose(
        linear_solve(twice, jnp.ones(5)).value, np.linalg.solve(2 * dense, np.ones(5)), rtol=1e-12
    )


def test_bcoo_of_one_structure_share_a_pattern() -> None:
    A = BCOO.fromdense(jnp.asarray(matrix("general", 5, banded=True)))
    first = as_operator(A, np.float64)
    again = as_operator(
        BCOO((2 * A.data, jnp.array(np.array(A.indices))), shape=A.shape), np.float64
    )
    assert first.pattern is again.pattern
    other = BCOO.fromdense(jnp.asarray(matrix("definite", 5, banded=True)))
    assert as_operator(other, np.float64).pattern is not first.pattern


def test_bcoo_data_may_be_traced() -> None:
    dense = matrix("general", 5, banded=True)
    rows, cols = np.nonzero(dense)
    indices = jnp.asarray(np.stack([rows, cols], axis=1))
    x = jax.jit(lambda data: linear_solve(BCOO((data, indices), shape=(5, 5)), jnp.ones(5)).value)(
        dense[rows, cols]
    )
    np.testing.assert_allclose(x, np.linalg.solve(dense, np.ones(5)), rtol=1e-12)


def test_matrix_free_claims() -> None:
    A = MatrixFree(lambda x: x, 3, positive_definite=True)
    assert A.symmetric
    assert A.positive_definite
    assert not MatrixFree(lambda x: x, np.int64(3)).symmetric


def test_matrix_free_leaves_are_the_traced_values_that_it_closes_over() -> None:
    @jax.jit
    def doubled(theta: jax.Array) -> Any:
        bound = MatrixFree(lambda x: theta * x, 3).bind(np.float64)
        assert len(jax.tree.leaves(bound)) == 1
        return jax.tree.map(lambda v: 2 * v, bound).matvec(jnp.ones(3))

    np.testing.assert_array_equal(doubled(jnp.arange(3.0)), 2 * np.arange(3.0))


def test_dense_is_an_operator_of_its_own() -> None:
    A = Dense(jnp.eye(2))
    assert as_operator(A, np.float64) is A
    assert A.astype(jnp.complex128).dtype == jnp.complex128
