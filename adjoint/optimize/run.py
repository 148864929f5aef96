"""What there is to know of a run of a method: all that is saved, and what a new one begins with."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.norm import power_of_two
from adjoint.optimize import derivative_check
from adjoint.optimize.derivative_check import DerivativeCheck
from adjoint.optimize.problem import Domain, Measure, Method
from adjoint.optimize.state import Evaluation, Iterate, Query, State
from adjoint.optimize.stopping import RUNNING

# Steps whose gain is compared with their slopes.
MANY = 8


class Limits(NamedTuple):
    """When to stop; see `minimize`."""

    rtol: float | Float[Array, ""]
    atol: Any
    constraint_tolerance: Any
    max_steps: Any
    max_evaluations: Any


class Best(NamedTuple):
    """The best iterate so far: the lowest f within the constraints, or the least violation.

    Its multipliers come with it.
    """

    x: Float[Array, " n"]
    value: Float[Array, ""]
    stationarity: Float[Array, ""]
    violation: Float[Array, ""]
    multipliers: Float[Array, " m"]


class Run(NamedTuple):
    """Where a run stands; all that there is to save.

    Attributes
    ----------
    unit
        Of f, a power of two near its size at the start, or zero before that is known. All that
        follows is in this unit, so that products of derivatives have room: of f = 1e-25, or 1e25,
        there are no squares in single precision.
    state
        The method's.
    previous
        The iterate before `state.at`.
    measure
        Of ``state.at``.
    scaled, first_measure
        The same in sizes of the entries, whatever units x has; and of the start of this run, or of
        that which it goes on with.
    lowest
        The lowest stationarity so far.
    mismatch
        Of the last `MANY` steps whose gain could be seen: how far it misses what their slopes say,
        as a share.
    unexplained
        Of the last `MANY` steps: the change of f, or of the Lagrangian, that no slopes explain.
    derivative_check, reason
        One that is going on, and the status to end with when it finds nothing.
    counts
        Queries answered, by kind.
    idle, circling, unrelieved
        Steps in a row that gained nothing, those that led to no new lowest merit (`lowest_merit` is
        that), and those outside of the constraints that have not made the least violation smaller
        by a share to speak of.
    noise
        Of f, as the latest check has found it.
    restarted_at
        The merit at which the method was last restarted; again only when it has gained since.
    size, reach
        The largest |x|, and the largest |x_i| of each entry, so far.
    sizes, value_at_size
        The sizes of the entries that were the latest to be new, and f where they were.
    small_for
        For how many iterates each entry has been smaller by `Stopping.resized`.
    faded
        See `Evidence`.
    zero_for, zero_at
        For how many iterates f has been zero beside what was gained, and |f| where that was last
        looked into.
    code
        Of the `Status` it ended with, or `RUNNING`.
    """

    unit: Float[Array, ""]
    state: State
    previous: Iterate
    measure: Measure
    scaled: Measure
    first_measure: Measure
    best: Best
    lowest: Float[Array, ""]
    mismatch: Float[Array, " 8"]
    unexplained: Float[Array, " 8"]
    derivative_check: DerivativeCheck
    reason: Int32[Array, ""]
    counts: Int32[Array, " 3"]
    idle: Int32[Array, ""]
    circling: Int32[Array, ""]
    unrelieved: Int32[Array, ""]
    lowest_merit: Float[Array, ""]
    noise: Float[Array, ""]
    restarted_at: Float[Array, ""]
    size: Float[Array, ""]
    reach: Float[Array, " n"]
    sizes: Float[Array, " n"]
    value_at_size: Float[Array, ""]
    small_for: Int32[Array, " n"]
    faded: Bool[Array, ""]
    zero_for: Int32[Array, ""]
    zero_at: Float[Array, ""]
    code: Int32[Array, ""]

    @property
    def unit_of_f(self) -> Float[Array, ""]:
        return jnp.where(self.unit > 0, self.unit, 1)

    @property
    def seen_noise(self) -> Float[Array, ""]:
        """Of f, or the Lagrangian with constraints: as checked, or as the last steps met it."""
        return jnp.maximum(self.noise, jnp.max(self.unexplained))

    @property
    def query(self) -> Int32[Array, ""]:
        return jnp.where(self.derivative_check.active, Query.VALUE, self.state.query)

    @property
    def point(self) -> Float[Array, " n"]:
        return jnp.where(
            self.derivative_check.active, self.derivative_check.point, self.state.point
        )


class Begun(NamedTuple):
    """What a method that goes on from where another has come to measures its progress by."""

    unit: Float[Array, ""]
    first_measure: Measure
    reach: Float[Array, " n"]
    sizes: Float[Array, " n"]
    value_at_size: Float[Array, ""]


def start(
    method: Method,
    x: Float[Array, " n"],
    domain: Domain,
    constraints: int = 0,
    begun: Begun | None = None,
) -> Run:
    """A run before the first evaluation, of its own or one that another method has begun."""
    state = method.init(x, domain, constraints)
    infinite = jnp.asarray(jnp.inf, x.dtype)
    zero = jnp.zeros((), x.dtype)
    nowhere = Measure(infinite, infinite, infinite, jnp.zeros_like(state.at.x), zero)
    integer = jnp.zeros((), jnp.int32)
    if begun is None:
        begun = Begun(
            zero, nowhere, jnp.zeros_like(state.at.x), jnp.zeros_like(state.at.x), infinite
        )
    return Run(
        unit=begun.unit,
        state=state,
        previous=state.at,
        measure=nowhere,
        scaled=nowhere,
        first_measure=begun.first_measure,
        best=Best(state.at.x, infinite, infinite, infinite, multipliers_of(state)),
        lowest=infinite,
        mismatch=jnp.zeros(MANY, x.dtype),
        unexplained=jnp.zeros(MANY, x.dtype),
        derivative_check=derivative_check.idle(state.at.x),
        reason=integer,
        counts=jnp.zeros(3, jnp.int32),
        idle=integer,
        circling=integer,
        unrelieved=integer,
        lowest_merit=infinite,
        noise=zero,
        restarted_at=infinite,
        size=zero,
        reach=begun.reach,
        sizes=begun.sizes,
        value_at_size=begun.value_at_size,
        small_for=jnp.zeros(state.at.x.shape, jnp.int32),
        faded=jnp.zeros((), bool),
        zero_for=integer,
        zero_at=infinite,
        code=integer + RUNNING,
    )


def in_unit_of_f(
    method: Method, run: Run, evaluation: Evaluation, domain: Domain, limits: Limits
) -> tuple[Run, Evaluation, Domain, Limits]:
    """All that has the dimension of f in its unit, which the first evaluation decides.

    The steps of a method whose `rates_have_units` would be others: it gets f as it is.
    """
    if method.rates_have_units:
        return run, evaluation, domain, limits
    x = jnp.abs(run.point)
    slopes = jnp.abs(evaluation.derivative) * jnp.where(x > 0, x, 1)
    size = jnp.maximum(jnp.abs(evaluation.value), jnp.max(slopes, initial=0))
    run = run._replace(unit=jnp.where(run.unit > 0, run.unit, power_of_two(size)))
    of_f = {
        name: None if part is None else part / run.unit
        for name, part in evaluation._asdict().items()
        if name not in ("constraints", "jacobian")
    }
    domain = replace(domain, noise=domain.noise / run.unit)
    return run, evaluation._replace(**of_f), domain, limits._replace(atol=limits.atol / run.unit)


def multipliers_of(state: State) -> Float[Array, " m"]:
    """Those of a method for constraints, else none."""
    if state.multipliers is None:
        return jnp.zeros(0, state.at.x.dtype)
    return state.multipliers.values
