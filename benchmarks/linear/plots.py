"""The plots of the linear benchmark: ratios and times over the size, time over the number of parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import Spread
from benchmarks.linear.comparison import beyond_assembly, gradient_limit, gradient_ratio
from benchmarks.linear.contest import ASSEMBLY
from benchmarks.linear.solvers import GRADIENT

# Ours in solid dark lines, peers dashed; one marker and color per solver, the same in every plot.
_COLORS = ("black", "tab:blue", "tab:purple", "tab:cyan", "tab:red", "tab:orange", "tab:brown", "tab:green", "tab:pink")
_MARKERS = "osD^vPX*h"


def ratio_figure(rows: list[dict[str, Any]]) -> Figure:
    """(value + gradient) / value over n, with the promised limits."""

    def spread(row: dict[str, Any]) -> Spread | None:
        return gradient_ratio(row)

    figure, axes = _panels(rows, "(value + gradient) / value", spread)
    for axis in axes:
        smallest, largest = axis.get_xlim()
        sizes = np.geomspace(smallest, largest, 400)
        limits = [gradient_limit(int(n)) or np.nan for n in sizes]
        axis.plot(sizes, limits, color="tab:gray", linewidth=5, alpha=0.4, label="promised at most", zorder=0)
    # The bars of a small case on a busy machine may reach far out; the medians are what is shown.
    medians = [s.median for row in rows if (s := gradient_ratio(row))]
    if medians:
        axes[0].set_ylim(min(0.9, 0.95 * min(medians)), 1.1 * max(1.2, *medians))
    _legend(figure, axes)
    return figure


def time_figure(rows: list[dict[str, Any]]) -> Figure:
    """Seconds of value and gradient over n."""

    def spread(row: dict[str, Any]) -> Spread | None:
        times = row["seconds"].get(GRADIENT)
        return Spread.of(times) if times else None

    figure, axes = _panels(rows, "value and gradient in s", spread)
    for axis in axes:
        axis.set_yscale("log")
    _legend(figure, axes)
    return figure


def parameters_figure(sweep: list[dict[str, Any]]) -> Figure:
    """Seconds of value and gradient beyond assembling, and of assembling, over the number of parameters."""
    sizes = sorted({row["n"] for row in sweep})
    figure = Figure(figsize=(5.2 * len(sizes), 4.4), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False)[0]
    solvers = list(dict.fromkeys(row["solver"] for row in sweep))
    for axis, n in zip(axes, sizes, strict=True):
        for k, solver in enumerate(solvers):
            rows = [row for row in sweep if (row["n"], row["solver"]) == (n, solver)]
            counts = [row["parameters"] for row in rows]
            beyond = [Spread.of(beyond_assembly(row)) for row in rows]
            assembly = [Spread.of(row["seconds"][ASSEMBLY]) for row in rows]
            _curve(axis, counts, beyond, f"{solver}, beyond assembling", k, "-")
            if k == 0:
                _curve(axis, counts, assembly, "assembling and its adjoint", len(solvers), "--")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(f"convection-diffusion, n = {n}")
        axis.set_xlabel("number of parameters")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    _legend(figure, axes)
    return figure


def _panels(
    rows: list[dict[str, Any]], label: str, spread: Callable[[dict[str, Any]], Spread | None]
) -> tuple[Figure, np.ndarray]:
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    figure = Figure(figsize=(5.2 * len(problems), 5.0), layout="constrained")
    axes = figure.subplots(1, len(problems), sharey=True, squeeze=False)[0]
    for axis, problem in zip(axes, problems, strict=True):
        for k, solver in enumerate(solvers):
            measured = [
                (row, s) for row in rows if (row["problem"], row["solver"]) == (problem, solver) if (s := spread(row))
            ]
            if measured:
                style = "-" if measured[0][0]["ours"] else "--"
                _curve(axis, [row["n"] for row, _ in measured], [s for _, s in measured], solver, k, style)
        axis.set_xscale("log")
        axis.set_title(problem)
        axis.set_xlabel("number of unknowns n")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(label)
    return figure, axes


def _curve(axis: Axes, x: list[int], spreads: list[Spread], label: str, k: int, style: str) -> None:
    """Medians as a line, the quartiles as bars."""
    medians = np.array([s.median for s in spreads])
    below = medians - [s.lower_quartile for s in spreads]
    above = np.array([s.upper_quartile for s in spreads]) - medians
    axis.errorbar(
        x,
        medians,
        [below, above],
        label=label,
        color=_COLORS[k % len(_COLORS)],
        marker=_MARKERS[k % len(_MARKERS)],
        linestyle=style,
        capsize=2,
        linewidth=1.2,
        markersize=5,
    )


def _legend(figure: Figure, axes: np.ndarray) -> None:
    """One legend for all panels, alphabetical, so that ours come first."""
    entries: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    entries = dict(sorted(entries.items()))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=len(axes), frameon=False, fontsize=8
    )
