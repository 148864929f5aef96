"""The derivatives that the user of a black box supplies, verified by differences of its values."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.flatten_util
import numpy as np

from adjoint.inputs import refuse
from adjoint.tracing.host_batching import HostStructure
from adjoint.verify.differences import central_differences, noise_level
from adjoint.verify.line import Line, Objective, default_tolerance, random_directions


class HostFunctions(Protocol):
    """A black box on arrays: its value, x_bar = J' y_bar (pull) and y_dot = J x_dot (push).

    Arrays are all leaves of x, those that have a derivative (moving), or y as one vector.
    """

    y: HostStructure

    @property
    def has_jvp(self) -> bool: ...
    def value_on_host(self, *leaves: np.ndarray) -> np.ndarray: ...
    def pull_on_host(self, y_bar: np.ndarray, *leaves: np.ndarray) -> list[np.ndarray]: ...
    def push_on_host(
        self, leaves: Sequence[np.ndarray], dots: Sequence[np.ndarray]
    ) -> np.ndarray: ...
    def moving(self, leaves: Sequence[np.ndarray]) -> list[np.ndarray]: ...
    def moved(
        self, leaves: Sequence[np.ndarray], others: Sequence[np.ndarray]
    ) -> list[np.ndarray]: ...


# Random directions of x, each with a y_bar of its own, in which derivatives are compared.
DIRECTIONS = 2


def verify_on_host(calls: HostFunctions, leaves: Sequence[np.ndarray], y: np.ndarray) -> None:
    """Compare <y_bar, J x_dot> by vjp, by jvp and by differences.

    NumPy alone, since this runs inside of a callback.
    """
    generator = np.random.default_rng(0)
    lines = []
    y_bars = []
    for k in range(DIRECTIONS):
        y_bar = _balanced_cotangent(calls.y, y, generator)
        phi = Objective(
            "external",
            lambda moved, w=y_bar: _value_along(calls, leaves, moved, w),
            calls.moving(leaves),
            False,
        )
        filled = [i for i, leaf in enumerate(phi.leaves) if leaf.numbers.size]
        lines.append(Line(phi, random_directions(phi.leaves, filled, DIRECTIONS, seed=0)[k]))
        y_bars.append(y_bar)
    # A noise estimate rests on few samples and may by accident be far too small; the larger of two
    # is so less often.
    noise = max(map(noise_level, lines))
    for line, y_bar in zip(lines, y_bars, strict=True):
        x_bar = [
            a.astype(np.float64) for a in calls.pull_on_host(y_bar.copy(), *map(np.copy, leaves))
        ]
        found = {"<vjp(x, y_bar), x_dot>": line.direction.pair(x_bar)}
        if calls.has_jvp:
            y_dot = calls.push_on_host(
                [*map(np.copy, leaves)], line.direction.tangent(line.objective.leaves)
            )
            found["<y_bar, jvp(x, x_dot)>"] = float(np.sum(y_bar * y_dot.astype(np.float64)))
        rtol = default_tolerance(line.epsilon)
        estimate = central_differences(line, noise, rtol)
        spread = line.direction.spread(x_bar)
        _compare(found, estimate.value, estimate.error, rtol, spread)


def _balanced_cotangent(
    structure: HostStructure, y: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Random numbers in reverse units of each leaf of y: small outputs count like large ones."""
    sizes = [
        np.full(leaf.shape, np.max(np.abs(leaf), initial=0) or 1)
        for leaf in jax.tree.leaves(structure.unravel(y))
    ]
    scale = np.concatenate([size.ravel() for size in sizes])
    return (
        generator.choice([-1.0, 1.0], y.size) * generator.uniform(0.5, 1.5, y.size) / scale
    ).astype(y.dtype)


def _value_along(
    calls: HostFunctions, leaves: Sequence[np.ndarray], moved: list[np.ndarray], y_bar: np.ndarray
) -> Any:
    y = calls.value_on_host(*calls.moved(leaves, [*map(np.copy, moved)]))
    return y.dtype.type(np.sum(y_bar.astype(np.float64) * y))


def _compare(
    found: dict[str, float], difference: float, error: float, rtol: float, spread: float
) -> None:
    """Refuse what is off the differences, or the other derivative, by more than their errors."""
    if not np.isfinite(difference):
        refuse(
            "external",
            "a function that is finite at no two points around x",
            "one to verify",
            "Drop verify=True.",
        )
    allowed = rtol * max(abs(difference), spread)
    given = " and ".join(f"{name} = {number:.8g}" for name, number in found.items())
    expected = f"{difference:.8g} +- {error:.1g}, which differences of function say"
    wrong = [
        name for name, number in found.items() if not abs(number - difference) <= allowed + error
    ]
    if wrong:
        names = " and ".join("vjp" if "vjp" in name else "jvp" for name in wrong)
        refuse(
            "external",
            given,
            expected,
            f"Wrong: {names}. Correct it, or the function that it is to belong to.",
        )
    if not np.ptp(list(found.values())) <= allowed:
        refuse(
            "external",
            given,
            "one number",
            f"vjp or jvp is wrong; function is too noisy to tell ({expected}).",
        )
