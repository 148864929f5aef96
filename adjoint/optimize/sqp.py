"""Sequential quadratic programming with second derivatives of the Lagrangian learned by BFGS."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.optimize import lagrangian
from adjoint.optimize.lagrangian import positive
from adjoint.optimize.problem import Domain, Measure
from adjoint.optimize.sqp_subproblem import PRICE, WORTH, Proposal, propose
from adjoint.optimize.state import (
    Constraints,
    Evaluation,
    Iterate,
    Query,
    State,
    begin,
    choose,
)
from adjoint.tracing import loops

# Without constraints the first step is so long, in units of x, as that of
# `adjoint.optimize.descent`.
FIRST_STEP = 0.1
# A step brings this share of the decrease of the merit that its slope promises (Nocedal and Wright,
# section 3.1).
SUFFICIENT_DECREASE = 1e-4
# Interpolation keeps a step between these shares of the one before; where something is not a number
# it is the first.
SHORTEST_CUT = 0.1
LONGEST_CUT = 0.5
# Trials along one direction.
TRIALS = 8
# Powell's damping: the curvature along a step is at least this share of that known before (Nocedal
# and Wright, 18.3).
DAMPED = 0.2
# A change of the merit that slopes explain by less than this share, so many times in a row, is
# noise or a wrong derivative.
UNEXPLAINED = 10.0
CONTRADICTIONS = 3
# What is lost in rounding when it is no more than so many times that.
HIDDEN = 10


class SQPMemory(NamedTuple):
    """What the method knows; its multipliers are those of the subproblem at `State.at`.

    Attributes
    ----------
    penalties
        Prices of violations in the merit of the line search.
    price
        Of violations in the subproblem, in units of the largest slope of f.
    hessian
        B, in units of x.
    updates
        Steps that B has learned from.
    unit
        Units of the entries of x.
    share
        `State.direction` is the subproblem's solution; `State.point` is this share of it, or what
        a correction has made of it.
    slope
        Of the merit along the direction, at `State.at`.
    trials, contradictions
        Points asked for along it; those of them in a row at which values contradict slopes.
    """

    penalties: Float[Array, " m"]
    price: Float[Array, ""]
    hessian: Float[Array, "n n"]
    updates: Int32[Array, ""]
    unit: Float[Array, " n"]
    share: Float[Array, ""]
    slope: Float[Array, ""]
    trials: Int32[Array, ""]
    contradictions: Int32[Array, ""]


@dataclass(frozen=True)
class SQP:
    """Minimize a quadratic model of the Lagrangian and search along that step.

    The model f'(x) d + d' B d / 2 is minimized within the constraints to first order, with B
    learned by damped BFGS from the Lagrangian and begun as a multiple of the squared inverse units
    of x: the sizes of its entries at the start, so that units do not matter. The merit is f plus
    the violations at prices above their multipliers. A whole step that breaks constraints by more
    than before is corrected once by what they have missed. Bounds hold at every point.

    Notes
    -----
    **Cost** per step: mostly one value and derivative of everything, and a quadratic program: 10 to
    20 times n^3 / 3 + n m^2 + m^3 / 3 operations, for up to some hundred unknowns. It runs on the
    host and compiled alike. Inner products measure how far a point is from being stationary; steps
    know none. **Units**: the run is the same whatever units f and the constraints have, and those
    of the entries of x where none starts at zero; `constraint_tolerance` of `minimize` is in the
    unit of the constraints.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., sections 18.3 to 18.5.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> on_the_circle = lambda x: jnp.sum(x**2) - 2
    >>> solution = adjoint.minimize(
    ...     jnp.sum, jnp.array([-2.0, 1.0]), adjoint.SQP(), equality=on_the_circle
    ... )
    >>> (
    ...     [round(float(v), 6) for v in adjoint.require(solution)],
    ...     round(float(solution.stats["multipliers"][0]), 6),
    ... )
    ([-1.0, -1.0], 0.5)
    """

    queries = (Query.VALUE,)
    patience = 1
    rates_have_units = False
    handles = ("bounds", "equality", "inequality")

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        x = domain.project(x)
        zero = jnp.zeros((), x.dtype)
        integer = jnp.zeros((), jnp.int32)
        memory = SQPMemory(
            penalties=jnp.zeros(constraints, x.dtype),
            price=jnp.asarray(PRICE, x.dtype),
            hessian=jnp.eye(x.size, dtype=x.dtype),
            updates=integer,
            unit=jnp.ones_like(x),
            share=zero,
            slope=zero,
            trials=integer,
            contradictions=integer,
        )
        return begin(x, memory)._replace(multipliers=lagrangian.no_multipliers(x, constraints))

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation that it asked for; pure."""
        first = ~state.started
        judged = _judge(state, evaluation, domain)
        moves = first | judged.accepted
        begun = _begun(state, evaluation, domain)
        moved = choose(first, begun, _moved(state, evaluation, domain))
        corrects = ~moves & _misses(state, evaluation, domain)
        constraints = lagrangian.of_answer(evaluation)
        shifted = constraints.value - _constraints_at(state).jacobian @ state.direction
        following = choose(moves, moved, state)
        values = jnp.where(moves, constraints.value, shifted)
        proposal = loops.cond(
            moves | corrects,
            lambda: _propose(following, values, domain),
            lambda: _no_proposal(following),
        )
        turned = _look(following, proposal, domain)
        turned = turned._replace(failed=turned.failed | (first & ~lagrangian.finite(evaluation)))
        corrected = domain.project(state.at.x + proposal.step)
        stayed = _shorten(state, judged, jnp.where(corrects, corrected, jnp.nan), domain)
        return choose(moves, turned, stayed)._replace(started=jnp.ones((), bool))

    def restart(self, state: State, domain: Domain) -> State:
        """The failed state with what it learned forgotten; as before if it learned nothing."""
        memory = state.memory
        scale = jnp.max(jnp.abs(memory.unit * state.at.derivative)) / FIRST_STEP
        identity = jnp.eye(memory.unit.size, dtype=memory.unit.dtype)
        forgotten = memory._replace(
            hessian=positive(scale) * identity, updates=jnp.zeros_like(memory.updates)
        )
        fresh = state._replace(memory=forgotten)
        proposal = _propose(fresh, _constraints_at(fresh).value, domain)
        again = _look(fresh._replace(failed=jnp.zeros((), bool)), proposal, domain)
        known = (memory.updates > 0) | (domain.noise > 0)
        return choose(known, again, state)

    def measure(self, state: State, domain: Domain) -> Measure:
        """Of the Lagrangian, with the multipliers of the latest subproblem."""
        return lagrangian.constrained_measure(state, domain)


def _constraints_at(state: State) -> Constraints:
    """Those of the iterate."""
    assert state.multipliers is not None
    return state.multipliers.constraints


class _Judgement(NamedTuple):
    """What the merit at a trial point says.

    Attributes
    ----------
    accepted
        Whether the point becomes an iterate.
    cut
        Else the share of the trial step to try next.
    contradicted, off
        Whether values contradict slopes, and by how much.
    """

    accepted: Bool[Array, ""]
    cut: Float[Array, ""]
    contradicted: Bool[Array, ""]
    off: Float[Array, ""]


def _begun(state: State, evaluation: Evaluation, domain: Domain) -> State:
    """The start, with units of x and a first guess at second derivatives."""
    assert state.multipliers is not None
    x = state.point
    constraints = lagrangian.of_answer(evaluation)
    unit = _units(x, domain)
    scale = jnp.max(jnp.abs(unit * evaluation.derivative)) / FIRST_STEP
    return state._replace(
        at=Iterate(x, evaluation.value, evaluation.derivative),
        multipliers=state.multipliers._replace(constraints=constraints),
        memory=state.memory._replace(
            unit=unit, hessian=positive(scale) * jnp.eye(x.size, dtype=x.dtype)
        ),
    )


def _units(x: Float[Array, " n"], domain: Domain) -> Float[Array, " n"]:
    """The entries' sizes; where one is zero, its bounds' width, or the largest size, or 1."""
    size = jnp.abs(x)
    largest = positive(jnp.max(size, initial=0.0))
    other = jnp.full_like(x, largest)
    if domain.lower is not None and domain.upper is not None:
        width = domain.upper - domain.lower
        other = jnp.where(jnp.isfinite(width) & (width > 0), width, other)
    return jnp.where(size > 0, size, other)


def _merit(value: Array, constraints: Array, penalties: Array, domain: Domain) -> Float[Array, ""]:
    return value + penalties @ lagrangian.violations(constraints, domain)


def _rounding(state: State, domain: Domain) -> Float[Array, ""]:
    """Of the merit: of f, and of constraints as sums of terms as large as their slopes times x."""
    terms = jnp.abs(_constraints_at(state).jacobian) @ jnp.abs(state.at.x)
    return domain.rounding(state.at.value) + 4 * jnp.finfo(terms.dtype).eps * (
        state.memory.penalties @ terms
    )


def _judge(state: State, evaluation: Evaluation, domain: Domain) -> _Judgement:
    memory = state.memory
    constraints = lagrangian.of_answer(evaluation)
    rounding = _rounding(state, domain)
    finite = lagrangian.finite(evaluation)
    before = _merit(state.at.value, _constraints_at(state).value, memory.penalties, domain)
    change = _merit(evaluation.value, constraints.value, memory.penalties, domain) - before
    promised = memory.share * memory.slope
    enough = change <= SUFFICIENT_DECREASE * promised + rounding
    blind = (jnp.abs(promised) <= HIDDEN * rounding) & (jnp.abs(change) <= HIDDEN * rounding)
    bend = change - promised
    cut = jnp.where(bend > 0, -promised / (2 * positive(bend)), LONGEST_CUT)
    cut = jnp.where(finite, jnp.clip(cut, SHORTEST_CUT, LONGEST_CUT), SHORTEST_CUT)
    # What a step gains or loses beyond its slope is its curvature, which a right model knows but
    # for a factor.
    scaled = memory.share * state.direction / memory.unit
    known = jnp.abs(promised) + scaled @ (memory.hessian @ scaled) / 2
    contradicted = finite & ~enough & (jnp.abs(change) > UNEXPLAINED * known + rounding)
    return _Judgement(finite & (enough | blind), cut, contradicted, jnp.abs(change))


def _moved(state: State, evaluation: Evaluation, domain: Domain) -> State:
    """With the point as the iterate, and with what the step tells about second derivatives."""
    assert state.multipliers is not None
    memory = state.memory
    before = state.multipliers
    constraints = lagrangian.of_answer(evaluation)
    s = state.point - state.at.x
    change = evaluation.derivative - state.at.derivative
    change = change + before.values @ (constraints.jacobian - before.constraints.jacobian)
    hessian, learned = _learn(memory.hessian, s / memory.unit, memory.unit * change, memory.updates)
    relieved = _relieves(state, constraints, domain)
    return state._replace(
        at=Iterate(state.point, evaluation.value, evaluation.derivative),
        iterations=state.iterations + 1,
        multipliers=before._replace(constraints=constraints),
        memory=memory._replace(
            price=jnp.where(relieved, memory.price / 10, memory.price),
            hessian=hessian,
            updates=memory.updates + learned,
        ),
    )


def _relieves(state: State, constraints: Constraints, domain: Domain) -> Bool[Array, ""]:
    """Whether violations shrink by a share to speak of, each in units of its slope."""
    at_iterate = _constraints_at(state)
    rows = at_iterate.jacobian * state.memory.unit[None, :]
    sizes = positive(jnp.max(jnp.abs(rows), axis=1, initial=0.0))
    before = jnp.sum(lagrangian.violations(at_iterate.value, domain) / sizes)
    after = jnp.sum(lagrangian.violations(constraints.value, domain) / sizes)
    return after <= WORTH * before


def _learn(
    B: Float[Array, "n n"], s: Float[Array, " n"], y: Float[Array, " n"], updates: Int32[Array, ""]
) -> tuple[Float[Array, "n n"], Bool[Array, ""]]:
    """BFGS with Powell's damping; B takes the scale of the first step that curves up."""
    s_y = s @ y
    eps = jnp.finfo(s.dtype).eps
    curved = s_y > eps * jnp.linalg.norm(s) * jnp.linalg.norm(y)
    scale = y @ y / positive(s_y)
    B = jnp.where((updates == 0) & curved, scale * jnp.eye(s.size, dtype=s.dtype), B)
    B_s = B @ s
    s_B_s = s @ B_s
    theta = jnp.where(s_y >= DAMPED * s_B_s, 1, (1 - DAMPED) * s_B_s / positive(s_B_s - s_y))
    r = theta * y + (1 - theta) * B_s
    s_r = s @ r
    usable = (s_B_s > 0) & (s_r > 0) & jnp.all(jnp.isfinite(r))
    updated = B - jnp.outer(B_s, B_s) / positive(s_B_s) + jnp.outer(r, r) / positive(s_r)
    return jnp.where(usable, (updated + updated.T) / 2, B), usable & (curved | (updates > 0))


def _propose(state: State, values: Float[Array, " m"], domain: Domain) -> Proposal:
    """The step where constraints have these values and the slopes of the iterate."""
    memory = state.memory
    constraints = Constraints(values, _constraints_at(state).jacobian)
    price = jnp.maximum(PRICE, memory.price)
    return propose(state.at, constraints, memory.hessian, memory.unit, price, domain)


def _no_proposal(state: State) -> Proposal:
    assert state.multipliers is not None
    nothing = jnp.zeros_like(state.direction)
    zero = jnp.zeros_like(state.memory.price)
    return Proposal(nothing, jnp.zeros_like(state.multipliers.values), zero, zero)


def _look(state: State, proposal: Proposal, domain: Domain) -> State:
    """Ask for the point that the subproblem at the iterate leads to."""
    assert state.multipliers is not None
    memory = state.memory
    constraints = state.multipliers.constraints
    size = jnp.abs(proposal.multipliers)
    penalties = jnp.maximum(size, (memory.penalties + size) / 2)
    violated = lagrangian.violations(constraints.value, domain)
    left = lagrangian.violations(constraints.value + constraints.jacobian @ proposal.step, domain)
    slope = state.at.derivative @ proposal.step - penalties @ (violated - left)
    point = domain.project(state.at.x + proposal.step)
    eps = jnp.finfo(point.dtype).eps
    still = jnp.all(
        jnp.abs(proposal.step) <= 4 * eps * jnp.maximum(jnp.abs(state.at.x), eps * memory.unit)
    )
    return state._replace(
        point=point,
        failed=state.failed | still | ~(slope < 0),
        direction=proposal.step,
        multipliers=lagrangian.with_values(state.multipliers, proposal.multipliers),
        memory=memory._replace(
            penalties=penalties,
            price=proposal.price,
            share=jnp.ones_like(slope),
            slope=slope,
            trials=jnp.zeros_like(memory.trials),
            contradictions=jnp.zeros_like(memory.trials),
        ),
    )


def _misses(state: State, evaluation: Evaluation, domain: Domain) -> Bool[Array, ""]:
    """Whether a whole step has been tried and breaks constraints by more than the iterate does."""
    constraints = lagrangian.of_answer(evaluation)
    before = jnp.max(lagrangian.violations(_constraints_at(state).value, domain), initial=0.0)
    beyond = jnp.max(lagrangian.violations(constraints.value, domain), initial=0.0)
    return (state.memory.trials == 0) & (beyond > before) & lagrangian.finite(evaluation)


def _shorten(
    state: State, judged: _Judgement, corrected: Float[Array, " n"], domain: Domain
) -> State:
    """The state that tries the corrected step, where there is one, or a shorter one."""
    memory = state.memory
    trials = memory.trials + 1
    contradictions = jnp.where(judged.contradicted, memory.contradictions + 1, 0).astype(jnp.int32)
    ended = (trials >= TRIALS) | (contradictions >= CONTRADICTIONS)
    corrects = jnp.all(jnp.isfinite(corrected))
    share = jnp.where(corrects, memory.share, judged.cut * memory.share)
    shorter = domain.project(state.at.x + share * state.direction)
    return state._replace(
        point=jnp.where(corrects, corrected, shorter),
        failed=ended,
        contradicted_by=jnp.where(judged.contradicted, judged.off, 0),
        memory=memory._replace(share=share, trials=trials, contradictions=contradictions),
    )
