"""`OC` as a method of `minimize`: for one linear inequality with positive slopes, like a volume."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import refuse
from adjoint.optimize import lagrangian
from adjoint.optimize.lagrangian import Constraints, no_constraints
from adjoint.optimize.moving_asymptotes import span
from adjoint.optimize.optimality_criteria import OC
from adjoint.optimize.problem import Domain, Evaluation, Iterate, Measure, Query


class OptimalityCriteriaState(NamedTuple):
    """Where the run stands; see `adjoint.optimize.problem.State`.

    Attributes
    ----------
    constraints, multipliers
        The volume less its limit, at `at`, and its multiplier.
    weights
        The largest multiplier so far, doubled: the price of a violation in the merit.
    """

    query: Int32[Array, ""]
    point: Float[Array, " n"]
    at: Iterate
    iterations: Int32[Array, ""]
    failed: Bool[Array, ""]
    started: Bool[Array, ""]
    constraints: Constraints
    multipliers: Float[Array, " m"]
    weights: Float[Array, " m"]

    @property
    def direction(self) -> Float[Array, " n"]:
        return self.point - self.at.x

    @property
    def search_direction(self) -> Float[Array, " n"]:
        return self.point - self.at.x


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

    def init(
        self, x: Float[Array, " n"], domain: Domain, constraints: int = 0
    ) -> OptimalityCriteriaState:
        """The state that asks about x first."""
        if constraints != 1 or domain.equalities:
            _refuse(f"{constraints} constraints")
        x = domain.project(x)
        no = jnp.zeros((), bool)
        none = jnp.zeros(1, x.dtype)
        return OptimalityCriteriaState(
            query=jnp.zeros((), jnp.int32),
            point=x,
            at=Iterate(x, jnp.asarray(jnp.inf, x.dtype), jnp.zeros_like(x)),
            iterations=jnp.zeros((), jnp.int32),
            failed=no,
            started=no,
            constraints=no_constraints(x, 1),
            multipliers=none,
            weights=none,
        )

    def step(
        self, state: OptimalityCriteriaState, evaluation: Evaluation, domain: Domain
    ) -> OptimalityCriteriaState:
        """The state after the evaluation; pure. What is not a number is no way on."""
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
            constraints=constraints,
            multipliers=multiplier[None],
            weights=jnp.maximum(state.weights, 2 * multiplier[None]),
        )
        stayed = state._replace(failed=jnp.ones((), bool), point=state.at.x)
        following = jax.tree.map(lambda a, b: jnp.where(finite, a, b), moved, stayed)
        return following._replace(started=jnp.ones((), bool))

    def restart(self, state: OptimalityCriteriaState, domain: Domain) -> OptimalityCriteriaState:
        """Stuck: it knows no other way."""
        return state._replace(failed=jnp.ones((), bool))

    def measure(self, state: OptimalityCriteriaState, domain: Domain) -> Measure:
        """Of the Lagrangian, with the multiplier of the latest step."""
        return lagrangian.measure(
            state.at, state.constraints, state.multipliers, state.weights, domain
        )


def _refuse(given: str) -> None:
    refuse(
        "minimize with OC",
        given,
        "one inequality, linear with positive slopes as a volume is, and finite bounds that are "
        "not negative",
        "Give inequality=lambda x: volume(x) - limit and bounds=(0.0, 1.0), or take MMA().",
    )
