"""Who takes part, and what is noted of a run: where it ended, its claim, and its cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

import adjoint
from benchmarks.optimize.cases import Case

ADJOINT = "adjoint"
SCIPY = "scipy"
OPTIMISTIX = "optimistix"
OPTAX = "optax"
PEERS = (SCIPY, OPTIMISTIX, OPTAX, "nlopt", "sif2jax")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    x
        Where.
    claims
        Whether the solver calls this a success.
    status
        In the solver's words.
    evaluations, hessians, products
        Of f with f', of f'' and of f'' v.
    """

    x: Float[np.ndarray, " n"]
    claims: bool
    status: str
    evaluations: int
    hessians: int = 0
    products: int = 0


@dataclass(frozen=True)
class Limits:
    """When a run is cut off: so many evaluations, so many seconds.

    The latter is where the solver can be stopped: not in compiled loops.
    """

    evaluations: int
    seconds: float


class Functions:
    """f with f', and f'', of a case: compiled once for all that call them from Python."""

    def __init__(self, case: Case) -> None:
        self.value_and_gradient = jax.jit(jax.value_and_grad(case.objective))
        self.hessian = jax.jit(jax.hessian(case.objective))
        self.compile_seconds = _seconds(lambda: self.value_and_gradient(case.start))
        self.hessian_compile_seconds = _seconds(lambda: self.hessian(case.start))


Run = Callable[[], Outcome]


@dataclass(frozen=True)
class Solver:
    """A contestant.

    Attributes
    ----------
    name
        Unique.
    library
        Whose it is.
    prepare
        Makes the run of a case; of what is called twice, the first call compiles.
    method
        Of ours; None chooses.
    hessians
        Whether it is given f''.
    """

    name: str
    library: str
    prepare: Callable[[Case, Functions, Limits], Run]
    hessians: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is this library's."""
        return self.library == ADJOINT

    @property
    def shared(self) -> bool:
        """Whether it calls the functions that were compiled for all."""
        return self.library == SCIPY


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _ours(method: Any) -> Callable[[Case, Functions, Limits], Run]:
    def prepare(case: Case, functions: Functions, limits: Limits) -> Run:
        def objective(x: Any) -> Any:
            # A function of its own, so that nothing is found compiled that another of our methods
            # has left.
            return case.objective(x)

        def run() -> Outcome:
            solution = adjoint.minimize(
                objective,
                case.start,
                method,
                max_evaluations=limits.evaluations,
                max_steps=limits.evaluations,
                max_seconds=limits.seconds,
            )
            counts = [int(solution.stats[kind]) for kind in ("evaluations", "hessians", "products")]
            return Outcome(
                np.asarray(solution.value), bool(solution.status.ok), solution.status.name, *counts
            )

        return run

    return prepare


DEFAULT = "adjoint default"
NEWTON = "adjoint Newton"
KRYLOV = "adjoint NewtonKrylov"
BFGS = "adjoint BFGS"
LBFGS = "adjoint LBFGS"
STEEPEST = "adjoint SteepestDescent"
OURS = (
    Solver(DEFAULT, ADJOINT, _ours(None)),
    Solver(NEWTON, ADJOINT, _ours(adjoint.Newton())),
    Solver(KRYLOV, ADJOINT, _ours(adjoint.NewtonKrylov())),
    Solver(BFGS, ADJOINT, _ours(adjoint.BFGS())),
    Solver(LBFGS, ADJOINT, _ours(adjoint.LBFGS())),
    Solver(STEEPEST, ADJOINT, _ours(adjoint.SteepestDescent())),
)
