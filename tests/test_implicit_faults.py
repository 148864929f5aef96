"""What can go wrong with a root, a fixed point or a minimizer ends in NaN, in value and gradient,
with its status.

The modes are eager, jit, vmap (one bad lane between two good ones), grad, and jit of grad. Faults
are numbers, so that one compiled function serves all faults of a form; a form is compiled anew at
every eager call, so it runs eagerly with one fault.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def value_and_pull_back(form: str) -> Callable[[System, Any], tuple[Solution, System]]:
    """(p, x0) -> the solution and the gradient of the sum of x with respect to all of p."""

    def evaluate(p: System, x0: Any) -> tuple[Solution, System]:
        def value_and_solution(p: System) -> tuple[Any, Solution]:
            solution = FORMS[form].solve(p, x0)
            return solution.value, solution

        x, pull_back, solution = jax.vjp(value_and_solution, p, has_aux=True)
        return solution, pull_back(jnp.ones_like(x))[0]

    return evaluate


@cache
def compiled_solve(form: str) -> Callable[..., Solution]:
    return jax.jit(FORMS[form].solve)


@cache
def compiled_gradient(form: str) -> Callable[..., tuple[Solution, System]]:
    return jax.jit(value_and_pull_back(form))


@cache
def batched_gradient(form: str) -> Callable[..., tuple[Solution, System]]:
    return jax.jit(jax.vmap(value_and_pull_back(form)))


def assert_failed(solution: Solution, statuses: tuple[str, ...]) -> None:
    assert solution.status.name in statuses
    assert np.all(np.isnan(solution.value)), "a failed solve returned a finite number"
    with pytest.raises(adjoint.SolveError):
        adjoint.require(solution)


def assert_all_nan(gradient: System) -> None:
    for name, leaf in gradient.items():
        assert np.all(np.isnan(leaf)), (
            f"the gradient with respect to {name} is finite somewhere: {leaf}"
        )


def assert_solved(form: str, solution: Solution, gradient: System, p: System) -> None:
    assert solution.status.name == "SUCCESS"
    expected = FORMS[form].dx_db(np.asarray(solution.value), p).T @ ONES
    np.testing.assert_allclose(gradient["b"], expected, rtol=1e-8)


def _rows(faults: Iterable[Fault], slow: set[str]) -> Any:
    rows = [
        pytest.param(f, marks=[pytest.mark.slow] if f.form in slow else [], id=str(f))
        for f in faults
    ]
    return pytest.mark.parametrize("fault", rows)


_of_its_own = {f.form: f for f in FAULTS if "NONFINITE_INPUT" not in f.statuses}
one_fault_of_each_form = _rows(_of_its_own.values(), set(FORMS) - {"Newton", "HostSolver"})


class TestEveryFault:
    @one_fault_of_each_form
    def test_eager(self, fault: Fault) -> None:
        assert_failed(
            FORMS[fault.form].solve(*jax.tree.map(jnp.asarray, fault.spoiled)), fault.statuses
        )

    @_rows(FAULTS, set(FORMS) - {"Newton", "HostSolver", "argmin"})
    def test_jit(self, fault: Fault) -> None:
        assert_failed(compiled_solve(fault.form)(*fault.spoiled), fault.statuses)

    @one_fault_of_each_form
    def test_grad(self, fault: Fault) -> None:
        solution, gradient = value_and_pull_back(fault.form)(
            *jax.tree.map(jnp.asarray, fault.spoiled)
        )
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)

    @_rows(FAULTS, {"sparse Newton", "Picard", "Anderson"})
    def test_jit_of_grad(self, fault: Fault) -> None:
        solution, gradient = compiled_gradient(fault.form)(*fault.spoiled)
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)

    @_rows(FAULTS, {"sparse Newton", "NewtonKrylov", "Picard", "Anderson"})
    def test_vmap_spoils_only_the_bad_lane(self, fault: Fault) -> None:
        p, x0 = FORMS[fault.form].healthy
        other = p | {"b": 0.9 * p["b"]}
        lanes = [(p, x0), fault.spoiled, (other, x0)]
        batch = batched_gradient(fault.form)(
            *jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
        )
        first, (solution, gradient), last = (
            jax.tree.map(lambda leaf, k=k: leaf[k], batch) for k in range(3)
        )
        assert_solved(fault.form, *first, p)
        assert_solved(fault.form, *last, other)
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)
        with pytest.raises(
            adjoint.SolveError, match=r"lane 1, the first of 1 that failed out of 3"
        ):
            adjoint.require(batch[0])


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(f, marks=pytest.mark.slow if f in ("sparse Newton", *FIXED_POINTS) else [])
        for f in FORMS
    ],
)
def test_healthy_problems_are_solved(form: str) -> None:
    """The value by the equations that it is to fulfil, the gradient by dx/db."""
    p, x0 = FORMS[form].healthy
    solution, gradient = compiled_gradient(form)(p, x0)
    assert_solved(form, solution, gradient, p)
    x = np.asarray(solution.value)
    if form in ROOTS or form == "HostSolver":
        np.testing.assert_allclose(residual(x, p), 0, atol=1e-12)
    elif form in FIXED_POINTS:
        np.testing.assert_allclose(step(x, p), x, rtol=1e-10)
    else:
        slope = p["A"] @ x + p["c"] * x**3 - p["b"]
        along = np.array([2.0, -1.0]) if "G" in p else np.eye(N)
        np.testing.assert_allclose(along @ slope, 0, atol=1e-12)
        np.testing.assert_allclose(p["G"] @ x - p["g"] if "G" in p else 0, 0, atol=1e-12)


ANSWER: dict[str, Callable[[np.ndarray], Any]] = {}
ANSWERING = adjoint.HostSolver(lambda _, p: np.cbrt(p) if p[0] == 1 else ANSWER["now"](np.cbrt(p)))


def answered(p: Any) -> Any:
    """The sum of x of x^3 = p, by a solver that gives the present answer unless p_0 = 1."""
    return jnp.sum(adjoint.root(lambda x, p: x**3 - p, jnp.ones(2), p, ANSWERING).value)


COMPILED, COMPILED_GRADIENT, BATCHED = (
    jax.jit(answered),
    jax.jit(jax.grad(answered)),
    jax.jit(jax.vmap(answered)),
)
MODES: dict[str, Callable[[], Any]] = {
    "eager": lambda: answered(jnp.full(2, 8.0)),
    "jit": lambda: COMPILED(jnp.full(2, 8.0)),
    "vmap": lambda: BATCHED(jnp.array([[1.0, 2.0], [8.0, 1.0], [1.0, 4.0]])),
    "grad": lambda: jax.grad(answered)(jnp.full(2, 8.0)),
    "jit of grad": lambda: COMPILED_GRADIENT(jnp.full(2, 8.0)),
}
BAD_ANSWERS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "longer": (lambda x: np.append(x, 1.0), r"HostSolver: got x .*\(3,\)"),
    "another rank": (lambda x: x[None], r"HostSolver: got x .*\(1, 2\)"),
    "another structure": (lambda x: {"x": x}, r"HostSolver: got x .*'x'"),
    "complex": (lambda x: x + 1j, r"HostSolver: got x .*complex128"),
    "none": (lambda _: None, r"HostSolver: got x "),
    "an error": (lambda x: x[7], "index 7 is out of bounds"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_what_a_host_solver_must_not_return_ends_the_computation(answer: str, mode: str) -> None:
    """Under `vmap` in the second of three lanes."""
    ANSWER["now"], message = BAD_ANSWERS[answer]
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(MODES[mode]())
    ANSWER["now"] = lambda x: x
    np.testing.assert_allclose(COMPILED_GRADIENT(jnp.full(2, 8.0)), 1 / 12, rtol=1e-12)
