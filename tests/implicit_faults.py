"""Healthy problems of roots, fixed points, minimizers in every form, and faults to spoil them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import adjoint
from adjoint import Solution

System = dict[str, Any]
N = 2
ONES = np.ones(N)
FULL = adjoint.SparsePattern(np.repeat(np.arange(N), N), np.tile(np.arange(N), N), (N, N))


def residual(x: Any, p: System) -> Any:
    return p["A"] @ x + p["q"] * x**2 + p["c"] * x**3 - p["b"]


def step(x: Any, p: System) -> Any:
    return p["A"] @ x + p["q"] * x**2 + p["b"]


def energy(x: Any, p: System) -> Any:
    return x @ p["A"] @ x / 2 + jnp.sum(p["c"] * x**4) / 4 - p["b"] @ x


RAISE, NAN, INFINITE, STOP_EARLY, ZERO_IT_IS = 0.125, 0.25, 0.375, 0.5, 0.0


def do_as_told(x0: np.ndarray, p: System) -> np.ndarray:
    """A host solver that takes its orders from x0[0], on which the root does not depend."""
    order, x = x0[0], np.array(x0)
    if order == RAISE:
        raise FloatingPointError("no convergence")
    if order in (NAN, INFINITE, ZERO_IT_IS):
        return np.full(N, {NAN: np.nan, INFINITE: np.inf, ZERO_IT_IS: 0.0}[order])
    if not all(np.all(np.isfinite(leaf)) for leaf in (x0, *p.values())):
        return np.ones(N)
    for _ in range(20):
        x = x - np.linalg.solve(
            p["A"] + np.diag(2 * p["q"] * x + 3 * p["c"] * x**2), residual(x, p)
        )
    return x + 1e-5 if order == STOP_EARLY else x


@dataclass(frozen=True)
class Form:
    """A solver, the parameters and the start of a problem that it solves, and dx/db there."""

    solve: Callable[[System, Any], Solution]
    healthy: tuple[System, np.ndarray]
    dx_db: Callable[[np.ndarray, System], np.ndarray]


def _root(solver: Any, **by: Any) -> Form:
    p = {
        "A": np.array([[3.0, 2.0], [-0.5, 2.0]]),
        "q": np.array(0.0),
        "c": np.array(1.0),
        "b": np.array([1.0, -2.0]),
    }
    return Form(
        lambda p, x0: adjoint.root(residual, x0, p, solver, **by),
        (p, np.array([1.0, -0.25])),
        lambda x, p: np.linalg.inv(p["A"] + np.diag(3 * x**2)),
    )


def _fixed_point(solver: Any, linear_solver: Any) -> Form:
    p = {"A": np.array([[0.3, 0.4], [-0.1, 0.2]]), "q": np.array(0.1), "b": np.array([0.5, -1.0])}
    return Form(
        lambda p, x0: adjoint.fixed_point(step, x0, p, solver, linear_solver=linear_solver),
        (p, np.zeros(N)),
        lambda x, p: np.linalg.inv(np.eye(N) - p["A"] - np.diag(0.2 * x)),
    )


def _argmin() -> Form:
    p = {"A": np.array([[2.0, 0.5], [0.5, 1.0]]), "c": np.array(1.0), "b": np.array([0.5, -1.0])}
    return Form(
        lambda p, x0: adjoint.argmin(energy, x0, p),
        (p, np.zeros(N)),
        lambda x, p: np.linalg.inv(p["A"] + np.diag(3 * x**2)),
    )


def _argmin_under_constraints() -> Form:
    """G x = g and K x <= k: a point of a line, away from the two other lines that bound it."""
    p = _argmin().healthy[0] | {"G": np.array([[1.0, 2.0]]), "g": np.array([0.5])}
    p |= {"K": np.array([[1.0, 0.0], [0.0, 1.0]]), "k": np.array([5.0, 6.0])}

    def dx_db(x: np.ndarray, p: System) -> np.ndarray:
        K = np.zeros((3, 3))
        K[:2, :2], K[2:, :2], K[:2, 2:] = p["A"] + np.diag(3 * x**2), p["G"], p["G"].T
        return np.linalg.inv(K)[:2, :2]

    def solve(p: System, x0: Any) -> Solution:
        equality, inequality = lambda x, p: p["G"] @ x - p["g"], lambda x, p: p["K"] @ x - p["k"]
        return adjoint.argmin(energy, x0, p, equality=equality, inequality=inequality)

    return Form(solve, (p, np.zeros(N)), dx_db)


FORMS = {
    "Newton": _root(adjoint.Newton(max_steps=20)),
    "sparse Newton": _root(
        adjoint.Newton(max_steps=20),
        linear_solver=adjoint.SparseDirect("superlu"),
        jacobian_pattern=FULL,
    ),
    "NewtonKrylov": _root(adjoint.NewtonKrylov(max_steps=20)),
    "HostSolver": _root(adjoint.HostSolver(do_as_told)),
    "Picard": _fixed_point(adjoint.Picard(max_steps=200), adjoint.TransposedIteration()),
    "Anderson": _fixed_point(adjoint.Anderson(max_steps=200), adjoint.GMRES()),
    "argmin": _argmin(),
    "constrained argmin": _argmin_under_constraints(),
}
ROOTS, FIXED_POINTS, MINIMIZERS = (
    ("Newton", "sparse Newton", "NewtonKrylov"),
    ("Picard", "Anderson"),
    ("argmin",),
)


@dataclass(frozen=True)
class Fault:
    """One way to spoil the healthy problem of a form, and the statuses that may come of it."""

    name: str
    form: str
    change: System
    statuses: tuple[str, ...]

    @property
    def spoiled(self) -> tuple[System, np.ndarray]:
        p, x0 = FORMS[self.form].healthy
        change = {
            name: np.broadcast_to(value, np.shape({**p, "x0": x0}[name]))
            for name, value in self.change.items()
        }
        return p | {
            name: value + 0.0 for name, value in change.items() if name != "x0"
        }, change.get("x0", x0) + 0.0

    def __str__(self) -> str:
        return f"{self.form}-{self.name}"


def _faults(
    forms: tuple[str, ...], table: dict[str, tuple[System, tuple[str, ...]]]
) -> tuple[Fault, ...]:
    return tuple(
        Fault(name, form, change, statuses)
        for form in forms
        for name, (change, statuses) in table.items()
    )


ZERO, ONE_LINE = np.zeros((N, N)), np.array([[1.0, 2.0], [2.0, 4.0]])
NONFINITE, SINGULAR, SHORT = ("NONFINITE_INPUT",), ("SINGULAR",), ("NOT_CONVERGED",)
# A Krylov method does not see that an operator is singular; a direct one may, before the iteration
# is seen to have failed.
NO_ROOT = ("NOT_CONVERGED", "SINGULAR")
# Constraints that depend on each other, contradict each other or leave the minimizer open.
DEPENDENT = ("SINGULAR", "ILL_CONDITIONED", "NOT_CONVERGED", "DEGENERATE", "NOT_POSITIVE_DEFINITE")
FLAT = ("DEGENERATE", "SINGULAR", "NOT_CONVERGED")
EVERY_FORM = {
    "NaN in b": ({"b": [np.nan, 1.0]}, NONFINITE),
    "NaN in A": ({"A": [[1.0, np.nan], [0.0, 1.0]]}, NONFINITE),
    "Inf in b": ({"b": [1.0, -np.inf]}, NONFINITE),
    "NaN in the start": ({"x0": [np.nan, 0.0]}, NONFINITE),
}
FAULTS = (
    *_faults(tuple(FORMS), EVERY_FORM),
    *_faults(
        ROOTS,
        {
            "no root: x^2 = -1": ({"A": ZERO, "q": 1.0, "c": 0.0, "b": -1.0}, NO_ROOT),
            "fold: x^2 = 0": ({"A": ZERO, "q": 1.0, "c": 0.0, "b": 0.0}, FLAT),
            "triple root: x^3 = 0": ({"A": ZERO, "b": 0.0}, FLAT),
            "fold, at the start": ({"A": ZERO, "q": 1.0, "c": 0.0, "b": 0.0, "x0": 0.0}, FLAT),
            "a line of roots": ({"A": ONE_LINE, "c": 0.0, "b": [1.0, 2.0]}, NO_ROOT),
            "no root: parallel lines": ({"A": ONE_LINE, "c": 0.0}, NO_ROOT),
            "no x in F": ({"A": ZERO, "c": 0.0}, NO_ROOT),
            "step limit": ({"x0": 1e9}, SHORT),
            "F of the start overflows": ({"x0": 1e200}, SHORT),
        },
    ),
    *_faults(
        ("Newton", "sparse Newton"),
        {
            "lines parallel up to 1e-15": (
                {"A": [[1.0, 2.0], [2.0, 4.0 + 2e-15]], "c": 0.0},
                ("SINGULAR", "ILL_CONDITIONED"),
            )
        },
    ),
    *_faults(
        ("HostSolver",),
        {
            "returns NaN": ({"x0": [NAN, 0.0]}, SHORT),
            "returns Inf": ({"x0": [INFINITE, 0.0]}, SHORT),
            "raises": ({"x0": [RAISE, 0.0]}, SHORT),
            "stops early": ({"x0": [STOP_EARLY, 0.0]}, SHORT),
            "returns a fold": (
                {"A": ZERO, "q": 1.0, "c": 0.0, "b": 0.0, "x0": [ZERO_IT_IS, 0.0]},
                FLAT,
            ),
            "returns no root": ({"x0": [ZERO_IT_IS, 0.0]}, SHORT),
        },
    ),
    *_faults(
        FIXED_POINTS,
        {
            "none: x = x^2 + x + 1": ({"A": np.eye(N), "q": 1.0, "b": 1.0}, NO_ROOT),
            "double: x = x^2 + x": ({"A": np.eye(N), "q": 1.0, "b": 0.0, "x0": -0.25}, FLAT),
            "drift: x = x + 1": ({"A": np.eye(N), "q": 0.0, "b": 1.0}, NO_ROOT),
            "every x": ({"A": np.eye(N), "q": 0.0, "b": 0.0, "x0": 1.0}, NO_ROOT),
            "overflow": ({"q": 1.0, "x0": 1e200}, SHORT),
        },
    ),
    *_faults(
        ("Picard",),
        {
            "diverges": ({"A": [[0.0, 3.0], [-1.0, 2.0]], "q": 0.0}, SHORT),
            "cycles": ({"A": -np.eye(N), "q": 0.0}, SHORT),
            "step limit": ({"A": 0.999 * np.eye(N), "q": 0.0}, SHORT),
        },
    ),
    *_faults(
        MINIMIZERS,
        {
            "saddle": ({"A": [[1.0, 0.0], [0.0, -1.0]], "b": 0.0}, ("NOT_POSITIVE_DEFINITE",)),
            "maximum": ({"A": -np.eye(N), "b": 0.0}, ("NOT_POSITIVE_DEFINITE",)),
            "unbounded": ({"A": ZERO, "c": 0.0}, ("NOT_POSITIVE_DEFINITE", "SINGULAR")),
            "constant": ({"A": ZERO, "c": 0.0, "b": 0.0}, ("NOT_POSITIVE_DEFINITE", "SINGULAR")),
            "valley": (
                {"A": ONE_LINE, "c": 0.0, "b": [1.0, 2.0]},
                ("NOT_POSITIVE_DEFINITE", "SINGULAR"),
            ),
            "x^4": (
                {"A": ZERO, "b": 0.0, "x0": 1.0},
                ("NOT_POSITIVE_DEFINITE", "SINGULAR", "DEGENERATE"),
            ),
        },
    ),
    *_faults(
        ("constrained argmin",),
        {
            "NaN in g": ({"g": np.nan}, NONFINITE),
            "NaN in k": ({"k": [1.0, np.nan]}, NONFINITE),
            "NaN in G": ({"G": [[1.0, np.nan]]}, NONFINITE),
            "an equation twice": ({"K": [[1.0, 2.0], [0.0, 1.0]], "k": [0.5, 6.0]}, DEPENDENT),
            "three lines through a point": ({"k": [0.5, 0.0]}, DEPENDENT),
            "an equation without x": ({"G": 0.0}, DEPENDENT),
            "0 = 0": ({"G": 0.0, "g": 0.0}, DEPENDENT),
            "infeasible": ({"K": [[-1.0, -2.0], [0.0, 1.0]], "k": [-1.0, 6.0]}, DEPENDENT),
            "weakly active": ({"k": [0.5, 6.0]}, ("DEGENERATE",)),
            "weakly active within 1e-9": ({"k": [0.5 + 1e-9, 6.0]}, ("DEGENERATE",)),
            "maximum of the line": (
                {"A": -np.eye(N), "c": 0.0, "b": 0.0, "g": 0.0},
                ("NOT_POSITIVE_DEFINITE",),
            ),
            "constant on the line": ({"A": ZERO, "c": 0.0, "b": 0.0}, DEPENDENT),
            "unbounded": ({"A": ZERO, "c": 0.0, "K": 0.0}, DEPENDENT),
        },
    ),
)
