"""Descent with a line search: what steepest descent, BFGS and L-BFGS have in common.

A model supplies a direction from the derivative and learns from each step, and a search finds how
far to go along it; either can be exchanged. Here the direction is kept within the bounds (as in
J. L. Morales, J. Nocedal, ACM Trans. Math. Softw. 38, 2011: projected, and searched along a
straight line), and a model that has led astray is forgotten once before the method is failed.
"""

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.optimize.line_search import Search, SearchState, StrongWolfe
from adjoint.optimize.problem import Domain, Measure, unconstrained_measure
from adjoint.optimize.state import Evaluation, Iterate, Query, State, begin, choose
from adjoint.tracing import loops

# Length of the very first step, in the norm of the inner product: this share of |x|, or 1 where x
# is zero; and no more than takes f to zero, to first order, which is as far as most objectives go.
FIRST_STEP = 0.1
# A direction must make at least this angle with the level set: cos(d, -gradient) in the norm of the
# inner product.
SMALLEST_COSINE = 1e-10
# A change of an entry by its unit changes f, to first order, by this share of the largest such
# change, or by more: the size of an entry that is next to zero by chance is no unit.
COMPARABLE = 0.1


class Model(Protocol):
    """What a method knows about the second derivatives."""

    def units(self, x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Float[Array, " n"]:
        """Units of the entries, from the start; ones where steps are to be measured as x is."""
        ...

    def forget(self, x: Float[Array, " n"], domain: Domain) -> Any:
        """The memory before any step."""
        ...

    def direction(
        self, memory: PyTree, at: Iterate, free: Bool[Array, " n"], domain: Domain
    ) -> Float[Array, " n"]:
        """-B^-1 f'(x) in the free entries, zero elsewhere.

        With an empty memory, it is any multiple of -gradient.
        """
        ...

    def learn(
        self, memory: PyTree, s: Float[Array, " n"], y: Float[Array, " n"], domain: Domain
    ) -> Any:
        """The memory after a step s that changed the derivative by y, with s . y > 0."""
        ...


class DescentMemory(NamedTuple):
    """What a descent knows.

    Attributes
    ----------
    search, model
        The line search in progress, and what the model has learned.
    fresh
        Whether the model has learned nothing.
    size, reach
        The largest |x|, and the largest |x_i| of each entry, so far: the scale of first steps.
    unit
        Units of the entries.
    """

    search: SearchState
    model: PyTree
    fresh: Bool[Array, ""]
    size: Float[Array, ""]
    reach: Float[Array, " n"]
    unit: Float[Array, " n"]


class Descent(Model):
    """A method made of a `Model`: its `init`, `step` and `measure`."""

    queries = (Query.VALUE,)
    patience = 1
    rates_have_units = False
    handles = ("bounds",)
    search: Search = StrongWolfe()

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        x = domain.project(x)
        zero = jnp.zeros((), x.dtype)
        memory = DescentMemory(
            search=self.search.begin(zero, zero, jnp.zeros_like(x), zero, zero),
            model=self.forget(x, domain),
            fresh=jnp.ones((), bool),
            size=zero,
            reach=jnp.zeros_like(x),
            unit=jnp.ones_like(x),
        )
        return begin(x, memory)

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation that it asked for; pure."""
        first = ~state.started
        state = loops.cond(
            first & state.memory.fresh,
            lambda s: self._in_units_of_start(s, evaluation, domain),
            lambda s: s,
            state,
        )
        memory = state.memory
        domain = domain.in_units(memory.unit)
        slope = evaluation.derivative @ state.direction
        noise = domain.rounding(state.at.value)
        search = self.search.advance(
            memory.search, evaluation.value, slope, evaluation.derivative, noise
        )
        memory = memory._replace(search=choose(first, memory.search, search))
        state = state._replace(memory=memory, started=jnp.ones((), bool))
        turns = first | search.accepted | search.failed

        def turn(state: State) -> State:
            return self._look(self._learn(state, evaluation, first, domain), domain)

        def go_on(state: State) -> State:
            return state._replace(point=_along(state.at.x, search.t, state.direction, domain))

        return loops.cond(turns, turn, go_on, state)

    def _in_units_of_start(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        unit = self.units(state.point, evaluation.derivative)
        model = self.forget(state.point, domain.in_units(unit))
        return state._replace(memory=state.memory._replace(unit=unit, model=model))

    def restart(self, state: State, domain: Domain) -> State:
        """The failed state with all forgotten that may have led astray.

        It is in units of the sizes that entries have had by now. Stuck as before where nothing had
        been learned, and no units either.
        """
        memory = state.memory
        known = jnp.any(memory.unit != 1)
        size = jnp.where(memory.size > 0, memory.size, 1)
        unit = jnp.where(memory.reach > 0, memory.reach, size)
        domain = domain.in_units(unit)
        forgotten = memory._replace(
            model=self.forget(state.at.x, domain),
            unit=unit,
            fresh=jnp.ones((), bool),
            size=domain.norm(state.at.x),
        )
        again = self._look(state._replace(memory=forgotten, failed=jnp.zeros((), bool)), domain)
        return choose(memory.fresh & known, state, again)

    def measure(self, state: State, domain: Domain) -> Measure:
        """Dual norm of the projected derivative; there are no constraints."""
        return unconstrained_measure(state.at, domain)

    def _learn(
        self, state: State, evaluation: Evaluation, first: Bool[Array, ""], domain: Domain
    ) -> State:
        """Move to the point that the search found and learn from the step; fail without one."""
        memory = state.memory
        search = memory.search
        failed = ~first & search.failed
        x = jnp.where(
            search.fell_back, _along(state.at.x, search.t, state.direction, domain), state.point
        )
        value = jnp.where(search.fell_back, search.low.value, evaluation.value)
        derivative = jnp.where(search.fell_back, search.low_derivative, evaluation.derivative)
        at = choose(failed, state.at, Iterate(x, value, derivative))
        s = at.x - state.at.x
        y = at.derivative - state.at.derivative
        # Where rounding or noise has turned the curvature around there is nothing to learn.
        curved = (
            ~first
            & ~failed
            & (s @ y > jnp.finfo(x.dtype).eps * jnp.linalg.norm(s) * jnp.linalg.norm(y))
        )
        s, y = (jnp.where(curved, v, jnp.ones_like(v)) for v in (s, y))
        learned = self.learn(memory.model, s, y, domain)
        memory = memory._replace(
            model=choose(curved, learned, memory.model),
            fresh=memory.fresh & ~curved,
            size=jnp.maximum(memory.size, domain.norm(at.x)),
            reach=jnp.maximum(memory.reach, jnp.abs(at.x)),
        )
        return state._replace(
            at=at,
            iterations=state.iterations + jnp.where(first | failed, 0, 1),
            failed=failed,
            contradicted_by=jnp.where(failed, search.contradicted_by, 0),
            memory=memory,
        )

    def _look(self, state: State, domain: Domain) -> State:
        """Choose a direction at the iterate and the first point along it."""
        at = state.at
        memory = state.memory
        free = domain.free(at.x, at.derivative)
        downhill = _downhill(at, free, memory.size, domain)
        proposed = jnp.where(memory.fresh, downhill, self._within(state, free, domain))
        slope = at.derivative @ proposed
        steep = -SMALLEST_COSINE * domain.dual_norm(at.derivative * free) * domain.norm(proposed)
        # A projected direction may lead uphill; the first step's way never does.
        direction = jnp.where((slope < steep) & jnp.all(jnp.isfinite(proposed)), proposed, downhill)
        slope = at.derivative @ direction
        search = self.search.begin(
            at.value, slope, at.derivative, jnp.ones_like(at.value), domain.longest(at.x, direction)
        )
        return state._replace(
            point=_along(at.x, search.t, direction, domain),
            direction=direction,
            memory=memory._replace(search=search),
            failed=state.failed | ~(slope < 0),
        )

    def _within(self, state: State, free: Bool[Array, " n"], domain: Domain) -> Float[Array, " n"]:
        """The model's direction, projected.

        Entries that would pass a bound move onto it, and the others as if these were held. Else the
        others step as an entry close to its bound would have it if it could go on, and the run
        zigzags along that bound (D. P. Bertsekas, SIAM J. Control Optim. 20, 221-246, 1982).
        """
        at = state.at
        towards = self.direction
        model = state.memory.model
        target = at.x + towards(model, at, free, domain)
        if not domain.bounded:
            return target - at.x
        met = free & (domain.project(target) != target) & ((target - at.x) * at.derivative < 0)

        def as_if_held() -> Array:
            others = at.x + towards(model, at, free & ~met, domain)
            return jnp.where(met, target, others)

        return domain.project(loops.cond(jnp.any(met), as_if_held, lambda: target)) - at.x


def units_of_start(x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Float[Array, " n"]:
    """The sizes of the entries, or as much more as has an effect on f, up to the largest size.

    Entries that are zero have the largest size; 1 where all are.
    """
    size = jnp.abs(x)
    slope = jnp.abs(derivative)
    largest = jnp.max(size, initial=0.0)
    size = jnp.where(size > 0, size, jnp.where(largest > 0, largest, 1))
    effect = COMPARABLE * jnp.max(size * slope, initial=0.0)
    effective = jnp.where(slope > 0, effect / jnp.where(slope > 0, slope, 1), jnp.inf)
    return jnp.clip(effective, size, jnp.max(size, initial=0.0))


def _downhill(
    at: Iterate, free: Bool[Array, " n"], size: Float[Array, ""], domain: Domain
) -> Float[Array, " n"]:
    """Along minus the gradient, by the length of a first step."""
    gradient = domain.gradient(at.derivative * free) * free
    norm = domain.norm(gradient)
    length = jnp.where(size > 0, FIRST_STEP * size, 1)
    to_zero = jnp.abs(at.value) / jnp.where(norm > 0, norm, 1)
    length = jnp.where(at.value != 0, jnp.minimum(length, to_zero), length)
    step = gradient * (length / jnp.where(norm > 0, norm, 1))
    return domain.project(at.x - step) - at.x


def _along(x: Array, t: Array, direction: Array, domain: Domain) -> Array:
    """x + t d; rounding must not carry it out of the bounds."""
    return domain.project(x + t * direction)
