"""Which sensitivity to take when the user names none.

It goes by sizes when tracing, and by the stability of the steps when running.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from adjoint.ode.continuous import InterpolatingAdjoint
from adjoint.ode.discrete import Cotangents, DiscreteAdjoint, Gradient
from adjoint.ode.forward import ForwardSensitivity
from adjoint.ode.integrate import Outcome
from adjoint.ode.integrator import Integrator
from adjoint.ode.sensitivity import Sensitivity
from adjoint.ode.vector_field import Parameters
from adjoint.tracing import loops

# Up to so many numbers in y0 and p together all tangents at once cost less than a run back.
FEW = 16
# From so many parameters per state the continuous adjoint costs less than the transposes of
# implicit stages.
MANY_PER_STATE = 10
MANY = 100
# The share of steps at the stability limit from which the steps no longer stand for the solution.
SHARE_AT_LIMIT = 0.1


@dataclass(frozen=True)
class AutomaticSensitivity:
    """A sensitivity, why it was chosen, and the continuous adjoint for the stability limit."""

    sensitivity: Sensitivity
    why: str

    def may_change(self, integrator: Integrator) -> bool:
        """Whether the continuous adjoint takes over when steps are at the stability limit."""
        return isinstance(self.sensitivity, DiscreteAdjoint) and detects_stability_limit(integrator)

    def forward(
        self, integrator: Integrator, y0: Array, p: Parameters, s: Array
    ) -> tuple[tuple[Array, Array, Outcome], PyTree]:
        """The solve, and what its gradient needs of it."""
        value, memory = self.sensitivity.forward(integrator, y0, p, s)
        _, samples, outcome = value
        return value, (memory, samples, at_stability_limit(outcome))

    def backward(
        self,
        integrator: Integrator,
        memory: PyTree,
        y0: Array,
        p: Parameters,
        s: Array,
        bars: Cotangents,
    ) -> Gradient:
        """The gradient from the cotangents of what the solve returned."""
        memory, samples, is_at_limit = memory

        def as_chosen(bars: Cotangents) -> Gradient:
            return self.sensitivity.backward(integrator, memory, y0, p, s, bars)

        def continuous(bars: Cotangents) -> Gradient:
            # Both go back through the same record.
            return InterpolatingAdjoint().backward(integrator, (memory, samples), y0, p, s, bars)

        if not self.may_change(integrator):
            return as_chosen(bars)
        return loops.cond(is_at_limit, continuous, as_chosen, bars)


def at_stability_limit(outcome: Outcome) -> Array:
    """Whether the size of the steps was set by the stability of an explicit method."""
    return outcome.stiff > SHARE_AT_LIMIT * jnp.maximum(outcome.accepted, 1)


def detects_stability_limit(integrator: Integrator) -> bool:
    """Whether steps can be at the stability limit, and show it."""
    c = integrator.method.tableau.c
    return (
        not integrator.method.is_implicit
        and integrator.steps is None
        and len(c) > 1
        and bool(c[-1] == c[-2])
    )


def choose(integrator: Integrator, y0: Array, p: Parameters, samples: int) -> AutomaticSensitivity:
    """The sensitivity for these sizes."""
    if integrator.mass is not None:
        return AutomaticSensitivity(DiscreteAdjoint(), "there is a mass matrix")
    n = y0.size
    n_p = sum(leaf.size for leaf in p.varying)
    if n + n_p <= FEW:
        return AutomaticSensitivity(
            ForwardSensitivity(), f"{n} states and {n_p} parameters are few"
        )
    if integrator.method.is_implicit and n_p > max(MANY_PER_STATE * n, MANY) and samples <= 1:
        return AutomaticSensitivity(
            InterpolatingAdjoint(), f"a stiff solver and {n_p} parameters for {n} states"
        )
    return AutomaticSensitivity(
        DiscreteAdjoint(), f"{n_p} parameters for {n} states and {samples} samples"
    )
