"""Hares and lynxes: rates of Lotka and Volterra from 21 years' pelts, with confidence intervals.

    u' = (alpha - beta v) u,   v' = (-gamma + delta u) v
    ln of the k-th count = ln of the population + noise

u are hares (the prey), v lynxes, in thousands of pelts, time is in years, and the noise is normal,
with a deviation of its own for each animal (`problems.lotka_volterra`).

The unknowns are q = ln (alpha, beta, gamma, delta, u(0), v(0)), so that all are positive. With the
residuals r_k of an animal, N = 21, and its deviation eliminated, maximum likelihood is

    minimize   N/2 ln (mean of r_hares^2) + N/2 ln (mean of r_lynxes^2)

by L-BFGS, whose gradient takes one adjoint solve. J = -dr/dq, from forward sensitivities, makes the
Gauss-Newton Hessian H = sum over animals of J' J / sigma^2, and q +- t sqrt(diag H^-1) with
Student's t for 42 - 6 degrees of freedom the intervals.

Data: pelts of the Hudson's Bay Company 1900 to 1920, by P. Howard (Modeling basics, 2009) as used
by B. Carpenter (Predator-prey population dynamics, Stan case study, 2018). Published: Carpenter's
posterior, for this model with weak priors, in the reference posterior
hudson_lynx_hare-lotka_volterra of posteriordb. Its means and deviations are to be met, by q's
estimates to a fraction of a deviation: the maximum of a likelihood is not a mean.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.lotka_volterra import (
    FREEDOM,
    NAMES,
    PELTS,
    TRUTH,
    YEARS,
    Estimate,
    Fit,
    broken_laws,
    estimate,
    estimates,
    improve,
    intervals,
    misfit,
    populations,
    start,
    synthetic,
)

SUMMARY = (
    "Rates of predator and prey from 21 years of pelts, with intervals of confidence (Lotka, "
    "Volterra)."
)
JUDGED = "Judged at the first guess, by all six unknowns."

FIRST_YEAR = 1900
ANIMALS = ("hares", "lynxes")
# Mean and mean square of the reference posterior, for NAMES.
PUBLISHED_MEAN = np.array(
    [0.546864499784, 0.0277472877678, 0.800095360233, 0.0240859152535, 34.035222477, 5.93589713368]
)
PUBLISHED_SQUARE = np.array(
    [0.3030362900, 0.0007871719, 0.6481388153, 0.0005925775, 1166.9038171313, 35.5163321009]
)
PUBLISHED_DEVIATION = np.sqrt(PUBLISHED_SQUARE - PUBLISHED_MEAN**2)


def _setting(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    data: str = _setting("pelts", "what is fitted", choices=("pelts", "synthetic"))
    noise: float = _setting(
        0.25, "deviation of ln counts in synthetic data", minimum=0.001, maximum=0.5
    )
    seed: int = _setting(1, "of synthetic data", minimum=0)
    period: float = _setting(10.0, "first guess of the cycle in years", minimum=5.0, maximum=20.0)
    level: float = _setting(0.95, "confidence of the intervals", minimum=0.5, maximum=0.999)
    repetitions: int = _setting(
        100, "synthetic data sets whose intervals are counted", minimum=20, maximum=2000
    )
    tolerance: float = _setting(
        1e-6, "stop at this largest slope of the likelihood", minimum=1e-9, maximum=1.0
    )
    max_iterations: int = _setting(
        200, "stop after this many iterations", minimum=1, maximum=10_000
    )


def first_guess(settings: Settings, counts: Float[np.ndarray, "21 2"]) -> Float[Array, " 6"]:
    """alpha = gamma = 2 pi / period, as of small cycles; gamma / delta and alpha / beta the means.

    The initial state is the first counts.
    """
    rate = 2 * np.pi / settings.period
    hares, lynxes = counts.mean(axis=0)
    return jnp.log(jnp.array([rate, rate / lynxes, rate, rate / hares, *counts[0]]))


def counts_of(settings: Settings) -> Float[np.ndarray, "21 2"]:
    """The counts to be fitted, in thousands."""
    return PELTS if settings.data == "pelts" else synthetic(settings.noise, settings.seed, 1)[0]


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the misfit's gradient at the first guess by independent oracles."""
    counts = counts_of(settings)
    return adjoint.verify_gradient(
        jax.jit(lambda q: misfit(q, jnp.asarray(counts))), first_guess(settings, counts), rtol=1e-8
    )


def run(settings: Settings, record: Record) -> Ending:
    """Fit, compare with laws and published numbers, and count how often intervals hold the truth.

    Raises
    ------
    KeyboardInterrupt
        After the iteration in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    counts = counts_of(settings)
    fit = start(first_guess(settings, counts))
    for row, reached in record.follow(_iterations(settings, fit, counts)):
        record.iteration(row)
        fit = reached
    found = jax.tree.map(np.asarray, jax.jit(estimate)(fit.q, counts))
    record.file(
        "estimates.csv", _table(found, settings.level), "estimates, their deviations and intervals"
    )
    caption = (
        f"Counts, the fit, and where {settings.level:.0%} of its means and of new counts are "
        "expected."
    )
    record.picture("fit.png", _fit_png(settings, counts, found), caption)
    record.phase("fitting the synthetic data sets")
    many, slopes = jax.tree.map(
        np.asarray, estimates(synthetic(settings.noise, settings.seed + 1, settings.repetitions))
    )
    held = _held(settings, many)
    caption = (
        f"Intervals from {settings.repetitions} synthetic data sets; those in red do not hold the "
        "truth, the black line."
    )
    record.phase("drawing the pictures")
    record.picture("intervals.png", _intervals_png(settings, many), caption)
    laws = {name: float(v) for name, v in jax.jit(broken_laws)(fit.q).items()}
    return _ending(settings, fit, found, laws, held, float(slopes.max()))


def _iterations(
    settings: Settings, fit: Fit, counts: Float[np.ndarray, "21 2"]
) -> Iterator[tuple[dict[str, object], Fit]]:
    step = jax.jit(improve)
    for number in range(1, settings.max_iterations + 1):
        begin = time.perf_counter()
        new = jax.block_until_ready(step(fit, jnp.asarray(counts)))
        slope = float(jnp.max(jnp.abs(new.gradient)))
        now: dict[str, object] = {
            name: float(v) for name, v in zip(NAMES, jnp.exp(fit.q), strict=True)
        }
        numbers: dict[str, object] = {
            "iteration": number,
            "misfit": float(new.misfit),
            "slope": slope,
        }
        # The gradient is that of the point before the step, which is kept when it is flat there.
        fit = new if slope > settings.tolerance else new._replace(q=fit.q)
        yield numbers | now | {"seconds": time.perf_counter() - begin}, fit
        if slope <= settings.tolerance or not np.isfinite(slope):
            return


def _held(settings: Settings, many: Estimate) -> Float[np.ndarray, "count 6"]:
    """Whether each interval holds the truth."""
    ends = intervals(many, settings.level)
    return (ends[..., 0] <= TRUTH) & (ends[..., 1] >= TRUTH)


def _ending(
    settings: Settings,
    fit: Fit,
    found: Estimate,
    laws: dict[str, float],
    held: np.ndarray,
    steepest: float,
) -> Ending:
    """Done when the slope is small, laws and published numbers are met, and intervals hold.

    The intervals hold as often as they say.
    """
    slope = float(jnp.max(jnp.abs(fit.gradient)))
    worst = max(laws, key=laws.__getitem__)
    share = float(held.mean())
    values = np.exp(found.q)
    errors = np.exp(found.q) * np.sqrt(np.diag(found.covariance))
    listed = ", ".join(
        f"{n} {v:.4g} +- {e:.2g}" for n, v, e in zip(NAMES, values, errors, strict=True)
    )
    remarks = f"{listed}; noise {found.noise[0]:.3f} and {found.noise[1]:.3f}."
    # 600 intervals of 100 data sets are at least 100 independent ones.
    allowed = 4 * np.sqrt(settings.level * (1 - settings.level) / len(held))
    checks = [
        Check("slope of the misfit", slope, settings.tolerance, "the tolerance of the settings"),
        Check(f"laws broken by ({worst})", laws[worst], 1e-7, "scaling laws of the equations"),
        Check(
            "intervals that hold the truth",
            share,
            allowed,
            "the binomial law",
            reference=settings.level,
        ),
        Check("steepest slope of a synthetic fit", steepest, 1e-3, "a minimum has none"),
    ]
    if settings.data == "pelts":
        away = np.abs(values - PUBLISHED_MEAN) / PUBLISHED_DEVIATION
        wider = errors / PUBLISHED_DEVIATION
        widest = float(wider[np.argmax(np.abs(wider - 1))])
        source = "published posterior"
        checks += [
            Check("means off, in deviations", float(away.max()), 0.25, source),
            Check("deviation over the published one", widest, 0.2, source, reference=1.0),
        ]
    return judged(checks, remarks)


def _table(found: Estimate, level: float) -> str:
    errors = np.sqrt(np.diag(found.covariance))
    rows: list[tuple[str, ...]] = [("name", "estimate", "deviation_of_logarithm", "lower", "upper")]
    for name, q, e, (low, high) in zip(
        NAMES, found.q, errors, intervals(found, level), strict=True
    ):
        rows.append((name, *(repr(float(v)) for v in (np.exp(q), e, low, high))))
    return "".join(",".join(row) + "\n" for row in rows)


def _fit_png(settings: Settings, counts: Float[np.ndarray, "21 2"], found: Estimate) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    ts = jnp.linspace(0.0, YEARS[-1], 241)
    z, J = jax.jit(
        lambda q: (populations(q, ts), jax.jacfwd(lambda q: populations(q, ts, "both"))(q))
    )(found.q)
    variance = np.einsum("tai,ij,taj->ta", J, found.covariance, J)
    t = scipy.stats.t.ppf((1 + settings.level) / 2, FREEDOM)
    figure = Figure(figsize=(10.0, 5.4), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True)
    for k, (axis, animal, color) in enumerate(
        zip(axes, ANIMALS, ("#0072B2", "#D55E00"), strict=True)
    ):
        for spread, shade, what in (
            (found.noise[k] ** 2, 0.15, "new counts"),
            (0.0, 0.35, "the mean"),
        ):
            half = t * np.sqrt(variance[:, k] + spread)
            ends = np.exp(z[:, k] - half), np.exp(z[:, k] + half)
            axis.fill_between(
                FIRST_YEAR + ts,
                *ends,
                color=color,
                alpha=shade,
                linewidth=0,
                label=f"{settings.level:.0%} for {what}",
            )
        axis.plot(FIRST_YEAR + ts, np.exp(z[:, k]), color=color, label="fit")
        axis.plot(
            FIRST_YEAR + YEARS, counts[:, k], "o", color="black", markersize=4, label="counts"
        )
        axis.set(ylabel=f"{animal} in thousands", yscale="log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend(loc="upper right", frameon=False, ncols=4, fontsize=8)
    axes[0].set_title(
        "Pelts of the Hudson's Bay Company" if settings.data == "pelts" else "Synthetic counts"
    )
    axes[1].set_xlabel("year")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    return _png(figure)


def _intervals_png(settings: Settings, many: Estimate) -> bytes:
    from matplotlib.figure import Figure

    ends = intervals(many, settings.level)
    held = _held(settings, many)
    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    axes: Any = figure.subplots(1, len(NAMES), sharey=True)
    for j, (axis, name) in enumerate(zip(axes, NAMES, strict=True)):
        for i in range(len(ends)):
            axis.plot(
                ends[i, j],
                (i, i),
                color="silver" if held[i, j] else "#D55E00",
                linewidth=1.0 if held[i, j] else 1.6,
            )
        axis.axvline(TRUTH[j], color="black", linewidth=1.0)
        axis.set(
            title=f"{name}\n{held[:, j].mean():.1%} hold", xlabel=("per year", "thousands")[j > 3]
        )
        if j in (1, 3):
            axis.set_xlabel("per year and thousand")
    axes[0].set_ylabel("data set")
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
