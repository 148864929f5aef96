"""What is found along one direction: the gradient's derivative against that of each oracle."""

import math
from dataclasses import replace

import numpy as np

from adjoint.verify.differences import DEVIATIONS, Estimate, noise_at
from adjoint.verify.line import Line
from adjoint.verify.remainder import leading_coefficient, observed_rate, odd_and_even_parts
from adjoint.verify.verdict import AGREES, RESOLVED, UNRESOLVED, WRONG, ZERO, Check, ratio

# Steps in the Taylor remainder: enough to fit its three leading terms and to see how well they fit.
REMAINDERS = 8


def check_direction(
    line: Line,
    estimate: Estimate,
    gradients: list[np.ndarray],
    rtol: float,
    complex_: tuple[float, float] | None,
    forward: float | None,
) -> Check:
    """The check of the gradients along a line by all oracles."""
    a = line.direction.pair(gradients)
    d = estimate.value
    scale = max(abs(a), abs(d) if math.isfinite(d) else 0.0, line.direction.spread(gradients))
    remainder, remainder_error, rate = _linear_remainder(line, estimate, a)
    check = Check(
        name=line.direction.name,
        leaf=line.direction.leaf,
        is_coordinate=line.direction.is_coordinate,
        gradient=a,
        difference=d,
        error=estimate.error,
        remainder=remainder,
        remainder_error=remainder_error,
        rate=rate,
        complex_step=complex_[0] if complex_ else None,
        forward=forward,
        scale=scale,
        verdict=AGREES,
        relative_error=ratio(abs(a - d), scale),
    )
    return _judge(check, estimate, rtol, complex_)


def _judge(
    check: Check, estimate: Estimate, rtol: float, complex_: tuple[float, float] | None
) -> Check:
    """The rule of `verify_gradient` for one direction, in the order of its docstring."""
    a = check.gradient
    d = check.difference
    e = check.error
    tolerance = rtol * check.scale
    # A gradient that should vanish is left with the rounding of its terms, which moves f by no more
    # than its noise.
    rounding = DEVIATIONS * estimate.noise
    if estimate.constant and abs(a) <= rounding and not abs(d) > e:
        return replace(check, verdict=ZERO, relative_error=0.0)
    if check.forward is not None and not abs(check.forward - a) <= tolerance + rounding:
        error = max(ratio(abs(check.forward - a), check.scale), check.relative_error)
        reason = f"forward mode says {check.forward:.6g}, reverse mode {a:.6g}"
        return replace(check, verdict=WRONG, relative_error=error, reason=reason)
    if abs(a - d) > tolerance + e:
        return replace(
            check,
            verdict=WRONG,
            reason=f"the gradient says {a:.6g}, the differences {d:.6g} +- {e:.1g}",
        )
    if abs(check.remainder) > tolerance + check.remainder_error:
        linear = f"{check.remainder:.3g} +- {check.remainder_error:.1g}"
        error = max(ratio(abs(check.remainder), check.scale), check.relative_error)
        reason = f"the Taylor remainder has a linear term of {linear} next to {a:.6g}"
        return replace(check, verdict=WRONG, relative_error=error, reason=reason)
    if e <= RESOLVED * tolerance:
        return check
    if abs(a) <= e and abs(d) <= e and e <= RESOLVED * rtol * estimate.slope:
        return replace(check, verdict=ZERO, relative_error=ratio(abs(a - d), estimate.slope))
    if complex_:
        return _judge_by_complex_step(check, complex_, rtol)
    return replace(check, verdict=UNRESOLVED)


def _judge_by_complex_step(check: Check, complex_: tuple[float, float], rtol: float) -> Check:
    """Where noise leaves the differences undecided, the complex step, without any, decides."""
    value, error = complex_
    scale = max(check.scale, abs(value))
    checked = replace(check, scale=scale, relative_error=ratio(abs(check.gradient - value), scale))
    if abs(check.gradient - value) > rtol * scale + error:
        reason = (
            f"the gradient says {check.gradient:.6g}, the complex step {value:.6g} +- {error:.1g}"
        )
        return replace(checked, verdict=WRONG, reason=reason)
    return checked if error <= RESOLVED * rtol * scale else replace(checked, verdict=UNRESOLVED)


def _linear_remainder(line: Line, estimate: Estimate, claimed: float) -> tuple[float, float, float]:
    """The coefficient of h in (phi(h) - phi(-h)) / 2 - h <gradient, v>.

    Its uncertainty, and the order observed, come with it.
    """
    largest = 2 * estimate.largest_step
    smallest = max(estimate.largest_step * 2.0**-12, 8 * line.smallest_step)
    usable = {h for h in line.steps() if smallest <= h <= largest and _is_finite_at(line, h)}
    while (
        usable
        and len(usable) < REMAINDERS
        and min(usable) / 2 >= smallest
        and _is_finite_at(line, min(usable) / 2)
    ):
        usable.add(min(usable) / 2)
    steps = np.array(sorted(usable, reverse=True))
    remainders = odd_and_even_parts(line, steps)[0] - claimed * steps
    noises = math.sqrt(0.5) * np.array([noise_at(line, h, estimate.noise) for h in steps])
    fit = leading_coefficient(steps, remainders, noises, 1)
    if fit is None:
        return math.nan, math.nan, math.nan
    return fit.coefficient, fit.uncertainty, observed_rate(steps, np.abs(remainders), noises)


def _is_finite_at(line: Line, step: float) -> bool:
    return math.isfinite(line(step)) and math.isfinite(line(-step))
