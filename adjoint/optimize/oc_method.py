"""`OC` as a method of `minimize`: for one linear inequality with positive slopes, like a volume."""

from dataclasses import dataclass

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from adjoint.inputs import refuse
from adjoint.optimize import lagrangian
from adjoint.optimize.moving_asymptotes import span
from adjoint.optimize.optimality_criteria import OC
from adjoint.optimize.problem import Domain, Measure
from adjoint.optimize.state import Evaluation, Iterate, Query, State, begin, choose


@dataclass(frozen=True)
class OptimalityCriteria:
    """The steps of `OC` within bounds that are not negative; `move` is a share of their width.

    Every point becomes an iterate, whether f falls or not: the multiplier of the volume is that of
    the step, so that the run ends where the conditions of optimality hold.
    """

    rule: OC

    queries = (Query.VALUE,)
    handles = ("bounds", "inequality")
    patience = 1
    rates_have_units = False

    def require(self, domain: Domain) -> None:
        """Refuse bounds that x <- x B^eta cannot honor."""
        lower = domain.lower
        upper = domain.upper
        if lower is None or upper is None:
            _refuse("no bounds")
            return
        if isinstance(lower, jax.core.Tracer) or isinstance(upper, jax.core.Tracer):
            return
        if not bool(jnp.all(jnp.isfinite(upper) & (lower >= 0))):
            _refuse("a bound that is infinite or negative")

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        if constraints != 1 or domain.equalities:
            _refuse(f"{constraints} constraints")
        x = domain.project(x)
        return begin(x, ())._replace(multipliers=lagrangian.no_multipliers(x, 1))

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation; pure. What is not a number is no way on."""
        assert state.multipliers is not None
        x = state.point
        constraints = lagrangian.of_answer(evaluation)
        slope = constraints.jacobian[0]
        # A linear volume is slope . x, whatever its constant.
        limit = slope @ x - constraints.value[0]
        box = (
            domain.project(x - self.rule.move * span(domain)),
            domain.project(x + self.rule.move * span(domain)),
        )
        point, multiplier = self.rule.update(x, evaluation.derivative, slope, limit, box)
        finite = lagrangian.finite(evaluation) & jnp.all(jnp.isfinite(point))
        moved = state._replace(
            point=point,
            at=Iterate(x, evaluation.value, evaluation.derivative),
            iterations=state.iterations + jnp.where(state.started, 1, 0).astype(jnp.int32),
            multipliers=lagrangian.with_values(
                state.multipliers._replace(constraints=constraints), multiplier[None]
            ),
        )
        stayed = state._replace(failed=jnp.ones((), bool), point=state.at.x)
        following = choose(finite, moved, stayed)
        return following._replace(
            started=jnp.ones((), bool), direction=following.point - following.at.x
        )

    def restart(self, state: State, domain: Domain) -> State:
        """Stuck: it knows no other way."""
        return state._replace(failed=jnp.ones((), bool))

    def measure(self, state: State, domain: Domain) -> Measure:
        """Of the Lagrangian, with the multiplier of the latest step."""
        return lagrangian.constrained_measure(state, domain)


def _refuse(given: str) -> None:
    refuse(
        "minimize with OC",
        given,
        "one inequality, linear with positive slopes as a volume is, and finite bounds that are "
        "not negative",
        "Give inequality=lambda x: volume(x) - limit and bounds=(0.0, 1.0), or take MMA().",
    )
