"""The cheapest pressure vessel of a given volume, relaxed to plates of any thickness.

It is a cylinder with two half spheres. Unknowns in inches: thicknesses s of the shell and e of the
heads, radius r and length l of the cylinder. In the formulation of E. Sandgren, J. Mech. Des. 112
(1990) 223-229, with the constants of B. K. Kannan, S. N. Kramer, J. Mech. Des. 116 (1994) 405-411:

    minimize    0.6224 s r l + 1.7781 e r^2 + 3.1661 s^2 l + 19.84 s^2 r
                (dollars of material, forming and welding)
    subject to  s >= 0.0193 r,   e >= 0.00954 r,
                pi r^2 l + 4 pi r^3 / 3 >= 1296000 in^3 (750 cubic feet),
                0.0625 <= s, e <= 99 * 0.0625,   10 <= r, l <= 200

There s and e are multiples of 1/16 in, the thicknesses that are sold, and the least cost is
6059.714335; here they may be any number, and it is 5885.33 (for l <= 240, which some papers allow,
it is less).

Three limits and l <= 200 are equalities at the minimizer: with l = 200 the volume is a cubic
equation for r with one positive root, and s = 0.0193 r, e = 0.00954 r.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

import adjoint
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems import constrained
from problems.constrained import Conditions, Design, Reference

SUMMARY = (
    "The cheapest pressure vessel of 750 cubic feet, thicknesses continuous (Sandgren; Kannan and "
    "Kramer)."
)
JUDGED = constrained.JUDGED
VOLUME = 1296000.0  # in^3
# Least thickness as a share of the radius.
SHELL = 0.0193
HEAD = 0.00954
THINNEST = 0.0625  # in
SHORTEST = 10.0  # in
LONGEST = 200.0  # in
PUBLISHED = Reference(5885.33, 5e-3, "half of its last digit", "published")


@dataclass(frozen=True)
class Settings(constrained.Search):
    """What can be set, each with its meaning and its range in the metadata of the field."""


def cost(x: Any) -> Any:
    """Of x = (s, e, r, l) in inches, in dollars."""
    s, e, r, l = x
    return 0.6224 * s * r * l + 1.7781 * e * r**2 + 3.1661 * s**2 * l + 19.84 * s**2 * r


def volume(x: Any) -> Any:
    """In cubic inches."""
    _, _, r, l = x
    return np.pi * r**2 * l + 4 / 3 * np.pi * r**3


def limits(x: Any) -> tuple[Any, Any, Any]:
    """Used shares less 1 of thicknesses and of the volume that may lack; for JAX and for NumPy."""
    s, e, r, _ = x
    return SHELL * r / s - 1, HEAD * r / e - 1, VOLUME / volume(x) - 1


DESIGN = Design(
    objective=cost,
    limits=limits,
    again=lambda x: (cost(x), limits(x)),
    lower=np.array([THINNEST, THINNEST, SHORTEST, SHORTEST]),
    upper=np.array([99 * THINNEST, 99 * THINNEST, LONGEST, LONGEST]),
    start=np.array([1.0, 1.0, 50.0, 120.0]),
    names=("pressure in the shell", "pressure in the heads", "least volume"),
    goal="cost",
    unit="$",
)


def vertex() -> Float[np.ndarray, " 4"]:
    """Where all three limits and l <= 200 are equalities."""
    roots = np.roots([4 / 3 * np.pi, np.pi * LONGEST, 0.0, -VOLUME])
    r = float(roots[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].real[0])
    return np.array([SHELL * r, HEAD * r, r, LONGEST])


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the derivatives of cost and limits by independent oracles, at the first guess."""
    return constrained.verify(DESIGN)


def run(settings: Settings, record: Record) -> Ending:
    """Find the cheapest vessel, and compare it with the published one and with the vertex.

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    references = (PUBLISHED, constrained.exactly(float(cost(vertex())), "cost at the vertex"))
    return constrained.run(DESIGN, settings, record, references, _picture)


def _picture(found: Conditions, x: np.ndarray) -> bytes:
    """A section of the vessel, its plates ten times as thick, and its limits."""
    from matplotlib.figure import Figure

    s, e, r, l = x
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    section, shares = figure.subplots(1, 2, width_ratios=(3, 2))
    angle = np.linspace(-np.pi / 2, np.pi / 2, 91)
    for end, way in ((0.0, -1.0), (l, 1.0)):
        inner, outer = (end + way * R * np.cos(angle) for R in (r, r + 10 * e))
        section.fill(
            np.concatenate([inner, outer[::-1]]),
            np.concatenate([r * np.sin(angle), ((r + 10 * e) * np.sin(angle))[::-1]]),
            color="tab:orange",
        )
    for way in (-1, 1):
        section.fill_between([0, l], 2 * [way * r], 2 * [way * (r + 10 * s)], color="tab:blue")
    section.set(
        title=(
            f"shell {s:.4f} in (blue), heads {e:.4f} in, drawn ten times as thick; "
            f"r = {r:.3f}, l = {l:.1f} in"
        ),
        xlabel="inches",
        ylabel="inches",
        aspect="equal",
    )
    constrained.draw_limits(shares, DESIGN, found)
    return constrained.png(figure)
