"""What is known of an iterate of a run, for the conditions of `stopping`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize import lagrangian, stopping
from adjoint.optimize.problem import Domain
from adjoint.optimize.run import Run
from adjoint.optimize.state import State
from adjoint.optimize.stopping import Evidence
from adjoint.optimize.trust_region import unknown


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
    if run.state.multipliers is None:
        return jnp.zeros((), bool)
    sizes = domain.in_sizes(run.reach)
    return lagrangian.infeasible_stationary(run.state.at.x, run.state.multipliers, sizes)


def at_floor(
    run: Run, domain: Domain, curvature: Float[Array, ""] | float = jnp.inf
) -> Bool[Array, ""]:
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
    prediction = state.prediction or unknown(value.dtype)
    return Evidence(
        value=value,
        rounding=domain.rounding(value),
        total=jnp.abs(run.first_measure.merit - run.measure.merit),
        recent=jnp.abs(run.value_at_size - value),
        slope=jnp.max(slopes * run.reach, initial=0.0),
        slope_here=jnp.max(slopes * jnp.abs(state.at.x), initial=0.0),
        predicted=prediction.decrease,
        newton_share=prediction.newton_share,
        faded=run.faded,
    )


def knows_curvature(state: State) -> bool:
    """Whether a method of second derivatives predicts gains."""
    return state.prediction is not None


def prediction_known(state: State) -> Bool[Array, ""]:
    """Whether a method of second derivatives knows what they predict here, and it is finite."""
    if state.prediction is None:
        return jnp.ones((), bool)
    return jnp.isfinite(state.prediction.decrease)
