"""Designs under limits: a search by `minimize`, and its conditions by other means.

What the search leaves is here, too. A design x minimizes f(x) subject to h(x) <= 0 and lower <= x
<= upper, where every limit is h = used share - 1. At a minimizer

    f' + sum over the limits l_i h_i' + sum over the bounds = 0,   l_i >= 0,   l_i = 0 where h_i < 0

(W. Karush, 1939; H. W. Kuhn, A. W. Tucker, 1951). `conditions` finds the multipliers l a second
time and without the library: from derivatives by complex steps, Im f(x + i t) / t, and nonnegative
least squares (Lawson and Hanson) over what is active. To first order, f falls by l_i / 100 where
limit i is one per cent easier.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.figures import Panel, convergence_png
from adjoint.run.record import Record
from problems.pictures import DOTS_PER_INCH

METHODS: dict[str, Any] = {
    "default": None,
    "MMA": adjoint.MMA(),
    "GCMMA": adjoint.GCMMA(),
    "AugmentedLagrangian": adjoint.AugmentedLagrangian(),
}
STEP = 1e-30  # of complex steps: its square is nothing beside 1
ACTIVE = 1e-6  # what is closer to its limit or bound, as a share of it, is active
# Largest violation, residual of the conditions as a share of |f'|, and difference of multipliers as
# a share of the largest one. The searches stop at 1e-8 of violation and of the derivative at the
# start, which is up to a hundred times |f'| of the end.
VIOLATION = 1e-8
RESIDUAL = 1e-6
DIFFERENCE = 1e-5

JUDGED = "Judged at the first guess, for a sum of the objective and all limits."


@dataclass(frozen=True)
class Search:
    """How to search: the settings that all designs have."""

    method: str = field(
        default="default",
        metadata={
            "help": "of adjoint.minimize, which chooses by default",
            "choices": tuple(METHODS),
        },
    )
    max_steps: int = field(default=500, metadata={"help": "give up after", "minimum": 1})


@dataclass(frozen=True)
class Design:
    """What is to be minimized, in JAX, and how NumPy evaluates it.

    Attributes
    ----------
    objective, limits
        f and h of x, h as an array or as a tuple of numbers, both for `minimize`.
    again
        x -> (f, h) by NumPy, also of complex x.
    lower, upper, start
        Bounds and the first guess, which also tells how large the unknowns are.
    names
        Of the limits, in order.
    goal, unit
        What f is, and its unit.
    """

    objective: Callable[[Array], Any]
    limits: Callable[[Array], Any]
    again: Callable[[np.ndarray], tuple[Any, Any]]
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    start: Float[np.ndarray, " n"]
    names: Sequence[str]
    goal: str
    unit: str


class Reference(NamedTuple):
    """A value of f to be compared with, how far off it may be, why so far, and where it is from."""

    value: float
    tolerance: float
    reason: str
    words: str


def exactly(value: float, words: str) -> Reference:
    """A value known to all digits, which a search misses by no more than its tolerances allow."""
    return Reference(
        value, 1e-7 * value, "ten times the tolerance of limits and derivatives", words
    )


class Conditions(NamedTuple):
    """Of Karush, Kuhn and Tucker at a point: f, h, multipliers, what is left of f', violation.

    The multipliers are those of h; what is left of f' is a share of it.
    """

    value: float
    limits: Float[np.ndarray, " m"]
    multipliers: Float[np.ndarray, " m"]
    residual: float
    violation: float


def conditions(design: Design, x: Float[np.ndarray, " n"]) -> Conditions:
    """By complex steps and nonnegative least squares.

    Derivatives are by ln x, so that all are in the unit of f.
    """
    n, (value, limits) = x.size, design.again(x)
    limits = np.asarray(limits)
    steps = [design.again(x + 1j * STEP * x * (np.arange(n) == j)) for j in range(n)]
    slope = np.array([np.imag(f) for f, _ in steps]) / STEP
    slopes = np.array([np.imag(np.asarray(h)) for _, h in steps]).T / STEP
    active = np.flatnonzero(limits > -ACTIVE)
    below = x - design.lower < ACTIVE * x
    above = design.upper - x < ACTIVE * x
    bounds = np.concatenate([-np.diag(x)[below], np.diag(x)[above]])
    forces = np.concatenate([slopes[active], bounds])
    # With nothing active nothing balances f', and nnls does not take an empty matrix.
    found, left = (
        scipy.optimize.nnls(forces.T, -slope)
        if len(forces)
        else (np.zeros(0), np.linalg.norm(slope))
    )
    multipliers = np.zeros(limits.size)
    multipliers[active] = found[: active.size]
    violation = max(limits.max(), (design.lower - x).max(), (x - design.upper).max(), 0.0)
    return Conditions(
        float(value), limits, multipliers, float(left / np.linalg.norm(slope)), float(violation)
    )


def search(design: Design, settings: Search) -> adjoint.Solution[Float[Array, " n"]]:
    """By the method of the settings; lengths of x are measured in units of the first guess."""
    return adjoint.minimize(
        design.objective,
        jnp.asarray(design.start),
        METHODS[settings.method],
        bounds=(design.lower, design.upper),
        inequality=design.limits,
        inner_product=adjoint.Weighted(jnp.asarray(1 / design.start**2)),
        constraint_tolerance=VIOLATION,
        max_steps=settings.max_steps,
    )


def verify(design: Design) -> adjoint.Verdict:
    """Check the derivatives of f and of all limits by independent oracles, at the first guess.

    The limits are checked as one seeded sum of them.
    """
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(design.names))
    size = float(design.objective(jnp.asarray(design.start)))

    def everything(x: Array) -> Array:
        limits = jnp.stack([jnp.asarray(h) for h in design.limits(x)])
        return design.objective(x) / size + jnp.sum(weights * limits)

    return adjoint.verify_gradient(everything, jnp.asarray(design.start))


def run(
    design: Design,
    settings: Search,
    record: Record,
    references: Sequence[Reference],
    draw: Callable[[Conditions, np.ndarray], bytes],
) -> Ending:
    """Search, leave history, table and pictures, compare with the references and the conditions.

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    record.phase("searching for the minimum")
    solution = search(design, settings)
    history = solution.stats["history"]
    for k in record.follow(range(len(history["value"]))):
        names = ("value", "violation", "stationarity", "length", "evaluations")
        record.iteration({"step": k, **{name: float(history[name][k]) for name in names}})
    x = np.asarray(solution.value)
    found = conditions(design, x)
    record.picture(
        "history.png", _history_png(design, history, references[0]), "The search, step by step."
    )
    record.picture("design.png", draw(found, x), "The design that was found.")
    record.file(
        "limits.csv",
        _table(design, found, solution),
        "all limits: used shares and multipliers, found twice",
    )
    return _ending(design, solution, found, references)


def _ending(
    design: Design,
    solution: adjoint.Solution[Any],
    found: Conditions,
    references: Sequence[Reference],
) -> Ending:
    stats = solution.stats
    largest = max(found.multipliers.max(), np.finfo(float).tiny)
    apart = float(np.abs(np.asarray(stats["multipliers"]) - found.multipliers).max() / largest)
    active = [
        name
        for name, multiplier in zip(design.names, found.multipliers, strict=True)
        if multiplier > 0
    ]
    remarks = (
        f"{stats['method']}. {solution.status.name} after {int(stats['iterations'])} steps and "
        f"{int(stats['evaluations'])} evaluations. Active limits: {', '.join(active) or 'none'}."
    )
    checks = [
        Check(
            f"{design.goal} in {design.unit}",
            found.value,
            reference.tolerance,
            f"{reference.words} ({reference.reason})",
            reference=reference.value,
        )
        for reference in references
    ]
    checks += [
        Check(
            "statuses that are no success", float(not solution.status.ok), 0.0, "it is a minimum"
        ),
        Check(
            "Karush-Kuhn-Tucker residual, relative", found.residual, RESIDUAL, "computed once more"
        ),
        Check("multipliers apart, relative", apart, DIFFERENCE, "computed once more"),
        Check("limits violated, a share", found.violation, VIOLATION, "computed once more"),
    ]
    there = checks[: len(references)]
    if all(check.holds for check in checks[len(references) :]) and not all(
        check.holds for check in there
    ):
        remarks += (
            " It is a minimum in its neighborhood only: start elsewhere, or by another method."
        )
    return judged(checks, remarks)


def _table(design: Design, found: Conditions, solution: adjoint.Solution[Any]) -> str:
    given = np.asarray(solution.stats["multipliers"])
    rows = zip(design.names, found.limits + 1, given, found.multipliers, strict=True)
    lines = [
        f"{name},{used!r},{a!r},{b!r}"
        for name, used, a, b in ((row[0], *map(float, row[1:])) for row in rows)
    ]
    return "\n".join(["limit,used_share,multiplier,multiplier_found_again", *lines]) + "\n"


def _history_png(design: Design, history: Any, reference: Reference) -> bytes:
    panels = [
        Panel(
            f"{design.goal} in {design.unit}",
            history["value"],
            "linear",
            reference.value,
            reference.words,
        ),
        Panel(
            "violation, a share (gaps: none)", history["violation"], "log", VIOLATION, "tolerance"
        ),
        Panel(f"stationarity in {design.unit}", history["stationarity"], "log"),
    ]
    return convergence_png(
        np.arange(len(history["value"])), panels, "Objective, violation and stationarity"
    )


def draw_limits(axis: Any, design: Design, found: Conditions) -> None:
    """Used shares as bars, those that hold the design back in red with their multipliers."""
    order = np.arange(len(design.names))[::-1]
    colors = ["tab:red" if multiplier > 0 else "silver" for multiplier in found.multipliers]
    axis.barh(order, 100 * (found.limits + 1), color=colors, height=0.6)
    axis.axvline(100, color="black", linewidth=0.8)
    for y, multiplier in zip(order, found.multipliers, strict=True):
        if multiplier > 0:
            axis.text(
                2,
                y,
                f"1 % easier: {-multiplier / 100:.3g} {design.unit}",
                va="center",
                color="white",
                fontsize=8,
            )
    axis.set_yticks(order, design.names)
    axis.set(title="limits (red: active)", xlabel="used share in %", xlim=(0, 108))


def png(figure: Any) -> bytes:
    """The bytes of a Matplotlib figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
