"""Augmented Lagrangians: equations and inequalities for any method that knows none."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.inputs import describe, refuse
from adjoint.optimize import lagrangian
from adjoint.optimize.bfgs import BFGS
from adjoint.optimize.descent import DescentMemory
from adjoint.optimize.lagrangian import positive
from adjoint.optimize.problem import Domain, Measure, Method
from adjoint.optimize.state import (
    Constraints,
    Evaluation,
    Iterate,
    Query,
    State,
    begin,
    choose,
)

# rho_i |c_i'|^2 = FIRST_PENALTY |f'| at the start; times RAISE when the violation has not fallen to
# this SHARE.
FIRST_PENALTY = 10.0
RAISE = 10.0
SHARE = 0.25
# The inner problems' tolerance: this share of |f'(x0)|, and of the tolerance before.
FIRST_TOLERANCE = 0.1
TIGHTEN = 0.1
# An inner run ends after so many of its steps, or so many for each unknown, converged or not; the
# next one begins anew.
INNER_STEPS = 50
INNER_STEPS_EACH = 10
# An inner run has lost the constraints when an iterate misses them by so many times the size of x,
# or the miss that it began with.
LOST = 100.0
# Multipliers are kept below this, in units of scale / |c_i'|.
LARGEST_MULTIPLIER = 1e8


class AugmentedMemory(NamedTuple):
    """What an augmented Lagrangian knows.

    Attributes
    ----------
    inner
        The state of the inner method.
    penalties
        rho, of each constraint.
    scale, sizes
        The largest |f'| of an iterate; |c_i'| at the start, or at the first iterate where f' is not
        zero.
    infeasibility
        How far the constraints and their multipliers were from being satisfied, in lengths of x.
    tolerance
        Of the inner run.
    settling, diverged
        Whether the inner run is over, and its result to be evaluated; whether that is where it
        began, as it has run away to where f falls faster than the penalties grow.
    """

    inner: State
    penalties: Float[Array, " m"]
    scale: Float[Array, ""]
    sizes: Float[Array, " m"]
    infeasibility: Float[Array, ""]
    tolerance: Float[Array, ""]
    settling: Bool[Array, ""]
    diverged: Bool[Array, ""]


@dataclass(frozen=True)
class AugmentedLagrangian:
    """Minimize f + sum_i rho_i / 2 (c_i + lambda_i / rho_i)^2 by `inner`, lambda <- lambda + rho c.

    The two take turns. For inequalities c + lambda / rho and the new lambda are replaced by zero
    where they are negative. rho grows when the violation has not fallen enough.

    Parameters
    ----------
    inner
        A method that asks for values with derivatives only: `BFGS`, `LBFGS` or `SteepestDescent`.
        Bounds are its own.

    Raises
    ------
    ValueError
        For an inner method that needs more, or that knows constraints itself.

    Notes
    -----
    **Steps** of the history, of `callback` and of max_steps are those of the multipliers, mostly 5
    to 15. **Cost** of each: an inner run, which keeps what the one before has learned unless rho
    has grown, and one evaluation of its result.

    Source: E. G. Birgin, J. M. Martinez, Practical Augmented Lagrangian Methods, SIAM (2014),
    algorithm 4.1; Nocedal and Wright, Numerical Optimization, 2nd ed., section 17.4.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> on_the_circle = lambda x: jnp.sum(x**2) - 2
    >>> solution = adjoint.minimize(
    ...     jnp.sum, jnp.array([-2.0, 1.0]), adjoint.AugmentedLagrangian(), equality=on_the_circle
    ... )
    >>> (
    ...     [round(float(v), 6) for v in adjoint.require(solution)],
    ...     round(float(solution.stats["multipliers"][0]), 6),
    ... )
    ([-1.0, -1.0], 0.5)
    """

    inner: Method = field(default_factory=BFGS)
    queries = (Query.VALUE,)
    patience = 1
    rates_have_units = False

    def __post_init__(self) -> None:
        protocol = ("init", "step", "measure", "restart", "queries", "handles")
        known = not isinstance(self.inner, type) and all(
            hasattr(self.inner, name) for name in protocol
        )
        if not known or self.inner.queries != (Query.VALUE,) or "inequality" in self.inner.handles:
            refuse(
                "AugmentedLagrangian",
                f"inner = {describe(self.inner)}",
                "a method that asks for values with derivatives only and knows no constraints",
                "Take BFGS(), LBFGS() or SteepestDescent().",
            )

    @property
    def handles(self) -> tuple[str, ...]:
        return (*self.inner.handles, "equality", "inequality")

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        x = domain.project(x)
        ones = jnp.ones(constraints, x.dtype)
        no = jnp.zeros((), bool)
        memory = AugmentedMemory(
            inner=self.inner.init(x, domain),
            penalties=ones,
            scale=jnp.zeros((), x.dtype),
            sizes=ones,
            infeasibility=jnp.asarray(jnp.inf, x.dtype),
            tolerance=jnp.ones((), x.dtype),
            settling=no,
            diverged=no,
        )
        return begin(x, memory)._replace(multipliers=lagrangian.no_multipliers(x, constraints))

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation that it asked for; pure."""
        first = ~state.started
        before = state.memory
        most_steps = _most_steps(state.point.size)
        unscaled = first | ((before.scale == 0) & jnp.any(evaluation.derivative != 0))
        concluded = choose(
            unscaled, _scaled(state, evaluation, domain), _concluded(state, evaluation, domain)
        )
        same = jnp.all(concluded.memory.penalties == before.penalties) & ~before.inner.failed
        same = same & (before.inner.iterations < most_steps)
        anew = concluded.memory._replace(inner=_anew(self.inner, state, same, domain))
        state = choose(first | before.settling, concluded._replace(memory=anew), state)
        memory = state.memory
        inner = self.inner.step(memory.inner, _augmented(state, evaluation, domain), domain)
        near = self.inner.measure(inner, domain).stationarity <= memory.tolerance
        diverged = (inner.iterations > memory.inner.iterations) & _has_diverged(
            state, evaluation, domain
        )
        over = inner.failed | near | diverged | (inner.iterations >= most_steps)
        # What the inner run has found may be any point of its last line search: its constraints are
        # asked for again.
        return state._replace(
            point=jnp.where(diverged, state.at.x, jnp.where(over, inner.at.x, inner.point)),
            started=jnp.ones((), bool),
            direction=inner.at.x - state.at.x,
            memory=memory._replace(inner=inner, settling=over, diverged=diverged),
        )

    def restart(self, state: State, domain: Domain) -> State:
        """Stuck: it knows no other way."""
        return state._replace(failed=jnp.ones((), bool))

    def measure(self, state: State, domain: Domain) -> Measure:
        """Of the Lagrangian, with the latest multipliers."""
        return lagrangian.constrained_measure(state, domain)


def _most_steps(n: int) -> int:
    """Of an inner run."""
    return max(INNER_STEPS, INNER_STEPS_EACH * n)


def _anew(inner: Method, state: State, same: Bool[Array, ""], domain: Domain) -> State:
    """The inner run begun at the point, with what the one before has learned.

    That is kept where second derivatives are about the same.
    """
    begun = inner.init(state.point, domain)
    if isinstance(begun.memory, DescentMemory):
        before = state.memory.inner.memory
        kept = begun.memory._replace(
            model=before.model, fresh=before.fresh, size=before.size, unit=before.unit
        )
        return begun._replace(memory=choose(same, kept, begun.memory))
    return begun


def _positive(v: Float[Array, " m"], domain: Domain) -> Float[Array, " m"]:
    """The entries of equations, and the positive parts of those of inequalities."""
    return jnp.where(jnp.arange(v.size) < domain.equalities, v, jnp.maximum(v, 0))


def _augmented(state: State, evaluation: Evaluation, domain: Domain) -> Evaluation:
    """The augmented Lagrangian and its derivative."""
    assert state.multipliers is not None
    constraints = lagrangian.of_answer(evaluation)
    values = state.multipliers.values
    penalties = state.memory.penalties
    shifted = _positive(constraints.value + values / penalties, domain)
    weights = penalties * shifted
    # Less (lambda / rho)^2, so that large multipliers do not drown f.
    squares = weights @ shifted - values @ (values / penalties)
    return Evaluation(
        evaluation.value + squares / 2, evaluation.derivative + weights @ constraints.jacobian
    )


def _scaled(state: State, evaluation: Evaluation, domain: Domain) -> State:
    """The start, with penalties and tolerances in its units.

    After a start where f' is 0 it is the first iterate that has any. After such a start the way to
    the iterate tells the second derivatives of f, which penalties are to exceed.
    """
    assert state.multipliers is not None
    constraints = lagrangian.of_answer(evaluation)
    scale = domain.dual_norm(evaluation.derivative)
    sizes = lagrangian.row_norms(constraints.jacobian, domain)
    size = positive(scale)
    sizes = positive(sizes)
    length = domain.norm(state.point - state.at.x)
    return state._replace(
        at=Iterate(state.point, evaluation.value, evaluation.derivative),
        iterations=state.iterations + jnp.where(state.started, 1, 0).astype(jnp.int32),
        multipliers=state.multipliers._replace(constraints=constraints),
        memory=state.memory._replace(
            penalties=FIRST_PENALTY * size / positive(length) / sizes**2,
            scale=scale,
            sizes=sizes,
            tolerance=FIRST_TOLERANCE * size,
        ),
    )


def _bend(state: State, evaluation: Evaluation, domain: Domain) -> Float[Array, ""]:
    """How f' changed on the way to the point, per length: penalties far below hold nothing back."""
    length = domain.norm(state.point - state.at.x)
    far = length > jnp.sqrt(jnp.finfo(length.dtype).eps) * domain.norm(state.point)
    change = domain.dual_norm(evaluation.derivative - state.at.derivative)
    return jnp.where(far, change / jnp.where(far, length, 1), 0)


def _unmet(state: State, constraints: Constraints, domain: Domain) -> Float[Array, ""]:
    """How far constraints and multipliers are from being satisfied, in lengths of x."""
    assert state.multipliers is not None
    memory = state.memory
    is_equation = jnp.arange(constraints.value.size) < domain.equalities
    unmet = jnp.maximum(constraints.value, -state.multipliers.values / memory.penalties)
    missed = jnp.abs(jnp.where(is_equation, constraints.value, unmet))
    return jnp.max(missed / memory.sizes, initial=0.0)


def _has_diverged(state: State, evaluation: Evaluation, domain: Domain) -> Bool[Array, ""]:
    assert state.multipliers is not None
    size = domain.norm(state.at.x)
    unmet = _unmet(state, state.multipliers.constraints, domain)
    before = jnp.maximum(unmet, jnp.where(size > 0, size, 1))
    return _unmet(state, lagrangian.of_answer(evaluation), domain) > LOST * before


def _concluded(state: State, evaluation: Evaluation, domain: Domain) -> State:
    """An inner run's result as an iterate with its multipliers, and the next one's penalties."""
    assert state.multipliers is not None
    memory = state.memory
    penalties = memory.penalties
    constraints = lagrangian.of_answer(evaluation)
    infeasibility = _unmet(state, constraints, domain)
    # What the inexactness of the inner run leaves is not for the penalties to mend.
    slow = memory.diverged | (infeasibility > SHARE * memory.infeasibility) & (
        infeasibility > memory.tolerance / positive(memory.scale)
    )
    raised = jnp.maximum(
        RAISE * penalties, FIRST_PENALTY * _bend(state, evaluation, domain) / memory.sizes**2
    )
    scale = jnp.maximum(memory.scale, domain.dual_norm(evaluation.derivative))
    most = LARGEST_MULTIPLIER * positive(scale) / memory.sizes
    values = _positive(state.multipliers.values + penalties * constraints.value, domain)
    values = jnp.where(memory.diverged, state.multipliers.values, values)
    # All by one factor, so that those that belong to violations without an end keep their balance.
    values = values / jnp.max(jnp.abs(values) / most, initial=1.0)
    # Below this the noise of rounding in f' ends every inner run.
    finest = jnp.finfo(state.point.dtype).eps ** (2 / 3) * positive(scale)
    tightened = jnp.maximum(TIGHTEN * memory.tolerance, finest)
    return state._replace(
        at=Iterate(state.point, evaluation.value, evaluation.derivative),
        iterations=state.iterations + 1,
        multipliers=lagrangian.with_values(
            state.multipliers._replace(constraints=constraints), values
        ),
        memory=memory._replace(
            penalties=jnp.where(slow, raised, penalties),
            scale=scale,
            infeasibility=infeasibility,
            tolerance=jnp.where(memory.diverged, memory.tolerance, tightened),
        ),
    )
