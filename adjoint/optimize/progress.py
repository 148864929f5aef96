"""A run of a method: what has been spent, the best point so far, and when and why it is over. Pure, for either loop."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.optimize import examination, lagrangian
from adjoint.optimize.examination import Examination
from adjoint.optimize.problem import Answer, Domain, Iterate, Measure, Method, Request
from adjoint.solution import Status
from adjoint.tracing import loops

RUNNING = -1
# So many steps in a row that gain nothing end at the noise floor.
IDLE_STEPS = 5
# Two steps in a row whose gain misses what their slopes say by this share make the derivative suspect.
SUSPECT = 0.1
# So many in a row that miss it altogether, by this share, are looked into at once: some methods creep along a wrong derivative.
MANY, ALTOGETHER = 8, 0.5
# At the end a change of any entry by its size changes f, to first order, by no more than this share of f. Where f ends at zero,
# which is when it is no more than the last share of the rounding of what was gained since the start, the second is the share of
# that gain; they belong together, as slopes go with the square root of f.
SETTLED, SETTLED_SINCE_START, ZERO = 1e-5, 1e-9, 1e-2
# A step that second derivatives know of gains no more than this share of f.
PROMISED = 1e-8
# At the noise floor it may be so many times the geometric mean of the noise and of f: noise hides slopes like its square root.
# With constraints, whose forces leave their own rounding in it, it may be more, and where second derivatives promise nothing, too.
AT_FLOOR, AT_FLOOR_WITHIN_CONSTRAINTS, AT_FLOOR_BY_PROMISE = 10, 100, 1000
# A derivative that is rounding may change f over the sizes of entries by so many times the rounding of what was gained.
ROUNDED = 1e4
# A step that changes no entry by more than so many times its rounding is none.
SHORT = 4
# A gain counts as seen when it is so many times the rounding of f.
SEEN = 100


class Limits(NamedTuple):
    """When to stop; see `minimize`."""

    rtol: Any
    atol: Any
    constraint_tolerance: Any
    max_steps: Any
    max_evaluations: Any


class Best(NamedTuple):
    """The best iterate so far: the lowest f of those within the constraints, or the least violation; with its multipliers."""

    x: Float[Array, " n"]
    value: Float[Array, ""]
    stationarity: Float[Array, ""]
    violation: Float[Array, ""]
    multipliers: Float[Array, " m"]


class Run(NamedTuple):
    """Where a run stands; all that there is to save.

    Attributes
    ----------
    state
        The method's.
    previous
        The iterate before `state.at`.
    measure
        Of ``state.at``; `first_measure` of the start, or of the start of the run that this one goes on with.
    lowest
        The lowest stationarity so far.
    mismatch
        Of the last `MANY` steps whose gain could be seen: how far it misses what their slopes say, as a share.
    examination, reason
        Of the derivative, when one is going on, and the status to end with when it finds nothing.
    counts
        Requests answered, by kind.
    idle
        Steps in a row that gained nothing.
    noise
        Of f, as the latest examination has found it.
    revived_at
        The merit at which the method was last revived; again only when it has gained since.
    size, reach
        The largest |x|, and the largest |x_i| of each entry, so far.
    code
        Of the `Status` it ended with, or `RUNNING`.
    """

    state: Any
    previous: Iterate
    measure: Measure
    first_measure: Measure
    best: Best
    lowest: Float[Array, ""]
    mismatch: Float[Array, " 8"]
    examination: Examination
    reason: Int32[Array, ""]
    counts: Int32[Array, " 3"]
    idle: Int32[Array, ""]
    noise: Float[Array, ""]
    revived_at: Float[Array, ""]
    size: Float[Array, ""]
    reach: Float[Array, " n"]
    code: Int32[Array, ""]

    @property
    def request(self) -> Int32[Array, ""]:
        return jnp.where(self.examination.active, Request.VALUE, self.state.request)

    @property
    def point(self) -> Float[Array, " n"]:
        return jnp.where(self.examination.active, self.examination.point, self.state.point)


def start(
    method: Method, x: Float[Array, " n"], domain: Domain, constraints: int = 0, first_measure: Measure | None = None
) -> Run:
    """A run before the first evaluation, of its own or one that goes on from where another method has come to."""
    state = method.init(x, domain, constraints)
    infinite, zero = jnp.asarray(jnp.inf, x.dtype), jnp.zeros((), x.dtype)
    nowhere = Measure(infinite, infinite, infinite, jnp.zeros_like(state.at.x), zero)
    integer = jnp.zeros((), jnp.int32)
    return Run(
        state=state,
        previous=state.at,
        measure=nowhere,
        first_measure=nowhere if first_measure is None else first_measure,
        best=Best(state.at.x, infinite, infinite, infinite, _multipliers(state)),
        lowest=infinite,
        mismatch=jnp.zeros(MANY, x.dtype),
        examination=examination.idle(state.at.x),
        reason=integer,
        counts=jnp.zeros(3, jnp.int32),
        idle=integer,
        noise=zero,
        revived_at=infinite,
        size=zero,
        reach=jnp.zeros_like(state.at.x),
        code=integer + RUNNING,
    )


def _multipliers(state: Any) -> Float[Array, " m"]:
    """Those of a method for constraints, else none."""
    return state.multipliers if hasattr(state, "multipliers") else jnp.zeros(0, state.at.x.dtype)


def _counted(run: Run) -> Run:
    return run._replace(counts=run.counts.at[run.request].add(1))


def _limited(run: Run, limits: Limits) -> Run:
    spent = (run.code == RUNNING) & (run.counts[0] >= limits.max_evaluations)
    return run._replace(code=jnp.where(spent, Status.MAX_EVALUATIONS.code, run.code).astype(jnp.int32))


def _as_noisy(domain: Domain, run: Run) -> Domain:
    return replace(domain, noise=jnp.maximum(domain.noise, run.noise))


def examine(method: Method, run: Run, answer: Answer, domain: Domain, limits: Limits) -> Run:
    """One more evaluation of an examination; after the last, end, or go on with what it has told about the noise."""
    run, domain = _counted(run), _as_noisy(domain, run)
    examined = examination.record(run.examination, answer)

    def conclude(run: Run) -> Run:
        finding = examination.find(examined, domain)
        noise = jnp.maximum(finding.noise, _blur(run))
        noisy = replace(domain, noise=noise)
        stuck = run.reason == Status.STALLED.code
        revived = method.revive(run.state, noisy)
        # Constraints balance the slope of f, so that its gain says nothing.
        at_floor = _at_floor(run, noisy) if _constrained(run) else finding.at_floor & _at_floor(run, noisy)
        at_floor = at_floor & (run.measure.violation <= limits.constraint_tolerance)
        again = stuck & ~at_floor & ~revived.stuck & (run.measure.merit < run.revived_at - SEEN * noise)
        code = jnp.where(stuck & at_floor, Status.NOISE_FLOOR.code, run.reason)
        code = jnp.where(again, RUNNING, code)
        code = jnp.where(finding.wrong, Status.UNTRUSTED_GRADIENT.code, code)
        state = jax.tree.map(lambda a, b: jnp.where(again, a, b), revived, run.state)
        return run._replace(
            state=state,
            examination=examined._replace(active=jnp.zeros((), bool)),
            noise=noise,
            idle=jnp.where(again, 0, run.idle),
            revived_at=jnp.where(again, run.measure.merit, run.revived_at),
            code=code.astype(jnp.int32),
        )

    over = examination.complete(examined)
    return _limited(loops.cond(over, conclude, lambda run: run._replace(examination=examined), run), limits)


def _blur(run: Run) -> Float[Array, ""]:
    """The noise that contradicted slopes where the method got stuck, on stretches too short for an examination; or zero.

    Rounding of terms that were as large as f at the start: more than that may as well be a wrong derivative.
    """
    if not hasattr(run.state, "contradicted_by"):
        return jnp.zeros((), run.measure.merit.dtype)
    blur, total = run.state.contradicted_by, jnp.abs(run.first_measure.merit - run.measure.merit)
    return jnp.where(blur <= jnp.finfo(blur.dtype).eps * total, blur, 0)


def proceed(method: Method, run: Run, answer: Answer, domain: Domain, limits: Limits) -> Run:
    """One more step of the method, and whether it is the last."""
    run, domain = _counted(run), _as_noisy(domain, run)
    before = run.state
    state = method.step(before, answer, domain)
    first = run.counts[0] + run.counts[1] == 1
    moved = first | (state.iterations != before.iterations)
    run = run._replace(state=state)
    arrived = loops.cond(
        moved, lambda run: _arrive(method, run, before.at, first, domain, limits), lambda run: run, run
    )
    # Second derivatives tell a minimum from a plateau or a saddle, and arrive after the step.
    told = _promise_known(state) & (moved | ~_promise_known(before))
    return _limited(_stop(arrived, moved, told, first, answer, domain, limits), limits)


def _arrive(method: Method, run: Run, before: Iterate, first: Bool[Array, ""], domain: Domain, limits: Limits) -> Run:
    """Measure a new iterate and compare it with the one before and with the best."""
    at, measure = run.state.at, method.measure(run.state, domain)
    best, tolerance = run.best, limits.constraint_tolerance
    feasible = jnp.maximum(measure.violation, tolerance), jnp.maximum(best.violation, tolerance)
    better = (feasible[0] < feasible[1]) | ((feasible[0] == feasible[1]) & (at.value <= best.value))
    here = Best(at.x, at.value, measure.stationarity, measure.violation, _multipliers(run.state))
    rounding = domain.rounding(at.value)
    # A step by the rounding of x leads nowhere, whatever it gains.
    is_step = jnp.any(jnp.abs(at.x - before.x) > SHORT * jnp.finfo(at.x.dtype).eps * jnp.abs(at.x))
    gained = is_step & (run.measure.merit - measure.merit > rounding)
    gained = gained | (measure.violation < run.measure.violation / 2)
    gained = gained | (measure.stationarity < run.lowest / 2) | first
    begins = first & ~jnp.isfinite(run.first_measure.merit)
    return run._replace(
        previous=before,
        measure=measure,
        first_measure=jax.tree.map(lambda a, b: jnp.where(begins, a, b), measure, run.first_measure),
        best=jax.tree.map(lambda a, b: jnp.where(better, a, b), here, best),
        lowest=jnp.minimum(run.lowest, measure.stationarity),
        mismatch=_mismatch(run.mismatch, before, at, rounding, first),
        size=jnp.maximum(run.size, domain.norm(at.x)),
        reach=jnp.maximum(run.reach, jnp.abs(at.x)),
        idle=jnp.where(gained, 0, run.idle + 1).astype(jnp.int32),
    )


def _mismatch(known: Array, before: Iterate, at: Iterate, rounding: Array, first: Bool[Array, ""]) -> Array:
    """What the step gained against the mean of the slopes at its ends, appended to what is known when it can be seen."""
    s = at.x - before.x
    slopes = jnp.stack([before.derivative @ s, at.derivative @ s])
    gain = at.value - before.value
    size = jnp.maximum(jnp.abs(gain), jnp.max(jnp.abs(slopes)))
    share = jnp.abs(gain - jnp.mean(slopes)) / jnp.where(size > 0, size, 1)
    seen = ~first & (size > SEEN * rounding) & jnp.isfinite(share)
    return jnp.where(seen, jnp.append(known[1:], share), known)


def _stop(
    run: Run,
    moved: Bool[Array, ""],
    told: Bool[Array, ""],
    first: Bool[Array, ""],
    answer: Answer,
    domain: Domain,
    limits: Limits,
) -> Run:
    """Whether and why the run is over, or has to be examined before it may be; `told` when all is known of the iterate."""
    state, measure = run.state, run.measure
    reference = _reference(run)
    tolerance = jnp.maximum(limits.atol, limits.rtol * reference)
    within = measure.violation <= limits.constraint_tolerance
    converged = told & (measure.stationarity <= tolerance) & within & _settled(run, domain, limits)
    scale = jnp.maximum(jnp.abs(run.first_measure.merit), reference)
    bottomless = (scale > 0) & (run.first_measure.merit - measure.merit > scale / jnp.finfo(scale.dtype).eps)
    asked = (answer.value, answer.derivative, answer.constraints, answer.jacobian)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in asked if part is not None]))
    idle = moved & (run.idle >= IDLE_STEPS)
    # Without constraints an examination tells the noise floor from steps that are merely short.
    at_floor = _at_floor(run, domain) if _constrained(run) else jnp.zeros((), bool)
    floor = jnp.where(at_floor, Status.NOISE_FLOOR.code, Status.STALLED.code)
    suspect, absurd = jnp.all(run.mismatch[-2:] > SUSPECT), jnp.all(run.mismatch > ALTOGETHER)

    code = jnp.asarray(RUNNING, jnp.int32)
    code = jnp.where(moved & (state.iterations >= limits.max_steps), Status.NOT_CONVERGED.code, code)
    # Stuck outside of the constraints, where points within them are known, is no reason to doubt that there are any.
    feasible = within | (run.best.violation <= limits.constraint_tolerance)
    code = jnp.where(state.stuck, jnp.where(feasible, Status.STALLED.code, Status.INFEASIBLE.code), code)
    code = jnp.where(idle & within, floor, code)
    code = jnp.where(idle & ~within & _trapped(run, domain), Status.INFEASIBLE.code, code)
    code = jnp.where(converged, Status.SUCCESS.code, code)
    code = jnp.where(moved & bottomless, Status.UNBOUNDED.code, code)
    code = jnp.where(first & ~finite, Status.NONFINITE_OBJECTIVE.code, code).astype(jnp.int32)

    ends_in_doubt = converged | (code == Status.NOISE_FLOOR.code) | (code == Status.NOT_CONVERGED.code)
    doubtful = (code == Status.STALLED.code) | (suspect & ends_in_doubt) | (absurd & (code == RUNNING))
    # A method that may go uphill has been led there by f', right or wrong.
    uphill = converged & (run.best.violation <= limits.constraint_tolerance)
    fallen = jnp.maximum(jnp.abs(state.at.value), jnp.abs(run.first_measure.merit - measure.merit))
    uphill = uphill & (run.best.value < state.at.value - SETTLED * fallen - domain.rounding(state.at.value))
    doubtful = doubtful | uphill
    doubtful = doubtful & (code != Status.UNBOUNDED.code) & (code != Status.NONFINITE_OBJECTIVE.code)
    last_step = _inward(state.at.x, state.at.x - run.previous.x, domain)
    direction = jnp.where(converged, last_step, _doubtful_direction(run, domain))
    direction = jnp.where(uphill, _inward(state.at.x, run.best.x - state.at.x, domain), direction)
    begun = examination.begin(state.at, direction, run.size, domain)
    return run._replace(
        examination=jax.tree.map(lambda a, b: jnp.where(doubtful, a, b), begun, run.examination),
        mismatch=jnp.where(doubtful, 0, run.mismatch),
        reason=jnp.where(doubtful, code, run.reason),
        code=jnp.where(doubtful, RUNNING, code),
    )


def _reference(run: Run) -> Float[Array, ""]:
    """What rtol is a share of: the stationarity at the start, or the forces of the constraints that balance f' by now.

    A start may be a minimum of f where it is not yet within the constraints.
    """
    return jnp.maximum(run.first_measure.stationarity, run.measure.scale)


def _constrained(run: Run) -> bool:
    return hasattr(run.state, "multipliers")


def _trapped(run: Run, domain: Domain) -> Bool[Array, ""]:
    """Whether no small change of x makes the violation smaller; without that evidence a run outside of the constraints goes on."""
    if not _constrained(run):
        return jnp.zeros((), bool)
    return lagrangian.trapped(run.state.at.x, run.state.constraints, run.state.multipliers, domain)


def _doubtful_direction(run: Run, domain: Domain) -> Float[Array, " n"]:
    """Where the method got stuck, if it did, and downhill in units of the entries' sizes: what there is to gain is along it."""
    state, unit = run.state, jnp.where(run.reach > 0, run.reach, jnp.where(run.size > 0, run.size, 1))

    def normalized(v: Array) -> Array:
        length = jnp.max(jnp.abs(v) / unit, initial=0.0)
        return v / jnp.where(length > 0, length, 1)

    downhill = normalized(-run.measure.derivative * unit**2)
    direction = downhill + jnp.where(state.stuck, normalized(state.search_direction), 0)
    # An entry at a bound, which would pass it at once, stays there.
    return jnp.where(domain.free(state.at.x, -direction), direction, 0)


def _at_floor(run: Run, domain: Domain) -> Bool[Array, ""]:
    """Whether steps that gain nothing tell that nothing can be seen to gain, when they are within the constraints.

    Where the slope is no more than noise can hide: methods for constraints may as well turn in circles.
    """
    value, total = run.state.at.value, jnp.abs(run.first_measure.merit - run.measure.merit)
    most = AT_FLOOR_WITHIN_CONSTRAINTS if _constrained(run) else AT_FLOOR
    if hasattr(run.state, "promise"):
        most = jnp.where(_promises_nothing(run, domain), AT_FLOOR_BY_PROMISE, most)
    return _relative_slope(run) <= most * jnp.sqrt(domain.rounding(value) * jnp.maximum(jnp.abs(value), total))


def _relative_slope(run: Run) -> Float[Array, ""]:
    """What a change of an entry by its size changes f by, to first order, whatever the units (Dennis and Schnabel, section 7.2)."""
    return jnp.max(jnp.abs(run.measure.derivative) * run.reach, initial=0.0)


def _settled(run: Run, domain: Domain, limits: Limits) -> Bool[Array, ""]:
    """Whether the slope is small beside f, too, and not only beside that at the start; and what second derivatives promise.

    A steep start makes rtol times the first derivative a large number, which says nothing about the end.
    """
    value, stationarity, slope = run.state.at.value, run.measure.stationarity, _relative_slope(run)
    eps, total = jnp.finfo(value.dtype).eps, jnp.abs(run.first_measure.merit - run.measure.merit)
    settled = slope <= jnp.maximum(SETTLED, jnp.sqrt(eps)) * jnp.abs(value)
    # A quadratic may be solved by a single step, which leaves nothing but rounding.
    nothing = (stationarity <= 64 * eps * _reference(run)) & (slope <= ROUNDED * eps * total)
    zero = jnp.abs(value) <= ZERO * eps * total
    settled = settled | (zero & (nothing | (slope <= SETTLED_SINCE_START * total)))
    asked = stationarity <= limits.atol
    if hasattr(run.state, "promise"):
        settled = settled & (zero | _promises_nothing(run, domain))
    return (settled | asked) & _promise_known(run.state)


def _promise_known(state: Any) -> Bool[Array, ""]:
    """Whether a method of second derivatives knows what they promise at its iterate, and that this is finite."""
    return jnp.isfinite(state.promise) if hasattr(state, "promise") else jnp.ones((), bool)


def _promises_nothing(run: Run, domain: Domain) -> Bool[Array, ""]:
    """Whether second derivatives promise no gain to speak of."""
    value = run.state.at.value
    return run.state.promise <= jnp.maximum(PROMISED * jnp.abs(value), domain.rounding(value))


def _inward(x: Float[Array, " n"], direction: Float[Array, " n"], domain: Domain) -> Float[Array, " n"]:
    """The direction, turned around where the bounds leave no room along it."""
    return jnp.where(domain.longest(x, direction) > 0, direction, -direction)
