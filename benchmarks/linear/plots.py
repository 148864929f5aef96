"""The linear benchmark's plots alone: ratios with their limits, time over parameters."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.case_tables import gradient_ratio
from benchmarks.harness import Spread
from benchmarks.linear.contest import ASSEMBLY
from benchmarks.linear.targets import beyond_assembly, gradient_limit
from benchmarks.plots import curve, legend, panels


def ratio_figure(rows: list[dict[str, Any]]) -> Figure:
    """(value + gradient) / value over n, with the promised limits."""

    def spread(row: dict[str, Any]) -> Spread | None:
        return gradient_ratio(row)

    figure, axes = panels(rows, "(value + gradient) / value", spread)
    for axis in axes:
        smallest, largest = axis.get_xlim()
        sizes = np.geomspace(smallest, largest, 400)
        limits = [gradient_limit(int(n)) or np.nan for n in sizes]
        axis.plot(
            sizes,
            limits,
            color="tab:gray",
            linewidth=5,
            alpha=0.4,
            label="promised at most",
            zorder=0,
        )
    # The bars of a small case on a busy machine may reach far out; the medians are what is shown.
    medians = [s.median for row in rows if (s := gradient_ratio(row))]
    if medians:
        axes[0].set_ylim(min(0.9, 0.95 * min(medians)), 1.1 * max(1.2, *medians))
    legend(figure, axes)
    return figure


def parameters_figure(sweep: list[dict[str, Any]]) -> Figure:
    """Seconds of value and gradient without assembling, and of it, over the parameters' number."""
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
            curve(axis, counts, beyond, f"{solver}, beyond assembling", k, "-")
            if k == 0:
                curve(axis, counts, assembly, "assembling and its adjoint", len(solvers), "--")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(f"convection-diffusion, n = {n}")
        axis.set_xlabel("number of parameters")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    legend(figure, axes)
    return figure
