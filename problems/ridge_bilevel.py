"""Bilevel optimization: ridge penalties by leave-one-out validation, on Longley's data.

The inner problem is `adjoint.argmin`: coefficients w of the standardized regressors and the
intercept w_0 minimize

    |y - w_0 - X w|^2 + sum over k of exp(p_k) w_k^2

for all observations but one, in 16 lanes at once. The outer one minimizes the mean square error
E(p) of predicting the observation left out over the logarithms p of the six penalties, by Newton's
method; its gradient and Hessian go through the 16 minimizers.

Two numbers check it. Without penalties the coefficients are the certified ones of NIST's
Statistical Reference Datasets (J. W. Longley, An appraisal of least squares programs, J. Am. Stat.
Assoc. 62 (1967) 819-841; https://www.itl.nist.gov/div898/strd). And the errors have a closed form,
e_i / (1 - h_ii) with the residuals e and the hat matrix of all observations (D. M. Allen, The
relationship between variable selection and data augmentation and a method for prediction,
Technometrics 16 (1974) 125-127).
"""

import time
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
from adjoint.run.figures import Panel, convergence_png
from adjoint.run.record import Record
from problems.pictures import Curve, Plot, plots_png

SUMMARY = "Penalties of a ridge regression chosen on a validation loss, through its minimizers."
JUDGED = "Judged at the first penalties, through all 16 minimizers."

NAMES = ("price deflator", "gross product", "unemployed", "armed forces", "population", "year")
# Employed people in thousands; deflator (1954: 100), product in million dollars, people in
# thousands, year. Longley's table.
TABLE = np.array([
    [60323, 83.0, 234289, 2356, 1590, 107608, 1947],
    [61122, 88.5, 259426, 2325, 1456, 108632, 1948],
    [60171, 88.2, 258054, 3682, 1616, 109773, 1949],
    [61187, 89.5, 284599, 3351, 1650, 110929, 1950],
    [63221, 96.2, 328975, 2099, 3099, 112075, 1951],
    [63639, 98.1, 346999, 1932, 3594, 113270, 1952],
    [64989, 99.0, 365385, 1870, 3547, 115094, 1953],
    [63761, 100.0, 363112, 3578, 3350, 116219, 1954],
    [66019, 101.2, 397469, 2904, 3048, 117388, 1955],
    [67857, 104.6, 419180, 2822, 2857, 118734, 1956],
    [68169, 108.4, 442769, 2936, 2798, 120445, 1957],
    [66513, 110.8, 444546, 4681, 2637, 121950, 1958],
    [68655, 112.6, 482704, 3813, 2552, 123366, 1959],
    [69564, 114.2, 502601, 3931, 2514, 125368, 1960],
    [69331, 115.7, 518173, 4806, 2572, 127852, 1961],
    [70551, 116.9, 554894, 4007, 2827, 130081, 1962],
])  # fmt: skip
EMPLOYED = TABLE[:, 0]
REGRESSORS = TABLE[:, 1:]
MEAN = REGRESSORS.mean(axis=0)
DEVIATION = REGRESSORS.std(axis=0)
STANDARDIZED = (REGRESSORS - MEAN) / DEVIATION
# Beyond these a penalty is nothing or everything, and E is flat.
LOWEST = -12.0
HIGHEST = 12.0
LONGEST = 3.0  # change of a logarithm in one step


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    start: float = field(
        default=0.0,
        metadata={
            "help": "logarithm of all penalties at first",
            "minimum": LOWEST,
            "maximum": HIGHEST,
        },
    )
    tolerance: float = field(
        default=1e-6,
        metadata={
            "help": "stop at this gradient of ln E, projected on the bounds",
            "minimum": 1e-10,
        },
    )
    max_iterations: int = field(
        default=100, metadata={"help": "stop after this many iterations", "minimum": 1}
    )


class Coefficients(NamedTuple):
    """The intercept in thousands of people, and the effects of the standardized regressors."""

    intercept: Float[Array, ""]
    effects: Float[Array, " 6"]


def fit(
    penalties: Float[Array, " 6"], weights: Float[Array, " 16"]
) -> adjoint.Solution[Coefficients]:
    """The coefficients of least weighted squares plus penalties; weight 0 omits an observation."""

    def objective(w: Coefficients, p: Any) -> Array:
        penalties, weights = p
        misfit = EMPLOYED - w.intercept - STANDARDIZED @ w.effects
        return weights @ misfit**2 + penalties @ w.effects**2

    start = Coefficients(jnp.asarray(EMPLOYED.mean()), jnp.zeros(6))
    return adjoint.argmin(objective, start, (penalties, weights))


def left_out_errors(p: Float[Array, " 6"]) -> Float[Array, " 16"]:
    """Each observation less its prediction from the others, in thousands of people."""

    def error(i: Array) -> Array:
        w = fit(jnp.exp(p), jnp.ones(16).at[i].set(0.0)).value
        return jnp.asarray(EMPLOYED)[i] - w.intercept - jnp.asarray(STANDARDIZED)[i] @ w.effects

    return jax.vmap(error)(jnp.arange(16))


def log_error(p: Float[Array, " 6"]) -> Float[Array, ""]:
    """ln E(p), E the mean square of the errors."""
    return jnp.log(jnp.mean(left_out_errors(p) ** 2))


def closed_form_errors(p: Float[np.ndarray, " 6"]) -> Float[np.ndarray, " 16"]:
    """Allen's e_i / (1 - h_ii)."""
    X = np.column_stack([np.ones(16), STANDARDIZED])
    hat = X @ np.linalg.solve(X.T @ X + np.diag(np.append(0.0, np.exp(p))), X.T)
    return (EMPLOYED - hat @ EMPLOYED) / (1 - np.diag(hat))


def verify(settings: Settings) -> adjoint.Verdict:
    """Check d ln E / d p by independent oracles, at the start."""
    return adjoint.verify_gradient(jax.jit(log_error), jnp.full(6, settings.start))


def run(settings: Settings, record: Record) -> Ending:
    """Choose the penalties, and compare the errors with the closed form.

    Raises
    ------
    KeyboardInterrupt
        After the iteration in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    p = np.full(6, settings.start)
    rows = []
    try:
        for row, p in record.follow(_iterations(settings)):
            rows.append(p)
            record.iteration(row)
    finally:
        if rows:
            _leave(np.array(rows), record)
    errors = np.asarray(jax.jit(left_out_errors)(jnp.asarray(p)))
    difference = float(np.max(np.abs(errors / closed_form_errors(p) - 1)))
    gradient = _projected(p, np.asarray(jax.jit(jax.grad(log_error))(jnp.asarray(p))))
    without = float(np.sqrt(np.mean(closed_form_errors(np.full(6, -np.inf)) ** 2)))
    found = np.sqrt(np.mean(errors**2))
    checks = [
        Check("projected gradient", gradient, settings.tolerance, "the tolerance of the settings"),
        Check("errors off, relative", difference, 1e-6, "Allen's closed form"),
    ]
    remarks = (
        f"The prediction error is {found:.1f} thousand people, {without:.1f} without penalties."
    )
    return judged(checks, remarks)


def _projected(p: np.ndarray, gradient: np.ndarray) -> float:
    """The largest slope along which p may still move."""
    return float(np.max(np.abs(np.clip(p - gradient, LOWEST, HIGHEST) - p)))


def _iterations(settings: Settings) -> Iterator[tuple[dict[str, object], Float[np.ndarray, " 6"]]]:
    """Newton's method within bounds: the iterations' numbers, and the logarithms it ends at.

    The logarithms are those of the penalties.
    """
    value_of = jax.jit(log_error)
    analyze = jax.jit(lambda p: (log_error(p), jax.grad(log_error)(p), jax.hessian(log_error)(p)))
    p = np.full(6, settings.start)
    for number in range(1, settings.max_iterations + 1):
        start = time.perf_counter()
        value, gradient, hessian = (np.asarray(d) for d in analyze(jnp.asarray(p)))
        slope = _projected(p, gradient)
        step = _step(p, gradient, hessian)
        shorter = (np.clip(p + 0.5**k * step, LOWEST, HIGHEST) for k in range(30))
        lower = (q for q in shorter if value_of(jnp.asarray(q)) < value + 1e-4 * gradient @ (q - p))
        p = next(lower, p) if slope > settings.tolerance else p
        yield (
            {
                "iteration": number,
                "error": float(np.exp(value / 2)),
                "slope": slope,
                **{f"log_penalty_{k + 1}": float(p[k]) for k in range(6)},
                "seconds": time.perf_counter() - start,
            },
            p,
        )
        if slope <= settings.tolerance:
            return


def _step(p: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Newton's step with the eigenvalues' moduli, so that it descends.

    It is for those p_k that are not held by a bound.
    """
    held = ((p <= LOWEST) & (gradient > 0)) | ((p >= HIGHEST) & (gradient < 0))
    values, vectors = np.linalg.eigh(hessian[np.ix_(~held, ~held)])
    step = np.zeros(6)
    step[~held] = -vectors @ (vectors.T @ gradient[~held] / np.maximum(np.abs(values), 1e-9))
    return np.clip(step, -LONGEST, LONGEST)


def _leave(p: Float[np.ndarray, "iterations 6"], record: Record) -> None:
    """The pictures of the penalties."""
    history = record.history
    panels = [
        Panel("error in thousand people", history.column("error"), "log"),
        Panel("slope of ln E", history.column("slope"), "log"),
    ]
    plot = convergence_png(
        history.column("iteration"), panels, "Leave-one-out error of Longley's regression"
    )
    record.picture("convergence.png", plot, "Prediction error and its slope in each iteration.")
    years = REGRESSORS[:, -1]
    errors = [closed_form_errors(q) for q in (np.full(6, -np.inf), p[-1])]
    names = ("without penalties", "chosen penalties")
    looks: tuple[Literal["faint dots", "dots"], ...] = ("faint dots", "dots")
    curves = [Curve(*parts) for parts in zip(names, (years, years), errors, looks, strict=True)]
    curves.append(Curve("", years[[0, -1]], np.zeros(2)))
    effects = [
        adjoint.require(fit(jnp.exp(jnp.asarray(q)), jnp.ones(16))).effects
        for q in (np.full(6, -np.inf), p[-1])
    ]
    order = np.arange(1, 7)
    bars = [
        Curve(*parts)
        for parts in zip(names, (order, order), map(np.asarray, effects), looks, strict=True)
    ]
    plots = [
        Plot("each year predicted from the others", "year", "error in thousand people", curves),
        Plot("effects", "regressor", "thousand people", bars),
    ]
    numbered = ", ".join(f"{k} {name}" for k, name in zip(order, NAMES, strict=True))
    caption = (
        "Errors of the years left out, and effects of a standard deviation of each regressor: "
        f"{numbered}."
    )
    record.picture("predictions.png", plots_png(plots), caption)
