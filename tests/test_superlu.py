"""The order of elimination and the SuperLU factors behind it."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from cases import grid_laplacian, matrix, pattern_of

import adjoint.linear.superlu as superlu
from adjoint.linear.superlu import Elimination, SuperLUFactors, elimination_of, metis_order

CASES = {
    "nearly symmetric": matrix("general", 50, banded=True),
    "upper triangular": np.triu(matrix("general", 9)),
    "diagonal": np.diag(np.arange(1.0, 8.0)),
    "one by one": np.array([[3.0]]),
    "two by two": np.array([[0.0, 2.0], [3.0, 0.0]]),
    "zero diagonal, symmetric": np.kron(np.eye(10), [[0.0, 1.0], [1.0, 0.0]])
    + np.eye(20, k=2)
    + np.eye(20, k=-2),
    "grid": grid_laplacian(12).toarray(),
}


@pytest.mark.parametrize("order", ["METIS", "none"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("name", CASES)
def test_solves_transposes_and_determinants(
    name: str, dtype: Any, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if order == "none":
        monkeypatch.setattr(superlu, "metis_order", lambda *_: None)
    dense = CASES[name].astype(dtype)
    dense = dense * np.exp(1j * np.arange(dense.shape[0])) if np.iscomplexobj(dense) else dense
    pattern, values = pattern_of(dense)
    factors = SuperLUFactors(pattern, values)
    b = np.random.default_rng(0).normal(size=dense.shape[0]).astype(dtype)
    np.testing.assert_allclose(factors.solve(b, False), np.linalg.solve(dense, b), rtol=1e-10)
    np.testing.assert_allclose(factors.solve(b, True), np.linalg.solve(dense.T, b), rtol=1e-10)
    assert factors.log_determinant() == pytest.approx(
        np.linalg.slogdet(dense)[1], rel=1e-12, abs=1e-12
    )
    assert factors.nbytes >= np.count_nonzero(dense) * dense.itemsize


def test_the_order_is_a_permutation_and_saves_fill() -> None:
    A = grid_laplacian(60)
    pattern, values = pattern_of(A)
    elimination = elimination_of(pattern)
    assert elimination_of(pattern) is elimination
    assert elimination.nearly_symmetric
    if elimination.order is None:
        pytest.skip("pymetis has no binary here")
    np.testing.assert_array_equal(np.sort(elimination.order), np.arange(3600))
    default = scipy.sparse.linalg.splu(A.tocsc()).nnz
    assert SuperLUFactors(pattern, values)._lu.nnz < 0.75 * default


def test_the_permuted_matrix_is_the_matrix() -> None:
    pattern, values = pattern_of(grid_laplacian(5))
    elimination = Elimination(pattern)
    permuted = elimination.matrix(values).toarray()
    order = elimination.order if elimination.order is not None else np.arange(25)
    np.testing.assert_array_equal(permuted, grid_laplacian(5).toarray()[np.ix_(order, order)])


def test_a_nonsymmetric_pattern_keeps_the_default_order() -> None:
    pattern, _ = pattern_of(np.triu(matrix("general", 30)))
    assert not Elimination(pattern).nearly_symmetric


def test_no_graph_no_order() -> None:
    assert metis_order(np.arange(5), np.arange(5), 5) is None
    assert metis_order(np.array([0, 1]), np.array([1, 0]), 2) is None


def test_exactly_singular_raises_arithmetic_error() -> None:
    pattern, values = pattern_of(np.ones((3, 3)))
    with pytest.raises(ArithmeticError):
        SuperLUFactors(pattern, values)
