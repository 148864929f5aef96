"""A bouncing ball: what impacts and tops depend on, and a ball to be somewhere at a given time.

A ball falls from the height h. Between the impacts z'' = -g, and an impact turns the speed: v+ = -e
v-, with the restitution e. With t = sqrt(2 h / g), the time of the first impact, everything is a
geometric series:

    impact k at t (1 + 2 (e + e^2 + ... + e^(k-1)))
    top k at e^(2k) h,   midway between two impacts

and after the time t (1 + e) / (1 - e) the ball is at rest. `adjoint.hybrid_solve` finds impacts and
tops as events, and their derivatives by the saltation condition. The height at a given time has a
derivative that jumps at the impacts: just before and just after one, dz/dp = -v dt/dp with the time
t of the impact, and v changes its sign.

The design: which restitution and which height of the drop bring the ball to its top after the
second bounce at the time T in the height z? `adjoint.root` of a hybrid solve. Since the second top
comes at t (1 + e)^2, the answer is e = 1 / (sqrt(T / sqrt(2 z / g)) - 1), h = z / e^4.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pictures import Curve, Plot, plots_png

SUMMARY = (
    "Bouncing ball: derivatives through impacts by the saltation condition, and a design by the "
    "second bounce."
)
JUDGED = "Judged on the time and the height of the second top."

NAMES = ("restitution", "gravity", "height")
# Times at which a flight is drawn, as shares of it.
SHARES = np.linspace(0.001, 0.999, 25)
# times that of the first impact are more than MOST_BOUNCES take; much more costs digits of short
# flights
ENOUGH = 25
MOST_BOUNCES = 12


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    height: float = field(
        default=2.0, metadata={"help": "of the drop in m", "minimum": 0.01, "maximum": 100.0}
    )
    restitution: float = field(
        default=0.8,
        metadata={
            "help": "speed after an impact over speed before",
            "minimum": 0.5,
            "maximum": 0.99,
        },
    )
    gravity: float = field(
        default=9.81, metadata={"help": "in m/s^2", "minimum": 0.1, "maximum": 100.0}
    )
    bounces: int = field(
        default=5, metadata={"help": "bounces to follow", "minimum": 1, "maximum": MOST_BOUNCES}
    )
    top_time: float = field(default=2.2, metadata={"help": "T of the design in s", "minimum": 0.01})
    top_height: float = field(
        default=0.5, metadata={"help": "z of the design in m", "minimum": 0.001}
    )

    def __post_init__(self) -> None:
        soonest = 4 * (2 * self.top_height / self.gravity) ** 0.5
        if not self.top_time > soonest:
            raise ValueError(
                f"no ball that loses speed is at its second top in {self.top_height} m before "
                f"{soonest:.4g} s; "
                f"set top_time above that, not {self.top_time}"
            )


def _fall(t: Array, y: Array, p: Array) -> Array:
    _, v, left = y
    return jnp.where(left < 0, 0.0, jnp.stack([v, -p[1], 0.0 * v]))


def _bounced(t: Array, y: Array, p: Array) -> Array:
    return jnp.stack([0.0 * y[0], -p[0] * y[1], y[2] - 1])


def _turned(t: Array, y: Array, p: Array) -> Array:
    # The speed is zero by the condition; rounding would let the same top come again.
    return jnp.stack([y[0], 0.0 * y[1], jnp.where(y[2] == 0, -1.0, y[2])])


# y = (height, speed, bounces still to come), and -1 of them when the ball is held at its last top;
# p = (e, g).
IMPACT = adjoint.Event(lambda t, y, p: jnp.where(y[2] < 0, 1.0, y[0]), _bounced)
TOP = adjoint.Event(lambda t, y, p: jnp.where(y[2] < 0, 1.0, y[1]), _turned)


def solve(p: Float[Array, " 3"], bounces: int, end: Any = None) -> adjoint.Solution[adjoint.Hybrid]:
    """The ball until its last top, or until `end`; p by `NAMES`."""
    e, g, h = p
    end = ENOUGH * jnp.sqrt(2 * h / g) if end is None else end
    y0 = jnp.stack([h, 0.0 * h, 0.0 * h + bounces])
    return adjoint.hybrid_solve(
        _fall,
        y0,
        jnp.stack([e, g]),
        0.0,
        end,
        [IMPACT, TOP],
        max_events=2 * bounces,
        rtol=1e-9,
        mode="both",
    )


class Bounces(NamedTuple):
    """When the ball hits the ground, when it is at the tops after that, and how high these are."""

    impacts: Float[Array, " bounces"]
    top_times: Float[Array, " bounces"]
    tops: Float[Array, " bounces"]


def follow(p: Float[Array, " 3"], bounces: int) -> Bounces:
    """Impacts and tops, which take turns, as events of the solve."""
    value = solve(p, bounces).value
    return Bounces(value.times[0::2], value.times[1::2], value.states[1::2, 0])


def series(p: Float[Array, " 3"], bounces: int) -> Bounces:
    """The same by the geometric series."""
    e, g, h = p
    t = jnp.sqrt(2 * h / g)
    power = e ** jnp.arange(1, bounces + 1)
    impacts = t * (1 + 2 * (jnp.cumsum(power) - power))
    return Bounces(impacts, impacts + t * power, power**2 * h)


def height_at(time: Float[Array, ""], p: Float[Array, " 3"], bounces: int) -> Float[Array, ""]:
    """z at a time before the last top."""
    return solve(p, bounces, time).value.y[0]


def height_by_series(
    time: Float[Array, ""], p: Float[Array, " 3"], bounces: int
) -> Float[Array, ""]:
    """The same by the closed form of the flight since the last impact."""
    e, g, h = p
    found = series(p, bounces)
    k = jnp.sum(time >= found.impacts)
    since = time - found.impacts[jnp.maximum(k - 1, 0)]
    return jnp.where(
        k == 0, h - g * time**2 / 2, e**k * jnp.sqrt(2 * g * h) * since - g * since**2 / 2
    )


def design(
    wanted: Float[Array, " 3"], start: Float[Array, " 2"]
) -> adjoint.Solution[Float[Array, " 2"]]:
    """The logarithms of e and h, for the wanted (T, z) and gravity."""

    def misses(x: Array, wanted: Array) -> Array:
        T, z, g = wanted
        found = follow(jnp.stack([jnp.exp(x[0]), g, jnp.exp(x[1])]), 2)
        return jnp.log(jnp.stack([found.top_times[1] / T, found.tops[1] / z]))

    return adjoint.root(misses, start, wanted)


def design_and_slopes(
    wanted: Float[Array, " 3"], start: Float[Array, " 2"]
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, "2 3"]]:
    """The design, and its derivatives by what is wanted."""

    def value(wanted: Array) -> tuple[Array, Any]:
        solution = design(wanted, start)
        return solution.value, solution

    slopes, solution = jax.jit(jax.jacrev(value, has_aux=True))(wanted)
    return np.asarray(adjoint.require(solution)), np.asarray(slopes)


def design_by_series(wanted: Float[Array, " 3"]) -> Float[Array, " 2"]:
    """The same by its closed form."""
    T, z, g = wanted
    e = 1 / (jnp.sqrt(T / jnp.sqrt(2 * z / g)) - 1)
    return jnp.log(jnp.stack([e, z / e**4]))


def parameters(settings: Settings) -> Float[Array, " 3"]:
    """By `NAMES`."""
    return jnp.array([settings.restitution, settings.gravity, settings.height])


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the gradient of the second top's time and height by restitution, gravity and height."""
    time_and_height = jax.jit(lambda p: jnp.stack([x[1] for x in follow(p, 2)[1:]]))
    T = settings.top_time
    z = settings.top_height
    return adjoint.verify_gradient(
        lambda p: jnp.sum(time_and_height(p) / jnp.array([T, z])), parameters(settings)
    )


def run(settings: Settings, record: Record) -> Ending:
    """Follow the bounces, design the second one, and compare with the closed forms.

    Raises
    ------
    adjoint.SolveError
        When the design is not found.
    OSError
        When a file cannot be written.
    """
    p = parameters(settings)
    n = settings.bounces
    record.phase("following the bounces")
    found, expected = (
        jax.tree.map(
            np.asarray, jax.jit(lambda p, f=f: (f(p, n), jax.jacfwd(lambda p: f(p, n))(p)))(p)
        )
        for f in (follow, series)
    )
    for row in _rows(found):
        record.iteration(row)
    wanted = jnp.array([settings.top_time, settings.top_height, settings.gravity])
    start = jnp.log(p[jnp.array([0, 2])])
    record.phase("designing the second bounce")
    x, slopes = design_and_slopes(wanted, start)
    off = {
        "impacts and tops": _distance(found[0], expected[0]),
        "their derivatives": _distance(found[1], expected[1]),
        "the design": _distance(x, np.asarray(design_by_series(wanted))),
        "its derivatives": _distance(slopes, np.asarray(jax.jacfwd(design_by_series)(wanted))),
    }
    record.phase("drawing the pictures")
    off["heights over time"] = _draw(settings, record, x)
    e, h = np.exp(x)
    remarks = (
        f"A restitution of {e:.6f} and a drop from {h:.6f} m bring the second top to "
        f"{settings.top_height} m at {settings.top_time} s."
    )
    return judged(
        [Check(name, distance, 1e-7, "closed form") for name, distance in off.items()], remarks
    )


def _distance(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest number of each array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


def _rows(found: tuple[Bounces, Bounces]) -> Iterator[dict[str, object]]:
    """One row for each bounce."""
    values, slopes = found
    for k in range(len(values.impacts)):
        row: dict[str, object] = {
            "bounce": k + 1,
            "impact": float(values.impacts[k]),
            "top": float(values.tops[k]),
        }
        row |= {f"impact_by_{name}": float(slopes.impacts[k, i]) for i, name in enumerate(NAMES)}
        yield row | {f"top_by_{name}": float(slopes.tops[k, i]) for i, name in enumerate(NAMES)}


def _flights(p: Float[Array, " 3"], bounces: int) -> Float[np.ndarray, "flights shares"]:
    """Times between the impacts, up to the last top."""
    ends = np.asarray(series(p, bounces).impacts)
    ends = np.concatenate([[0.0], ends, [float(series(p, bounces).top_times[-1])]])
    return ends[:-1, None] + np.diff(ends)[:, None] * SHARES


def _draw(settings: Settings, record: Record, x: Float[np.ndarray, " 2"]) -> float:
    """The pictures, and how far heights and derivatives over time are from the closed form."""
    p = parameters(settings)
    n = settings.bounces
    times = _flights(p, n)

    def over_time(height: Any, p: Array, times: np.ndarray, n: int) -> Any:
        one = jax.vmap(lambda t: (height(t, p, n), jax.jacfwd(lambda p: height(t, p, n))(p)))
        z, slopes = jax.jit(one)(jnp.asarray(times.ravel()))
        return np.asarray(z).reshape(times.shape), np.asarray(slopes).reshape(*times.shape, 3)

    z, slopes = over_time(height_at, p, times, n)
    exact = series(p, n)
    path = [Curve("", t, row) for t, row in zip(times, z, strict=True)]
    path.append(
        Curve("tops by the series", np.asarray(exact.top_times), np.asarray(exact.tops), "dots")
    )
    path.append(
        Curve("impacts by the series", np.asarray(exact.impacts), np.zeros(n), "faint dots")
    )
    slope = [Curve("", t, row) for t, row in zip(times, slopes[..., 0], strict=True)]
    slope += [
        Curve("", np.full(2, t), slopes[k : k + 2, [-1, 0], 0].diagonal(), "dotted")
        for k, t in enumerate(exact.impacts)
    ]
    plots = [
        Plot(f"restitution {settings.restitution}", "time in s", "height in m", path),
        Plot(
            "its derivative by the restitution jumps at impacts", "time in s", "dz/de in m", slope
        ),
    ]
    record.picture("path.png", plots_png(plots), "The path of the ball, and what it depends on.")
    designed = jnp.array([np.exp(x[0]), settings.gravity, np.exp(x[1])])
    curves: list[Curve] = []
    looks: tuple[Literal["dashed", "line"], ...] = ("dashed", "line")
    for label, q, look in zip(("as set", "designed"), (p, designed), looks, strict=True):
        flights = _flights(q, 2)
        heights = over_time(height_at, q, flights, 2)[0]
        curves += [Curve(label if k == 0 else "", flights[k], heights[k], look) for k in range(3)]
    target = np.array([settings.top_time]), np.array([settings.top_height])
    curves.append(Curve("wanted: the second top", *target, "dots"))
    record.picture(
        "design.png",
        plots_png([Plot("two bounces", "time in s", "height in m", curves)]),
        "The design.",
    )
    return _distance((z, slopes), over_time(height_by_series, p, times, n))
