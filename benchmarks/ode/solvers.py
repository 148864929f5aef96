"""Who takes part: our sensitivities and their peers.

Each is states = solve(y0, p) that is differentiated by both. All have the same tolerances, the same
largest number of steps and the same Runge-Kutta method (Tsit5, or Kvaerno5 for stiff problems),
where they have one; none may raise an error from within, which would cost time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jaxtyping import Array

import adjoint
from benchmarks.answers import GRADIENT, VALUE
from benchmarks.contest import Function
from benchmarks.machine import installed_version
from benchmarks.ode import casadi_peer, torch_peer
from benchmarks.ode.cases import PROBLEMS, Case

Solve = Callable[[Array, Any], Array]

EXPLICIT = tuple(
    problem
    for problem, make in PROBLEMS.items()
    if problem not in ("Robertson", "Brusselator, implicit")
)
FEW_PARAMETERS = ("Lotka-Volterra", "double pendulum", "Robertson")
# On the large stiff one DiscreteAdjoint is the default, and BacksolveAdjoint of diffrax takes more
# than two minutes.
NOT_LARGE_AND_STIFF = tuple(problem for problem in PROBLEMS if problem != "Brusselator, implicit")
MANY_STEPS = ("long neural ODE", "Brusselator, explicit")
# About twice the square root of the 4096 steps there may be, and far fewer.
TWO_LEVELS = 128
A_FEW = 16
# What a tuned number of checkpoints leaves for parameters that need more steps.
ROOM = 1.25


@dataclass(frozen=True)
class Solver:
    """A way to a gradient through the solution of y' = f.

    Attributes
    ----------
    name
        For the tables.
    functions
        ``functions(case)``: what is timed of it, by measure.
    ours
        Whether it is this library's.
    problems
        Those that it is meant for.
    package
        What must be installed.
    growth
        Time grows like n**growth; here no problem is measured in two sizes.
    """

    name: str
    functions: Callable[[Case], dict[str, tuple[Function, ...]]]
    ours: bool = False
    problems: tuple[str, ...] = tuple(PROBLEMS)
    package: str = "jax"
    growth: float = 1.0

    def obstacle(self, case: Case) -> str | None:
        """Why it cannot take part, or None."""
        return (
            None
            if installed_version(self.package)
            else f"the package {self.package} is not installed"
        )

    def constants(self, case: Case) -> Any:
        """Nothing is passed to the compiled function."""
        return ()


def by_jax(make: Callable[[Case], Solve]) -> Callable[[Case], dict[str, tuple[Function, ...]]]:
    """What is timed of a solver that JAX differentiates; `make` prepares it unmeasured, by case."""

    def functions(case: Case) -> dict[str, tuple[Function, ...]]:
        solve = make(case)

        def g(factors: Array) -> Array:
            return case.misfit(solve(*case.split(factors)))

        value = (lambda factors, _, __: g(factors),)
        return {VALUE: value, GRADIENT: (lambda factors, _, __: jax.value_and_grad(g)(factors),)}

    return functions


def _method(case: Case) -> Any:
    return diffrax.Kvaerno5() if case.is_stiff else diffrax.Tsit5()


def _ours(sensitivity: Any) -> Callable[[Case], dict[str, tuple[Function, ...]]]:
    def make(case: Case) -> Solve:
        def solve(y0: Array, p: Any) -> Array:
            return adjoint.ode_solve(
                case.f,
                y0,
                p,
                0.0,
                float(case.ts[-1]),
                ts=case.ts,
                solver=_method(case),
                rtol=case.rtol,
                atol=case.atol,
                max_steps=case.max_steps,
                sensitivity=sensitivity,
            ).value

        return solve

    return by_jax(make)


def _diffrax_solution(case: Case, y0: Array, p: Any, rule: Any, max_steps: int) -> Any:
    return diffrax.diffeqsolve(
        diffrax.ODETerm(case.f),  # pyright: ignore[reportArgumentType]
        _method(case),
        0.0,
        float(case.ts[-1]),
        None,
        y0,
        p,
        saveat=diffrax.SaveAt(ts=jnp.asarray(case.ts)),
        stepsize_controller=diffrax.PIDController(rtol=case.rtol, atol=case.atol),
        adjoint=rule,
        max_steps=max_steps,
        throw=False,
    )


def _diffrax(rule: Any) -> Callable[[Case], dict[str, tuple[Function, ...]]]:
    def make(case: Case) -> Solve:
        def solve(y0: Array, p: Any) -> Array:
            states = _diffrax_solution(case, y0, p, rule, case.max_steps).ys
            assert states is not None
            return states

        return solve

    return by_jax(make)


def _diffrax_tuned(case: Case) -> Solve:
    """As many checkpoints as steps, and hardly more steps than needed.

    The former is advised by its documentation where memory suffices.
    """
    y0, p = case.split(jnp.ones(case.parameters))
    count = jax.jit(
        lambda y0, p: _diffrax_solution(case, y0, p, diffrax.ForwardMode(), case.max_steps).stats[
            "num_steps"
        ]
    )(y0, p)
    most = min(int(ROOM * int(count)) + 10, case.max_steps)

    def solve(y0: Array, p: Any) -> Array:
        states = _diffrax_solution(
            case, y0, p, diffrax.RecursiveCheckpointAdjoint(checkpoints=most), most
        ).ys
        assert states is not None
        return states

    return solve


def _odeint(case: Case) -> Solve:
    times = jnp.concatenate([jnp.zeros(1), jnp.asarray(case.ts)])

    def solve(y0: Array, p: Any) -> Array:
        found: Any = odeint(
            lambda y, t, p: case.f(t, y, p),
            y0,
            times,
            p,
            rtol=case.rtol,
            atol=case.atol,
            mxstep=case.max_steps,
        )
        return found[1:]

    return solve


OUR_DEFAULT = "adjoint, default"
DIFFRAX_DEFAULT = "diffrax RecursiveCheckpointAdjoint"
DIFFRAX_TUNED = "diffrax RecursiveCheckpointAdjoint, tuned"
ODEINT = "jax odeint"
CASADI = "CasADi with CVODES"

SOLVERS: tuple[Solver, ...] = (
    Solver(OUR_DEFAULT, _ours(None), ours=True),
    Solver(
        "adjoint DiscreteAdjoint",
        _ours(adjoint.DiscreteAdjoint()),
        ours=True,
        problems=NOT_LARGE_AND_STIFF,
    ),
    Solver(
        f"adjoint DiscreteAdjoint, {TWO_LEVELS} checkpoints",
        _ours(adjoint.DiscreteAdjoint(TWO_LEVELS)),
        ours=True,
        problems=MANY_STEPS,
    ),
    Solver(
        f"adjoint DiscreteAdjoint, {A_FEW} checkpoints",
        _ours(adjoint.DiscreteAdjoint(A_FEW)),
        ours=True,
        problems=MANY_STEPS,
    ),
    Solver("adjoint InterpolatingAdjoint", _ours(adjoint.InterpolatingAdjoint()), ours=True),
    Solver("adjoint GaussAdjoint", _ours(adjoint.GaussAdjoint()), ours=True),
    Solver(
        "adjoint ForwardSensitivity",
        _ours(adjoint.ForwardSensitivity()),
        ours=True,
        problems=FEW_PARAMETERS,
    ),
    Solver(DIFFRAX_DEFAULT, _diffrax(diffrax.RecursiveCheckpointAdjoint()), package="diffrax"),
    Solver(DIFFRAX_TUNED, by_jax(_diffrax_tuned), package="diffrax"),
    Solver(
        "diffrax BacksolveAdjoint",
        _diffrax(diffrax.BacksolveAdjoint()),
        problems=NOT_LARGE_AND_STIFF,
        package="diffrax",
    ),
    Solver(ODEINT, by_jax(_odeint), problems=EXPLICIT),
    Solver(CASADI, casadi_peer.functions, package="casadi"),
    Solver(
        "torchdiffeq", torch_peer.functions, problems=torch_peer.PROBLEMS, package="torchdiffeq"
    ),
)
PEERS = ("diffrax", "casadi", "torchdiffeq")


def functions(solver: Solver, case: Case) -> dict[str, tuple[Function, ...]]:
    """What is timed, as functions of (factors, v, constants); v and the constants are not used."""
    return solver.functions(case)
