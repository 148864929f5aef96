"""Pictures of several problems: maps of fields on a rectangle; curves and points over axes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
_LOOKS = {
    "line": {"linestyle": "-", "linewidth": 1.3, "color": "black"},
    "dashed": {"linestyle": "--", "linewidth": 1.0, "color": "tab:green"},
    "dotted": {"linestyle": ":", "linewidth": 1.2, "color": "tab:red"},
    "dots": {"linestyle": "", "marker": "o", "markersize": 4, "color": "tab:blue"},
    "crosses": {"linestyle": "", "marker": "x", "markersize": 6, "color": "tab:red"},
    "faint dots": {"linestyle": "", "marker": "o", "markersize": 2.5, "color": "silver"},
}


@dataclass(frozen=True)
class Map:
    """A field on a rectangle.

    Attributes
    ----------
    title
        Above the map.
    label
        The quantity with its unit, at the color bar.
    values
        ``values[i, j]`` belongs to the i-th cell from the left and the j-th from the bottom.
    extent
        Left, right, bottom and top of the rectangle.
    """

    title: str
    label: str
    values: Float[np.ndarray, "x y"]
    extent: tuple[float, float, float, float]


@dataclass(frozen=True)
class Curve:
    """A curve or a cloud of points.

    Attributes
    ----------
    label
        For the legend; empty leaves it out.
    look
        How it is drawn.
    """

    label: str
    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    look: Literal["line", "dashed", "dotted", "dots", "crosses", "faint dots"] = "line"


@dataclass(frozen=True)
class Contours:
    """Lines of equal height behind curves; ``heights[i, j]`` belongs to x[i] and y[j]."""

    x: Float[np.ndarray, " x"]
    y: Float[np.ndarray, " y"]
    heights: Float[np.ndarray, "x y"]


@dataclass(frozen=True)
class Plot:
    """Curves over common axes, which are labeled with quantity and unit."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    scale: Literal["linear", "log"] = "linear"
    background: Contours | None = None


def maps_png(maps: Sequence[Map], x_label: str, y_label: str) -> bytes:
    """Maps side by side as PNG, y upwards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(maps), 4.4), layout="constrained")
    for axis, field in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        image = axis.imshow(field.values.T, origin="lower", extent=field.extent, cmap="inferno")
        figure.colorbar(image, ax=axis, label=field.label, shrink=0.85)
        axis.set(title=field.title, xlabel=x_label, ylabel=y_label)
    return _png(figure)


def plots_png(plots: Sequence[Plot]) -> bytes:
    """Plots side by side as PNG, more than four of them in rows of three."""
    from matplotlib.figure import Figure

    columns = len(plots) if len(plots) <= 4 else 3
    rows = -(-len(plots) // columns)
    figure = Figure(
        figsize=(7.5 if len(plots) == 1 else 5.6 * columns, 4.8 * rows), layout="constrained"
    )
    for number, plot in enumerate(plots, start=1):
        axis = figure.add_subplot(rows, columns, number)
        if plot.background is not None:
            field = plot.background
            axis.contour(field.x, field.y, field.heights.T, levels=12, cmap="Greys", linewidths=0.6)
        for curve in plot.curves:
            axis.plot(curve.x, curve.y, label=curve.label or None, **_LOOKS[curve.look])
        axis.set(
            title=plot.title,
            xlabel=plot.x_label,
            ylabel=plot.y_label,
            xscale=plot.scale,
            yscale=plot.scale,
        )
        axis.grid(alpha=0.3)
        if any(curve.label for curve in plot.curves):
            axis.legend(loc="best", frameon=False)
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
