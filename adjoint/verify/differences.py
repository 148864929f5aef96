"""phi'(0) from values alone: extrapolated differences with an error estimate, and complex step.

D(h) = (phi(h) - phi(-h)) / (2 h) = phi'(0) + c_1 h^2 + c_2 h^4 + ... is extrapolated to h = 0 from
several steps (Richardson, Phil. Trans. R. Soc. A 226, 1927; Neville's scheme in h^2). Two errors
limit it: truncation, seen as the difference of two columns of the scheme, and the rounding noise of
f, measured from high differences of phi at tiny steps (More and Wild, SIAM J. Sci. Comput. 33,
2011, eq. 2.3). Steps are added where the larger of the two asks for it.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from adjoint.verify.line import Line

# Steps are relative to the magnitude of p. A quarter is the largest first step: with v's sizes up
# to 1.5 the signs of the parameters stay what they are, which keeps positive quantities
# (stiffnesses, densities, times) positive.
FIRST_STEPS = tuple(2.0**-k for k in range(3, 9))
# The error bound is this many standard deviations of the noise. The noise is itself estimated from
# few samples, and one call makes up to hundreds of comparisons, so that two or three deviations
# would often be exceeded.
DEVIATIONS = 8.0
COLUMNS = 5
# Steps further apart than this do not share one regime of the truncation error.
WIDEST_GAP = 4.0


@dataclass(frozen=True)
class Estimate:
    """A derivative along a line, with what is known about its error.

    Attributes
    ----------
    value
        phi'(0); NaN when f is finite at no pair of steps.
    error
        Bound on its error, by estimate: truncation plus `DEVIATIONS` standard deviations of the
        noise.
    noise
        Standard deviation of the noise of f, in units of f.
    largest_step, smallest_step
        The steps that the value was extrapolated from.
    slope
        The largest change of f per step, over steps up to 1: what f does at all along this line.
    constant
        Whether f moves by no more than its noise at every step tried, and at steps 1 and 2.
    """

    value: float
    error: float
    noise: float
    largest_step: float
    smallest_step: float
    slope: float
    constant: bool


@dataclass(frozen=True)
class _Candidate:
    value: float
    truncation: float
    noise: float
    largest: float
    smallest: float

    @property
    def error(self) -> float:
        return self.truncation + self.noise


@dataclass(frozen=True)
class _Quotient:
    """D(h) with the bound on its noise."""

    step: float
    value: float
    noise: float


def noise_level(line: Line) -> float:
    """The standard deviation of the rounding noise of phi near 0, in units of f.

    Seven equidistant values of phi are so close that their fourth and fifth differences hold no
    signal: what is left is noise. Values that hardly change at all (a large constant hides the
    change) say nothing; the spacing then grows.
    """
    floor = 0.5 * line.epsilon * abs(line.value)
    # Not a power of two: products with round numbers would then be exact, and the noise would seem
    # to be zero.
    spacing = 1.2345 * line.smallest_step
    growth = 2.0**16 if line.starts_at_zero else 2.0**8
    while spacing < 0.125:
        values = np.array([line(j * spacing) for j in range(-3, 4)])
        if np.all(np.isfinite(values)) and np.count_nonzero(np.diff(values)) > 3:
            return max(floor, _scaled_difference(values, 4), _scaled_difference(values, 5))
        spacing *= growth
    return floor


def _scaled_difference(values: np.ndarray, order: int) -> float:
    # The k-th difference of independent noise has the variance (2k)! / (k!)^2 times that of the
    # noise.
    scale = math.factorial(order) ** 2 / math.factorial(2 * order)
    return float(np.sqrt(scale * np.mean(np.diff(values, order) ** 2)))


def noise_at(line: Line, step: float, noise: float) -> float:
    """The noise of phi(h) and phi(-h), from the noise of phi near 0."""
    # Far from p the values, and with them their last digits, may be much larger than at p. And
    # rounding p itself, or a first product with it, moves phi by epsilon times its slope, which
    # matters where phi is small and steep.
    values = np.array([line(step), line(-step)])
    last_digit = 0.5 * np.max(np.abs(values))
    if not line.starts_at_zero:
        last_digit = max(last_digit, np.max(np.abs(values - line.value)) / step)
    return max(noise, line.epsilon * float(last_digit))


def central_differences(line: Line, noise: float, rtol: float) -> Estimate:
    """phi'(0) = lim (phi(h) - phi(-h)) / (2 h), extrapolated, with an error estimate.

    Parameters
    ----------
    line
        phi.
    noise
        Standard deviation of the noise of phi near 0, from `noise_level`.
    rtol
        The relative error that is good enough; steps are added while the estimate is worse and they
        still help.

    Returns
    -------
    estimate
        Value, error and what f does along the line.

    Examples
    --------
    >>> import numpy as np
    >>> from adjoint.verify.line import Direction, Line, Objective
    >>> objective = Objective(
    ...     "example", lambda p: float(np.exp(p)), np.array(1.0), compile_it=False
    ... )
    >>> line = Line(objective, Direction("p", 0, True, {0: np.array(1.0)}))
    >>> estimate = central_differences(line, noise_level(line), 1e-6)
    >>> abs(estimate.value - np.e) < estimate.error < 1e-9
    True
    """
    steps = line.steps() | set(FIRST_STEPS)
    best = None
    for _ in range(60):
        quotients = _quotients(line, steps, noise)
        best = _select(_candidates(quotients), quotients)
        if best is not None and best.error <= rtol * abs(best.value):
            break
        further = _further_steps(best, steps, rtol, line)
        if not further:
            break
        steps |= further
    if best is not None and best.largest > 1 and abs(best.value) <= 10 * best.error:
        # Steps beyond p's own magnitude found no slope. That f is as smooth out there as it is near
        # p is then a guess, which only a slope that stands out of the noise would confirm.
        quotients = [q for q in _quotients(line, steps, noise) if q.step <= 1]
        best = _select(_candidates(quotients), quotients)
    return _summarize(line, best, steps, noise)


def _quotients(line: Line, steps: set[float], noise: float) -> list[_Quotient]:
    """D(h) at the steps where f is finite, largest step first."""
    finite = (
        h for h in sorted(steps, reverse=True) if math.isfinite(line(h)) and math.isfinite(line(-h))
    )
    # The noises of phi(h) and phi(-h) are independent: the factor is 1/sqrt(2).
    bound = DEVIATIONS / math.sqrt(2)
    return [
        _Quotient(h, (line(h) - line(-h)) / (2 * h), bound * noise_at(line, h, noise) / h)
        for h in finite
    ]


def _candidates(quotients: list[_Quotient]) -> list[_Candidate]:
    """All of Neville's scheme that has an error estimate, over every run of neighbouring steps."""
    finite = [q.step for q in quotients]
    column = [q.value for q in quotients]
    noises = [q.noise for q in quotients]
    gaps = [larger / smaller for larger, smaller in itertools.pairwise(finite)]
    # The largest correction met so far on the way to each entry, by column.
    corrections: list[list[float]] = []
    found = []
    for j in range(1, min(COLUMNS, len(finite))):
        ratios = [(finite[k] / finite[k + j]) ** 2 for k in range(len(column) - 1)]
        changes = [
            (fine - coarse) / (r - 1)
            for (coarse, fine), r in zip(itertools.pairwise(column), ratios, strict=True)
        ]
        column = [fine + change for fine, change in zip(column[1:], changes, strict=True)]
        # A sum of bounds, not of squares: never less than the true propagated deviation.
        noises = [
            (r * fine + coarse) / (r - 1)
            for (coarse, fine), r in zip(itertools.pairwise(noises), ratios, strict=True)
        ]
        corrections.append([abs(change) for change in changes])
        for k, value in enumerate(column):
            if max(gaps[k : k + j]) <= WIDEST_GAP:
                truncation = _truncation([max(c[k : k + j - i]) for i, c in enumerate(corrections)])
                if k + 1 < len(column) and gaps[k + j] <= WIDEST_GAP:
                    truncation = max(truncation, abs(column[k + 1] - value))
                found.append(_Candidate(value, 2 * truncation, noises[k], finite[k], finite[k + j]))
    return [candidate for candidate in found if math.isfinite(candidate.value + candidate.error)]


def _truncation(corrections: list[float]) -> float:
    """The error left after corrections of columns 1, 2, ..., the largest among the steps in use.

    The last correction alone is the usual estimate, and sometimes vanishes by accident. So the
    columns before must support it: it counts as no smaller than the previous one times the factor
    by which that one had shrunk.
    """
    last = corrections[-1]
    if len(corrections) == 1:
        return last
    shrinkage = 0.1 if len(corrections) == 2 else corrections[-2] / max(corrections[-3], 1e-300)
    return max(last, corrections[-2] * min(1.0, shrinkage))


def _select(candidates: list[_Candidate], quotients: list[_Quotient]) -> _Candidate | None:
    """The least error among those that no smaller step contradicts.

    Large steps can agree with each other on a wrong limit: a bounded function looks flat from afar.
    So with every smaller step its quotient must come closer to the limit, to within its noise (in
    the spirit of Lepski, Theory Probab. Appl. 35, 1991). And where truncation is a good part of the
    value itself, its estimate means little; such candidates come last.
    """
    for candidate in sorted(
        candidates, key=lambda c: (c.truncation > max(c.noise, 0.1 * abs(c.value)), c.error)
    ):
        used = [q for q in quotients if candidate.smallest <= q.step <= candidate.largest]
        farthest = max(abs(q.value - candidate.value) for q in used) + candidate.error
        smaller = (q for q in quotients if q.step < candidate.smallest)
        if all(abs(q.value - candidate.value) <= farthest + q.noise for q in smaller):
            return candidate
    return None


def _further_steps(
    best: _Candidate | None, tried: set[float], rtol: float, line: Line
) -> set[float]:
    """Larger steps against noise, smaller against truncation; none if the neighbours are there."""
    if best is None:
        step = min(h for h in tried if h > 8 * line.smallest_step) / 64
        return {step, step / 2} if step > 8 * line.smallest_step else set()
    wanted = rtol * abs(best.value)
    excess = best.error / wanted if wanted > best.error * 2.0**-20 else 2.0**20
    if best.noise >= best.truncation:
        larger = [h for h in tried if h > best.largest]
        room = math.log2((min(larger) if larger else 2 * line.largest_step) / best.largest)
        jump = min(
            8, max(1, math.ceil(math.log2(excess))), int(room / 2) if larger else int(room) - 1
        )
        return (
            {best.largest * 2.0**jump, best.largest * 2.0 ** (jump - 1)} - tried
            if jump >= 1
            else set()
        )
    lower = max((h for h in tried if h < best.smallest), default=line.smallest_step)
    jump = min(
        6 if best.error > 0.1 * abs(best.value) else 1, int(math.log2(best.smallest / lower) / 2)
    )
    return (
        {best.smallest / 2.0**jump, best.smallest / 2.0 ** (jump + 1)} - tried
        if jump >= 1
        else set()
    )


def _summarize(line: Line, best: _Candidate | None, steps: set[float], noise: float) -> Estimate:
    # A function that has not moved so far is called constant only if it does not move with p's
    # whole magnitude either.
    constant = _is_still(line, steps, noise) and _is_still(line, steps | {1.0, 2.0}, noise)
    slope = max((_change(line, h) / h for h in steps if 2.0**-10 < h <= 1), default=0.0)
    if best is None:
        return Estimate(math.nan, math.inf, noise, math.nan, math.nan, slope, constant)
    return Estimate(best.value, best.error, noise, best.largest, best.smallest, slope, constant)


def _is_still(line: Line, steps: set[float], noise: float) -> bool:
    return all(_change(line, h) <= 2 * DEVIATIONS * noise_at(line, h, noise) for h in steps)


def _change(line: Line, step: float) -> float:
    """The largest change of f over +-step; 0 where f is not finite, a change not seen."""
    changes = (abs(line(t) - line.value) for t in (step, -step))
    return max((change for change in changes if math.isfinite(change)), default=0.0)


def complex_step(line: Line) -> tuple[float, float] | str:
    """phi'(0) = Im phi(i h) / h, h tiny, without cancellation, with an error bound; or why not.

    It needs an f that is written with analytic operations and accepts complex parameters; an
    absolute value or a real part inside f makes it wrong, so it counts only where the differences
    agree with it. Source: Squire and Trapp, SIAM Rev. 40, 1998, eq. 2.

    Parameters
    ----------
    line
        phi.

    Returns
    -------
    value, error
        The derivative and a bound on its rounding error; or a sentence saying what f refused.
    """
    step = line.epsilon**2
    shift = 1.2345 * line.smallest_step
    try:
        # Other steps with other digits, at points some hundred roundings away, round differently
        # and change nothing else.
        value, left, right = (
            line.complex_value(t + 1j * h).imag / h
            for t, h in ((0.0, step), (-shift, 1.37 * step), (shift, 0.71 * step))
        )
    except Exception as error:
        # f was never meant for complex numbers: whatever it raises means only that this oracle does
        # not apply.
        lines = str(error).strip().splitlines()
        return (
            f"f does not accept complex parameters ({type(error).__name__}: "
            f"{lines[0][:60] if lines else ''})"
        )
    if not math.isfinite(value + left + right):
        return "f is not finite at complex parameters"
    rounding = max(abs(left - value), abs(right - value), line.epsilon * abs(value))
    return value, DEVIATIONS * rounding
