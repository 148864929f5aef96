"""Problems with constraints, as the contest states them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class ConstrainedCase:
    """Minimize f subject to equality(x) = 0, inequality(x) <= 0 and lower <= x <= upper.

    Attributes
    ----------
    objective, equality, inequality
        In JAX; the constraints return arrays, or are None.
    start
        As published, shape (n,).
    lower, upper
        Infinite where there is no bound.
    value, digits
        f at the published optimum, and half a unit of its last digit.
    optimum
        The published x; None where none is used.
    """

    name: str
    objective: Function
    start: Float[np.ndarray, " n"]
    value: float
    digits: float
    optimum: Float[np.ndarray, " n"] | None
    equality: Function | None
    inequality: Function | None
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]

    @property
    def n(self) -> int:
        """The number of unknowns."""
        return self.start.size

    @property
    def bounded(self) -> bool:
        """Whether any unknown has a bound."""
        return bool(np.any(np.isfinite([self.lower, self.upper])))

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds for methods that need finite ones.

        Where there is none, it is the power of ten above twice the largest |x|.
        """
        largest = float(np.max(np.abs(self.start if self.optimum is None else self.optimum)))
        far = 10.0 ** np.ceil(np.log10(2 * largest))
        return np.maximum(self.lower, -far), np.minimum(self.upper, far)
