"""What the judge found: a `Check` per direction, a `Verdict`, and the table for a person."""

import math
from dataclasses import dataclass

AGREES = "agrees"
ZERO = "zero"
BELOW_NOISE = "below noise"
UNRESOLVED = "not resolvable"
WRONG = "WRONG"
# Worst first, for the table.
RANKS = {WRONG: 0, UNRESOLVED: 1, AGREES: 2, BELOW_NOISE: 3, ZERO: 4}
# A direction is resolved when the differences are this many tolerances exact. Together with the
# tolerance itself and the error of the differences, an error of 1 + 2 * 3 = 7 tolerances (7e-5 in
# float64, 7e-3 in float32) cannot be missed.
RESOLVED = 3.0
ROWS = 12
NAME_WIDTH = 30


@dataclass(frozen=True)
class Check:
    """One direction, and each oracle's derivative along it. All derivatives are in units of f.

    Attributes
    ----------
    name
        The direction: the key path of a leaf with an index, or the number of a random direction.
    leaf
        Index of the leaf that it judges; None for a direction that moves several.
    is_coordinate
        Whether a single number moves, by its own magnitude.
    gradient
        <gradient, v>, the judged number.
    difference, error
        The derivative by extrapolated central differences, and the bound on its error.
    remainder, remainder_error
        The linear coefficient of the two-sided Taylor remainder, zero for a right gradient, and its
        bound; NaN when too few steps are finite.
    rate
        Observed order of the odd part of the Taylor remainder: 3 when right, 1 when wrong, NaN when
        it is all noise.
    complex_step
        The derivative by the complex step, None where that is not available.
    forward
        The derivative by forward mode, None where that is not available.
    scale
        The size that errors are relative to.
    verdict
        'agrees', 'zero', 'below noise', 'not resolvable' or 'WRONG'.
    relative_error
        |gradient - reference| / scale, with the differences or, where only it can tell, the complex
        step as reference.
    reason
        Which oracle disagrees, in words; empty otherwise.
    """

    name: str
    leaf: int | None
    is_coordinate: bool
    gradient: float
    difference: float
    error: float
    remainder: float
    remainder_error: float
    rate: float
    complex_step: float | None
    forward: float | None
    scale: float
    verdict: str
    relative_error: float
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a gradient is to be trusted, and why; ``str`` gives the report.

    Attributes
    ----------
    trusted
        True when every oracle that applies agrees and the gradient of every leaf was resolved.
    relative_error
        The largest relative error seen along any direction; NaN when a value or a gradient is not
        finite.
    reason
        The verdict in one sentence; it names the worst leaf and direction when the gradient is not
        trusted.
    rtol
        The relative error that was let pass.
    resolution
        The relative error that would have been seen along every direction that agrees: tolerance
        plus noise. Infinite where none does, also for a gradient that is zero throughout.
    value
        f(p).
    checks
        A `Check` per direction.
    oracles
        What each oracle said, in words, by its name.
    notes
        What the verdict does not cover.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> verdict = adjoint.verify_gradient(
    ...     lambda p: jnp.sum(p**3), jnp.array([1.0, 2.0]), gradient=lambda p: 3 * p
    ... )
    >>> verdict.trusted
    False
    >>> verdict.worst.name, round(verdict.worst.relative_error, 2)
    ('p[1]', 0.5)
    """

    trusted: bool
    relative_error: float
    reason: str
    rtol: float
    resolution: float
    value: float
    checks: tuple[Check, ...] = ()
    oracles: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Check | None:
        """The direction that speaks most against the gradient; None if nothing was comparable."""
        return min(self.checks, key=_rank, default=None)

    @property
    def report(self) -> str:
        """The verdict as plain text in at most 100 columns."""
        head = "gradient trusted" if self.trusted else "gradient NOT trusted"
        lines = _wrap(f"{head}: {self.reason}")
        lines.append(
            f"f(p) = {self.value:.9g}, relative error {self.relative_error:.1e}, tolerance "
            f"{self.rtol:.0e}, "
            f"resolution {self.resolution:.1e}"
        )
        for name, text in self.oracles:
            lines += _wrap(f"{name:<20} {text}", indent=21)
        if self.checks:
            lines += _table(sorted(self.checks, key=_rank))
        for note in self.notes:
            lines += _wrap(f"note: {note}", indent=6)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.report


def ratio(error: float, scale: float) -> float:
    """error / scale, where nothing relative to nothing is 0."""
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)


def seen_error(check: Check, rtol: float) -> float:
    """The relative error that would have been seen.

    Where the differences were too noisy the complex step decided.
    """
    noise = ratio(check.error, check.scale)
    return rtol + (noise if noise <= RESOLVED * rtol else 0.0)


def describe_oracles(
    checks: list[Check], rtol: float, forward_note: str, complex_note: str
) -> tuple[tuple[str, str], ...]:
    """One sentence per oracle; the notes say why one was not available."""
    # Relative to a derivative that is zero there is nothing to tell.
    nonzero = [c for c in checks if c.verdict != ZERO]
    forward = [
        ratio(abs(c.forward - c.gradient), c.scale) for c in nonzero if c.forward is not None
    ]
    complex_ = [
        ratio(abs(c.complex_step - c.gradient), c.scale)
        for c in nonzero
        if c.complex_step is not None
    ]
    counts = {
        v: sum(c.verdict == v for c in checks)
        for v in (AGREES, WRONG, ZERO, BELOW_NOISE, UNRESOLVED)
    }
    tallies = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    fitted = [
        c
        for c in checks
        if c.verdict in (AGREES, WRONG) and c.remainder_error <= RESOLVED * rtol * c.scale
    ]
    rates = [c.rate for c in fitted if math.isfinite(c.rate)]
    slowest = (
        f"slowest rate {min(rates):.1f} (3 when right, 1 when wrong)"
        if rates
        else "otherwise noise"
    )
    largest = max((ratio(abs(c.remainder), c.scale) for c in fitted), default=math.nan)
    taylor = (
        f"{len(fitted)} directions: largest linear term {largest:.1e}; {slowest}"
        if fitted
        else "no direction resolved"
    )
    return (
        ("forward = reverse", forward_note or f"largest mismatch {max(forward, default=0.0):.1e}"),
        ("central differences", f"{len(checks)} directions: {tallies}"),
        ("complex step", complex_note or f"largest mismatch {max(complex_, default=0.0):.1e}"),
        ("Taylor remainder", taylor),
    )


def _rank(check: Check) -> tuple[int, float]:
    error = check.relative_error
    return RANKS[check.verdict], -error if math.isfinite(error) else -math.inf


def _table(checks: list[Check]) -> list[str]:
    lines = [
        f"{'direction':<{NAME_WIDTH}} {'gradient':>11} {'differences':>11} {'+- error':>8} "
        f"{'complex':>11} "
        f"{'rate':>5} {'rel.err':>7} verdict"
    ]
    for c in checks[:ROWS]:
        name = c.name if len(c.name) <= NAME_WIDTH else "..." + c.name[3 - NAME_WIDTH :]
        complex_step = "-" if c.complex_step is None else f"{c.complex_step:.4e}"
        rate = "noise" if math.isnan(c.rate) else f"{c.rate:.1f}"
        lines.append(
            f"{name:<{NAME_WIDTH}} {c.gradient:>11.4e} {c.difference:>11.4e} {c.error:>8.1e} "
            f"{complex_step:>11} "
            f"{rate:>5} {c.relative_error:>7.0e} {c.verdict}"
        )
    if len(checks) > ROWS:
        lines.append(f"... and {len(checks) - ROWS} more, none worse")
    return lines


def _wrap(text: str, indent: int = 2, width: int = 100) -> list[str]:
    lines = []
    line = ""
    for word in text.split(" "):
        if line.strip() and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
