"""The Bratu problem: a reaction makes heat faster than a body leads it away, up to ignition.

    -(u_xx + u_yy) = lambda c(x, y) exp(u)   on the unit square,   u = 0 on its border

u is the temperature above the border's (in units of R T^2 / E, Frank-Kamenetskii), lambda the
strength of the reaction, c its distribution, 1 unless said otherwise; everything is dimensionless.
5-point differences on N x N inner points, h = 1 / (N + 1):

    F(u, lambda, c) = S u - h^2 lambda c exp(u) = 0,   S u = 4 u - the four neighbors

Stationary temperatures exist up to a turning point lambda* only, a fold: two solutions meet there,
so the peak u(1/2, 1/2) has the slope 1 / sqrt(2 k (lambda* - lambda)) with k = -d^2 lambda / d
peak^2 at the fold, and beyond there is none. `adjoint.root` finds u, its derivative with respect to
lambda and all N^2 coefficients c takes one more solve, and it must refuse an answer where there is
none.

The turning point is itself a root, of the extended system (R. Seydel, Practical Bifurcation and
Stability Analysis, 3rd ed., section 5.4.1; G. Moore and A. Spence, SIAM J. Numer. Anal. 17 (1980)
567-576):

    F(u, lambda, c) = 0,   F_u v = 0,   v(1/2, 1/2) = 1

Published: lambda* = 6.808124423 (A. Mohsen, A simple solution of the Bratu problem, Comput. Math.
Appl. 67 (2014) 26-33).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.bratu_fold import (
    branch,
    limit_of_scaled_slope,
    peak_temperature,
    temperature,
    turning_point,
)
from problems.pictures import Curve, Map, Plot, maps_png, plots_png
from problems.reaction_diffusion import Square

SUMMARY = (
    "Ignition: sensitivity of the peak temperature to 10,000 reaction coefficients, and the fold "
    "(Bratu)."
)
JUDGED = "Judged at random coefficients, on a grid of at most 20x20 points."

PUBLISHED_TURNING_POINT = 6.808124423
UNIT = "R T²/E"
# The spacings of these grids are halved, as Richardson extrapolation wants it.
EXTRAPOLATED_GRIDS = (15, 31, 63)
# Where there is no solution: lambda* - lambda as shares of lambda*, at the turning point of the
# grid and beyond.
BEYOND = (0.0, -1e-6, -1e-2)


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    points: int = field(
        default=100,
        metadata={
            "help": "inner grid points along each side; N^2 coefficients",
            "minimum": 4,
            "maximum": 400,
        },
    )
    reaction: float = field(
        default=6.0,
        metadata={
            "help": "lambda of the picture of the sensitivities",
            "minimum": 0.01,
            "maximum": 100.0,
        },
    )
    closest: float = field(
        default=1e-5,
        metadata={
            "help": "smallest lambda* - lambda of the approach",
            "minimum": 1e-9,
            "maximum": 0.1,
        },
    )
    distances: int = field(
        default=11,
        metadata={
            "help": "number of lambdas of the approach, from lambda* - 1 on",
            "minimum": 2,
            "maximum": 200,
        },
    )


def extrapolate(values: Float[np.ndarray, " grids"]) -> float:
    """Richardson: values on grids of halved spacing, with errors in h^2, h^4, ..., to h = 0."""
    values = np.asarray(values, float)
    for order in range(2, 2 * len(values), 2):
        values = values[1:] + np.diff(values) / (2**order - 1)
    return float(values[0])


@dataclass(frozen=True)
class Point:
    """What was found at one lambda: NaN and a failed status where no solution is differentiable.

    Attributes
    ----------
    distance
        lambda* - lambda, with the turning point of this grid.
    peak, slope
        u(1/2, 1/2) and its derivative by lambda.
    steps
        Of Newton's method.
    seconds
        Wall time of the solution and its derivative; in the first one with compilation.
    """

    lam: float
    distance: float
    peak: float
    slope: float
    steps: int
    status: adjoint.Status
    seconds: float


def approach(
    square: Square, lam_star: float, distances: Float[np.ndarray, " distances"]
) -> Iterator[Point]:
    """Solve at lambda* - distance for each distance, at and beyond the turning point too."""
    c = jnp.ones((square.points, square.points))

    @jax.jit
    def analyze(lam: Array) -> Any:
        def peak(lam: Array) -> Any:
            solution = temperature(square, lam, c)
            return square.peak(solution.value), solution

        return jax.value_and_grad(peak, has_aux=True)(lam)

    for distance in distances:
        begin = time.perf_counter()
        (peak, solution), slope = jax.block_until_ready(analyze(jnp.asarray(lam_star - distance)))
        yield Point(
            float(lam_star - distance),
            float(distance),
            float(peak),
            float(slope),
            int(solution.stats["iterations"]),
            solution.status,
            time.perf_counter() - begin,
        )


def verify(settings: Settings) -> adjoint.Verdict:
    """Check d peak / d (lambda, c) by independent oracles, halfway to the fold.

    The coefficients are random, seeded, between 0.5 and 1.5. The grid is cut to at most 20x20
    points, so that the many solves of the check take seconds.
    """
    square = Square(min(settings.points, 20))
    c = np.random.default_rng(0).uniform(0.5, 1.5, (square.points, square.points))
    peak = jax.jit(lambda p: peak_temperature(square, p["lambda"], p["c"]))
    return adjoint.verify_gradient(peak, {"lambda": jnp.asarray(3.4), "c": jnp.asarray(c)})


def run(settings: Settings, record: Record) -> Ending:
    """Take the sensitivities, find the turning point, approach it until `adjoint.root` says fold.

    Raises
    ------
    adjoint.SolveError
        When there is no solution at ``settings.reaction``, or a turning point is not found.
    KeyboardInterrupt
        After the solve in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    square = Square(settings.points)
    record.phase("computing the sensitivities")
    u, sensitivity = sensitivities(square, settings.reaction)
    caption = (
        "Temperature, and sensitivity of its peak to each coefficient, at lambda = "
        f"{settings.reaction:g}."
    )
    record.picture("fields.png", _fields_png(square, settings.reaction, u, sensitivity), caption)
    record.phase("finding the turning point")
    u_star, _, lam_star = _turning_point_for_ones(square)
    distances = np.append(
        np.geomspace(1.0, settings.closest, settings.distances), np.multiply(BEYOND, lam_star)
    )
    points: list[Point] = []
    try:
        for point in record.follow(approach(square, float(lam_star), distances)):
            points.append(point)
            record.iteration(_row(len(points), point))
    finally:
        if points:
            limit = float(
                jax.jit(lambda u, lam: limit_of_scaled_slope(square, u, lam))(u_star, lam_star)
            )
            _leave(square, points, limit, record)
    return _ending(points, limit)


def sensitivities(
    square: Square, lam: float
) -> tuple[Float[np.ndarray, "points points"], Float[np.ndarray, "points points"]]:
    """u and d peak / d c at c = 1, the latter for all coefficients by one adjoint solve.

    Raises
    ------
    adjoint.SolveError
        When lambda is at the turning point or beyond.
    """

    @jax.jit
    def analyze(c: Array) -> Any:
        def peak(c: Array) -> Any:
            solution = temperature(square, jnp.asarray(lam), c)
            return square.peak(solution.value), solution

        return jax.grad(peak, has_aux=True)(c)

    derivative, solution = analyze(jnp.ones((square.points, square.points)))
    return np.asarray(adjoint.require(solution)), np.asarray(derivative)


def _row(number: int, point: Point) -> dict[str, object]:
    return {
        "point": number,
        "lambda": point.lam,
        "distance": point.distance,
        "peak": point.peak,
        "slope": point.slope,
        "scaled_slope": point.slope * max(point.distance, 0.0) ** 0.5,
        "newton_steps": point.steps,
        "status": int(point.status),
        "seconds": point.seconds,
    }


def _ending(points: list[Point], limit: float) -> Ending:
    """Done when the published turning point is met and nothing is answered without a solution."""
    found = extrapolate(
        np.array([float(_turning_point_for_ones(Square(n))[2]) for n in EXTRAPOLATED_GRIDS])
    )
    before, beyond = ([p for p in points if (p.distance > 0) == side] for side in (True, False))
    answered = [p for p in before if p.status.ok]
    sentence = ""
    if answered:
        near = answered[-1]
        scaled = near.slope * near.distance**0.5
        sentence += (
            f"The slope times sqrt(lambda* - lambda) is {scaled:.5f} at {near.distance:.1e}, "
            f"{limit:.5f} in the limit. "
        )
    for p in before:
        if not p.status.ok:
            sentence += f"At lambda* - lambda = {p.distance:.1e} root says {p.status.name}. "
    sentence += f"At lambda* and beyond root says {', '.join(p.status.name for p in beyond)}."
    failed = sum(not p.status.ok and p.status != adjoint.Status.DEGENERATE for p in before)
    checks = [
        Check("turning point lambda*", found, 5e-6, "published", reference=PUBLISHED_TURNING_POINT),
        Check(
            "solves before it that fail but as a fold", float(failed), 0.0, "there is a solution"
        ),
        Check(
            "solves before it without an answer", float(not answered), 0.0, "there is a solution"
        ),
        Check(
            "answers at it and beyond",
            float(sum(bool(p.status.ok) for p in beyond)),
            0.0,
            "there is none",
        ),
    ]
    return judged(checks, sentence)


def _turning_point_for_ones(square: Square) -> Any:
    c = jnp.ones((square.points, square.points))
    return adjoint.require(jax.jit(lambda c: turning_point(square, c))(c))


def _leave(square: Square, points: list[Point], limit: float, record: Record) -> None:
    """The pictures of the branch and of the growing slope."""
    peaks = np.linspace(0.05, 4.0, 40)
    lams = np.array([lam for lam, _ in branch(square, peaks)])
    lam_star = points[0].lam + points[0].distance
    answered = [p for p in points if p.status.ok]
    curves = [
        Curve("solutions, by their peak", lams, peaks),
        Curve(
            "solutions found from λ",
            np.array([p.lam for p in answered]),
            np.array([p.peak for p in answered]),
            "dots",
        ),
        Curve(
            f"turning point λ* = {lam_star:.6f}",
            np.full(2, lam_star),
            np.array([0.0, 4.0]),
            "dashed",
        ),
    ]
    curves += [Curve("refused", np.full(2, points[-1].lam), np.array([0.0, 4.0]), "dotted")]
    plot = Plot(
        "Bratu problem",
        "strength of the reaction λ (dimensionless)",
        f"peak u(½,½) in {UNIT}",
        curves,
    )
    record.picture(
        "branch.png",
        plots_png([plot]),
        "Peak over the strength of the reaction; two solutions meet at λ*.",
    )
    distance, slope = (
        np.array([getattr(p, name) for p in answered]) for name in ("distance", "slope")
    )
    curves = [
        Curve("by one adjoint solve", distance, slope, "dots"),
        Curve(f"limit {limit:.4f} / √(λ* - λ)", distance, limit / np.sqrt(distance), "dashed"),
    ]
    plot = Plot(
        "Slope of the peak near the fold",
        "λ* - λ (dimensionless)",
        f"∂u(½,½)/∂λ in {UNIT}",
        curves,
        "log",
    )
    record.picture(
        "slope.png", plots_png([plot]), "The slope of the peak on the way to the turning point."
    )


def _fields_png(
    square: Square,
    lam: float,
    u: Float[np.ndarray, "points points"],
    derivative: Float[np.ndarray, "points points"],
) -> bytes:
    # Cells of one spacing around the points.
    begin = square.spacing / 2
    end = 1 - square.spacing / 2
    extent = (begin, end, begin, end)
    # Per area of c's change, the sensitivity does not depend on the grid.
    density = derivative / square.spacing**2
    maps = (
        Map(f"temperature at λ = {lam:g}", f"u in {UNIT}", u, extent),
        Map(
            f"sensitivity of the peak to {u.size:,} coefficients",
            f"∂u(½,½)/∂c per area, in {UNIT}",
            density,
            extent,
        ),
    )
    return maps_png(maps, "x / side", "y / side")
