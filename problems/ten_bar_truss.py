"""The lightest truss of ten bars under limits of stress and displacement.

The areas are found by adjoint gradients of its statics. Two square bays of 360 in stand out from a
wall; nodes 2 and 4 at the bottom carry 100,000 lb each. Aluminum of E = 10^7 psi and 0.1 lb/in^3,
areas A_k of at least 0.1 in^2. The displacements u of the four free nodes follow from

    K(A) u = F,   K = sum over bars E A_k / L_k b_k b_k',   stresses s_k = E b_k' u / L_k

with b_k the unit vector along bar k at its ends. All stresses, of tension and compression, are at
most 25,000 psi, all displacements at most 2 in: 36 inequalities. One factorization of K serves all
of their derivatives.

Published: 5060.85 lb, and 1593.2 lb without limits of displacement (R. T. Haftka, Z. Gurdal,
Elements of Structural Optimization, 3rd ed., Kluwer, 1992, pages 238 and 244; the truss is that of
V. B. Venkayya, Comput. Struct. 1 (1971) 265-309). There is a second, local minimum of 5076.67 lb,
with bar 6 as thin as allowed, where searches may end.

The check of the result knows no stiffness: it takes the forces N as unknowns, which balance the
loads, B' N = F, and let the bars fit together, N_k L_k / (E A_k) = b_k' u.
"""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems import constrained
from problems.constrained import Conditions, Design, Reference

SUMMARY = (
    "The lightest ten-bar truss under stress and displacement limits, 5060.85 lb (Venkayya; "
    "Haftka and Gurdal)."
)
JUDGED = constrained.JUDGED
BAY = 360.0  # in
# Nodes 1 to 4 are free, 5 and 6 at the wall; bars in the order of the literature.
NODES = BAY * np.array([[2, 1], [2, 0], [1, 1], [1, 0], [0, 1], [0, 0]])
BARS = (
    np.array([[5, 3], [3, 1], [6, 4], [4, 2], [3, 4], [1, 2], [5, 4], [6, 3], [3, 2], [4, 1]]) - 1
)
FREE = 4
LENGTHS = np.hypot(*(NODES[BARS[:, 1]] - NODES[BARS[:, 0]]).T)
ELASTICITY = 1e4  # ksi
DENSITY = 0.1  # lb/in^3
LOAD = 100.0  # kip
STRESS = 25.0  # ksi
DISPLACEMENT = 2.0  # in
THINNEST = 0.1  # in^2
THICKEST = 40.0  # in^2
BOTH = "stress and displacement"
STRESS_ONLY = "stress"
PUBLISHED = {
    BOTH: Reference(5060.85, 5e-3, "half of its last digit", "published"),
    STRESS_ONLY: Reference(1593.2, 5e-2, "half of its last digit", "published"),
}


@dataclass(frozen=True)
class Settings(constrained.Search):
    """What can be set, each with its meaning and its range in the metadata of the field."""

    limits: str = field(
        default=BOTH, metadata={"help": "which there are", "choices": (BOTH, STRESS_ONLY)}
    )
    start: float = field(
        default=10.0,
        metadata={"help": "all areas at first, in in^2", "minimum": THINNEST, "maximum": THICKEST},
    )


def _directions() -> Float[np.ndarray, "bars unknowns"]:
    """Rows b_k: how much longer bar k gets for each displacement of a free node, in x and y."""
    unit = (NODES[BARS[:, 1]] - NODES[BARS[:, 0]]) / LENGTHS[:, None]
    rows = np.zeros((len(BARS), 2 * len(NODES)))
    for k, (a, b) in enumerate(BARS):
        rows[k, 2 * a : 2 * a + 2] = -unit[k]
        rows[k, 2 * b : 2 * b + 2] = unit[k]
    return rows[:, : 2 * FREE]


B = _directions()
FORCES = np.array([0, 0, 0, -LOAD, 0, 0, 0, -LOAD])


def weight(areas: Any) -> Any:
    """In lb, of areas in in^2."""
    return DENSITY * (LENGTHS * areas).sum()


def displacements(areas: Float[Array, " bars"]) -> Float[Array, " unknowns"]:
    """Of nodes 1 to 4 in x and y, in in."""
    stiffness = B.T @ ((ELASTICITY / LENGTHS * areas)[:, None] * B)
    return adjoint.linear_solve(stiffness, jnp.asarray(FORCES), adjoint.Cholesky()).value


def limits(settings: Settings, areas: Float[Array, " bars"]) -> Float[Array, " limits"]:
    """Used shares less 1: stresses of tension, compression; displacements right, up; left, down."""
    u = displacements(areas)
    return _shares(settings, jnp.concatenate, ELASTICITY / LENGTHS * (B @ u), u)


def _shares(settings: Settings, concatenate: Any, stresses: Any, u: Any) -> Any:
    parts = [stresses / STRESS, -stresses / STRESS]
    if settings.limits == BOTH:
        parts += [u / DISPLACEMENT, -u / DISPLACEMENT]
    return concatenate(parts) - 1


def by_forces(areas: Float[np.ndarray, " bars"]) -> tuple[np.ndarray, np.ndarray]:
    """Stresses in ksi and displacements in in, by the method of forces; for complex areas, too.

    With NumPy alone.
    """
    flexibility = np.diag(LENGTHS / (ELASTICITY * areas))
    balance = np.block([[flexibility, -B], [B.T, np.zeros((2 * FREE, 2 * FREE))]])
    found = np.linalg.solve(balance, np.concatenate([np.zeros(len(BARS)), FORCES]))
    return found[: len(BARS)] / areas, found[len(BARS) :]


def names(settings: Settings) -> tuple[str, ...]:
    """Of the limits, in order."""
    bars = [f"bar {k + 1} in {way}" for way in ("tension", "compression") for k in range(len(BARS))]
    nodes = [
        f"node {k + 1} {way}"
        for pair in ("right up", "left down")
        for k in range(FREE)
        for way in pair.split()
    ]
    return tuple(bars + nodes if settings.limits == BOTH else bars)


def design(settings: Settings) -> Design:
    """The truss, all areas the same at first."""
    return Design(
        objective=weight,
        limits=lambda areas: limits(settings, areas),
        again=lambda areas: (weight(areas), _shares(settings, np.concatenate, *by_forces(areas))),
        lower=np.full(len(BARS), THINNEST),
        upper=np.full(len(BARS), THICKEST),
        start=np.full(len(BARS), settings.start),
        names=names(settings),
        goal="weight",
        unit="lb",
    )


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the derivatives by independent oracles, at the first guess.

    They are those of weight, stresses and displacements.
    """
    return constrained.verify(design(settings))


def run(settings: Settings, record: Record) -> Ending:
    """Find the lightest truss, and compare it with the published one.

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    return constrained.run(
        design(settings),
        settings,
        record,
        [PUBLISHED[settings.limits]],
        lambda found, areas: _picture(settings, found, areas),
    )


def _picture(settings: Settings, found: Conditions, areas: Float[np.ndarray, " bars"]) -> bytes:
    """The truss, bars as wide as their areas in scale, colored by stress, and what is active."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axis = figure.add_subplot()
    colors = ScalarMappable(Normalize(-STRESS, STRESS), "coolwarm")
    stresses, u = by_forces(areas)
    active = {
        name
        for name, multiplier in zip(names(settings), found.multipliers, strict=True)
        if multiplier > 0
    }
    for k, (a, b) in enumerate(BARS):
        ends = NODES[[a, b]]
        thin = areas[k] < THINNEST * (1 + constrained.ACTIVE)
        axis.plot(*ends.T, color="gray", linewidth=1.0, linestyle="--" if thin else "-", zorder=1)
        axis.plot(
            *ends.T,
            color=colors.to_rgba(stresses[k]),
            linewidth=0.9 * areas[k],
            solid_capstyle="butt",
            zorder=2,
        )
        at = ends[0] + 0.36 * (ends[1] - ends[0])
        stressed = any(name.startswith(f"bar {k + 1} ") for name in active)
        label = (
            f"{k + 1}: {areas[k]:.3f} in²"
            + (" (thinnest)" if thin else "")
            + ("\nstress limit" if stressed else "")
        )
        _label(axis, at, label, "tab:red" if stressed else "black")
    _nodes(axis, active, u)
    figure.colorbar(colors, ax=axis, label="stress in ksi (tension positive)", shrink=0.8)
    axis.set(title=f"{found.value:.2f} lb", xlabel="inches", ylabel="inches", aspect="equal")
    axis.set(xlim=(-40, 2 * BAY + 110), ylim=(-150, BAY + 60))
    return constrained.png(figure)


def _nodes(axis: Any, active: set[str], u: Float[np.ndarray, " unknowns"]) -> None:
    """Nodes, loads and the wall; displacements that are at their limit in red."""
    for k, (x, y) in enumerate(NODES):
        axis.plot(x, y, "s" if k >= FREE else "o", color="black", markersize=9, zorder=3)
        if FORCES[2 * k + 1 : 2 * k + 2].any():
            axis.annotate("", (x, y - 130), (x, y - 50), arrowprops={"arrowstyle": "->", "lw": 1.5})
            axis.text(x + 10, y - 100, f"{LOAD:.0f} kip")
        if k < FREE:
            limit = any(name.startswith(f"node {k + 1} ") for name in active)
            label = f"node {k + 1} sinks {-u[2 * k + 1]:.3f} in" + (" (limit)" if limit else "")
            _label(
                axis, (x + 8, y + (34 if y > 0 else -34)), label, "tab:red" if limit else "black"
            )


def _label(axis: Any, at: Any, text: str, color: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
    axis.text(*at, text, ha="center", va="center", fontsize=9, color=color, bbox=box, zorder=4)
