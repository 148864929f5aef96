"""One step of a Runge-Kutta method, explicit or diagonally implicit, by diffrax's tableau.

The equation is M y' = F(s, y, p) with a constant M, by default the identity. Slopes are kept as h
F, so that sums need no h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.ode.mass_matrix import MassMatrix
from adjoint.ode.refinement import solve_by_nearby_factors
from adjoint.tracing import loops
from adjoint.tracing.rule import attach_derivative

# The slope F(s, y, p).
Field = Callable[[Array, Array, Any], Array]


class Step(NamedTuple):
    """What a step leaves: state and slope F at its end, an error estimate, all stages' slopes."""

    y: Float[Array, " n"]
    slope: Float[Array, " n"]
    error: Float[Array, " n"]
    stages: Float[Array, "stages n"]
    converged: Bool[Array, ""]
    stiffness: Float[Array, ""]


@dataclass(frozen=True)
class Tolerances:
    """Errors are measured in units of atol + rtol |y|."""

    rtol: float
    atol: float

    def scaled(self, error: Array, *ys: Array) -> Float[Array, ""]:
        """The root mean square of an error in these units, of the larger y."""
        size = jnp.abs(ys[0])
        for y in ys[1:]:
            size = jnp.maximum(size, jnp.abs(y))
        return jnp.sqrt(jnp.mean((error / (self.atol + self.rtol * size)) ** 2))


@dataclass(frozen=True)
class RungeKutta:
    """A method of diffrax by its class, which has the tableau and interpolates its steps."""

    solver: Any

    @property
    def tableau(self) -> Any:
        return self.solver.tableau

    @property
    def is_implicit(self) -> bool:
        return self.tableau.implicit

    @property
    def order(self) -> int:
        return self.solver.order(self.solver, None)

    @property
    def has_error_estimate(self) -> bool:
        return bool(np.any(self.tableau.b_error))

    @property
    def error_share(self) -> float:
        """The embedded error of a step is this times `Step.error`."""
        return SHARE_OF_TOLERANCE if self.is_implicit else 1.0

    def step(
        self,
        field: Field,
        tolerances: Tolerances,
        s: tuple[Array, Array],
        y: Array,
        slope: Array,
        p: PyTree,
        mass: MassMatrix | None = None,
    ) -> Step:
        """From s[0] to s[1]; `slope` is F at the start. s has no derivative."""
        if self.is_implicit:
            return _implicit_step(self.tableau, field, tolerances, s, y, slope, p, mass)
        return _explicit_step(self.tableau, field, s, y, slope, p)

    def step_in_a_loop(
        self, field: Field, s: tuple[Array, Array], y: Array, slope: Array, p: PyTree
    ) -> Step:
        """The same step of an explicit method, without `stiffness`.

        There is one copy of the field, in a loop over the stages.
        """
        return _explicit_step_in_a_loop(self.tableau, field, s, y, slope, p)

    def interpolate(
        self, s: tuple[Array, Array], y0: Array, y1: Array, stages: Array, at: Array
    ) -> Float[Array, " n"]:
        """The state inside the step from y0 to y1 with these slopes."""
        return self.solver.interpolation_cls(t0=s[0], t1=s[1], y0=y0, y1=y1, k=stages).evaluate(at)


def _explicit_step(
    tableau: Any, field: Field, s: tuple[Array, Array], y: Array, slope: Array, p: PyTree
) -> Step:
    h = s[1] - s[0]
    k = [h * slope]
    Y = [y]
    for a, c in zip(tableau.a_lower, tableau.c, strict=True):
        Y.append(y + _combination(a, k))
        k.append(h * field(s[1] if c == 1 else s[0] + float(c) * h, Y[-1], p))
    if tableau.fsal:
        y1 = Y[-1]
        slope1 = k[-1] / h
    else:
        y1 = y + _combination(tableau.b_sol, k)
        slope1 = field(s[1], y1, p)
    error = _combination(tableau.b_error, k)
    # Two stages at one time tell |h F_y| (Hairer and Wanner, Solving ODEs II, 2nd ed., section
    # IV.2, eq. 2.26).
    c = np.concatenate([[0.0], tableau.c])
    stiffness = jnp.zeros((), y.dtype)
    if c[-1] == c[-2]:
        change = jnp.linalg.norm(Y[-1] - Y[-2])
        stiffness = jnp.linalg.norm(k[-1] - k[-2]) / jnp.where(change > 0, change, jnp.inf)
    return Step(y1, slope1, error, jnp.stack(k), jnp.array(True), jax.lax.stop_gradient(stiffness))


def _explicit_step_in_a_loop(
    tableau: Any, field: Field, s: tuple[Array, Array], y: Array, slope: Array, p: PyTree
) -> Step:
    h = s[1] - s[0]
    rows = [*tableau.a_lower] if tableau.fsal else [*tableau.a_lower, tableau.b_sol]
    c_of_stage = np.append(tableau.c, [] if tableau.fsal else [1.0])
    a = np.zeros((len(rows), len(rows) + 1))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row

    def stage(k: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        weights, c, i = row
        Y = y + weighted(weights, k)
        return k.at[i].set(h * field(jnp.where(c == 1, s[1], s[0] + c * h), Y, p)), Y

    k = jnp.zeros((len(rows) + 1, y.size), y.dtype).at[0].set(h * slope)
    stages = (
        jnp.asarray(a, y.dtype),
        jnp.asarray(c_of_stage, y.dtype),
        jnp.arange(1, len(rows) + 1),
    )
    k, Y = loops.scan(stage, k, stages)
    used = k[: tableau.num_stages]
    error = weighted(tableau.b_error, used)
    return Step(Y[-1], k[-1] / h, error, used, jnp.array(True), jnp.zeros((), y.dtype))


def weighted(weights: Array | np.ndarray, k: Array) -> Array:
    """The sum of w_i k_i, in the precision of k.

    Of the lower one that GPUs have for products little of an error would be left.
    """
    return jnp.tensordot(
        jnp.asarray(weights, k.dtype), k, axes=1, precision=jax.lax.Precision.HIGHEST
    )


def _combination(weights: np.ndarray, k: list[Array]) -> Array:
    """The sum of weighted slopes, without those of weight zero."""
    terms = [jnp.asarray(w, k[0].dtype) * k_i for w, k_i in zip(weights, k, strict=False) if w != 0]
    return sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(k[0])


# An implicit stage is the root Y of
#
#     M Y - c - h a F(s, Y, p) = 0,   c = M y + sum of earlier slopes,   a = a_ii
#     (M - h a F_y) dY = dc + h a F_p dp
#
# one linear solve, in every mode and order (the rule of `root`, whose factors a stage would not
# fill). Its slope is taken from the equation, h F = (M Y - c) / a, not from F itself, which would
# amplify what is left of the iteration by the stiffness.


# From so many states factors of the matrix of each stage take longer than refinements by those of
# the step.
MANY = 128


@dataclass(frozen=True)
class _StageDerivative:
    """dY of an implicit stage; `fixed` is (s, h a) and the factors of M - h a F_y at the start.

    The start is that of the step.
    """

    field: Field
    mass: MassMatrix | None

    def __call__(self, Y: Array, operands: PyTree, tangents: PyTree, fixed: PyTree) -> Array:
        s, ha, factors = fixed
        _, p = operands
        c_dot, p_dot = tangents
        _, F_p_dot = jax.jvp(lambda p: self.field(s, Y, p), (p,), (p_dot,))
        F_y = jax.jacfwd(lambda y: self.field(s, y, p))(Y)
        A = _matrix(self.mass, Y) - ha * F_y
        b = c_dot + ha * F_p_dot
        return jnp.linalg.solve(A, b) if Y.size < MANY else solve_by_nearby_factors(A, b, factors)


def _matrix(mass: MassMatrix | None, y: Array) -> Array:
    return jnp.eye(y.size, dtype=y.dtype) if mass is None else jnp.asarray(mass.array)


# The error of an implicit step is held to this share of the tolerance. In a fast transient the
# estimate is no larger than the error, as it is elsewhere, and a gradient errs ten times as much as
# the state: so it comes to about rtol.
SHARE_OF_TOLERANCE = 0.01


def _implicit_step(
    tableau: Any,
    field: Field,
    tolerances: Tolerances,
    s: tuple[Array, Array],
    y: Array,
    slope: Array,
    p: PyTree,
    mass: MassMatrix | None,
) -> Step:
    h = s[1] - s[0]
    count = tableau.num_stages
    dtype = y.dtype
    a = float(tableau.a_diagonal[-1])
    lower = np.zeros((count, count))
    predictor = np.zeros((count, count))
    for i, (row, guess) in enumerate(
        zip(tableau.a_lower, tableau.a_predictor, strict=True), start=1
    ):
        lower[i, :i], predictor[i, :i] = row, guess
    c_of_stage = np.concatenate([[tableau.c1], tableau.c])
    fixed_y, fixed_p = jax.lax.stop_gradient((y, p))
    F_y = jax.jacfwd(lambda y: field(s[0], y, fixed_p))(fixed_y)
    factors = jax.scipy.linalg.lu_factor(_matrix(mass, y) - h * a * F_y)

    def apply_mass(v: Array) -> Array:
        return v if mass is None else jnp.asarray(mass.array) @ v

    def stage(carry: PyTree, row: PyTree) -> tuple[PyTree, Array]:
        k, converged, i = carry
        weights, guess, c_i = row
        at = jnp.where(c_i == 1, s[1], s[0] + c_i * h)
        c = apply_mass(y) + weighted(weights, k)
        # With a mass matrix slopes are no rates of y, so the start is all there is to guess from.
        start = c + a * weighted(guess, k) if mass is None else y
        Y, is_root = _iterate(field, tolerances, factors, at, h * a, start, c, fixed_y, p, mass)
        Y = attach_derivative(_StageDerivative(field, mass), Y, (c, p), (at, h * a, factors))
        return (k.at[i].set((apply_mass(Y) - c) / a), converged & is_root, i + 1), Y

    k = jnp.zeros((count, y.size), dtype).at[0].set(h * slope)
    rows = (
        jnp.asarray(lower[1:], dtype),
        jnp.asarray(predictor[1:], dtype),
        jnp.asarray(c_of_stage[1:], dtype),
    )
    (k, converged, _), Y = loops.scan(stage, (k, jnp.array(True), 1), rows)
    # Not damped by the factors, as in codes that want few steps: the raw estimate errs on the safe
    # side.
    error = weighted(tableau.b_error, k) / SHARE_OF_TOLERANCE
    if mass is not None:
        # Slopes are no rates: the factors make them so (Hairer and Wanner, Solving ODEs II, IV.8,
        # eq. 8.20).
        error = jax.scipy.linalg.lu_solve(factors, error)
    y1 = Y[-1]
    slope1 = k[-1] / h
    if mass is not None:
        # The interpolant of an implicit method is made from the rates at both ends.
        rates = [mass.rate(field, *at, p) for at in ((s[0], y, slope), (s[1], y1, slope1))]
        k = h * jnp.stack(rates)
    return Step(y1, slope1, error, k, converged, jnp.zeros((), dtype))


# An iteration ends when what is left of it is this share of the tolerance, so that it stays out of
# the error of the step.
KAPPA = 1e-3
MOST_ITERATIONS = 10


def _iterate(
    field: Field,
    tolerances: Tolerances,
    factors: PyTree,
    s: Array,
    ha: Array,
    start: Array,
    c: Array,
    y: Array,
    p: PyTree,
    mass: MassMatrix | None,
) -> tuple[Array, Array]:
    """Y by simplified Newton steps with the factors of this step, and whether they converged."""
    start, c, p = jax.lax.stop_gradient((start, c, p))
    # In single precision the tolerance itself may be close to rounding.
    enough = max(KAPPA, 4 * float(jnp.finfo(y.dtype).eps) / tolerances.rtol)

    def proceed(carry: PyTree) -> Array:
        _, _, converged, diverged, count = carry
        return ~converged & ~diverged & (count < MOST_ITERATIONS)

    def improve(carry: PyTree) -> PyTree:
        Y, previous, _, _, count = carry
        residual = (Y if mass is None else jnp.asarray(mass.array) @ Y) - c - ha * field(s, Y, p)
        change = jax.scipy.linalg.lu_solve(factors, residual)
        size = tolerances.scaled(change, y, Y)
        rate = size / previous
        # The error left is at most rate / (1 - rate) of the last change; the first change has no
        # rate yet.
        left = jnp.where(count > 0, rate / (1 - rate), 1) * size
        # Where factors are far from normal a small change may well be followed by one that is
        # larger.
        diverged = ((count > 0) & (rate >= 1) & (size > 1)) | ~jnp.isfinite(size)
        # Changes at the level of rounding have no rate.
        converged = ((left < enough) & (rate < 1)) | (size < 1e-2 * enough)
        return Y - change, size, converged, diverged, count + 1

    infinite = jnp.asarray(jnp.inf, start.dtype)
    Y, _, converged, _, _ = loops.while_loop(
        proceed, improve, (start, infinite, jnp.array(False), jnp.array(False), 0)
    )
    return Y, converged
