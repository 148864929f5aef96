"""What is known of an iterate of a run, for the conditions of `stopping`."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize import lagrangian, stopping
from adjoint.optimize.agreement import is_constrained
from adjoint.optimize.problem import Domain
from adjoint.optimize.run import Run
from adjoint.optimize.stopping import Evidence


def reference(run: Run, domain: Domain) -> Float[Array, ""]:
    """What rtol is a share of: the slope at the start, or the forces of constraints balancing f'.

    Both in the sizes of today. A start may be a minimum of f where it is not yet within the
    constraints.
    """
    first = domain.in_sizes(run.reach).dual_norm(run.first_measure.derivative)
    return jnp.maximum(first, run.scaled.scale)


def infeasible_stationary(run: Run, domain: Domain) -> Bool[Array, ""]:
    """Whether no small change of x makes the violation smaller.

    Without that evidence a run outside of the constraints goes on.
    """
    if not is_constrained(run):
        return jnp.zeros((), bool)
    sizes = domain.in_sizes(run.reach)
    return lagrangian.infeasible_stationary(
        run.state.at.x, run.state.constraints, run.state.multipliers, sizes
    )


def at_floor(run: Run, domain: Domain, curvature: Any = jnp.inf) -> Bool[Array, ""]:
    """Whether steps that gain nothing tell that nothing can be seen to gain.

    They must be within the constraints, and the slope no more than noise can hide, whatever was
    gained on the way: methods for constraints may as well turn in circles.
    """
    known = of_run(run, domain)
    known = known._replace(recent=jnp.minimum(known.recent, curvature))
    return stopping.hides_slope(known, knows_curvature(run.state))


def of_run(run: Run, domain: Domain) -> Evidence:
    """What is known of the iterate, in units of f."""
    value = run.state.at.value
    slopes = jnp.abs(run.scaled.derivative)
    state = run.state
    infinite = jnp.full_like(value, jnp.inf)
    return Evidence(
        value=value,
        rounding=domain.rounding(value),
        total=jnp.abs(run.first_measure.merit - run.measure.merit),
        recent=jnp.abs(run.value_at_size - value),
        slope=jnp.max(slopes * run.reach, initial=0.0),
        slope_here=jnp.max(slopes * jnp.abs(state.at.x), initial=0.0),
        predicted=getattr(state, "predicted_decrease", infinite),
        newton_share=getattr(state, "newton_share", infinite),
        faded=run.faded,
    )


def knows_curvature(state: Any) -> bool:
    """Whether a method of second derivatives predicts gains."""
    return hasattr(state, "predicted_decrease")


def prediction_known(state: Any) -> Bool[Array, ""]:
    """Whether a method of second derivatives knows what they predict here, and it is finite."""
    return (
        jnp.isfinite(state.predicted_decrease)
        if hasattr(state, "predicted_decrease")
        else jnp.ones((), bool)
    )
