"""Steps whose error test covers tangents of the solution beside the solution itself.

    v' = F_y v + F_p w,      v(0) = w_y,      for each direction (w_y, w) of (y0, p)

Steps that suit y alone may be far too long for v: y at rest, or at zero, limits no step. The
tangent is the one of the *step*, by linearization, and its error the tangent of the embedded error;
implicit stages cost one linear solve for each direction. A product of many columns S = dy/d(y0, p)
with one vector w of independent random numbers, of mean 0 and variance 1, has E|S w|^2 = |S|_F^2,
so that one direction controls all columns (Halko, Martinsson and Tropp, SIAM Rev. 53, 2011, section
4.3).

Tolerance of v_i, where V_i is the largest |v_i| so far, or the share FLOOR of what v_i would gain
on the whole interval at its rate, as where it begins to grow it has no size yet:

    slack rtol (|v_i| + LEAST V_i) + ROUNDING eps max over i (|y_i|, V_i)

It has no unit: neither that of y nor that of p. CVODES takes atol + rtol |v_i| (Hindmarsh and
Serban, User Documentation for CVODES, section 2.6), which sees nothing where v is below atol.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from adjoint.ode.integrate import Outcome, Record, integrate
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.runge_kutta import Step, Tolerances
from adjoint.ode.vector_field import Parameters

# The share of its largest size so far below which a component of v has no digits of its own: atol /
# rtol of the defaults.
FLOOR = 1e-3
# Derivatives that are wrong by no more than so many rtol are as right as asked for. Where all is
# well the estimate of `error_estimate.py` is 4 to 110 rtol, from rtol 1e-4 to 1e-8, and 0.04 to 26
# times the true error; of what rests it is 3000 rtol and more (`benchmarks.ode.estimate`). Where
# steps are so long that f is not seen between their stages it can be 0.0004 of the error, so that
# no more than this is accepted.
ENOUGH = 100.0
# What the tolerance of a derivative that has decayed, or passes zero, is a share of: less would
# cost more steps where nothing is wrong.
LEAST = 1e-2
# Where all columns of S are in the error test, a step may make each wrong by so many rtol, in
# units of rtol. The steps are then 1 to 1.3 times those that y takes (`benchmarks.ode`: Robertson
# 1.0, Lotka-Volterra 1.1, the double pendulum 1.3).
ENOUGH_OF_STEP = 10.0
# Where f jumps or has a kink inside a step, the embedded error of Tsit5 is a tenth of the error, or
# less (that of a kink, by its tableau): what suits tangents is to be finer by as much. In rtol.
UNSEEN = 0.1
# In units of rounding: the tangent of an embedded error is a difference of stages, whose rounding
# the weights do not cancel.
ROUNDING = 100.0


class Directions(NamedTuple):
    """Parameters, and one direction of them for each tangent."""

    p: Parameters
    varying_dot: list[Array]


class _Rows(NamedTuple):
    """A flat vector of the integrator by parts: y, k tangents, and their k largest sizes."""

    y: Float[Array, " n"]
    v: Float[Array, "k n"]
    peak: Float[Array, "k n"]

    @classmethod
    def of(cls, flat: Array, n: int) -> "_Rows":
        rows = flat.reshape(-1, n)
        k = (rows.shape[0] - 1) // 2
        return cls(rows[0], rows[1 : 1 + k], rows[1 + k :])

    def flat(self) -> Float[Array, " (2*k+1)*n"]:
        return jnp.concatenate([self.y[None], self.v, self.peak]).ravel()


@dataclass(frozen=True)
class TangentTolerances(Tolerances):
    """The error of y, or a tangent's if larger, of which `slack` times as much is allowed."""

    n: int
    share: float
    slack: float

    def scaled(self, error: Array, *ys: Array) -> Float[Array, ""]:
        e = _Rows.of(error, self.n)
        rows = [_Rows.of(y, self.n) for y in ys]
        of_y = Tolerances(self.rtol, self.atol).scaled(e.y, *(row.y for row in rows))
        size = jnp.max(jnp.stack([jnp.abs(row.v) for row in rows]), axis=0)
        peak = jnp.max(jnp.stack([size, *(row.peak for row in rows)]), axis=0)
        precision = jnp.finfo(error.dtype)
        # A direction is as large as the numbers themselves, so that what is less than the rounding
        # of y is noise.
        largest_y = jnp.max(jnp.abs(jnp.stack([row.y for row in rows])))
        noisy = jnp.maximum(jnp.max(peak, axis=1, keepdims=True), largest_y)
        rounding = ROUNDING / self.share * precision.eps * noisy
        allowed = self.slack * self.rtol * (size + LEAST * peak) + rounding + precision.tiny**0.5
        return jnp.maximum(of_y, jnp.max(jnp.sqrt(jnp.mean((e.v / allowed) ** 2, axis=1))))


@dataclass(frozen=True)
class _TangentField:
    """The slopes of all rows, that of a largest size being zero."""

    field: Any
    n: int

    def __call__(self, s: Array, flat: Array, directions: Directions) -> Float[Array, " rows*n"]:
        rows = _Rows.of(flat, self.n)
        p = directions.p

        def slope_along(v: Array, varying_dot: list[Array]) -> tuple[Array, Array]:
            def slope(y: Array, varying: list[Array]) -> Array:
                return self.field(s, y, Parameters(varying, p.constant))

            return jax.jvp(slope, (rows.y, p.varying), (v, varying_dot))

        slope, v_slope = jax.vmap(slope_along, out_axes=(None, 0))(rows.v, directions.varying_dot)
        return _Rows(slope, v_slope, jnp.zeros_like(rows.peak)).flat()


@dataclass(frozen=True)
class TangentIntegrator(Integrator):
    """The steps of `base` with their tangents, as rows of one flat vector."""

    base: Any = None
    n: int = 0

    @classmethod
    def of(cls, base: Integrator, n: int, slack: float = 1.0) -> "TangentIntegrator":
        tolerances = base.tolerances
        return cls(
            field=_TangentField(base.field, n),
            method=base.method,
            tolerances=TangentTolerances(
                tolerances.rtol, tolerances.atol, n, base.method.error_share, slack
            ),
            max_steps=base.max_steps,
            steps=base.steps,
            mass=base.mass,
            limits=base.limits,
            base=base,
            n=n,
        )

    def constants(self, p: PyTree) -> list[Array]:
        """What has no derivative among the parameters."""
        return p.p.constant

    def step(self, s: tuple[Array, Array], state: State, p: PyTree) -> Step:
        """The step of y, and its tangents."""
        y = _Rows.of(state.y, self.n)
        slope = _Rows.of(state.slope, self.n)

        def of_base(y: Array, slope: Array, varying: list[Array]) -> PyTree:
            step = self.base.step(s, State(y, slope), Parameters(varying, p.p.constant))
            return (step.y, step.slope, step.error, step.stages), step

        def along(v: Array, v_slope: Array, varying_dot: list[Array]) -> PyTree:
            primals = (y.y, slope.y, p.p.varying)
            dots = (v, v_slope, varying_dot)
            _, dot, step = jax.jvp(of_base, primals, dots, has_aux=True)
            return step, dot

        step, dots = jax.vmap(along, out_axes=(None, 0))(y.v, slope.v, p.varying_dot)
        v, v_slope, v_error, v_stages = dots
        none = jnp.zeros_like(y.peak)
        # s goes from 0 to 1, so that a rate is what would be gained.
        size = jnp.maximum(jnp.abs(v), FLOOR * jnp.abs(v_slope))
        peak = jnp.maximum(y.peak, jax.lax.stop_gradient(size))

        def rows_of_stage(stage: Array, v_stage: Array) -> Array:
            return _Rows(stage, v_stage, none).flat()

        return Step(
            _Rows(step.y, v, peak).flat(),
            _Rows(step.slope, v_slope, none).flat(),
            _Rows(step.error, v_error, none).flat(),
            jax.vmap(rows_of_stage, in_axes=(0, 1))(step.stages, v_stages),
            step.converged,
            step.stiffness,
        )

    def sample(
        self, s: tuple[Array, Array], state: State, y1: Array, stages: Array, at: Array, p: PyTree
    ) -> tuple[Array, Array]:
        """The sample of y, and its tangents."""
        y, slope, end = (_Rows.of(flat, self.n) for flat in (state.y, state.slope, y1))
        rows = jax.vmap(lambda flat: _Rows.of(flat, self.n))(stages)

        def of_base(
            y: Array, slope: Array, y1: Array, stages: Array, varying: list[Array]
        ) -> PyTree:
            here = Parameters(varying, p.p.constant)
            return self.base.sample(s, State(y, slope), y1, stages, at, here)

        def along(
            v: Array, v_slope: Array, v1: Array, v_stages: Array, varying_dot: list[Array]
        ) -> PyTree:
            primals = (y.y, slope.y, end.y, rows.y, p.p.varying)
            return jax.jvp(of_base, primals, (v, v_slope, v1, v_stages, varying_dot), has_aux=True)

        axes = (0, 0, 0, 1, 0)
        out_axes = (None, 0, None)
        sample, v, found = jax.vmap(along, axes, out_axes)(
            y.v, slope.v, end.v, rows.v, p.varying_dot
        )
        return _Rows(sample, v, jnp.zeros_like(v)).flat(), found

    def at_start(self, y0: Array, s: Array, p: PyTree) -> Array:
        """The sample of y at the start, and its tangents."""
        rows = _Rows.of(y0, self.n)

        def of_base(y: Array, varying: list[Array]) -> Array:
            return self.base.at_start(y, s, Parameters(varying, p.p.constant))

        def along(v: Array, varying_dot: list[Array]) -> PyTree:
            return jax.jvp(of_base, (rows.y, p.p.varying), (v, varying_dot))

        sample, v = jax.vmap(along, out_axes=(None, 0))(rows.v, p.varying_dot)
        return _Rows(sample, v, rows.peak).flat()


def unit_of(numbers: Array) -> Array:
    """The size of each number, and 1 where it is zero or infinite, which has none."""
    has_none = (numbers == 0) | ~jnp.isfinite(numbers)
    return jax.lax.stop_gradient(jnp.where(has_none, 1, jnp.abs(numbers)))


def integrate_with_tangents(
    integrator: Integrator,
    y0: Array,
    p: Parameters,
    directions: Any,
    s: Array,
    spacing: int | None = None,
    slack: float = 1.0,
) -> tuple[_Rows, _Rows, Record | None, Outcome]:
    """As `integrate`, with the tangents along `directions` in the error test.

    These are (k of y0, k of p.varying), and may be wrong by `slack` rtol. The states of the record
    are flat rows.
    """
    y0_dot, varying_dot = directions
    n = y0.size
    start = _Rows(y0, y0_dot, jax.lax.stop_gradient(jnp.abs(y0_dot))).flat()
    joint = TangentIntegrator.of(integrator, n, slack)
    # To `integrate` they are what the field of the joint problem takes.
    operands: PyTree = Directions(p, varying_dot)
    end, samples, record, outcome = integrate(joint, start, operands, s, spacing)
    return _Rows.of(end, n), jax.vmap(lambda flat: _Rows.of(flat, n))(samples), record, outcome


def random_directions(y0: Array, varying: list[Array], count: int) -> tuple[Array, list[Array]]:
    """Random directions in the units of the numbers: the same ones in every element of a batch."""
    flat, unravel = ravel_pytree((y0, varying))
    numbers = random_numbers(jax.random.key(18063), (count, flat.size), flat.dtype)
    return jax.vmap(unravel)(numbers * unit_of(flat)[None])


def random_numbers(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Numbers of mean 0 and variance 1, of either sign and of sizes within a factor of 3.

    Signs alone would not do: the line through three of them that are equal has no kink, where those
    of other directions have.
    """
    of_sign, of_size = jax.random.split(key)
    sizes = jax.random.uniform(of_size, shape, dtype, 0.5, 1.5) * (12 / 13) ** 0.5
    return jax.random.rademacher(of_sign, shape, dtype) * sizes


class _ByLoops(Integrator):
    """The same steps with one copy of the field: quick to compile, for what is rarely run."""

    @classmethod
    def of(cls, integrator: Integrator) -> "_ByLoops":
        return cls(**{field.name: getattr(integrator, field.name) for field in fields(Integrator)})

    def step(self, s: tuple[Array, Array], state: State, p: PyTree) -> Step:
        if self.method.is_implicit:
            return super().step(s, state, p)
        s, state = self.restarted(s, state, p)
        return self.method.step_in_a_loop(self.field, s, state.y, state.slope, p)


class Grid(NamedTuple):
    """The ends of `count` steps, and whether they reach s = 1."""

    s: Float[Array, " most_steps+1"]
    count: Int[Array, ""]
    is_whole: Array


def grid_for_tangents(integrator: Integrator, y0: Array, p: Parameters) -> Grid:
    """The steps that suit two random tangents too, one by y0 and one by p.

    A sum of both would let the larger one hide the other.
    """
    y0, p = jax.lax.stop_gradient((y0, p))
    y0_dot, varying_dot = random_directions(y0, p.varying, 1)
    by_y0 = jnp.array([1.0, 0.0])
    by_p = jnp.array([0.0, 1.0])

    def along(dot: Array, share: Array) -> Array:
        return dot * share.reshape(2, *[1] * (dot.ndim - 1)).astype(dot.dtype)

    directions = along(y0_dot, by_y0), [along(dot, by_p) for dot in varying_dot]
    none = jnp.zeros(0, y0.dtype)
    # Of the states only the first is kept: the steps are all that is wanted.
    loops = _ByLoops.of(integrator)
    spacing = integrator.most_steps
    _, _, record, outcome = integrate_with_tangents(
        loops, y0, p, directions, none, spacing, slack=UNSEEN
    )
    assert record is not None
    return Grid(record.grid, record.count, outcome.code == 0)
