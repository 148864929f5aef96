"""The right answers, by SciPy's factorizations and the adjoint equations written out.

Every competitor must match them. It shares the constants of the systems with the competitors, and
nothing else with any of them: F and its derivatives are written by hand, in NumPy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sparse
from jaxtyping import Float
from scipy.sparse.linalg import splu

from benchmarks.answers import Answers, objective_derivatives
from benchmarks.implicit.cases import CUBIC, LAMBDA, Case

Vector = Float[np.ndarray, " n"]
# solve(b) and solve(b, transposed=True), with F_x and with F_x'.
Solve = Callable[..., Vector]

LAST_STEP = 1e-12
MOST_STEPS = 50


class System(Protocol):
    """F and its derivatives.

    Here F_p is diagonal, and F_x changes with x and p on its diagonal alone.
    """

    def residual(self, x: Vector, p: Vector) -> Vector:
        """F."""
        ...

    def factorized(self, x: Vector, p: Vector) -> Solve:
        """Solves with F_x and with its transpose."""
        ...

    def by_parameters(self, x: Vector, p: Vector) -> Vector:
        """The diagonal of F_p."""
        ...

    def changes(self, x: Vector, p: Vector, x_dot: Vector, v: Vector) -> tuple[Vector, Vector]:
        """How the diagonals of F_x and of F_p change along (x_dot, v)."""
        ...


@dataclass(frozen=True)
class Cubic:
    """A x + a x^3 - p."""

    A: Float[np.ndarray, "n n"]

    def residual(self, x: Vector, p: Vector) -> Vector:
        return self.A @ x + CUBIC * x**3 - p

    def factorized(self, x: Vector, p: Vector) -> Solve:
        factors = scipy.linalg.lu_factor(self.A + np.diag(3 * CUBIC * x**2))
        return lambda b, transposed=False: scipy.linalg.lu_solve(factors, b, trans=int(transposed))

    def by_parameters(self, x: Vector, p: Vector) -> Vector:
        return -np.ones_like(x)

    def changes(self, x: Vector, p: Vector, x_dot: Vector, v: Vector) -> tuple[Vector, Vector]:
        return 6 * CUBIC * x * x_dot, np.zeros_like(x)


@dataclass(frozen=True)
class ReactionDiffusion:
    """L u - lambda c exp(u), with the five-point Laplacian L on m x m inner nodes."""

    m: int

    @property
    def laplacian(self) -> Any:
        line = (
            2 * sparse.eye_array(self.m)
            - sparse.eye_array(self.m, k=1)
            - sparse.eye_array(self.m, k=-1)
        )
        one = sparse.eye_array(self.m)
        return (self.m + 1) ** 2 * (sparse.kron(line, one) + sparse.kron(one, line))

    def residual(self, x: Vector, p: Vector) -> Vector:
        return self.laplacian @ x - LAMBDA * p * np.exp(x)

    def factorized(self, x: Vector, p: Vector) -> Solve:
        F_x = sparse.csc_array(self.laplacian - sparse.diags_array(LAMBDA * p * np.exp(x)))
        # The order for symmetric patterns is five times faster here than the default.
        factors = splu(
            F_x, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        return lambda b, transposed=False: factors.solve(b, trans="T" if transposed else "N")

    def by_parameters(self, x: Vector, p: Vector) -> Vector:
        return -LAMBDA * np.exp(x)

    def changes(self, x: Vector, p: Vector, x_dot: Vector, v: Vector) -> tuple[Vector, Vector]:
        F_p_dot = -LAMBDA * np.exp(x) * x_dot
        return p * F_p_dot - LAMBDA * np.exp(x) * v, F_p_dot


def system(case: Case) -> System:
    """The system of a case, written by hand."""
    return (
        ReactionDiffusion(round(case.unknowns**0.5))
        if case.problem == "bratu"
        else Cubic(np.asarray(case.constants))
    )


def answers(case: Case, p: Any, v: Any) -> Answers:
    """g, its gradient and its Hessian times v; for many systems at once, g is the sum over them."""
    of_each = [
        _answers_of_one(system(case), np.asarray(p_one), np.asarray(v_one))
        for p_one, v_one in zip(
            np.split(np.asarray(p), case.systems),
            np.split(np.asarray(v), case.systems),
            strict=True,
        )
    ]
    values, gradients, products = zip(*of_each, strict=True)
    return Answers(float(np.sum(values)), np.concatenate(gradients), np.concatenate(products))


def _answers_of_one(F: System, p: Vector, v: Vector) -> Answers:
    """With F_x and F_p at the root x(p), and c = dg/dx:

    F_x' lam = c,           gradient = -F_p lam,
    F_x x_dot = -F_p v,     F_x' lam_dot = c_dot - F_x_dot lam,
    product = -F_p lam_dot - F_p_dot lam.
    """
    x = root(F, p)
    solve = F.factorized(x, p)
    F_p = F.by_parameters(x, p)
    x_dot = solve(-F_p * v)
    value, c, c_dot = objective_derivatives(x, x_dot)
    lam = solve(c, transposed=True)
    F_x_dot, F_p_dot = F.changes(x, p, x_dot, v)
    lam_dot = solve(c_dot - F_x_dot * lam, transposed=True)
    return Answers(value, -F_p * lam, -F_p * lam_dot - F_p_dot * lam)


def root(F: System, p: Vector) -> Vector:
    """The root by Newton's method from zero.

    Raises
    ------
    ArithmeticError
        When it does not converge.
    """
    x = np.zeros_like(p)
    for _ in range(MOST_STEPS):
        step = F.factorized(x, p)(-F.residual(x, p))
        x = x + step
        if np.linalg.norm(step) <= LAST_STEP * np.linalg.norm(x):
            return x
    raise ArithmeticError(f"the reference has not converged in {MOST_STEPS} Newton steps")
