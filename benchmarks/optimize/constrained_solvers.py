"""Who takes part under constraints: our methods, SciPy's, and NLopt's where it is installed.

One evaluation is f, f', the constraints and their Jacobian at one point, however many of them a
solver asks for there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import adjoint
from benchmarks.optimize.constrained_cases import ConstrainedCase
from benchmarks.optimize.solvers import ADJOINT, SCIPY, Limits, Outcome

NLOPT = "nlopt"
# The peers stop here at relative changes of f, and of x, at violations, and at derivatives of the
# Lagrangian.
FTOL = 1e-12
XTOL = 1e-9
CTOL = 1e-8
GTOL = 1e-8


class CutOffError(Exception):
    """Thrown through a peer when a limit is reached."""


@dataclass(frozen=True)
class Evaluation:
    """All there is to know at x."""

    x: np.ndarray
    value: float
    derivative: np.ndarray
    equations: np.ndarray
    equations_jacobian: np.ndarray
    inequalities: np.ndarray
    inequalities_jacobian: np.ndarray


class ConstrainedFunctions:
    """f, g and h with derivatives, compiled once for all that call them from Python."""

    def __init__(self, case: ConstrainedCase) -> None:
        self.case = case

        def constraints(x: Any) -> tuple[Any, Any]:
            none = jnp.zeros(0)
            given = case.equality, case.inequality
            g, h = (none if c is None else jnp.atleast_1d(c(x)) for c in given)
            return g, h

        self._all = jax.jit(
            lambda x: (
                jax.value_and_grad(case.objective)(x),
                constraints(x),
                jax.jacrev(constraints)(x),
            )
        )
        self._all(case.start)

    def __call__(self, x: np.ndarray) -> Evaluation:
        (value, derivative), (g, h), (dg, dh) = self._all(np.asarray(x, float))
        arrays = (np.asarray(a, float) for a in (derivative, g, dg, h, dh))
        return Evaluation(np.array(x, float), float(value), *arrays)


class Counted:
    """The functions as a peer calls them: counted, and cut off at the limits."""

    def __init__(self, functions: ConstrainedFunctions, limits: Limits) -> None:
        self.functions = functions
        self.limits = limits
        self.evaluations, self.began = 0, time.monotonic()
        self.latest: Evaluation | None = None

    def at(self, x: np.ndarray) -> Evaluation:
        """What is known there."""
        if self.latest is None or not np.array_equal(self.latest.x, x):
            if self.evaluations >= self.limits.evaluations:
                raise CutOffError("evaluations")
            if time.monotonic() - self.began > self.limits.seconds:
                raise CutOffError("time")
            self.evaluations += 1
            self.latest = self.functions(x)
        return self.latest

    def outcome(self, run: Callable[[], tuple[Any, bool, str]]) -> Outcome:
        """That of a run of the peer, or where it was cut off."""
        try:
            x, claims, status = run()
        except CutOffError as limit:
            x = self.latest.x if self.latest else self.functions.case.start
            claims = False
            status = f"limit of {limit}"
        return Outcome(np.asarray(x, float), claims, status, self.evaluations)


Solve = Callable[[ConstrainedCase, ConstrainedFunctions, Limits], Outcome]


@dataclass(frozen=True)
class ConstrainedSolver:
    """A contestant; `inequalities_only` for those that know no equations."""

    name: str
    library: str
    solve: Solve
    inequalities_only: bool = False


def _ours(method: Any, boxed: bool) -> Solve:
    def solve(case: ConstrainedCase, functions: ConstrainedFunctions, limits: Limits) -> Outcome:
        bounds = case.box if boxed else (case.lower, case.upper) if case.bounded else None
        solution = adjoint.minimize(
            case.objective,
            case.start,
            method,
            bounds=bounds,
            equality=case.equality,
            inequality=case.inequality,
            max_evaluations=limits.evaluations,
            max_seconds=limits.seconds,
        )
        count = int(solution.stats["evaluations"])
        return Outcome(
            np.asarray(solution.value), bool(solution.status.ok), solution.status.name, count
        )

    return solve


def _scipy_constraints(case: ConstrainedCase, counted: Counted) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if case.equality is not None:
        found.append(
            {
                "type": "eq",
                "fun": lambda x: counted.at(x).equations,
                "jac": lambda x: counted.at(x).equations_jacobian,
            }
        )
    if case.inequality is not None:
        found.append(
            {
                "type": "ineq",
                "fun": lambda x: -counted.at(x).inequalities,
                "jac": lambda x: -counted.at(x).inequalities_jacobian,
            }
        )
    return found


def _scipy(method: str, settings: dict[str, Any]) -> Solve:
    def solve(case: ConstrainedCase, functions: ConstrainedFunctions, limits: Limits) -> Outcome:
        counted = Counted(functions, limits)

        def run() -> tuple[Any, bool, str]:
            found: Any = scipy.optimize.minimize(
                lambda x: counted.at(x).value,
                case.start,
                jac=lambda x: counted.at(x).derivative,
                method=method,
                bounds=list(zip(case.lower, case.upper, strict=True)) if case.bounded else None,
                constraints=_scipy_constraints(case, counted),
                options=settings | {"maxiter": 10 * limits.evaluations},
            )
            return found.x, bool(found.success), str(found.message)

        return counted.outcome(run)

    return solve


def _nlopt(algorithm: str) -> Solve:
    def solve(case: ConstrainedCase, functions: ConstrainedFunctions, limits: Limits) -> Outcome:
        import nlopt  # pyright: ignore[reportMissingImports]

        counted = Counted(functions, limits)

        def objective(x: np.ndarray, slope: np.ndarray) -> float:
            if slope.size:
                slope[:] = counted.at(x).derivative
            return counted.at(x).value

        def constraint(which: str) -> Any:
            def fill(values: np.ndarray, x: np.ndarray, slopes: np.ndarray) -> None:
                values[:] = getattr(counted.at(x), which)
                if slopes.size:
                    slopes[:] = getattr(counted.at(x), f"{which}_jacobian")

            return fill

        def run() -> tuple[Any, bool, str]:
            solver = nlopt.opt(getattr(nlopt, algorithm), case.n)
            solver.set_min_objective(objective)
            solver.set_lower_bounds(case.lower)
            solver.set_upper_bounds(case.upper)
            start = functions(case.start)
            if case.equality is not None:
                solver.add_equality_mconstraint(
                    constraint("equations"), np.full(start.equations.size, CTOL)
                )
            if case.inequality is not None:
                solver.add_inequality_mconstraint(
                    constraint("inequalities"), np.full(start.inequalities.size, CTOL)
                )
            solver.set_ftol_rel(FTOL)
            solver.set_xtol_rel(XTOL)
            x = solver.optimize(np.clip(case.start, case.lower, case.upper))
            code = solver.last_optimize_result()
            return x, code in (1, 2, 3, 4), f"NLopt's code {code}"

        return counted.outcome(run)

    return solve


DEFAULT = "adjoint default"
LAGRANGIAN = "adjoint AugmentedLagrangian"
SEQUENTIAL = "adjoint SQP"
ASYMPTOTES = "adjoint MMA"
CONSERVATIVE = "adjoint GCMMA"
CONSTRAINED_SOLVERS = (
    ConstrainedSolver(DEFAULT, ADJOINT, _ours(None, False)),
    ConstrainedSolver(LAGRANGIAN, ADJOINT, _ours(adjoint.AugmentedLagrangian(), False)),
    ConstrainedSolver(SEQUENTIAL, ADJOINT, _ours(adjoint.SQP(), False)),
    ConstrainedSolver(ASYMPTOTES, ADJOINT, _ours(adjoint.MMA(), True), True),
    ConstrainedSolver(CONSERVATIVE, ADJOINT, _ours(adjoint.GCMMA(), True), True),
    ConstrainedSolver("scipy SLSQP", SCIPY, _scipy("SLSQP", {"ftol": FTOL})),
    ConstrainedSolver(
        "scipy trust-constr", SCIPY, _scipy("trust-constr", {"gtol": GTOL, "xtol": XTOL})
    ),
    ConstrainedSolver("nlopt SLSQP", NLOPT, _nlopt("LD_SLSQP")),
    ConstrainedSolver("nlopt MMA", NLOPT, _nlopt("LD_MMA"), True),
)
