"""Which method: the one that was named, or one for the size of the problem and what is known of it."""

from typing import Any

from adjoint.inputs import describe, refuse
from adjoint.optimize.bfgs import BFGS, LBFGS
from adjoint.optimize.problem import Method

# Beyond so many unknowns an n x n matrix costs more than it saves.
DENSE = 1000


def as_method(method: Any) -> Method:
    """The method that an object of the public interface stands for."""
    if not all(hasattr(method, name) for name in ("init", "step", "measure")):
        refuse("minimize", f"method = {describe(method)}", "SteepestDescent(), BFGS(), LBFGS(), ...", "", TypeError)
    return method


def choose(
    n: int, bounded: bool, has_equality: bool, has_inequality: bool, traceable: bool
) -> tuple[tuple[Method, ...], str]:
    """The methods to try in turn, and why."""
    if has_equality or has_inequality:
        refuse("minimize", "constraints without a method", "a method that honors them", "Name one.")
    return ((BFGS() if n <= DENSE else LBFGS()),), f"{n} unknowns"
