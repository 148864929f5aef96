"""PARDISO of Intel MKL through the optional `pypardiso`: the fastest sparse backend on x86.

Source for the parameters: oneMKL documentation, "oneMKL PARDISO iparm Parameter".
"""

import copy
import threading
import weakref
from functools import cache
from typing import Any

import numpy as np

from adjoint.linear.superlu import SuperLUFactors

# Matrix types and phases, by the numbers of the manual of Intel oneMKL PARDISO, mtype and phase.
STRUCTURALLY_SYMMETRIC = 1
SYMMETRIC_POSITIVE_DEFINITE = 2
NONSYMMETRIC = 11
ANALYZE_AND_FACTORIZE = 12
FACTORIZE = 22
SOLVE = 33


class PardisoFactors:
    """A = L L' if A is symmetric positive definite, else A = P L U Q, of a real float64 matrix.

    PARDISO replaces tiny pivots by larger ones and goes on; a matrix for which it did so is handed
    to SuperLU, which pivots.
    """

    def __init__(self, pattern: Any, values: np.ndarray):
        self._pattern = pattern
        self._values = values
        self._lock = threading.Lock()
        self._solver: Any = None
        self._superlu: SuperLUFactors | None = None
        for matrix_type in _matrix_types(pattern, values):
            if self._try(matrix_type):
                break
        if self._solver is None:
            self._superlu = SuperLUFactors(pattern, values)
            self.nbytes = self._superlu.nbytes

    def _try(self, matrix_type: int) -> bool:
        from pypardiso.pardiso_wrapper import (  # pyright: ignore[reportMissingImports]
            PyPardisoError,
        )

        pool = self._pattern.analyses.setdefault(("pardiso handles", matrix_type), _IdleHandles())
        # Without matching, order and structure of the factors depend on the pattern alone: an idle
        # handle has them.
        idle = pool.take() if matrix_type != NONSYMMETRIC else None
        solver = idle or _new_handle(matrix_type)
        solver.set_phase(FACTORIZE if idle else ANALYZE_AND_FACTORIZE)
        A = _matrix(self._pattern, self._values, whole=matrix_type != SYMMETRIC_POSITIVE_DEFINITE)
        try:
            solver._call_pardiso(A, np.zeros(A.shape[0]))
        except PyPardisoError:
            _release(solver)
            return False
        replaced_pivots = solver.get_iparm(14)
        if replaced_pivots:
            _release(solver)
            return False
        retire = pool.put if matrix_type != NONSYMMETRIC else _release
        weakref.finalize(self, retire, solver).atexit = False
        self._solver = solver
        self._matrix = A
        self.nbytes = 1024 * int(solver.get_iparm(17))
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


def _matrix_types(pattern: Any, values: np.ndarray) -> tuple[int, ...]:
    """The kinds of factorization to try, the cheapest first.

    The symmetric kinds need the whole diagonal in the pattern.
    """
    if pattern.mirror is None or pattern.diagonal.size < pattern.n:
        return (NONSYMMETRIC,)
    if _is_symmetric(pattern, values) and np.all(values[pattern.diagonal] > 0):
        return (SYMMETRIC_POSITIVE_DEFINITE, STRUCTURALLY_SYMMETRIC, NONSYMMETRIC)
    return (STRUCTURALLY_SYMMETRIC, NONSYMMETRIC)


def _is_symmetric(pattern: Any, values: np.ndarray) -> bool:
    return pattern.mirror is not None and np.array_equal(values[pattern.mirror], values)


class _IdleHandles:
    """At most one handle per pattern, kept for its analysis, and freed with the pattern."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        # Not at exit: by then MKL may be gone, and the memory goes with the process.
        weakref.finalize(self, _release_all, self._handles).atexit = False

    def take(self) -> Any:
        """The idle handle, or None; two threads never get the same one."""
        try:
            return self._handles.pop()
        except IndexError:
            return None

    def put(self, solver: Any) -> None:
        if self._handles:
            _release(solver)
        else:
            self._handles.append(solver)


@cache
def _template() -> Any:
    """One solver object, of which others are copies: making one searches the files for MKL."""
    from pypardiso import PyPardisoSolver  # pyright: ignore[reportMissingImports]

    return PyPardisoSolver()


def _new_handle(matrix_type: int) -> Any:
    solver = copy.copy(_template())
    solver.pt, solver.iparm = np.zeros_like(solver.pt), np.zeros_like(solver.iparm)
    solver.set_matrix_type(matrix_type)
    nonsymmetric = int(matrix_type == NONSYMMETRIC)
    # 1: no defaults; 2: parallel METIS; 10: pivots below 1e-13 of the matrix are replaced; 11, 13:
    # scaling, matching.
    for number, value in ((1, 1), (2, 3), (8, 0), (10, 13), (11, nonsymmetric), (13, nonsymmetric)):
        solver.set_iparm(number, value)
    return solver


def _release_all(handles: list[Any]) -> None:
    while handles:
        _release(handles.pop())


def _release(solver: Any) -> None:
    solver.free_memory(everything=True)
