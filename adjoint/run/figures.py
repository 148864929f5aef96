"""Pictures of a run as PNG: a density field and the curves of its convergence.

Fields are indexed like coordinates: ``field[i, j]`` belongs to the i-th cell from the left and the
j-th from the bottom.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image


def gray_levels(density: Float[np.ndarray, "x y"]) -> UInt8[np.ndarray, "rows columns"]:
    """level = round(255 (1 - density)): black (0) is solid, white (255) is void.

    Parameters
    ----------
    density
        Values from 0 to 1; what lies outside is cut off.

    Returns
    -------
    levels
        Gray levels by row and column, the first row at the top, as pictures are stored.

    Raises
    ------
    ValueError
        When `density` is not a 2-D array of finite numbers.

    Examples
    --------
    >>> gray_levels(np.array([[0.0, 1.0], [0.2, 0.6], [0.4, 0.8]]))
    array([[  0, 102,  51],
           [255, 204, 153]], dtype=uint8)
    """
    density = np.asarray(density)
    if density.ndim != 2 or density.size == 0:
        raise ValueError(
            "a density picture needs one value per cell of a plane grid, got the shape "
            f"{density.shape}"
        )
    if not np.isfinite(density).all():
        raise ValueError("a density picture needs finite numbers, got NaN or Inf")
    return np.round(255.0 * (1.0 - np.clip(density.T[::-1], 0.0, 1.0))).astype(np.uint8)


def density_image(density: Float[np.ndarray, "x y"], size: int) -> "Image":
    """A density as a gray picture with square cells.

    A cell becomes a whole number of pixels, so that all of them look the same, unless there are
    more cells side by side than `size`: then several are averaged to a pixel.

    Parameters
    ----------
    density
        Values from 0 to 1.
    size
        The longer side is at most this many pixels.

    Returns
    -------
    image
        A Pillow image in gray (mode ``L``).
    """
    return level_image(gray_levels(density), size)


def level_image(levels: UInt8[np.ndarray, "rows columns"], size: int) -> "Image":
    """The same from gray levels."""
    from PIL import Image

    rows, columns = levels.shape
    image = Image.fromarray(levels)
    longer = max(rows, columns)
    if longer > size:
        shape = (max(1, round(columns * size / longer)), max(1, round(rows * size / longer)))
        return image.resize(shape, Image.Resampling.BOX)
    pixels = size // longer
    return image.resize((columns * pixels, rows * pixels), Image.Resampling.NEAREST)


def density_png(density: Float[np.ndarray, "x y"], size: int = 1200) -> bytes:
    """A density as PNG: black is solid, white is void, y points up.

    Parameters
    ----------
    density
        Values from 0 to 1.
    size
        The longer side is at most this many pixels.

    Examples
    --------
    >>> density_png(np.eye(2))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    density_image(density, size).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Panel:
    """One curve of a convergence plot.

    Attributes
    ----------
    label
        The quantity with its unit, for the vertical axis.
    values
        One number per iteration.
    scale
        ``"log"`` shows a quantity that falls over decades; it leaves out what is not positive.
    target
        Drawn as a dashed line where the scale can show it: a tolerance or a published value.
    target_label
        What the target is, for the legend.
    """

    label: str
    values: Float[np.ndarray, " iterations"]
    scale: Literal["linear", "log"] = "linear"
    target: float | None = None
    target_label: str = ""


def convergence_png(
    iterations: Float[np.ndarray, " iterations"],
    panels: Sequence[Panel],
    title: str,
    dots_per_inch: int = 150,
) -> bytes:
    """Curves over the iterations, one panel above the other, as PNG.

    Parameters
    ----------
    iterations
        The iterations' numbers.
    panels
        What to draw, from top to bottom.
    title
        Above the first panel.
    dots_per_inch
        Resolution; the picture is 7.5 inches wide.

    Raises
    ------
    ValueError
        When a panel has another number of values than there are iterations.
    """
    # Figure without pyplot: no global state, no window system; savefig renders PNG with Agg.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.8 + 2.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        if len(panel.values) != len(iterations):
            raise ValueError(
                f"panel {panel.label!r} has {len(panel.values)} values for {len(iterations)} "
                "iterations"
            )
        axis.plot(
            iterations,
            panel.values,
            color="black",
            linewidth=1.3,
            marker="." if len(iterations) < 30 else None,
        )
        if panel.scale == "log" and (panel.values > 0).any():
            axis.set_yscale("log", nonpositive="mask")
            if _decades(panel.values) < 1.0:
                _number_log_ticks(axis)
        if panel.target is not None and (panel.target > 0 or axis.get_yscale() == "linear"):
            axis.axhline(
                panel.target,
                color="tab:red",
                linestyle="--",
                linewidth=1.0,
                label=panel.target_label,
            )
            axis.legend(loc="best", frameon=False)
        axis.set_ylabel(panel.label)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_title(title)
    axes[-1].set_xlabel("iteration")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch)
    return buffer.getvalue()


def _decades(values: Float[np.ndarray, " iterations"]) -> float:
    positive = values[values > 0]
    return math.log10(positive.max() / positive.min())


def _number_log_ticks(axis) -> None:
    # Within one decade matplotlib would label a single power of ten, or none.
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
