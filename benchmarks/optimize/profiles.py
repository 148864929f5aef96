"""Performance and data profiles: the share of problems solved over what a solver may spend.

Sources: E. D. Dolan, J. J. Moré, Math. Program. 91 (2002), equation (2.1); J. J. Moré, S. M. Wild,
SIAM J. Optim. 20 (2009), equation (2.9). A run costs what it has spent when it ends by its own
rule, and an unsolved one costs more than any budget.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.optimize.solvers import ADJOINT, DEFAULT, STEEPEST

Costs = dict[str, Float[np.ndarray, " problems"]]


def evaluations(row: dict[str, Any]) -> float:
    """Evaluations of f with f', whatever else was asked for."""
    return float(row["evaluations"])


def work(row: dict[str, Any]) -> float:
    """In units of f with f': f'' counts n, as it is made of n products, and a product one."""
    return float(row["evaluations"] + row["n"] * row["hessians"] + row["products"])


def costs(rows: Sequence[dict[str, Any]], cost: Callable[[dict[str, Any]], float]) -> Costs:
    """Of each solver for each problem that has a reference; infinite where it was not solved."""
    judged = [row for row in rows if row["solved"] is not None]
    problems = list(dict.fromkeys(row["problem"] for row in judged))
    found: Costs = {row["solver"]: np.full(len(problems), np.inf) for row in judged}
    for row in judged:
        if row["solved"]:
            found[row["solver"]][problems.index(row["problem"])] = cost(row)
    return found


def performance(found: Costs) -> Costs:
    """Each cost as a multiple of the lowest for its problem.

    Examples
    --------
    >>> [
    ...     ratios.tolist()
    ...     for ratios in performance(
    ...         {"a": np.array([2.0, 6.0]), "b": np.array([4.0, np.inf])}
    ...     ).values()
    ... ]
    [[1.0, 1.0], [2.0, inf]]
    """
    # A run that ended where it started has still cost something.
    lowest = np.maximum(np.min(list(found.values()), axis=0), 1)
    return {
        solver: np.where(np.isfinite(cost), np.maximum(cost, 1), np.inf) / lowest
        for solver, cost in found.items()
    }


def profile(spent: Float[np.ndarray, " problems"]) -> tuple[np.ndarray, np.ndarray]:
    """Budgets at which the share of the problems rises, and the shares.

    Examples
    --------
    >>> [part.tolist() for part in profile(np.array([2.0, np.inf, 1.0, 2.0]))]
    [[1.0, 2.0, 2.0], [0.25, 0.5, 0.75]]
    """
    finite = np.sort(spent[np.isfinite(spent)])
    return finite, np.arange(1, finite.size + 1) / spent.size


def performance_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Two panels: by evaluations, and by work."""
    figure = Figure(figsize=(13.0, 6.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _curves(left, performance(costs(rows, evaluations)), rows, 64.0)
    _curves(right, performance(costs(rows, work)), rows, 64.0)
    left.set_xlabel("evaluations of f with f', as a multiple of the fewest")
    right.set_xlabel("work (f'' counts n evaluations), as a multiple of the least")
    return _finished(figure, left)


def data_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Two panels: over evaluations, and over work per n + 1."""
    figure = Figure(figsize=(13.0, 6.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _curves(left, costs(rows, evaluations), rows, 2000.0)
    _curves(right, costs(rows, lambda row: work(row) / (row["n"] + 1)), rows, 1000.0)
    left.set_xlabel("evaluations of f with f'")
    right.set_xlabel("work (f'' counts n evaluations) / (n + 1)")
    return _finished(figure, left)


_COLORS = {
    "default": "black",
    "Newton": "tab:blue",
    "NewtonKrylov": "tab:cyan",
    "BFGS": "tab:red",
    "LBFGS": "tab:purple",
}
_PEER_COLORS = (
    "tab:red",
    "tab:orange",
    "tab:blue",
    "tab:cyan",
    "tab:green",
    "tab:pink",
    "tab:olive",
    "tab:purple",
)


def _curves(axis: Axes, found: Costs, rows: Sequence[dict[str, Any]], most: float) -> None:
    ours = {row["solver"] for row in rows if row["library"] == ADJOINT}
    peers = [solver for solver in found if solver not in ours]
    for solver, spent in found.items():
        if solver == STEEPEST:
            continue
        budgets, shares = profile(spent)
        if solver in ours:
            style: dict[str, Any] = {
                "color": _COLORS[solver.removeprefix("adjoint ")],
                "linewidth": 2.0,
            }
            if solver == DEFAULT:
                # On top and with gaps: it is often the same as Newton.
                style |= {"linestyle": (0, (3, 3)), "zorder": 3}
        else:
            color = _PEER_COLORS[peers.index(solver) % len(_PEER_COLORS)]
            style = {
                "color": color,
                "linewidth": 1.0,
                "linestyle": "--" if "scipy" in solver else ":",
            }
        axis.step(
            [0.1, *budgets, most],
            [0, *shares, shares[-1] if shares.size else 0],
            where="post",
            label=solver,
            **style,
        )
    positive = [
        cost for spent in found.values() for cost in spent if np.isfinite(cost) and cost > 0
    ]
    axis.set_xscale("log")
    axis.set_xlim(min(positive, default=1.0), most)
    axis.grid(alpha=0.3)


def _finished(figure: Figure, left: Axes) -> Figure:
    left.set_ylabel("share of the problems that are solved")
    left.set_ylim(0, 1.02)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure
