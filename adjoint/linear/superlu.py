"""SuperLU, fed a nested-dissection order: the backend that needs nothing but SciPy.

SciPy's default order (COLAMD) serves matrices of any structure. Where the pattern is nearly
symmetric, as for every discretized differential equation, a nested-dissection order of A + A' with
pivots taken near the diagonal makes the factors half as large and the factorization 3 to 4 times
faster.
"""

import importlib.util
import threading
from typing import Any

import numpy as np

# A pivot off the diagonal is taken only where the diagonal is this much smaller than the column:
# enough to keep the growth of rounding errors in hand, which the residual check confirms, without
# undoing the order.
DIAGONAL_PREFERENCE = 0.1
# Share of the entries whose mirror image is in the pattern too, above which the order of A + A'
# pays.
NEARLY_SYMMETRIC = 0.7


class Elimination:
    """A pattern's order of elimination, and each entry's place in the permuted matrix; NumPy."""

    def __init__(self, pattern: Any):
        import scipy.sparse as sparse

        n = pattern.n
        rows = pattern.rows.astype(np.int64)
        cols = pattern.cols.astype(np.int64)
        mirrored = np.isin(cols * n + rows, rows * n + cols, assume_unique=True)
        self.nearly_symmetric = bool(mirrored.mean() >= NEARLY_SYMMETRIC) if rows.size else False
        self.order = metis_order(rows, cols, n) if self.nearly_symmetric else None
        position = np.arange(n)
        if self.order is not None:
            position[self.order] = np.arange(n)
        permuted = sparse.csc_matrix(
            (np.arange(1, rows.size + 1), (position[rows], position[cols])), shape=(n, n)
        )
        permuted.sort_indices()
        self.entry: Any = np.asarray(permuted.data) - 1
        self.indices, self.indptr = permuted.indices, permuted.indptr
        self.shape = (n, n)

    def matrix(self, values: Any) -> Any:
        import scipy.sparse as sparse

        return sparse.csc_matrix((values[self.entry], self.indices, self.indptr), shape=self.shape)


def metis_order(rows: np.ndarray, cols: np.ndarray, n: int) -> np.ndarray | None:
    """Nested dissection of the graph of A + A' by METIS: the k-th unknown to eliminate is order[k].

    None where `pymetis` has no binary for the platform; SuperLU's minimum-degree order of A + A'
    then serves, up to 2 times slower.
    """
    if n < 3 or importlib.util.find_spec("pymetis") is None:
        return None
    import pymetis

    off = rows != cols
    i = np.concatenate([rows[off], cols[off]])
    j = np.concatenate([cols[off], rows[off]])
    i, j = np.divmod(np.unique(i * n + j), n)
    if i.size == 0:
        return None
    starts = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=n))])
    order, _ = pymetis.nested_dissection(pymetis.CSRAdjacency(adj_starts=starts, adjacent=j))
    return np.asarray(order)


_analysis_lock = threading.Lock()


def elimination_of(pattern: Any) -> Elimination:
    """The analysis of a pattern, made at its first factorization and kept with it."""
    with _analysis_lock:
        if "elimination" not in pattern.analyses:
            pattern.analyses["elimination"] = Elimination(pattern)
        return pattern.analyses["elimination"]


class SuperLUFactors:
    """P A Q = L U of one matrix.

    Raises
    ------
    ArithmeticError
        When a pivot is exactly zero, or nothing in its column is finite.
    """

    def __init__(self, pattern: Any, values: np.ndarray):
        self._elimination = elimination_of(pattern)
        A = self._elimination.matrix(values)
        self._lu = self._factorize(A)
        self.nbytes = int(self._lu.nnz) * (values.dtype.itemsize + 4)

    def _factorize(self, A: Any) -> Any:
        from scipy.sparse.linalg import splu

        if self._elimination.nearly_symmetric:
            order = "MMD_AT_PLUS_A" if self._elimination.order is None else "NATURAL"
            try:
                return splu(
                    A,
                    permc_spec=order,
                    diag_pivot_thresh=DIAGONAL_PREFERENCE,
                    options={"SymmetricMode": True},
                )
            except RuntimeError:
                # A zero pivot under the preferred order need not be a singular matrix; full
                # pivoting decides.
                pass
        try:
            return splu(A)
        except RuntimeError as error:
            raise ArithmeticError(str(error)) from error

    def solve(self, b: np.ndarray, transpose: bool) -> np.ndarray:
        order = self._elimination.order
        mode = "T" if transpose else "N"
        if order is None:
            return self._lu.solve(b, trans=mode)
        x = np.empty_like(b)
        x[order] = self._lu.solve(b[order], trans=mode)
        return x

    def log_determinant(self) -> float:
        return float(np.sum(np.log(np.abs(self._lu.U.diagonal()))))
