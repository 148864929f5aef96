"""Checks: numbers beside what they should be, in a table that decides how a run ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from adjoint.run.ending import Ending, Outcome


@dataclass(frozen=True)
class Check:
    """A number beside its reference: it holds if |measured - reference| <= bound. NaN never does.

    Parameters
    ----------
    name
        What was measured, with its unit.
    measured
        The number.
    bound
        The largest difference from the reference that is right.
    source
        Where the reference, or for a difference the bound, comes from.
    reference
        What it should be; 0 where ``measured`` is a difference already.

    Examples
    --------
    >>> Check(
    ...     "compliance", 216.81, bound=0.01, reference=216.81, source="Andreassen et al. (2011)"
    ... ).holds
    True
    >>> Check("off the closed form", float("nan"), bound=1e-9, source="rounding").holds
    False
    """

    name: str
    measured: float
    bound: float
    source: str
    reference: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the number is what it should be."""
        return bool(abs(self.measured - self.reference) <= self.bound)


def checks_table(checks: Sequence[Check]) -> str:
    """One line a check: quantity, value, reference, bound, verdict, source.

    Examples
    --------
    >>> print(
    ...     checks_table(
    ...         [Check("sag in m", 0.25, bound=1e-6, reference=0.25, source="the catenary")]
    ...     )
    ... )
    quantity  measured  reference  at most off  verdict  source
    sag in m      0.25       0.25        1e-06  holds    the catenary
    """
    header = ("quantity", "measured", "reference", "at most off", "verdict", "source")
    rows = [
        (
            check.name,
            f"{check.measured:.8g}",
            f"{check.reference:.8g}",
            f"{check.bound:.3g}",
            "holds" if check.holds else "FAILS",
            check.source,
        )
        for check in checks
    ]
    lines = [header, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(5)]
    text = []
    for name, *numbers, verdict, source in lines:
        cells = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:4], strict=True)]
        text.append("  ".join([f"{name:<{widths[0]}}", *cells, f"{verdict:<{widths[4]}}", source]))
    return "\n".join(text)


def judged(checks: Sequence[Check], remarks: str = "") -> Ending:
    """The ending that the checks decide: done if all of them hold, and named what does not.

    Parameters
    ----------
    checks
        At least one.
    remarks
        What else is worth telling, in sentences that come first.

    Raises
    ------
    ValueError
        When there are no checks: a run that checked nothing has shown nothing.
    """
    if not checks:
        raise ValueError(
            "run: got no checks, expected at least one. Return [Check(name, measured, bound, "
            "source), ...]."
        )
    table = checks_table(checks)
    said = f"{remarks} " if remarks else ""
    failed = [check.name for check in checks if not check.holds]
    if not failed:
        words = "The check holds." if len(checks) == 1 else f"All {len(checks)} checks hold."
        return Ending(Outcome.DONE, f"{said}{words}\n{table}")
    words = f"{len(failed)} of {len(checks)} checks fail: {', '.join(failed)}."
    return Ending(Outcome.NOT_CONVERGED, f"{said}{words}\n{table}")
