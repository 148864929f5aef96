"""The plots: value and gradient by solver in each problem, and error over time by tolerance."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.answers import GRADIENT
from benchmarks.harness import Spread
from benchmarks.plots import legend

OURS = "tab:blue"
PEER = "tab:orange"
WRONG = "tab:red"


def times_figure(rows: list[dict[str, Any]]) -> Figure:
    """A panel for each problem: seconds of value and gradient as bars, with gradient errors."""
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    columns = min(len(problems), 2)
    lines = -(-len(problems) // columns)
    figure = Figure(figsize=(8.5 * columns, 3.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, problem in zip(axes, problems, strict=False):
        measured = [
            row for row in rows if row["problem"] == problem and row["seconds"].get(GRADIENT)
        ]
        for k, row in enumerate(measured):
            spread = Spread.of(row["seconds"][GRADIENT])
            color = WRONG if row["outcome"] == "WRONG" else OURS if row["ours"] else PEER
            axis.barh(k, 1e3 * spread.median, color=color)
            axis.text(
                1e3 * spread.median,
                k,
                f" error {float(row['errors'][GRADIENT]):.0e}",
                va="center",
                fontsize=8,
            )
        axis.set_yticks(range(len(measured)), [row["solver"] for row in measured], fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        if measured:
            # From one power of ten to another, and room on the right for the text.
            medians = [1e3 * Spread.of(row["seconds"][GRADIENT]).median for row in measured]
            left = np.floor(np.log10(0.9 * min(medians)))
            right = np.ceil(np.log10(max(medians)))
            axis.set_xlim(10.0**left, 10.0 ** (right + 0.25 * (right - left)))
        axis.set_title(problem)
        axis.set_xlabel("value and gradient in ms (red: wrong)")
        axis.grid(alpha=0.3, axis="x")
    for axis in axes[len(problems) :]:
        axis.set_visible(False)
    return figure


_COLORS = ("black", "tab:red", "tab:orange", "tab:green", "tab:blue")
_MARKERS = "osD^v"


def precision_figure(sweep: list[dict[str, Any]]) -> Figure:
    """A panel for each problem: gradient error over its time, from loose to tight tolerances."""
    problems = list(dict.fromkeys(point["problem"] for point in sweep))
    solvers = list(dict.fromkeys(point["solver"] for point in sweep))
    figure = Figure(figsize=(6.2 * len(problems), 5.0), layout="constrained")
    axes = figure.subplots(1, len(problems), squeeze=False)[0]
    for axis, problem in zip(axes, problems, strict=True):
        for k, solver in enumerate(solvers):
            points = [p for p in sweep if (p["problem"], p["solver"]) == (problem, solver)]
            points = [p for p in points if np.isfinite(float(p["error"]))]
            if points:
                axis.plot(
                    [Spread.of(p["seconds"]).median for p in points],
                    [float(p["error"]) for p in points],
                    label=solver,
                    color=_COLORS[k % len(_COLORS)],
                    marker=_MARKERS[k % len(_MARKERS)],
                    linestyle="-" if points[0]["ours"] else "--",
                )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(problem)
        axis.set_xlabel("value and gradient in s")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error of the gradient")
    legend(figure, axes)
    return figure
