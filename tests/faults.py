"""What can go wrong in a linear solve, as data.

These are systems of one size, each spoiled in one way, and the status that is due. Every form of
solve takes its matrix from p = {"A", "b", "theta"} as A(p) = (1 + theta) A, so that one compiled
function serves all the faults of a form and a NaN can enter through a parameter as well as through
A and b. `held` is the diagonal of the preconditioner, which is not differentiated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjoint import (
    CG,
    GMRES,
    LU,
    MINRES,
    Cholesky,
    MatrixFree,
    Solution,
    SparseDirect,
    SparsePattern,
    linear_solve,
)

N = 6
MAX_STEPS = 4
System = dict[str, Any]

_rng = np.random.default_rng(20)
_U, _V = _rng.normal(size=(2, N, 2))
# Three distinct eigenvalues each, so that a Krylov method is done in three steps, for A and for A'.
NONSYMMETRIC = 4 * np.eye(N) + _U @ _V.T
DEFINITE = 4 * np.eye(N) + _U @ _U.T
INDEFINITE = 4 * np.eye(N) - 3 * _U @ _U.T
# Six distinct eigenvalues, more than MAX_STEPS.
NONSYMMETRIC_SPREAD = np.diag([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]) + 0.1 * _rng.normal(size=(N, N))
DEFINITE_SPREAD = np.diag([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]) + 0.1 * np.ones((N, N))
NEUMANN = (
    np.diag([1.0, 2.0, 2.0, 2.0, 2.0, 1.0])
    - np.diag(np.ones(N - 1), 1)
    - np.diag(np.ones(N - 1), -1)
)
B = _rng.normal(size=N)
CONSISTENT_B = B - B.mean()

FULL = SparsePattern(np.repeat(np.arange(N), N), np.tile(np.arange(N), N), (N, N))


def _matrix_free(solver: Any, **claim: bool) -> Callable[[System, Any], Solution]:
    def solve(p: System, held: Any) -> Solution:
        A = MatrixFree(lambda x: (1 + p["theta"]) * (p["A"] @ x), N, **claim)
        return linear_solve(
            A, p["b"], solver(max_steps=MAX_STEPS, preconditioner=lambda v: held * v)
        )

    return solve


def _dense(solver: Any) -> Callable[[System, Any], Solution]:
    return lambda p, _: linear_solve((1 + p["theta"]) * p["A"], p["b"], solver)


def _sparse(p: System, _: Any) -> Solution:
    return linear_solve(
        FULL.matrix((1 + p["theta"]) * p["A"].ravel()), p["b"], SparseDirect("superlu")
    )


@dataclass(frozen=True)
class Form:
    """A solver with an operator that it serves, and a matrix that it solves."""

    solve: Callable[[System, Any], Solution]
    healthy_matrix: np.ndarray
    krylov: bool = False
    matrix_free: bool = False

    @property
    def healthy(self) -> tuple[System, Any]:
        return {"A": self.healthy_matrix, "b": B, "theta": np.array(0.25)}, np.ones(N)


FORMS = {
    "LU": Form(_dense(LU()), NONSYMMETRIC),
    "Cholesky": Form(_dense(Cholesky()), DEFINITE),
    "SparseDirect": Form(_sparse, NONSYMMETRIC),
    "GMRES": Form(_dense(GMRES(max_steps=MAX_STEPS)), NONSYMMETRIC, krylov=True),
    "CG": Form(_dense(CG(max_steps=MAX_STEPS)), DEFINITE, krylov=True),
    "MINRES": Form(_dense(MINRES(max_steps=MAX_STEPS)), INDEFINITE, krylov=True),
    "matrix-free GMRES": Form(_matrix_free(GMRES), NONSYMMETRIC, krylov=True, matrix_free=True),
    "matrix-free CG": Form(
        _matrix_free(CG, positive_definite=True), DEFINITE, krylov=True, matrix_free=True
    ),
    "matrix-free MINRES": Form(
        _matrix_free(MINRES, symmetric=True), INDEFINITE, krylov=True, matrix_free=True
    ),
}


def _both(krylov: str) -> tuple[str, str]:
    return krylov, f"matrix-free {krylov}"


_KRYLOV = tuple(form for form in FORMS if FORMS[form].krylov)


@dataclass(frozen=True)
class Fault:
    """One way to spoil the healthy system of a form, and the statuses that may come of it."""

    name: str
    form: str
    spoil: Callable[[System, Any], tuple[System, Any]]
    statuses: tuple[str, ...]

    @property
    def spoiled(self) -> tuple[System, Any]:
        return self.spoil(*FORMS[self.form].healthy)

    def __str__(self) -> str:
        return f"{self.form}-{self.name}"


def _entry(name: str, index: Any, value: float) -> Callable[[System, Any], tuple[System, Any]]:
    def spoil(p: System, held: Any) -> tuple[System, Any]:
        leaf = p[name].copy()
        leaf[index] = value
        return p | {name: leaf}, held

    return spoil


def _system(A: np.ndarray, b: np.ndarray = B) -> Callable[[System, Any], tuple[System, Any]]:
    return lambda p, held: (p | {"A": A, "b": b}, held)


def _without(A: np.ndarray, *, row: int | None = None, column: int | None = None) -> np.ndarray:
    A = A.copy()
    if row is not None:
        A[row] = 0
    if column is not None:
        A[:, column] = 0
    return A


def _rows_equal_up_to(difference: float) -> np.ndarray:
    A = NONSYMMETRIC.copy()
    A[4] = A[1] * (1 + difference * np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0]))
    return A


_NONFINITE = (
    ("NaN in A", _entry("A", (2, 3), np.nan)),
    ("Inf in A", _entry("A", (3, 1), np.inf)),
    ("NaN in b", _entry("b", 4, np.nan)),
    ("Inf in b", _entry("b", 0, -np.inf)),
    ("NaN in p", _entry("theta", (), np.nan)),
)
_SINGULAR = (
    ("zero matrix", _system(np.zeros((N, N)))),
    ("zero row", _system(_without(NONSYMMETRIC, row=2))),
    ("zero column", _system(_without(NONSYMMETRIC, column=5))),
    ("two equal rows", _system(_rows_equal_up_to(0.0))),
    (
        "rank-deficient product",
        _system(_rng.normal(size=(N, N - 1)) @ _rng.normal(size=(N - 1, N))),
    ),
    ("rank 2", _system(_U @ _V.T)),
    ("Neumann, consistent b", _system(NEUMANN, CONSISTENT_B)),
    ("Neumann, inconsistent b", _system(NEUMANN)),
)
_SINGULAR_SYMMETRIC = (
    ("zero matrix", _system(np.zeros((N, N)))),
    ("zero row and column", _system(_without(DEFINITE, row=2, column=2))),
    ("rank-deficient product", _system(_U @ _U.T)),
    ("Neumann, consistent b", _system(NEUMANN, CONSISTENT_B)),
    ("Neumann, inconsistent b", _system(NEUMANN)),
)
_UNSOLVABLE = (
    ("zero matrix", _system(np.zeros((N, N)))),
    ("zero row and column", _system(_without(DEFINITE, row=2, column=2))),
    ("Neumann, inconsistent b", _system(NEUMANN)),
)
_BAD_PRECONDITIONER = (
    ("preconditioner returns NaN", lambda p, held: (p, np.nan * held)),
    ("preconditioner returns Inf", lambda p, held: (p, np.inf * held)),
    ("preconditioner returns zero", lambda p, held: (p, 0 * held)),
)
_NOT_CONVERGED = ("NOT_CONVERGED",)

FAULTS: tuple[Fault, ...] = (
    *(
        Fault(name, form, spoil, ("NONFINITE_INPUT",))
        for form in FORMS
        for name, spoil in _NONFINITE
    ),
    *(
        Fault(name, form, spoil, ("SINGULAR",))
        for form in ("LU", "SparseDirect")
        for name, spoil in _SINGULAR
    ),
    *(
        Fault(
            "rows equal up to 3e-15",
            form,
            _system(_rows_equal_up_to(3e-15)),
            ("SINGULAR", "ILL_CONDITIONED"),
        )
        for form in ("LU", "SparseDirect")
    ),
    # Whether rounding leaves the last pivot of a semidefinite matrix below or above zero is not the
    # solver's doing.
    *(
        Fault(name, "Cholesky", spoil, ("NOT_POSITIVE_DEFINITE", "SINGULAR", "ILL_CONDITIONED"))
        for name, spoil in _SINGULAR_SYMMETRIC
    ),
    Fault("indefinite", "Cholesky", _system(INDEFINITE), ("NOT_POSITIVE_DEFINITE",)),
    Fault(
        "false claim: not symmetric",
        "Cholesky",
        _system(NONSYMMETRIC_SPREAD),
        ("RESIDUAL_TOO_LARGE",),
    ),
    *(Fault(name, form, spoil, _NOT_CONVERGED) for form in _KRYLOV for name, spoil in _UNSOLVABLE),
    *(
        Fault(name, f"matrix-free {method}", spoil, _NOT_CONVERGED)
        for method in ("GMRES", "CG", "MINRES")
        for name, spoil in _BAD_PRECONDITIONER
    ),
    *(
        Fault("step limit", form, _system(NONSYMMETRIC_SPREAD), _NOT_CONVERGED)
        for form in _both("GMRES")
    ),
    *(
        Fault("step limit", form, _system(DEFINITE_SPREAD), _NOT_CONVERGED)
        for form in (*_both("CG"), *_both("MINRES"))
    ),
    *(
        Fault("false claim: not definite", form, _system(INDEFINITE), _NOT_CONVERGED)
        for form in _both("CG")
    ),
    *(
        Fault("false claim: not symmetric", form, _system(NONSYMMETRIC), _NOT_CONVERGED)
        for form in (*_both("CG"), *_both("MINRES"))
    ),
)


@dataclass(frozen=True)
class AdjointFault:
    """A system that is solved, with a cotangent for which the adjoint system is not."""

    name: str
    form: str
    spoil: Callable[[System, Any], tuple[System, Any]]
    x_bar: np.ndarray

    @property
    def system(self) -> tuple[System, Any]:
        return self.spoil(*FORMS[self.form].healthy)

    def __str__(self) -> str:
        return f"{self.form}-{self.name}"


def _eigenvector(A: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eig(A)
    return vectors[:, np.argmax(np.abs(values) * (values.imag == 0))].real


def _spoiled_cotangent(value: float) -> np.ndarray:
    x_bar = np.ones(N)
    x_bar[3] = value
    return x_bar


# The skew part of A annihilates the solution (2, 1, 3, 1, 1, 1), so that only the adjoint solve can
# see it.
_HIDDEN_SKEW = np.zeros((N, N))
_HIDDEN_SKEW[:3, :3] = [[0.0, 3.0, -1.0], [-3.0, 0.0, 2.0], [1.0, -2.0, 0.0]]
_HIDING_B = 4 * np.array([2.0, 1.0, 3.0, 1.0, 1.0, 1.0])
_GENERAL = np.array([1.0, -0.5, 0.3, 2.0, -1.1, 0.7])
_COSINE = np.cos(np.pi * (np.arange(N) + 0.5) / N)

ADJOINT_FAULTS: tuple[AdjointFault, ...] = (
    *(
        AdjointFault(
            f"{value} in the cotangent", form, lambda p, held: (p, held), _spoiled_cotangent(value)
        )
        for form in FORMS
        for value in (np.nan, np.inf)
    ),
    *(
        AdjointFault("step limit suffices for b alone", form, _system(A, _eigenvector(A)), _GENERAL)
        for method, A in (
            ("GMRES", NONSYMMETRIC_SPREAD),
            ("CG", DEFINITE_SPREAD),
            ("MINRES", DEFINITE_SPREAD),
        )
        for form in _both(method)
    ),
    # A u = b has solutions, but which one is returned is an accident of the start: a general g(u)
    # has no derivative.
    *(
        AdjointFault("Neumann, eigenvector b", form, _system(NEUMANN, _COSINE), _GENERAL)
        for form in _KRYLOV
    ),
    *(
        AdjointFault(
            "false claim hidden from b",
            form,
            _system(4 * np.eye(N) + _HIDDEN_SKEW, _HIDING_B),
            _GENERAL,
        )
        for form in (*_both("CG"), *_both("MINRES"))
    ),
)
