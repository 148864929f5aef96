"""InterpolatingAdjoint, GaussAdjoint: the adjoint equation backwards, with its own error control.

They go back through the steps of the solve, and in each through as many steps of their own as its
interpolant needs; every sample is a stop, where the adjoint jumps.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from adjoint.ode.adjoint_steps import AdjointState, integrate_back
from adjoint.ode.checkpoints import Schedule, require_checkpoints, sweep_back
from adjoint.ode.error_estimate import weights_of
from adjoint.ode.integrate import Outcome, Record, integrate
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.quadrature import AdjointStep, gauss_kronrod, stage_quadrature
from adjoint.ode.runge_kutta import Tolerances
from adjoint.ode.step_adjoint import Cotangents, Gradient, pull_start
from adjoint.ode.vector_field import Parameters

# With u(s) the interpolant of the solve, lam' = dlam/ds and samples y_j = y(s_j) that have
# cotangents y_j_bar:
#
#     lam(1) = y1_bar,    lam' = -F_y(s, u)' lam,    lam(s_j - 0) = lam(s_j + 0) + y_j_bar
#     y0_bar = lam(0),    p_bar = integral of F_p(s, u)' lam ds,    s_j_bar = y_j_bar' F(s_j, y_j)
#
# (Cao, Li, Petzold and Serban, SIAM J. Sci. Comput. 24, 2003, eqs. 2.8 and 2.11.) Cotangents are
# scaled to 1, since the tolerances would mean nothing for a small one.


class ForwardStep(NamedTuple):
    """One step of the solve, along which the adjoint goes back."""

    ends: tuple[Array, Array]
    y0: Float[Array, " n"]
    y1: Float[Array, " n"]
    stages: Float[Array, "stages n"]
    p: Parameters


@dataclass(frozen=True)
class AdjointField:
    """lam' = -F_y(s, u)' lam, and what it takes to get the gradient by p, with u interpolated."""

    forward: Integrator

    def u(self, s: Array, along: ForwardStep) -> Float[Array, " n"]:
        return self.forward.method.interpolate(along.ends, along.y0, along.y1, along.stages, s)

    def __call__(self, s: Array, lam: Array, along: ForwardStep) -> Float[Array, " n"]:
        return self.with_parameters(s, lam, self.u(s, along), along)[0]

    def solution(self, s: Float[Array, " nodes"], along: ForwardStep) -> Float[Array, "nodes n"]:
        """u at all of s."""
        return jax.vmap(lambda s_i: self.u(s_i, along))(s)

    def with_parameters(
        self, s: Array, lam: Array, u: Array, along: ForwardStep
    ) -> tuple[Float[Array, " n"], list[Array]]:
        """lam' and F_p' lam."""
        s = held_between_jumps(self.forward, s, along.ends)
        _, u_bar, varying_bar = pull_field(self.forward, s, u, lam, along.p)
        return -u_bar, varying_bar

    def scales(self, largest: Array) -> Float[Array, " n"]:
        """What the absolute tolerance of lam is in units of."""
        return largest

    def weighted(self, lam: Array) -> Float[Array, " n"]:
        """w lam."""
        return weights_of(lam) * lam

    def jump(
        self, s: Array, ds: Array, lam: Array, bar: Array, along: ForwardStep
    ) -> tuple[Array, list[Array]]:
        """lam and p's gradient after the cotangent of a sample at s + ds.

        ds is 0 but for its derivative.
        """
        lam_bar, varying_bar = moved(self.forward, s, ds, self.u(s, along), bar, along.p)
        return lam + lam_bar, varying_bar


def held_between_jumps(forward: Integrator, s: Array, ends: tuple[Array, Array]) -> Array:
    """s within a step, whose neighbours may lie beyond a jump.

    Implicit methods have stages outside of their step.
    """
    if forward.limits is None or forward.limits.jumps == 0:
        return s
    return jnp.clip(s, *ends)


def pull_field(
    forward: Integrator, s: Array, u: Array, lam: Array, p: Parameters
) -> tuple[Array, Array, list[Array]]:
    """F(s, u, p), F_y' lam and F_p' lam."""

    def F(u: Array, varying: list[Array]) -> Array:
        return forward.field(s, u, Parameters(varying, p.constant))

    rate, adjoint = jax.vjp(F, u, p.varying)
    return rate, *adjoint(lam)


def moved(
    forward: Integrator, s: Array, ds: Array, u: Array, bar: Array, p: Parameters
) -> tuple[Array, list[Array]]:
    """The cotangent of y(s + ds) as one of y(s) and p, to first order in ds."""
    _, u_bar, varying_bar = pull_field(forward, s, u, bar, p)
    return bar + ds * u_bar, [ds.astype(v.dtype) * v for v in varying_bar]


@dataclass(frozen=True)
class _ContinuousAdjoint:
    rtol: float | None = None
    atol: float | None = None
    checkpoints: int | None = None

    def __post_init__(self) -> None:
        require_checkpoints(type(self).__name__, self.checkpoints)

    def rule(self, *arguments: Any) -> AdjointStep:
        """A step of the adjoint, with the gradient by p integrated over it."""
        return stage_quadrature(*arguments)

    def forward(
        self, integrator: Integrator, y0: Array, p: Parameters, s: Array
    ) -> tuple[tuple[Array, Array, Outcome], tuple[Record, Array]]:
        """The solve, and what its gradient needs of it."""
        schedule = self._schedule(integrator, y0)
        y1, samples, record, outcome = integrate(integrator, y0, p, s, schedule.spacing)
        assert record is not None
        return (y1, samples, outcome), (record, samples)

    def backward(
        self,
        integrator: Integrator,
        memory: tuple[Record, Array],
        y0: Array,
        p: Parameters,
        s: Array,
        bars: Cotangents,
    ) -> Gradient:
        """The gradient from the cotangents of what the solve returned."""
        record, samples = memory
        scale = scale_of(bars)
        unit = Cotangents(bars.y1 / scale, bars.samples / scale)
        tolerances = own_tolerances(integrator, self.rtol, self.atol)
        backward = backward_integrator(integrator, AdjointField(integrator), tolerances)

        def advance(k: Array, state: State) -> State:
            step = integrator.step((record.grid[k], record.grid[k + 1]), state, p)
            return State(step.y, step.slope)

        def pull(k: Array, state: State, sweep: AdjointState) -> AdjointState:
            ends = integrator.after_jump((record.grid[k], record.grid[k + 1]), p)
            step = integrator.step((record.grid[k], ends[1]), state, p)
            along = ForwardStep(ends, state.y, step.y, step.stages, p)
            return integrate_back(backward, self.rule, along, s, unit, sweep)

        zeros = [jnp.zeros_like(v) for v in p.varying]
        whole = jnp.ones((), y0.dtype)
        sweep = AdjointState(
            unit.y1, jnp.abs(unit.y1), no_rates(p), zeros, jnp.asarray(s.size - 1), whole
        )
        sweep = sweep_back(
            self._schedule(integrator, y0), advance, pull, record.states, record.count, sweep
        )
        return assemble(integrator, scale, sweep.lam, sweep.varying, samples, y0, p, s, bars)

    def _schedule(self, integrator: Integrator, y0: Array) -> Schedule:
        return Schedule.of(self.checkpoints, integrator.most_steps, 2 * y0.size * y0.dtype.itemsize)


def backward_integrator(forward: Integrator, field: Any, tolerances: Tolerances) -> Integrator:
    """How the adjoint is integrated: within each step of the solve, without limits of its own."""
    return replace(forward, field=field, tolerances=tolerances, steps=None, limits=None)


def assemble(
    integrator: Integrator,
    scale: Array,
    lam: Array,
    varying: list[Array],
    samples: Array,
    y0: Array,
    p: Parameters,
    s: Array,
    bars: Cotangents,
) -> Gradient:
    """The gradient from the scaled adjoint at s = 0, also by all sample points.

    The samples at s = 0 are in it.
    """
    first = pull_start(integrator, y0, p, s, bars)
    inside = jnp.where((s <= 0)[:, None], 0, bars.samples)
    rates = jax.vmap(lambda s, y: integrator.field(s, y, p))(s, samples) if s.size else samples
    return Gradient(
        scale * lam + first.y0,
        [
            scale.astype(total.dtype) * total + new
            for total, new in zip(varying, first.varying, strict=True)
        ],
        jnp.sum(inside * rates, axis=1) + first.s,
    )


def own_tolerances(integrator: Integrator, rtol: float | None, atol: float | None) -> Tolerances:
    """The tolerances of the adjoint: those of the solve, where none are given."""
    forward = integrator.tolerances
    return Tolerances(
        forward.rtol if rtol is None else rtol, forward.atol if atol is None else atol
    )


def no_rates(p: Parameters) -> list[Float[Array, ""]]:
    """The largest of none, for each array of p."""
    return [jnp.zeros((), jnp.finfo(v.dtype).dtype) for v in p.varying]


def scale_of(bars: Cotangents) -> Float[Array, ""]:
    """The largest cotangent."""
    scale = jnp.maximum(jnp.max(jnp.abs(bars.y1)), jnp.max(jnp.abs(bars.samples), initial=0))
    return jax.lax.stop_gradient(jnp.where(scale > 0, scale, 1))


@dataclass(frozen=True)
class InterpolatingAdjoint(_ContinuousAdjoint):
    """The adjoint lam' = -f_y' lam on the interpolated solution, p's gradient as further states.

    Parameters
    ----------
    rtol, atol
        Tolerances of the adjoint, `atol` in units of the largest that each of its components has
        been; None: those of the solve.
    checkpoints
        How many states of the solve may be stored at once, as for `DiscreteAdjoint`.

    Notes
    -----
    **Cost**: value and gradient in 4 to 12 times the solve, more with many samples, each of which
    is a stop; the memory of the checkpoints, and of a few gradients by p. An implicit solver takes
    the backward problem, which is linear, implicitly too; its stages may lie a little beyond t0, as
    those of the solve beyond t1.

    The gradient of the *solution*, right also where an explicit solver is at its stability limit,
    to about its tolerances; not the exact gradient of the steps. Where the adjoint runs out of
    steps the gradient is NaN.

    Source: Y. Cao, S. Li, L. Petzold, R. Serban, SIAM J. Sci. Comput. 24, 2003, eqs. 2.8 and 2.11.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> decay = lambda t, y, p: -p * y
    >>> g = lambda p: (
    ...     adjoint.ode_solve(
    ...         decay, jnp.array(1.0), p, 0.0, 1.0, sensitivity=adjoint.InterpolatingAdjoint()
    ...     ).value
    ... )
    >>> round(float(jax.grad(g)(jnp.array(2.0))), 4)  # -exp(-2)
    -0.1353
    """


@dataclass(frozen=True)
class GaussAdjoint(_ContinuousAdjoint):
    """The adjoint lam' = -f_y' lam on the interpolated solution, p's gradient by Gauss-Kronrod.

    Parameters
    ----------
    rtol, atol
        Tolerances of the adjoint, `atol` in units of the largest that each of its components has
        been; None: those of the solve.
    checkpoints
        How many states of the solve may be stored at once, as for `DiscreteAdjoint`.

    Notes
    -----
    **Cost**: value and gradient in 5 to 14 times the solve, more with many samples, each of which
    is a stop; much more where the interpolant of a stiff step is poor: there `InterpolatingAdjoint`
    is the faster one. The quadrature of F_p' lam takes 7 nodes of each step, and its difference to
    the quadrature at the stages is kept below the tolerance. The memory of the checkpoints, and of
    a few gradients by p.

    The gradient of the *solution* to about its tolerances, as of `InterpolatingAdjoint`.

    Source: A. Kronrod, Nodes and Weights of Quadrature Formulas, 1965; R. Serban, A. Hindmarsh,
    CVODES, ASME IDETC 2005, section 2, for the quadrature apart from the adjoint states.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> decay = lambda t, y, p: -p * y
    >>> g = lambda p: (
    ...     adjoint.ode_solve(
    ...         decay, jnp.array(1.0), p, 0.0, 1.0, sensitivity=adjoint.GaussAdjoint()
    ...     ).value
    ... )
    >>> round(float(jax.grad(g)(jnp.array(2.0))), 4)  # -exp(-2)
    -0.1353
    """

    def rule(self, *arguments: Any) -> AdjointStep:
        """A step of the adjoint, with the gradient by p integrated over it."""
        return gauss_kronrod(*arguments)
