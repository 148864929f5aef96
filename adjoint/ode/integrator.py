"""How steps are made: one step of a method, its restart at a jump, and how samples move."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.ode.jumps import Limits
from adjoint.ode.mass_matrix import MassMatrix
from adjoint.ode.runge_kutta import RungeKutta, Step, Tolerances
from adjoint.ode.vector_field import Parameters
from adjoint.tracing import loops
from adjoint.tracing.rule import attach_derivative


@dataclass(frozen=True)
class Integrator:
    """How dy/ds = F(s, y, p) is integrated; `steps` makes that many equal ones, uncontrolled."""

    field: Any
    method: RungeKutta
    tolerances: Tolerances
    max_steps: int
    steps: int | None = None
    mass: MassMatrix | None = None
    limits: Limits | None = None

    @property
    def most_steps(self) -> int:
        return self.max_steps if self.steps is None else self.steps

    def rate(self, s: Array, y: Array, p: Parameters) -> Float[Array, " n"]:
        """dy/ds at a point of the solution."""
        slope = self.field(s, y, p)
        return slope if self.mass is None else self.mass.rate(self.field, s, y, slope, p)

    def at_start(self, y0: Array, s: Array, p: Parameters) -> Float[Array, " n"]:
        """y0, with the solution's first and second derivatives at s.

        s is 0: this is how a sample at the start moves.
        """
        return attach_derivative(_AtStart(self), y0, (y0, p, s), None)

    def constants(self, p: PyTree) -> list[Array]:
        """What has no derivative among the parameters."""
        return p.constant

    def after_jump(self, s: tuple[Array, Array], p: PyTree) -> tuple[Array, Array]:
        """The ends of a step, moved to the right of a jump at its start."""
        if self.limits is None or self.limits.jumps == 0:
            return s
        start, _ = self.limits.start(s[0], self.constants(p))
        return start, s[1]

    def restarted(
        self, s: tuple[Array, Array], state: "State", p: PyTree
    ) -> tuple[tuple[Array, Array], "State"]:
        """The ends of a step and its start, with the slope to the right of a jump at its start."""
        if self.limits is None or self.limits.jumps == 0:
            return s, state
        start, is_jump = self.limits.start(s[0], self.constants(p))

        def slope_after(state: State) -> Array:
            return self.field(start, state.y, p)

        slope = loops.cond(is_jump, slope_after, lambda state: state.slope, state)
        return (start, s[1]), State(state.y, slope)

    def up_to_jump(self, s: tuple[Array, Array], p: PyTree) -> tuple[Any, Any]:
        """The field, and parameters, that stages beyond the step see up to the next jump only."""
        if self.limits is None or self.limits.jumps == 0 or not self.method.is_implicit:
            return self.field, p
        return _UpTo(self.field), (p, self.limits.stop(s[0], self.constants(p)))

    def step(self, s: tuple[Array, Array], state: "State", p: PyTree) -> Step:
        """From s[0] to s[1], without derivatives with respect to s."""
        s, state = self.restarted(s, state, p)
        field, p = self.up_to_jump(s, p)
        return self.method.step(field, self.tolerances, s, state.y, state.slope, p, self.mass)

    def step_with_moving_ends(self, s: tuple[Array, Array], state: "State", p: PyTree) -> Step:
        """The same step, with derivatives by s; the slope that it leaves is h times F."""
        s, state = self.restarted(s, state, p)
        field, p = self.up_to_jump(s, p)
        h = s[1] - s[0]
        of_unit_length = (jnp.zeros_like(s[0]), jnp.ones_like(s[0]))
        stretched = replace(self, field=_Stretched(field), limits=None)
        operands = (p, s[0], h)
        return stretched.step(of_unit_length, State(state.y, h * state.slope), operands)

    def step_to_transpose(self, s: tuple[Array, Array], state: "State", p: Parameters) -> Step:
        """The same step in the form whose transpose is fast.

        Mostly it is a loop over the stages, with one copy of the field. Of six copies in a row,
        transposed, XLA makes kernels that compute the same parts several times: differences on a
        grid take two to three times as long. Matrix products it never computes twice, and a loop
        would only have to store more of them.
        """
        if self.method.is_implicit or "dot_general" in str(
            jax.make_jaxpr(lambda y: self.field(s[0], y, p))(state.y)
        ):
            return self.step(s, state, p)
        s, state = self.restarted(s, state, p)
        return self.method.step_in_a_loop(self.field, s, state.y, state.slope, p)

    def sample(
        self,
        s: tuple[Array, Array],
        state: "State",
        y1: Array,
        stages: Array,
        at: Array,
        p: Parameters,
    ) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
        """The state inside a step, and whether it could be found.

        Implicit methods of order 5 come with cubics, whose error is a hundred times that of the
        step: they make a shorter step.
        """
        if not self.method.is_implicit:
            return self.method.interpolate(s, state.y, y1, stages, at), jnp.array(True)
        step = self.step_with_moving_ends((s[0], at), state, p)
        return step.y, step.converged


@dataclass(frozen=True)
class _UpTo:
    """F, held in time beyond a jump: implicit methods have stages beyond the end of their step."""

    field: Any

    def __call__(self, s: Array, y: Array, operands: PyTree) -> Float[Array, " n"]:
        p, stop = operands
        return self.field(jnp.minimum(s, stop), y, p)


@dataclass(frozen=True)
class _Stretched:
    """h F(s0 + sigma h, y, p), the slope in sigma.

    Of a step of length 1 in it the true length h is a parameter.
    """

    field: Any

    def __call__(self, sigma: Array, y: Array, operands: PyTree) -> Float[Array, " n"]:
        p, s0, h = operands
        return h * self.field(s0 + sigma * h, y, p)


# Of the solution y(s) from y(0) = y0 near s = 0, where F stands for the rate, to first order in s:
#
#     dy = dy0 + s (F_y dy0 + F_p dp) + F(s, y) ds
#
# An expansion of y itself to second order would need F_s, which at the start may be infinite, as
# that of sqrt(s) is.


@dataclass(frozen=True)
class _AtStart:
    """dy."""

    integrator: Integrator

    def __call__(self, y: Array, operands: PyTree, tangents: PyTree, _: None) -> Array:
        _, p, s = operands
        y0_dot, p_dot, s_dot = tangents
        slope, slope_dot = jax.jvp(
            lambda y, p: self.integrator.rate(s, y, p), (y, p), (y0_dot, p_dot)
        )
        return y0_dot + s * slope_dot + s_dot * slope


class State(NamedTuple):
    """What a step starts from: y and its slope F(s, y, p)."""

    y: Float[Array, " n"]
    slope: Float[Array, " n"]
