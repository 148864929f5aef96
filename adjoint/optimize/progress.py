"""A run of a method: what has been spent, the best point so far, and when and why it is over.

Pure, for either loop.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize import derivative_check, directions, evidence, lagrangian, stopping
from adjoint.optimize.agreement import (
    SEEN,
    lagrangian_at,
    lagrangian_of,
    mismatch,
    unexplained,
)
from adjoint.optimize.problem import Domain, Method
from adjoint.optimize.run import Best, Limits, Run, in_unit_of_f, multipliers_of
from adjoint.optimize.state import Evaluation, Iterate, State
from adjoint.optimize.stopping import RUNNING, STOPPING, UNLESS_ZERO, first_that_holds
from adjoint.status import Status
from adjoint.tracing import loops

# Two steps in a row whose gain misses what their slopes say by this share make the derivative
# suspect.
MISMATCHED = 0.1
# Eight in a row that miss it altogether, by this share, are looked into at once: some methods creep
# along a wrong derivative.
ALTOGETHER = 0.5
# A step that changes no entry by more than so many times its rounding is none.
SHORT = 4


def _counted(run: Run) -> Run:
    return run._replace(counts=run.counts.at[run.query].add(1))


def _limited(run: Run, limits: Limits) -> Run:
    spent = (run.code == RUNNING) & (run.counts[0] >= limits.max_evaluations)
    return run._replace(
        code=jnp.where(spent, Status.MAX_EVALUATIONS.code, run.code).astype(jnp.int32)
    )


def _as_noisy(domain: Domain, run: Run) -> Domain:
    return replace(domain, noise=jnp.maximum(domain.noise, run.noise))


def check_derivative(
    method: Method, run: Run, evaluation: Evaluation, domain: Domain, limits: Limits
) -> Run:
    """One more evaluation of a check of the derivative.

    After the last, end, or go on with what it has told about the noise.
    """
    run, evaluation, domain, limits = in_unit_of_f(method, run, evaluation, domain, limits)
    run, domain = _counted(run), _as_noisy(domain, run)
    there = Iterate(run.derivative_check.point, evaluation.value, evaluation.derivative)
    there = lagrangian_at(run.state, there, lagrangian.of_answer(evaluation))
    checked = derivative_check.record(
        run.derivative_check, Evaluation(there.value, there.derivative)
    )

    def conclude(run: Run) -> Run:
        finding = derivative_check.find(checked, domain)
        looked_for_zero = run.reason == UNLESS_ZERO
        # Noise is that of f here, and this one has come down, or goes on to.
        noise = jnp.where(looked_for_zero, run.noise, jnp.maximum(finding.noise, _blur(run)))
        noisy = replace(domain, noise=noise)
        failed = (run.reason == Status.STALLED.code) | (run.reason == Status.INFEASIBLE.code)
        restarted = method.restart(run.state, noisy)
        # Constraints balance the slope of f, so that its gain and its curvature say nothing.
        at_floor = (
            evidence.at_floor(run, noisy)
            if run.state.multipliers is not None
            else finding.at_floor
            & evidence.at_floor(run, noisy, directions.in_sizes(run, finding.bend))
        )
        within = run.measure.violation <= limits.constraint_tolerance
        at_floor = at_floor & within
        again = (
            failed
            & ~at_floor
            & ~restarted.failed
            & (run.measure.merit < run.restarted_at - SEEN * noise)
        )
        stalled_at_zero = (run.zero_for > 0) & (run.reason == Status.STALLED.code)
        looked_around = looked_for_zero | stalled_at_zero
        zero = looked_around & stopping.vanishes(
            evidence.of_run(run, domain), directions.in_sizes(run, finding.curvature)
        )
        # Beside its zeros f is all rounding, which may look like anything.
        wrong = finding.wrong & ~looked_around
        told = first_that_holds(
            (Status.UNTRUSTED_GRADIENT, wrong),
            (Status.SUCCESS, zero),
            (Status.NOISE_FLOOR, failed & at_floor),
        )
        otherwise = jnp.where(again | looked_for_zero, RUNNING, run.reason)
        code = jnp.where(told == RUNNING, otherwise, told)
        state = jax.tree.map(lambda a, b: jnp.where(again, a, b), restarted, run.state)
        return run._replace(
            state=state,
            derivative_check=checked._replace(active=jnp.zeros((), bool)),
            noise=noise,
            idle=jnp.where(again, 0, run.idle),
            restarted_at=jnp.where(again, run.measure.merit, run.restarted_at),
            code=code.astype(jnp.int32),
        )

    over = derivative_check.complete(checked)
    return _limited(
        loops.cond(over, conclude, lambda run: run._replace(derivative_check=checked), run), limits
    )


def _blur(run: Run) -> Float[Array, ""]:
    """The noise that contradicted slopes where the method failed, or zero.

    It showed on stretches too short for a check of the derivative. Rounding of terms that were as
    large as f when x took its present size: more than that may as well be a wrong derivative.
    """
    blur = run.state.contradicted_by
    recent = jnp.abs(run.value_at_size - run.state.at.value)
    return jnp.where(blur <= jnp.finfo(blur.dtype).eps * recent, blur, 0)


def proceed(
    method: Method, run: Run, evaluation: Evaluation, domain: Domain, limits: Limits
) -> Run:
    """One more step of the method, and whether it is the last."""
    run, evaluation, domain, limits = in_unit_of_f(method, run, evaluation, domain, limits)
    run, domain = _counted(run), _as_noisy(domain, run)
    before = run.state
    state = method.step(before, evaluation, domain)
    first = run.counts[0] + run.counts[1] == 1
    moved = first | (state.iterations != before.iterations)
    run = run._replace(state=state)
    arrived = loops.cond(
        moved, lambda run: _arrive(method, run, before, first, domain, limits), lambda run: run, run
    )
    # Second derivatives tell a minimum from a plateau or a saddle, and arrive after the step.
    complete = evidence.prediction_known(state) & (moved | ~evidence.prediction_known(before))
    return _limited(
        _stop(arrived, moved, complete, first, evaluation, domain, limits, method.patience), limits
    )


def _arrive(
    method: Method, run: Run, left: State, first: Bool[Array, ""], domain: Domain, limits: Limits
) -> Run:
    """Measure a new iterate; compare it with that of the state that was left, and the best."""
    before = left.at
    at = run.state.at
    measure = method.measure(run.state, domain)
    reach = jnp.maximum(run.reach, jnp.abs(at.x))
    scaled = method.measure(run.state, domain.in_sizes(reach))
    best = run.best
    tolerance = limits.constraint_tolerance
    feasible = jnp.maximum(measure.violation, tolerance), jnp.maximum(best.violation, tolerance)
    better = (feasible[0] < feasible[1]) | ((feasible[0] == feasible[1]) & (at.value <= best.value))
    here = Best(at.x, at.value, measure.stationarity, measure.violation, multipliers_of(run.state))
    rounding = domain.rounding(at.value)
    # A step by the rounding of x leads nowhere, whatever it gains.
    is_step = jnp.any(jnp.abs(at.x - before.x) > SHORT * jnp.finfo(at.x.dtype).eps * jnp.abs(at.x))
    gained = is_step & (run.measure.merit - measure.merit > rounding)
    gained = gained | (measure.violation < run.measure.violation / 2)
    gained = gained | (scaled.stationarity < run.lowest / 2) | first
    begins = first & ~jnp.isfinite(run.first_measure.merit)
    is_lowest = measure.merit < run.lowest_merit - rounding
    is_lowest = is_lowest | (scaled.stationarity < run.lowest / 2)
    relieved = measure.violation <= jnp.maximum(tolerance, (1 - STOPPING.relieved) * best.violation)
    size = jnp.maximum(jnp.abs(at.x), STOPPING.negligible * reach)
    grown = size > STOPPING.resized * run.sizes
    shrunk = size * STOPPING.resized < run.sizes
    small_for = jnp.where(shrunk, run.small_for + 1, 0)
    resized = jnp.any(grown) | jnp.all(shrunk) | jnp.any(small_for >= STOPPING.passing)
    # Beside what an entry has been only where all of x ends at zero: alone, a small one may count.
    tiny = jnp.all(jnp.abs(at.x) <= STOPPING.negligible * reach)
    unit = jnp.where(tiny, reach, jnp.abs(at.x))
    is_short = jnp.all(jnp.abs(at.x - before.x) <= SHORT * jnp.finfo(at.x.dtype).eps * unit)
    faded = ~first & is_short & (jnp.abs(at.value) <= STOPPING.fading * jnp.abs(before.value))
    total = jnp.where(first, 0, jnp.abs(run.first_measure.merit - measure.merit))
    zero = (measure.violation <= tolerance) & stopping.is_zero(at.value, total)
    return run._replace(
        previous=before,
        measure=measure,
        scaled=scaled,
        first_measure=jax.tree.map(lambda a, b: jnp.where(begins, a, b), scaled, run.first_measure),
        best=jax.tree.map(lambda a, b: jnp.where(better, a, b), here, best),
        lowest=jnp.minimum(run.lowest, scaled.stationarity),
        mismatch=mismatch(run.mismatch, before, at, rounding, first),
        unexplained=jnp.append(run.unexplained[1:], unexplained(run.state, left, rounding, first)),
        size=jnp.maximum(run.size, domain.norm(at.x)),
        reach=reach,
        sizes=jnp.where(resized, size, run.sizes),
        value_at_size=jnp.where(resized, at.value, run.value_at_size),
        small_for=jnp.where(resized, 0, small_for).astype(jnp.int32),
        faded=faded,
        zero_for=jnp.where(zero, run.zero_for + 1, 0).astype(jnp.int32),
        idle=jnp.where(gained, 0, run.idle + 1).astype(jnp.int32),
        circling=jnp.where(is_lowest, 0, run.circling + 1).astype(jnp.int32),
        unrelieved=jnp.where(relieved | first, 0, run.unrelieved + 1).astype(jnp.int32),
        lowest_merit=jnp.minimum(run.lowest_merit, measure.merit),
    )


def _stop(
    run: Run,
    moved: Bool[Array, ""],
    complete: Bool[Array, ""],
    first: Bool[Array, ""],
    evaluation: Evaluation,
    domain: Domain,
    limits: Limits,
    patience: int = 1,
) -> Run:
    """Whether and why the run is over, or has to be checked before it may be.

    `complete` when all is known of the iterate.
    """
    state = run.state
    measure = run.measure
    reference = evidence.reference(run, domain)
    known = evidence.of_run(run, domain)
    within = measure.violation <= limits.constraint_tolerance
    settled = stopping.is_settled(known, evidence.knows_curvature(state)) | (
        measure.stationarity <= limits.atol
    )
    settled = settled & evidence.prediction_known(state)
    small = (run.scaled.stationarity <= limits.rtol * reference) | (
        measure.stationarity <= limits.atol
    )
    converged = complete & small & within & settled
    finite = lagrangian.finite(evaluation)
    idle = moved & (run.idle >= patience * STOPPING.idle_steps)
    unrelieved = moved & (run.unrelieved >= patience * STOPPING.idle_steps)
    # Without constraints a check tells the noise floor from steps that are merely short.
    constrained = state.multipliers is not None
    at_floor = evidence.at_floor(run, domain) if constrained else jnp.zeros((), bool)
    circles = moved & (run.circling >= patience * STOPPING.circling_steps)
    mismatched = jnp.all(run.mismatch[-2:] > MISMATCHED)
    mismatched_throughout = jnp.all(run.mismatch > ALTOGETHER)
    infeasible_stationary = evidence.infeasible_stationary(run, domain)
    # Stuck outside of the constraints, where points within them are known, is no reason to doubt
    # that there are any.
    feasible = within | (run.best.violation <= limits.constraint_tolerance)
    code = first_that_holds(
        (Status.NONFINITE_OBJECTIVE, first & ~finite),
        (Status.UNBOUNDED, moved & _falls_without_end(run, reference)),
        (Status.SUCCESS, converged),
        (Status.INFEASIBLE, (idle | unrelieved) & ~within & infeasible_stationary),
        (Status.NOISE_FLOOR, (idle | circles) & within & at_floor),
        (Status.STALLED, idle & within),
        (Status.STALLED, state.failed & feasible),
        (Status.INFEASIBLE, state.failed & ~feasible),
        (Status.NOT_CONVERGED, moved & (state.iterations >= limits.max_steps)),
    )

    ends_in_doubt = (
        converged | (code == Status.NOISE_FLOOR.code) | (code == Status.NOT_CONVERGED.code)
    )
    # Constraints whose slopes cancel each other need no other witness.
    gives_up = (code == Status.STALLED.code) | (
        (code == Status.INFEASIBLE.code) & ~infeasible_stationary
    )
    to_check = gives_up | (mismatched & ends_in_doubt) | (mismatched_throughout & (code == RUNNING))
    uphill = converged & _has_gone_uphill(run, domain, limits)
    # A regular minimum would have ended the run by now.
    vanishing = (
        complete
        & small
        & (code == RUNNING)
        & ~mismatched_throughout
        & (run.zero_for >= STOPPING.idle_steps)
    )
    vanishing = vanishing & (jnp.abs(state.at.value) <= STOPPING.fading**2 * run.zero_at)
    to_check = to_check | uphill | vanishing
    to_check = (
        to_check & (code != Status.UNBOUNDED.code) & (code != Status.NONFINITE_OBJECTIVE.code)
    )
    direction = _where_to_look(run, domain, converged, uphill)
    stalled = code == Status.STALLED.code
    around = vanishing | ((run.zero_for > 0) & stalled)
    every = directions.all_around(run, stalled, domain)
    begun = _check_along(run, jnp.where(around, every, direction), around, domain)
    return run._replace(
        zero_at=jnp.where(vanishing, jnp.abs(state.at.value), run.zero_at),
        derivative_check=jax.tree.map(
            lambda a, b: jnp.where(to_check, a, b), begun, run.derivative_check
        ),
        mismatch=jnp.where(to_check, 0, run.mismatch),
        reason=jnp.where(to_check, jnp.where(vanishing, UNLESS_ZERO, code), run.reason),
        code=jnp.where(to_check, RUNNING, code),
    )


def _has_gone_uphill(run: Run, domain: Domain, limits: Limits) -> Bool[Array, ""]:
    """Whether a better point is known: f', right or wrong, has led a method away from it."""
    at = run.state.at
    fallen = jnp.maximum(jnp.abs(at.value), jnp.abs(run.first_measure.merit - run.measure.merit))
    most = at.value - STOPPING.settled * fallen - domain.rounding(at.value)
    return (run.best.violation <= limits.constraint_tolerance) & (run.best.value < most)


def _falls_without_end(run: Run, reference: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether what was gained is beyond all that the start knew.

    In the sizes of the start, as those of today grow with an x that runs away.
    """
    start = run.first_measure
    slope = jnp.where(start.stationarity > 0, start.stationarity, reference)
    scale = jnp.maximum(jnp.abs(start.merit), slope)
    gained = start.merit - run.measure.merit
    return (scale > 0) & (gained > scale / jnp.finfo(scale.dtype).eps)


def _where_to_look(
    run: Run, domain: Domain, converged: Bool[Array, ""], uphill: Bool[Array, ""]
) -> Float[Array, " n"]:
    """Back along the last step, or to the best point where that is lower; else where to gain."""
    x = run.state.at.x
    last_step = directions.inward(x, x - run.previous.x, domain)
    direction = jnp.where(converged, last_step, directions.most_to_gain(run, domain))
    return jnp.where(uphill, directions.inward(x, run.best.x - x, domain), direction)


def _check_along(
    run: Run, direction: Float[Array, " n"], around: Bool[Array, ""], domain: Domain
) -> derivative_check.DerivativeCheck:
    """One along the direction; as far as sizes that x has had, or all around as its length."""
    base = lagrangian_of(run.state, run.state)
    units = domain.in_sizes(run.reach)
    size = run.size if units.unit is None else units.norm(run.reach)
    size = jnp.where(around, units.norm(direction), size)
    return derivative_check.begin(base, direction, size, units)
