"""Which method: the one named, or one for the problem's size and what is known of it."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from adjoint.implicit.newton import Newton, NewtonKrylov
from adjoint.inputs import describe, refuse
from adjoint.linear.multigrid import Multigrid
from adjoint.optimize.augmented_lagrangian import AugmentedLagrangian
from adjoint.optimize.bfgs import BFGS, LBFGS
from adjoint.optimize.gcmma import GCMMA
from adjoint.optimize.mma import MMA
from adjoint.optimize.newton import TrustRegionNewton
from adjoint.optimize.newton_krylov import TrustRegionCG
from adjoint.optimize.oc_method import OptimalityCriteria
from adjoint.optimize.optimality_criteria import OC
from adjoint.optimize.problem import Method
from adjoint.optimize.sqp import SQP

# Up to so many unknowns a Hessian costs little beside the steps that it saves.
SMALL = 100
# Beyond so many unknowns an n x n matrix costs more than it saves.
DENSE = 1000
# Up to so many, the n^3 operations of each subproblem's steps are little beside most simulations:
# 10 ms for all.
QUADRATIC = 300
METHODS = (
    "SteepestDescent(), Newton(), NewtonKrylov(), GaussNewton(), BFGS(), LBFGS(), MMA(), GCMMA(), "
    "AugmentedLagrangian(), SQP() or OC(), or an optimizer of optax such as optax.adam(1e-2)"
)


def honoring(given: Iterable[str]) -> list[str]:
    """Names of the methods that honor what was given, of "bounds", "equality" and "inequality"."""
    needed = set(given)
    known = {"BFGS()": BFGS(), "LBFGS()": LBFGS(), "MMA()": MMA(), "GCMMA()": GCMMA()}
    known |= {"AugmentedLagrangian()": AugmentedLagrangian(), "SQP()": SQP()}
    return [name for name, method in known.items() if needed <= set(method.handles)]


def as_method(method: Any) -> Method:
    """The method that an object of the public interface stands for.

    `Newton` and `NewtonKrylov` find roots and minimizers; optimizers of optax are steps.
    """
    if isinstance(method, Newton):
        _refuse_settings_of_roots(method)
    if isinstance(method, NewtonKrylov):
        M = method.preconditioner
        if isinstance(M, Multigrid):
            refuse(
                "minimize",
                f"preconditioner = {M}",
                "a function v -> M v",
                "Multigrid is for linear_solve and root.",
            )
        return TrustRegionCG(method.forcing, M)
    if isinstance(method, Newton):
        return TrustRegionNewton()
    if _is_of_optax(method):
        # It takes a second to import, which those who name no such optimizer need not wait for.
        from adjoint.optimize.optax_method import OptaxMethod

        return OptaxMethod(method)
    if isinstance(method, OC):
        # What the coarse bisection of the published code leaves of the volume is no solution.
        tolerance = min(method.bisection_tolerance, 1e-13)
        return OptimalityCriteria(replace(method, bisection_tolerance=tolerance))
    if isinstance(method, type) or not all(
        hasattr(method, name) for name in ("init", "step", "measure", "restart")
    ):
        given = (
            f"method = {method.__name__}, a class"
            if isinstance(method, type)
            else f"method = {describe(method)}"
        )
        refuse(
            "minimize",
            given,
            METHODS,
            "Pass one of these objects, or None for a choice.",
            TypeError,
        )
    return method


def _is_of_optax(method: object) -> bool:
    optax = sys.modules.get("optax")
    return optax is not None and isinstance(method, optax.GradientTransformation)


def _refuse_settings_of_roots(method: Newton) -> None:
    name = type(method).__name__
    default = type(method)()
    for setting in ("rtol", "max_steps"):
        if (value := getattr(method, setting)) != getattr(default, setting):
            given = f"{name} with {setting} = {value}, which is for roots"
            refuse(
                "minimize",
                given,
                "its default",
                f"minimize has {setting} of its own: minimize(..., {setting}=...).",
            )
    if isinstance(method, NewtonKrylov) and method.restart != NewtonKrylov().restart:
        given = f"NewtonKrylov with restart = {method.restart}"
        refuse(
            "minimize",
            given,
            "its default",
            "Conjugate gradients, which minimize uses, have no restart.",
        )


def choose(
    n: int, boxed: bool, has_equality: bool, has_inequality: bool, traceable: bool
) -> tuple[tuple[Method, ...], str]:
    """Methods to try in turn, and why; boxed: whether each unknown has two finite bounds."""
    if has_equality or has_inequality:
        quadratic: tuple[Method, ...] = (SQP(),) if n <= QUADRATIC else ()
        augmented = AugmentedLagrangian(BFGS() if n <= DENSE else LBFGS())
        if boxed and not has_equality:
            return (
                *quadratic,
                MMA(),
                augmented,
            ), f"inequalities, and finite bounds for all of {n} unknowns"
        return (
            *quadratic,
            augmented,
        ), f"{'equations' if has_equality else 'inequalities'}, {n} unknowns"
    if traceable and n <= SMALL:
        methods = (TrustRegionNewton(), BFGS(), TrustRegionNewton())
        return methods, f"{n} unknowns, at most {SMALL}, with second derivatives"
    if n <= DENSE:
        return (
            (BFGS(),),
            f"{n} unknowns, at most {DENSE}"
            if traceable
            else f"{n} unknowns without second derivatives",
        )
    return (LBFGS(),), f"{n} unknowns, more than {DENSE}"
