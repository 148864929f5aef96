"""Pictures of a double pendulum: a film with the tip's trace, paths through points, curves."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from problems.pendulum_sensitivities import Growth

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 420  # pixels of a frame's side
FINER = 2  # a frame is drawn so many times larger, and averaged: lines without stairs
FRAME_LENGTH = 40  # milliseconds; the film runs in real time
TRACE = 60  # frames for which the trace stays
STEPS_PER_FRAME = 4  # of the trace, so that it is smooth
# Okabe and Ito's palette can be told apart by color-blind people too.
COLORS = ((0, 114, 178), (213, 94, 0))
CURVE_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "black",
    "gray",
    "#7F3C8D",
)
DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Swing:
    """A pendulum's motion: both masses in m from t = 0 on, with the pivot at (0, 0).

    There are `STEPS_PER_FRAME` to a frame.
    """

    name: str
    masses: Float[np.ndarray, "times 2 2"]


@dataclass(frozen=True)
class Lines:
    """Curves by name over a common time axis in s, some of them dashed, and levels.

    A log scale is that of y alone. A curve and a dashed one are of the same color where they are
    the k-th of each.
    """

    title: str
    y_label: str
    times: Float[np.ndarray, " times"]
    curves: dict[str, Float[np.ndarray, " times"]]
    dashed: dict[str, Float[np.ndarray, " times"]] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    scale: Literal["linear", "log"] = "linear"


def film_gif(swings: Sequence[Swing], reach: float) -> bytes:
    """The motions on top of each other as GIF, with the tips' traces, in real time, for ever.

    Parameters
    ----------
    swings
        At most two, of the same times, `FRAME_LENGTH` / `STEPS_PER_FRAME` apart.
    reach
        How far the view reaches from the pivot, in m.
    """
    from PIL import Image

    count = (len(swings[0].masses) - 1) // STEPS_PER_FRAME + 1
    frames = [_frame(swings, k, reach) for k in range(count)]
    # One palette for all frames: what does not change then costs nothing.
    palette = frames[count // 2].quantize(64)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_LENGTH, loop=0
    )
    return buffer.getvalue()


def _frame(swings: Sequence[Swing], number: int, reach: float) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    side = FINER * SIZE
    page = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(page)

    def pixels(points: np.ndarray) -> list[tuple[float, float]]:
        return [(side / 2 * (1 + x / reach), side / 2 * (1 - y / reach)) for x, y in points]

    now = number * STEPS_PER_FRAME
    oldest = max(0, number - TRACE) * STEPS_PER_FRAME
    for swing, color in reversed(list(zip(swings, COLORS, strict=False))):
        tips = pixels(swing.masses[oldest : now + 1, 1])
        for age, ends in enumerate(zip(tips[:0:-1], tips[-2::-1], strict=True)):
            faded = tuple(
                int(255 - (255 - c) * (1 - age / (TRACE * STEPS_PER_FRAME))) for c in color
            )
            draw.line(ends, fill=faded, width=2 * FINER)
    for swing, color in reversed(list(zip(swings, COLORS, strict=False))):
        rods = pixels(np.concatenate([np.zeros((1, 2)), swing.masses[now]]))
        draw.line(rods, fill=color, width=3 * FINER, joint="curve")
        for (x, y), radius in zip(rods, (3 * FINER, 8 * FINER, 8 * FINER), strict=True):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    small = page.resize((SIZE, SIZE), Image.Resampling.BOX)
    write = ImageDraw.Draw(small)
    font = ImageFont.load_default(14)
    write.text((8, 6), f"t = {number * FRAME_LENGTH / 1000:4.1f} s", fill=0, font=font)
    for k, (swing, color) in enumerate(zip(swings, COLORS, strict=False)):
        write.text((8, 24 + 18 * k), swing.name, fill=color, font=font)
    return small


def path_png(
    points: Float[np.ndarray, "points 2"],
    before: Float[np.ndarray, "times 2 2"],
    after: Float[np.ndarray, "times 2 2"],
) -> bytes:
    """The tip's paths before and after a design, the points to meet, both pendulums at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axis: Any = figure.subplots()
    for name, masses, look, color in (
        ("before", before, "--", "gray"),
        ("after", after, "-", CURVE_COLORS[0]),
    ):
        axis.plot(
            masses[:, 1, 0],
            masses[:, 1, 1],
            look,
            color=color,
            linewidth=1.5,
            label=f"path of the tip {name}",
        )
        rods = np.concatenate([np.zeros((1, 2)), masses[-1]])
        axis.plot(rods[:, 0], rods[:, 1], "-o", color=color, alpha=0.45, markersize=6)
    axis.plot(
        points[:, 0],
        points[:, 1],
        "o",
        color=CURVE_COLORS[1],
        markersize=11,
        mfc="none",
        mew=2,
        label="points to meet",
    )
    for k, (x, y) in enumerate(points):
        axis.annotate(str(k + 1), (x, y), (9, 6), textcoords="offset points", color=CURVE_COLORS[1])
    axis.plot(0, 0, "s", color="black", markersize=5)
    axis.set(title="the tip of the pendulum", xlabel="x in m", ylabel="y in m", aspect="equal")
    axis.grid(alpha=0.3)
    axis.legend(loc="best", frameon=False)
    return _png(figure)


def lines_png(plots: Sequence[Lines]) -> bytes:
    """Plots over time, side by side, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8 * len(plots), 4.6), layout="constrained")
    for axis, plot in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots, strict=True):
        for curves, look in ((plot.curves, "-"), (plot.dashed, "--")):
            for (name, values), color in zip(curves.items(), CURVE_COLORS, strict=False):
                axis.plot(plot.times, values, look, color=color, linewidth=1.4, label=name)
        for name, level in plot.levels.items():
            axis.axhline(level, color="black", linestyle=":", linewidth=1.2, label=name)
        axis.set(title=plot.title, xlabel="time in s", ylabel=plot.y_label)
        axis.set_yscale(plot.scale)
        axis.grid(alpha=0.3)
        axis.legend(loc="best", frameon=False, ncols=2 if len(plot.curves) > 5 else 1)
    return _png(figure)


def growth_png(
    tolerance: float, times: Float[np.ndarray, " times"], grown: Sequence[tuple[Growth, Growth]]
) -> bytes:
    """How the sensitivity to the start grows from two starts, the second near rest.

    Its digits with this tolerance are shown, too.
    """
    wild, calm = (
        {name: np.array([getattr(g[k], name) for g in grown]) for name in Growth._fields}
        for k in (0, 1)
    )
    norms = {"this start": wild["norm"], "near rest": calm["norm"]}
    promised, real = (
        {f"this start, {word}": wild[name], f"near rest, {word}": calm[name]}
        for word, name in (("promised", "promised_digits"), ("found", "real_digits"))
    )
    size = "|S| (angles in rad, velocities in rad/s)"
    digits = f"digits of the gradient, tolerance {tolerance:g}"
    plots = [
        Lines(
            "sensitivity to the start",
            size,
            times,
            norms,
            levels={"1 / tolerance": 1 / tolerance},
            scale="log",
        ),
        Lines(digits, "decimal digits", times, promised, real, {"UNTRUSTED below": 1.0}),
    ]
    return lines_png(plots)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
