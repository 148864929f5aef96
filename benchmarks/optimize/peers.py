"""The peers' minimizers, each stopped by its own rule at a tolerance like ours.

Who has a tolerance for the gradient gets `gradient_tolerance`: the default of SciPy's BFGS, or 1e-8
of the gradient at the start where that is smaller, so that nobody may stop earlier than ours.
Everything else is left at its default.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import scipy.optimize
from jaxtyping import Array

from benchmarks.optimize.cases import Case
from benchmarks.optimize.solvers import (
    OPTAX,
    OPTIMISTIX,
    SCIPY,
    Functions,
    Limits,
    Outcome,
    Run,
    Solver,
)

ABSOLUTE = 1e-5
RELATIVE = 1e-8
# SciPy stops here at changes of f relative to f, and of x relative to x: the tightest that its
# documentation suggests.
FTOL = 1e-14
XTOL = 1e-9
OPTIMISTIX_TOLERANCE = 1e-8


def gradient_tolerance(gradient: Any) -> float:
    """What a norm of the gradient has to come below, from the gradient at the start.

    Examples
    --------
    >>> (
    ...     gradient_tolerance(np.array([3e4, 4e4])),
    ...     round(gradient_tolerance(np.array([0.3, 0.4])), 12),
    ... )
    (1e-05, 5e-09)
    """
    return min(ABSOLUTE, RELATIVE * float(np.linalg.norm(gradient)))


class _CutOffError(Exception):
    """Thrown through SciPy when a limit is reached."""


class _Counted:
    """f with f', and f'', as SciPy calls them: counted here, and cut off at the limits."""

    def __init__(self, functions: Functions, limits: Limits) -> None:
        self.functions = functions
        self.limits = limits
        self.evaluations = self.hessians = 0
        self.began = time.monotonic()
        self.best: tuple[float, Any] = (np.inf, None)

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if self.evaluations >= self.limits.evaluations:
            raise _CutOffError("evaluations")
        if time.monotonic() - self.began > self.limits.seconds:
            raise _CutOffError("time")
        self.evaluations += 1
        value, gradient = self.functions.value_and_gradient(x)
        value = float(value)
        if self.best[1] is None or value < self.best[0]:
            self.best = value, np.array(x)
        return value, np.asarray(gradient)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        self.hessians += 1
        return np.asarray(self.functions.hessian(x))


def _scipy(method: str, settings: Callable[[float], dict[str, float]], with_hessian: bool) -> Any:
    def prepare(case: Case, functions: Functions, limits: Limits) -> Run:
        most = {"maxfun" if method == "L-BFGS-B" else "maxiter": 10 * limits.evaluations}
        chosen = settings(gradient_tolerance(functions.value_and_gradient(case.start)[1])) | most

        def run() -> Outcome:
            counted = _Counted(functions, limits)
            hessian = counted.hessian if with_hessian else None
            arguments = {"method": method, "jac": True, "hess": hessian, "options": chosen}
            try:
                found = scipy.optimize.minimize(counted.value_and_gradient, case.start, **arguments)
                x = found.x
                claims = bool(found.success)
                status = str(found.message)
            except _CutOffError as limit:
                x = counted.best[1]
                claims = False
                status = f"limit of {limit}"
            return Outcome(np.asarray(x), claims, status, counted.evaluations, counted.hessians)

        return run

    return Solver(f"scipy {method}", SCIPY, prepare, with_hessian)


def _optimistix(name: str, solver: Any) -> Solver:
    def prepare(case: Case, functions: Functions, limits: Limits) -> Run:
        @jax.jit
        def solve(x: Array) -> tuple[Array, Array, Array]:
            found = optimistix.minimise(
                lambda y, args: case.objective(y),
                solver,
                x,
                max_steps=limits.evaluations,
                throw=False,
            )
            return (
                found.value,
                found.result == optimistix.RESULTS.successful,
                found.stats["num_steps"],
            )

        def run() -> Outcome:
            x, claims, steps = jax.device_get(solve(case.start))
            # Each step evaluates f once, and linearizes it where it is accepted.
            return Outcome(
                x, bool(claims), "successful" if claims else "not successful", int(steps)
            )

        return run

    return Solver(name, OPTIMISTIX, prepare)


def _optax_lbfgs() -> Solver:
    def prepare(case: Case, functions: Functions, limits: Limits) -> Run:
        optimizer = optax.lbfgs()
        value_and_gradient = optax.value_and_grad_from_state(case.objective)
        tolerance = gradient_tolerance(functions.value_and_gradient(case.start)[1])

        def step(carry: tuple[Array, Any, Array, Array]) -> tuple[Array, Any, Array, Array]:
            x, state, _, evaluations = carry
            value, gradient = value_and_gradient(x, state=state)
            updates, state = optimizer.update(
                gradient, state, x, value=value, grad=gradient, value_fn=case.objective
            )
            x = jnp.asarray(optax.apply_updates(x, updates))
            searched = optax.tree.get(state, "num_linesearch_steps")
            return x, state, jnp.linalg.norm(optax.tree.get(state, "grad")), evaluations + searched

        @jax.jit
        def solve(x: Array) -> tuple[Array, Array, Array]:
            # The first evaluation is the only one outside of a line search.
            begin = (x, optimizer.init(x), jnp.asarray(jnp.inf), jnp.asarray(1))
            x, _, norm, evaluations = jax.lax.while_loop(
                lambda carry: (carry[2] > tolerance) & (carry[3] < limits.evaluations), step, begin
            )
            return x, norm <= tolerance, evaluations

        def run() -> Outcome:
            x, claims, evaluations = jax.device_get(solve(case.start))
            return Outcome(
                x,
                bool(claims),
                "gradient small" if claims else "limit of evaluations",
                int(evaluations),
            )

        return run

    return Solver("optax L-BFGS", OPTAX, prepare)


SCIPY_BFGS = "scipy BFGS"
OPTIMISTIX_BFGS = "optimistix BFGS"
PEER_SOLVERS = (
    _scipy("BFGS", lambda gtol: {"gtol": gtol}, False),
    _scipy("L-BFGS-B", lambda gtol: {"gtol": gtol, "ftol": FTOL}, False),
    _scipy("trust-exact", lambda gtol: {"gtol": gtol}, True),
    _scipy("trust-ncg", lambda gtol: {"gtol": gtol}, True),
    _scipy("Newton-CG", lambda gtol: {"xtol": XTOL}, True),
    _optimistix(
        OPTIMISTIX_BFGS, optimistix.BFGS(rtol=OPTIMISTIX_TOLERANCE, atol=OPTIMISTIX_TOLERANCE)
    ),
    _optimistix(
        "optimistix L-BFGS", optimistix.LBFGS(rtol=OPTIMISTIX_TOLERANCE, atol=OPTIMISTIX_TOLERANCE)
    ),
    _optax_lbfgs(),
)
