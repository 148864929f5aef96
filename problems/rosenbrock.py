"""Paths of the methods in Rosenbrock's valley: f = a (y - x^2)^2 + (1 - x)^2, 0 at (1, 1).

The valley is flat along its bottom y = x^2 and steep across. Steepest descent crosses it again and
again; quasi-Newton methods learn from these crossings where it leads; Newton's methods know it from
the second derivatives.

Source: H. H. Rosenbrock, An automatic method for finding the greatest or least value of a function,
Computer Journal 3 (1960) 175-184, with his a = 100 and start (-1.2, 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pictures import Contours, Curve, Plot, plots_png

SUMMARY = "Rosenbrock's valley, and the ways that each method of minimize takes through it."
JUDGED = "Judged at the start."
METHODS: dict[str, Any] = {
    "SteepestDescent": adjoint.SteepestDescent(),
    "LBFGS": adjoint.LBFGS(),
    "BFGS": adjoint.BFGS(),
    "NewtonKrylov": adjoint.NewtonKrylov(),
    "Newton": adjoint.Newton(),
}

LOOKS: dict[str, Literal["line", "dashed", "dotted", "dots", "faint dots"]] = {
    "SteepestDescent": "dotted",
    "LBFGS": "dashed",
    "BFGS": "line",
    "NewtonKrylov": "faint dots",
    "Newton": "dots",
}
LOWEST = 1e-30  # values below are rounding of coordinates of size 1


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    steepness: float = field(
        default=100.0, metadata={"help": "a, across the valley", "minimum": 0.1, "maximum": 1e6}
    )
    x: float = field(
        default=-1.2, metadata={"help": "of the start", "minimum": -10.0, "maximum": 10.0}
    )
    y: float = field(
        default=1.0, metadata={"help": "of the start", "minimum": -10.0, "maximum": 10.0}
    )
    max_steps: int = field(
        default=20_000, metadata={"help": "give a method up after", "minimum": 1}
    )


class Path(NamedTuple):
    """All iterates of a method, how large f was there, and how it ended."""

    x: Float[np.ndarray, "iterates 2"]
    value: Float[np.ndarray, " iterates"]
    solution: adjoint.Solution[Any]


def valley(settings: Settings, x: Float[Array, " 2"]) -> Float[Array, ""]:
    """f(x, y)."""
    return settings.steepness * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def descend(settings: Settings, method: str) -> Path:
    """From the start until the derivative is less by ten digits."""
    steps: list[adjoint.Step] = []
    solution = adjoint.minimize(
        lambda x: valley(settings, x),
        jnp.array([settings.x, settings.y]),
        METHODS[method],
        rtol=1e-10,
        max_steps=settings.max_steps,
        callback=steps.append,
    )
    return Path(
        np.array([step.x for step in steps]), np.array([step.value for step in steps]), solution
    )


def distance(path: Path) -> float:
    """Of the point found from (1, 1)."""
    return float(np.hypot(*(np.asarray(path.solution.value) - 1)))


def verify(settings: Settings) -> adjoint.Verdict:
    """Check df / d (x, y) by independent oracles, at the start."""
    return adjoint.verify_gradient(
        lambda x: valley(settings, x), jnp.array([settings.x, settings.y])
    )


def run(settings: Settings, record: Record) -> Ending:
    """Let every method descend, and compare where they end with (1, 1).

    Raises
    ------
    KeyboardInterrupt
        After the method during which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    paths: dict[str, Path] = {}
    for row, (method, path) in record.follow(_descents(settings)):
        paths[method] = path
        record.iteration(row)
    numbered = ", ".join(f"{number} {method}" for number, method in enumerate(METHODS, start=1))
    record.picture("paths.png", _paths_picture(settings, paths), f"The iterates of {numbered}.")
    record.picture("values.png", _values_picture(paths), "f against the number of steps.")
    words = ", ".join(
        f"{method} in {int(path.solution.stats['iterations'])} steps and "
        f"{int(path.solution.stats['evaluations'])} evaluations"
        for method, path in paths.items()
    )
    checks = []
    for method, path in paths.items():
        failures = float(path.solution.status != adjoint.Status.SUCCESS)
        checks += [
            Check(f"{method}: distance from (1, 1)", distance(path), 1e-6, "f(1, 1) = 0"),
            Check(f"{method}: statuses that are no success", failures, 0.0, "it is a minimum"),
        ]
    return judged(checks, f"{words}.")


def _descents(settings: Settings) -> Iterator[tuple[dict[str, object], tuple[str, Path]]]:
    for number, method in enumerate(METHODS, start=1):
        path = descend(settings, method)
        stats = path.solution.stats
        counts = {
            name: int(stats[name]) for name in ("iterations", "evaluations", "hessians", "products")
        }
        yield (
            {"method": number, **counts, "value": float(stats["value"]), "off": distance(path)},
            (method, path),
        )


def _paths_picture(settings: Settings, paths: dict[str, Path]) -> bytes:
    everything = np.concatenate([path.x for path in paths.values()])
    low = everything.min(axis=0) - 0.3
    high = everything.max(axis=0) + 0.3
    x = np.linspace(low[0], high[0], 200)
    y = np.linspace(low[1], high[1], 200)
    heights = np.asarray(valley(settings, jnp.stack(jnp.meshgrid(x, y, indexing="ij"))))
    contours = Contours(x, y, np.log10(heights + 1e-3))
    plots = [
        Plot(
            f"{method}: {len(path.x) - 1} steps",
            "x",
            "y",
            [
                Curve("", path.x[:, 0], path.x[:, 1], "line"),
                Curve("", path.x[:, 0], path.x[:, 1], "dots"),
                Curve("minimum", np.ones(1), np.ones(1), "crosses"),
            ],
            background=contours,
        )
        for method, path in paths.items()
    ]
    return plots_png(plots)


def _values_picture(paths: dict[str, Path]) -> bytes:
    curves = [
        Curve(method, 1 + np.arange(len(path.value)), np.maximum(path.value, LOWEST), LOOKS[method])
        for method, path in paths.items()
    ]
    return plots_png([Plot("on the way down", "iterate", "f", curves, "log")])
