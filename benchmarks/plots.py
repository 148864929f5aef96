"""Plots over the number of unknowns, that every contest has."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.answers import GRADIENT
from benchmarks.harness import Spread

# Ours in solid dark lines, peers dashed; one marker and color per solver, the same in every plot.
_COLORS = (
    "black",
    "tab:blue",
    "tab:purple",
    "tab:cyan",
    "tab:red",
    "tab:orange",
    "tab:brown",
    "tab:green",
    "tab:pink",
)
_MARKERS = "osD^vPX*h"


def time_figure(rows: list[dict[str, Any]]) -> Figure:
    """Seconds of value and gradient over n."""

    def spread(row: dict[str, Any]) -> Spread | None:
        times = row["seconds"].get(GRADIENT)
        return Spread.of(times) if times else None

    figure, axes = panels(rows, "value and gradient in s", spread)
    for axis in axes:
        axis.set_yscale("log")
    legend(figure, axes)
    return figure


def panels(
    rows: list[dict[str, Any]], label: str, spread: Callable[[dict[str, Any]], Spread | None]
) -> tuple[Figure, np.ndarray]:
    """One panel for each problem, over the number of unknowns."""
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    figure = Figure(figsize=(5.2 * len(problems), 5.0), layout="constrained")
    axes = figure.subplots(1, len(problems), sharey=True, squeeze=False)[0]
    for axis, problem in zip(axes, problems, strict=True):
        for k, solver in enumerate(solvers):
            measured = [
                (row, s)
                for row in rows
                if (row["problem"], row["solver"]) == (problem, solver)
                if (s := spread(row))
            ]
            if measured:
                style = "-" if measured[0][0]["ours"] else "--"
                curve(
                    axis,
                    [row["n"] for row, _ in measured],
                    [s for _, s in measured],
                    solver,
                    k,
                    style,
                )
        axis.set_xscale("log")
        axis.set_title(problem)
        axis.set_xlabel("number of unknowns n")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(label)
    return figure, axes


def curve(axis: Axes, x: list[int], spreads: list[Spread], label: str, k: int, style: str) -> None:
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


def legend(figure: Figure, axes: np.ndarray) -> None:
    """One legend for all panels, alphabetical, so that ours come first."""
    entries: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    entries = dict(sorted(entries.items()))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=len(axes),
        frameon=False,
        fontsize=8,
    )
