"""What is promised of linear solves, as numbers that the tables and the pictures share."""

from typing import Any

from benchmarks.answers import GRADIENT
from benchmarks.linear.contest import ASSEMBLY


def gradient_limit(n: int) -> float | None:
    """What (value + gradient) / value may be at a size.

    Sizes are rounded to whole grids, hence the margin.
    """
    return 1.05 if n >= 90_000 else 1.15 if n >= 9_000 else None


def beyond_assembly(row: dict[str, Any]) -> list[float]:
    """Seconds of value and gradient less those of assembling, repetition by repetition."""
    return [a - b for a, b in zip(row["seconds"][GRADIENT], row["seconds"][ASSEMBLY], strict=True)]
