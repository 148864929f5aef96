"""The curve of fastest descent, and how the inner product decides the number of steps to find it.

A bead slides without friction from (0, 0) to (L, -H). Between two points of its way it is
accelerated evenly, so its time on a straight segment of length l is 2 l / (v_k + v_k+1), exactly,
with the speeds v = sqrt(2 g depth): no singularity at the start, where v = 0. The sum over the
segments is a function of the depths of the n - 1 inner points, minimized by steepest descent.

The points lie over x = L s^3 with evenly spaced s, where the depth of the minimizer is a smooth
function of s: the error of the time is of order 1 / n^2. Depths are kept above half of those of the
chord, which curves of fastest descent do not come near.

In the Euclidean inner product the second derivative gets worse with the grid as n^2, and so does
the number of steps. In the Sobolev inner product, the integral of u v + u' v' over s, it does not,
as the second variation of the time is bounded by it from both sides. The minimizer is a cycloid, x
= R (t - sin t), depth = R (1 - cos t), down in T = t_1 sqrt(R / g) (Johann Bernoulli, Acta
Eruditorum, May 1697).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pictures import Curve, Plot, plots_png

SUMMARY = (
    "The curve of fastest descent: steps of the Euclidean gradient grow with the grid, those of "
    "the Sobolev gradient do not."
)
JUDGED = "Judged at the first guess on the coarsest grid."
STEPS_SAVED = 500  # of the Euclidean descent, a second's work
SHOWN = 5  # steps after which both descents are drawn


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    length: float = field(
        default=1.0, metadata={"help": "horizontal distance of the ends in m", "minimum": 0.01}
    )
    drop: float = field(
        default=0.5, metadata={"help": "vertical distance of the ends in m", "minimum": 0.01}
    )
    gravity: float = field(default=9.81, metadata={"help": "in m/s^2", "minimum": 0.01})
    segments: int = field(
        default=25, metadata={"help": "of the coarsest grid", "minimum": 10, "maximum": 200}
    )
    grids: int = field(
        default=4, metadata={"help": "each with twice the segments", "minimum": 2, "maximum": 5}
    )
    excess: float = field(
        default=1e-4,
        metadata={"help": "count steps to this share of the least time above it", "minimum": 1e-8},
    )
    max_steps: int = field(
        default=20_000, metadata={"help": "give the Euclidean gradient up after", "minimum": 10}
    )

    def __post_init__(self) -> None:
        if not 0.1 <= self.length / self.drop <= 10:
            raise ValueError(
                f"length / drop = {self.length / self.drop:.3g}; the grids resolve curves with 0.1 "
                "to 10 of it"
            )


class Cycloid(NamedTuple):
    """The closed form: its last parameter t_1, its radius R in m and the time T of descent in s."""

    end: float
    radius: float
    time: float

    def points(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """x and depth in m."""
        t = np.linspace(0, self.end, 401)
        return self.radius * (t - np.sin(t)), self.radius * (1 - np.cos(t))


def closed_form(settings: Settings) -> Cycloid:
    """The cycloid through both ends: (t_1 - sin t_1) / (1 - cos t_1) = L / H.

    This has one zero between 0 and 2 pi.
    """

    def miss(t: float) -> float:
        return settings.drop * (t - np.sin(t)) - settings.length * (1 - np.cos(t))

    found: Any = scipy.optimize.root_scalar(
        miss, bracket=(1e-3, 2 * np.pi), method="brentq", xtol=1e-15, rtol=1e-15
    )
    radius = settings.drop / (1 - np.cos(found.root))
    return Cycloid(
        float(found.root), float(radius), float(found.root * np.sqrt(radius / settings.gravity))
    )


def grid(settings: Settings, segments: int) -> Float[np.ndarray, " points"]:
    """x of all points, the ends among them, in m."""
    return settings.length * np.linspace(0, 1, segments + 1) ** 3


def first_guess(settings: Settings, x: Float[np.ndarray, " points"]) -> Float[Array, " inner"]:
    """The inner depths of a curve that starts vertically, H (x / L)^(2/3), in m."""
    return jnp.asarray(settings.drop * (x[1:-1] / settings.length) ** (2 / 3))


def travel_time(
    settings: Settings, x: Float[np.ndarray, " points"], depth: Float[Array, " inner"]
) -> Float[Array, ""]:
    """Of the bead along straight segments through the inner depths in m, in s."""
    below = jnp.concatenate([depth, jnp.array([settings.drop])])
    speed = jnp.concatenate([jnp.zeros(1), jnp.sqrt(2 * settings.gravity * below)])
    falls = jnp.diff(jnp.concatenate([jnp.zeros(1), below]))
    return jnp.sum(2 * jnp.sqrt(np.diff(x) ** 2 + falls**2) / (speed[1:] + speed[:-1]))


def descend(
    settings: Settings, segments: int, inner_product: Any, **stop: Any
) -> adjoint.Solution[Float[Array, " inner"]]:
    """The inner depths in m by steepest descent."""
    x = grid(settings, segments)
    chord = jnp.asarray(settings.drop * x[1:-1] / settings.length)
    return adjoint.minimize(
        lambda depth: travel_time(settings, x, depth),
        first_guess(settings, x),
        adjoint.SteepestDescent(),
        bounds=(0.5 * chord, jnp.full_like(chord, jnp.inf)),
        inner_product=inner_product,
        **stop,
    )


def smooth(segments: int) -> adjoint.Sobolev:
    """The inner product of depths that are functions of s on (0, 1), with given ends."""
    return adjoint.Sobolev(length=1.0, spacing=1 / segments, boundary="fixed")


class Comparison(NamedTuple):
    """Both descents on one grid: the least time, steps to the excess, depths after a few steps.

    Steps are infinite where the excess is not reached.
    """

    segments: int
    time: float
    depth: Float[np.ndarray, " inner"]
    sobolev: float
    euclidean: float
    early_sobolev: Float[np.ndarray, " inner"]
    early_euclidean: Float[np.ndarray, " inner"]


def compare(
    settings: Settings, segments: int, checkpoint: adjoint.Checkpoint | None = None
) -> Comparison:
    """Descend with either inner product; count steps to within the excess of the least time.

    That is the least time of the grid. The long descent, by the Euclidean gradient, goes on from
    the checkpoint.

    Raises
    ------
    adjoint.SolveError
        When the Sobolev gradient does not end at a minimizer.
    """
    best = descend(settings, segments, smooth(segments), rtol=1e-7)
    depth = np.asarray(adjoint.require(best))
    least = float(best.stats["value"])
    enough = least * (1 + settings.excess)
    rough = descend(
        settings,
        segments,
        adjoint.Euclidean(),
        rtol=0.0,
        max_steps=settings.max_steps,
        callback=lambda step: step.value <= enough,
        checkpoint=checkpoint,
    )
    sobolev, euclidean = (
        _steps(solution.stats["history"]["value"], enough) for solution in (best, rough)
    )
    early = [
        np.asarray(descend(settings, segments, inner_product, rtol=0.0, max_steps=SHOWN).value)
        for inner_product in (smooth(segments), adjoint.Euclidean())
    ]
    return Comparison(segments, least, depth, sobolev, euclidean, *early)


def _steps(values: Float[np.ndarray, " steps"], enough: float) -> float:
    reached = np.flatnonzero(values <= enough)
    return float(reached[0]) if reached.size else np.inf


def verify(settings: Settings) -> adjoint.Verdict:
    """Check d time / d depths by independent oracles, at the first guess on the coarsest grid."""
    x = grid(settings, settings.segments)
    return adjoint.verify_gradient(
        lambda depth: travel_time(settings, x, depth), first_guess(settings, x)
    )


def run(settings: Settings, record: Record) -> Ending:
    """Descend on every grid with both inner products; compare least times with the cycloid's.

    Raises
    ------
    KeyboardInterrupt
        After the grid in which Ctrl-C was pressed.
    adjoint.SolveError
        When the Sobolev gradient does not end at a minimizer.
    OSError
        When a file cannot be written.
    """
    cycloid = closed_form(settings)
    results: list[Comparison] = []
    for row, result in record.follow(_comparisons(settings, cycloid, record)):
        results.append(result)
        record.iteration(row)
    record.picture(
        "steps.png", _steps_picture(settings, results), "Steps against the number of segments."
    )
    record.picture(
        "curves.png",
        _curves_picture(settings, cycloid, results[-1]),
        "The minimizer of the finest grid with the cycloid, and both descents after a few steps.",
    )
    return _ending(settings, cycloid, results)


def _comparisons(
    settings: Settings, cycloid: Cycloid, record: Record
) -> Iterator[tuple[dict[str, object], Comparison]]:
    for k in range(settings.grids):
        segments = settings.segments * 2**k
        result = compare(
            settings, segments, record.checkpoint(f"{segments}-segments", every=STEPS_SAVED)
        )
        yield (
            {
                "segments": result.segments,
                "time": result.time,
                "off": result.time / cycloid.time - 1,
                "steps_sobolev": result.sobolev,
                "steps_euclidean": result.euclidean,
            },
            result,
        )


def _ending(settings: Settings, cycloid: Cycloid, results: list[Comparison]) -> Ending:
    off = np.array([result.time / cycloid.time - 1 for result in results])
    order = float(np.log2(off[-2] / off[-1]))
    # The time with its error of order 1 / n^2 removed (Richardson).
    extrapolated = float(abs(4 * off[-1] - off[-2]) / 3)
    fewest, most = (f([result.sobolev for result in results]) for f in (min, max))
    numbers = [
        f"{r.euclidean:.0f}" if np.isfinite(r.euclidean) else f"> {settings.max_steps}"
        for r in results
    ]
    sentence = (
        f"The time of descent is {results[-1].time:.8f} s on {results[-1].segments} segments, "
        f"{off[-1]:.1e} "
        f"above the cycloid's; steps to {settings.excess:g} above the least time: "
        f"{', '.join(f'{r.sobolev:.0f}' for r in results)} with the Sobolev gradient, "
        f"{', '.join(numbers)} "
        f"with the Euclidean one, on {', '.join(str(r.segments) for r in results)} segments."
    )
    checks = [
        Check("order of the error", order, 0.05, "linear elements of the curve", reference=2.0),
        Check("off by extrapolation", extrapolated, 0.01 * abs(float(off[-1])), "the cycloid"),
        Check("most over fewest steps, Sobolev", most / fewest, 2.0, "independence of the grid"),
    ]
    return judged(checks, sentence)


def _steps_picture(settings: Settings, results: list[Comparison]) -> bytes:
    n, sobolev, euclidean = (
        np.array([getattr(result, name) for result in results], float)
        for name in ("segments", "sobolev", "euclidean")
    )
    reached = np.isfinite(euclidean)
    curves = [
        Curve("Sobolev", n, sobolev, "dots"),
        Curve("Euclidean", n[reached], euclidean[reached], "crosses"),
        Curve("growth as n^2", n, euclidean[0] * (n / n[0]) ** 2, "dotted"),
    ]
    title = f"steps to {settings.excess:g} above the least time"
    return plots_png([Plot(title, "segments", "steps", curves, "log")])


def _curves_picture(settings: Settings, cycloid: Cycloid, finest: Comparison) -> bytes:
    x = grid(settings, finest.segments)
    start = np.asarray(first_guess(settings, x))

    def height(depth: np.ndarray) -> np.ndarray:
        return -np.concatenate([[0.0], depth, [settings.drop]])

    along, below = cycloid.points()
    plots = [
        Plot(
            f"{title}, {finest.segments} segments",
            "x in m",
            "y in m",
            [
                Curve("cycloid", along, -below),
                Curve("start", x, height(start), "dashed"),
                Curve(label, x, height(depth), "dots" if len(x) < 60 else "dotted"),
            ],
        )
        for title, label, depth in (
            ("Euclidean gradient", f"after {SHOWN} steps", finest.early_euclidean),
            ("Sobolev gradient", f"after {SHOWN} steps", finest.early_sobolev),
            ("minimizer", "least time", finest.depth),
        )
    ]
    return plots_png(plots)
