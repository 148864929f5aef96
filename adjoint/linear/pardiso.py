"""PARDISO of Intel MKL through the optional package `pypardiso`: the fastest sparse backend on x86 processors.

Source for the parameters: oneMKL documentation, "oneMKL PARDISO iparm Parameter".
"""

import threading
import weakref
from typing import Any

import numpy as np

from adjoint.linear.superlu import SuperLUFactors

SYMMETRIC_POSITIVE_DEFINITE, NONSYMMETRIC = 2, 11
ANALYZE_AND_FACTORIZE, SOLVE = 12, 33


class PardisoFactors:
    """A = L L' where A is symmetric positive definite, else A = P L U Q, of a real matrix in float64.

    PARDISO replaces tiny pivots by larger ones and goes on; a matrix for which it did so is handed to SuperLU, which pivots.
    """

    def __init__(self, pattern: Any, values: np.ndarray):
        self._pattern, self._values = pattern, values
        self._lock = threading.Lock()
        self._solver: Any = None
        self._superlu: SuperLUFactors | None = None
        if np.all(np.diff(pattern.indptr) > 0):
            symmetric = _is_symmetric(pattern, values)
            if not (symmetric and self._try(SYMMETRIC_POSITIVE_DEFINITE)):
                self._try(NONSYMMETRIC)
        if self._solver is None:
            self._superlu = SuperLUFactors(pattern, values)
            self.nbytes = self._superlu.nbytes

    def _try(self, matrix_type: int) -> bool:
        from pypardiso import PyPardisoSolver  # pyright: ignore[reportMissingImports]
        from pypardiso.pardiso_wrapper import PyPardisoError  # pyright: ignore[reportMissingImports]

        solver = PyPardisoSolver(mtype=matrix_type)
        nonsymmetric = matrix_type == NONSYMMETRIC
        # 1: no defaults; 2: METIS; 10: pivots below 1e-13 of the matrix are replaced; 11, 13: scaling, matching.
        for number, value in ((1, 1), (2, 2), (8, 0), (10, 13), (11, int(nonsymmetric)), (13, int(nonsymmetric))):
            solver.set_iparm(number, value)
        solver.set_phase(ANALYZE_AND_FACTORIZE)
        A = _matrix(self._pattern, self._values, nonsymmetric)
        release = weakref.finalize(self, _release, solver)
        try:
            solver._call_pardiso(A, np.zeros(A.shape[0]))
        except PyPardisoError:
            release()
            return False
        replaced_pivots = solver.get_iparm(14)
        if replaced_pivots:
            release()
            return False
        self._solver, self._matrix = solver, A
        self.nbytes = 8 * int(solver.get_iparm(18)) if solver.get_iparm(18) > 0 else 1024 * int(solver.get_iparm(17))
        return True

    def solve(self, b: np.ndarray, transpose: bool) -> np.ndarray:
        if self._superlu is not None:
            return self._superlu.solve(b, transpose)
        # One handle serves one call at a time.
        with self._lock:
            self._solver.set_iparm(12, 2 if transpose else 0)
            self._solver.set_phase(SOLVE)
            return self._solver._call_pardiso(self._matrix, np.array(b, dtype=np.float64))

    def log_determinant(self) -> float:
        factors = self._superlu or SuperLUFactors(self._pattern, self._values)
        return factors.log_determinant()


def _matrix(pattern: Any, values: np.ndarray, whole: bool) -> Any:
    import scipy.sparse as sparse

    A = sparse.csr_matrix((values, pattern.cols, pattern.indptr), shape=pattern.shape)
    return A if whole else sparse.triu(A, format="csr")


def _is_symmetric(pattern: Any, values: np.ndarray) -> bool:
    mirror = pattern.mirror
    return mirror is not None and np.array_equal(values[mirror], values) and bool(np.all(values[pattern.diagonal] > 0))


def _release(solver: Any) -> None:
    solver.free_memory(everything=True)
