"""The average height of the Lorenz attractor by rho: a gradient beyond plain differentiation.

    x' = sigma (y - x),   y' = x (rho - z) - y,   z' = x y - beta z
    sigma = 10,   beta = 8/3,   rho = 28

everything dimensionless (E. N. Lorenz, J. Atmos. Sci. 20 (1963) 130-141). The average <z> over an
infinite time is a smooth-looking function of rho with a slope of about 1. The derivative of the
average over a finite time T from a fixed start, which is what differentiating a solver gives, has
nothing to do with it: it grows like exp(0.9 T) / T, 0.9 being the Lyapunov exponent.
`adjoint.shadowing_sensitivity` finds the slope by least squares shadowing.

Published: about 1.01 (Q. Wang, R. Hu, P. Blonigan, Least squares shadowing sensitivity analysis of
chaotic limit cycle oscillations, J. Comput. Phys. 267 (2014) 210-224). Two more judges are computed
(`problems.lorenz`): the slope of averages over an ensemble of long trajectories at nine values of
rho, and the midpoint discretization of that paper, a sparse system of its own.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.lorenz import (
    RHO_OFFSETS,
    START,
    TRANSIENT,
    Ensemble,
    MidpointShadow,
    ensemble,
    height,
    lorenz,
    midpoint_shadow,
)
from problems.pictures import Curve, Plot, plots_png

SUMMARY = (
    "Slope of a long-time average of a chaotic flow, where plain gradients explode (Lorenz "
    "attractor)."
)
JUDGED = (
    "Judged by the slope of averages over long trajectories at nine rho; shadowing has a small "
    "bias."
)
PUBLISHED = 1.01
PUBLISHED_RHO = 28.0
# Shadowing is biased where a flow is not uniformly hyperbolic; on this attractor by 1 to 2 %.
ALLOWED = 0.02


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    rho: float = field(
        default=PUBLISHED_RHO,
        metadata={"help": "rho; the flow is chaotic", "minimum": 27.0, "maximum": 60.0},
    )
    duration: float = field(
        default=200.0,
        metadata={"help": "time over which shadowing averages", "minimum": 20.0, "maximum": 1e4},
    )
    members: int = field(
        default=128,
        metadata={"help": "trajectories at each rho, to judge by", "minimum": 8, "maximum": 10_000},
    )
    member_duration: float = field(
        default=500.0,
        metadata={"help": "time over which each of them averages", "minimum": 20.0, "maximum": 1e4},
    )
    longest: float = field(
        default=40.0,
        metadata={"help": "longest time T of a plain gradient", "minimum": 10.0, "maximum": 100.0},
    )
    times: int = field(
        default=15, metadata={"help": "number of times T, from 1 on", "minimum": 3, "maximum": 100}
    )


def shadowing(rho: float, duration: float, segments: int) -> adjoint.Solution[tuple[Array, Array]]:
    """(<z>, d<z>/drho)."""
    return adjoint.shadowing_sensitivity(
        lorenz,
        jnp.asarray(START),
        jnp.asarray(rho),
        0.0,
        TRANSIENT + duration,
        running_cost=height,
        transient=TRANSIENT,
        segments=segments,
    )


@jax.jit
def plain_gradient(rho: Array, start: Float[Array, " 3"], duration: Array) -> Float[Array, ""]:
    """The derivative of the average over a finite time from a fixed start on the attractor."""

    def average(rho: Array) -> Array:
        solution = adjoint.ode_solve(
            lorenz, start, rho, 0.0, duration, running_cost=height, rtol=1e-8, max_steps=20_000
        )
        return solution.value[1] / duration

    return jax.grad(average)(rho)


@dataclass(frozen=True)
class SlopeVerdict:
    """The slope by shadowing, by averages at several rho, and by the midpoint discretization."""

    shadowing: float
    shadowing_error: float
    ensemble: float
    ensemble_error: float
    midpoint: float

    @property
    def difference(self) -> float:
        return abs(self.shadowing - self.ensemble)

    @property
    def allowed(self) -> float:
        """The bias of shadowing and three standard errors of the averages."""
        return ALLOWED * abs(self.ensemble) + 3 * self.ensemble_error

    @property
    def relative_error(self) -> float:
        return self.difference / abs(self.ensemble)

    @property
    def trusted(self) -> bool:
        """NaN is not trusted."""
        close = (
            self.difference <= self.allowed and abs(self.shadowing - self.midpoint) <= self.allowed
        )
        return close and self.ensemble_error < ALLOWED

    def __str__(self) -> str:
        return "\n".join(
            [
                "d<z>/drho",
                f"  shadowing_sensitivity   {self.shadowing:.4f} +- {self.shadowing_error:.4f}",
                f"  slope of averages       {self.ensemble:.4f} +- {self.ensemble_error:.4f}",
                f"  midpoint shadow         {self.midpoint:.4f}",
                f"difference {self.difference:.4f}, allowed {self.allowed:.4f}: "
                f"{'' if self.trusted else 'NOT '}TRUSTED",
            ]
        )


def _segments(duration: float) -> int:
    # A tangent grows tenfold at most in 0.2.
    return round(duration / 0.2)


# Both `verify` and `run` need it, in this order, and it takes a minute.
@lru_cache(maxsize=1)
def _judge(settings: Settings) -> tuple[SlopeVerdict, Ensemble, MidpointShadow, float]:
    """The verdict, what it was made of, and <z>."""
    solution = shadowing(settings.rho, settings.duration, _segments(settings.duration))
    average, slope = adjoint.require(solution)
    averages = ensemble(settings.rho, settings.members, settings.member_duration)
    midpoint = midpoint_shadow(settings.rho, min(settings.duration, 50.0))
    error = float(solution.stats["gradient_error"][0])
    verdict = SlopeVerdict(
        float(slope), error, averages.slope, averages.slope_error, midpoint.slope
    )
    return verdict, averages, midpoint, float(average)


def verify(settings: Settings) -> SlopeVerdict:
    """Check d<z>/drho by averages at several rho, and by the midpoint discretization."""
    return _judge(settings)[0]


def run(settings: Settings, record: Record) -> Ending:
    """Find d<z>/drho by shadowing, and watch the plain gradient explode.

    Raises
    ------
    adjoint.SolveError
        When shadowing fails.
    KeyboardInterrupt
        After the time T in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    verdict, averages, midpoint, average = _judge(settings)
    record.phase("drawing the pictures")
    record.picture(
        "attractor.png", _attractor_png(midpoint), "Trajectory, and its shadow at a larger rho."
    )
    record.picture(
        "averages.png",
        _averages_png(verdict, averages, settings.rho, average),
        "Averages and the slope by shadowing.",
    )
    rows: list[dict[str, float]] = []
    try:
        for row in record.follow(_times(settings, midpoint.y[0])):
            rows.append(row)
            record.iteration(row)
    finally:
        if rows:
            record.picture(
                "gradients.png",
                _gradients_png(rows, verdict),
                "Plain gradients and shadowing over the time T.",
            )
    worst = max(abs(row["plain"]) for row in rows)
    name = "d<z>/drho by shadowing"
    slope = verdict.shadowing
    checks = [Check(name, slope, verdict.allowed, "averages", reference=verdict.ensemble)]
    if settings.rho == PUBLISHED_RHO:
        checks.append(Check(name, slope, 0.02, "published", reference=PUBLISHED))
    return judged(checks, f"Plain gradients reach {worst:.1e}.")


def _times(settings: Settings, start: Float[np.ndarray, " 3"]) -> Iterator[dict[str, float]]:
    """Both derivatives of the average over a time T, for growing T."""
    rho = jnp.asarray(settings.rho)
    segments = _segments(settings.longest)
    for T in np.geomspace(1.0, settings.longest, settings.times):
        begin = time.perf_counter()
        plain = float(plain_gradient(rho, jnp.asarray(start), jnp.asarray(T)))
        shadow = shadowing(settings.rho, float(T), segments)
        yield {
            "T": float(T),
            "plain": plain,
            "shadowing": float(shadow.value[1]),
            "shadowing_error": float(shadow.stats["gradient_error"][0]),
            "status": int(shadow.status),
            "seconds": time.perf_counter() - begin,
        }


def _attractor_png(shadow: MidpointShadow) -> bytes:
    change = 2.0
    part = (shadow.t > 10) & (shadow.t < 16)
    y = shadow.y[part]
    moved = (shadow.y + change * shadow.v)[part]
    plots = [
        Plot(
            "Lorenz attractor",
            f"{name} (dimensionless)",
            "z (dimensionless)",
            [
                Curve("", shadow.y[:, k], shadow.y[:, 2], "faint dots"),
                Curve("a part of the trajectory", y[:, k], y[:, 2]),
                Curve(f"its shadow y + v Δρ, Δρ = {change:g}", moved[:, k], moved[:, 2], "dashed"),
            ],
        )
        for k, name in enumerate("xy")
    ]
    return plots_png(plots)


def _averages_png(verdict: SlopeVerdict, averages: Ensemble, rho: float, average: float) -> bytes:
    # The tangent goes through the average that shadowing found on its own trajectory.
    curves = [
        Curve("average of the ensemble", averages.rho, averages.average, "dots"),
        Curve(
            f"by shadowing, slope {verdict.shadowing:.3f}",
            averages.rho,
            average + verdict.shadowing * RHO_OFFSETS,
            "dashed",
        ),
    ]
    plot = Plot(
        "Average height of the attractor", "ρ (dimensionless)", "⟨z⟩ (dimensionless)", curves
    )
    tangent = averages.average[len(RHO_OFFSETS) // 2] + verdict.shadowing * (averages.rho - rho)
    off = [
        Curve("averages less this tangent", averages.rho, averages.average - tangent, "dots"),
        Curve("", averages.rho, averages.average - tangent + 2 * averages.error, "dotted"),
        Curve(
            "two standard errors",
            averages.rho,
            averages.average - tangent - 2 * averages.error,
            "dotted",
        ),
        Curve("", averages.rho, np.zeros(averages.rho.size)),
    ]
    label = f"⟨z⟩ - ⟨z⟩(ρ = {rho:g}) - {verdict.shadowing:.3f} (ρ - {rho:g})"
    return plots_png([plot, Plot("What the tangent leaves", "ρ (dimensionless)", label, off)])


def _gradients_png(rows: list[dict[str, float]], verdict: SlopeVerdict) -> bytes:
    T, plain, shadow = (
        np.array([row[name] for row in rows]) for name in ("T", "plain", "shadowing")
    )
    curves = [
        Curve("plain gradient", T, np.abs(plain), "dotted"),
        Curve("by shadowing", T, np.abs(shadow), "dots"),
        Curve(
            f"slope of averages {verdict.ensemble:.3f}",
            T,
            np.full(T.size, verdict.ensemble),
            "dashed",
        ),
    ]
    plot = Plot(
        "Derivative of the average over a time T", "T (dimensionless)", "|d⟨z⟩/dρ|", curves, "log"
    )
    return plots_png([plot])
