"""The lightest cantilever of hollow square segments whose tip sinks no more than allowed.

It has a closed form. A beam of n equal segments, clamped at one end and loaded at its tip, is made
of square boxes with sides x_i and thin walls of one thickness: segment i has a weight in proportion
to x_i and a stiffness in proportion to x_i^3. In Svanberg's units

    minimize 0.0624 sum_i x_i   subject to   sum_i c_i / x_i^3 <= d,
    c_i = k^3 - (k - 1)^3,   k = n + 1 - i,

which for n = 5 is c = (61, 37, 19, 7, 1), d = 1 and the start x_i = 5 of K. Svanberg, Int. J.
Numer. Methods Eng. 24 (1987) 359-373, section 6.1: the uniform beam that just sinks as far as
allowed.

There is one multiplier, so f' + l h' = 0 says that x_i^4 is in proportion to c_i, and the limit
says how large x is:

    x_i = (S / d)^(1/3) c_i^(1/4),   f = 0.0624 S^(4/3) / d^(1/3),   S = sum_i c_i^(1/4).
"""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import adjoint
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems import constrained
from problems.constrained import Design, Reference
from problems.pictures import Curve, Plot, plots_png

SUMMARY = (
    "The lightest cantilever of five boxes for a given deflection (Svanberg 1987), against its "
    "closed form."
)
JUDGED = constrained.JUDGED
WEIGHT = 0.0624
# In the table of section 6.1, after four to six steps of MMA.
PUBLISHED = Reference(1.34, 5e-5, "half of the last digit of 1.3400", "value of Svanberg (1987)")


@dataclass(frozen=True)
class Settings(constrained.Search):
    """What can be set, each with its meaning and its range in the metadata of the field."""

    segments: int = field(
        default=5, metadata={"help": "n, boxes of the beam", "minimum": 1, "maximum": 50}
    )
    deflection: float = field(
        default=1.0,
        metadata={
            "help": "d, how far the tip may sink, in Svanberg's unit",
            "minimum": 1e-3,
            "maximum": 1e3,
        },
    )


def shares(settings: Settings) -> Float[np.ndarray, " segments"]:
    """c: what each segment adds to the deflection, from the clamped end to the tip."""
    k = np.arange(settings.segments, 0, -1.0)
    return k**3 - (k - 1) ** 3


def design(settings: Settings) -> Design:
    """Bounds outside of the closed form for up to 50 segments, about the uniform beam.

    This beam just sinks as far as allowed.
    """
    c = shares(settings)
    d = settings.deflection
    uniform = np.full(settings.segments, settings.segments / d ** (1 / 3))
    return Design(
        objective=lambda x: WEIGHT * jnp.sum(x),
        limits=lambda x: (jnp.sum(c / x**3) / d - 1,),
        again=lambda x: (WEIGHT * np.sum(x), [np.sum(c / x**3) / d - 1]),
        lower=uniform / 10,
        upper=2 * uniform,
        start=uniform,
        names=("deflection",),
        goal="weight",
        unit="units",
    )


def closed_form(settings: Settings) -> Float[np.ndarray, " segments"]:
    """The sides x of the lightest beam."""
    roots = shares(settings) ** 0.25
    return (roots.sum() / settings.deflection) ** (1 / 3) * roots


def verify(settings: Settings) -> adjoint.Verdict:
    """Check derivatives of weight and deflection by independent oracles, at the uniform beam."""
    return constrained.verify(design(settings))


def run(settings: Settings, record: Record) -> Ending:
    """Find the lightest beam, and compare it with the closed form.

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    references = [constrained.exactly(WEIGHT * float(closed_form(settings).sum()), "closed form")]
    if (settings.segments, settings.deflection) == (5, 1.0):
        references.append(PUBLISHED)
    beam = design(settings)
    exact_sides = closed_form(settings)
    return constrained.run(
        beam,
        settings,
        record,
        references,
        lambda _, x: _picture(x, exact_sides, float(beam.start[0])),
    )


def _picture(
    x: Float[np.ndarray, " segments"], exact: Float[np.ndarray, " segments"], uniform: float
) -> bytes:
    edges = np.arange(x.size + 1.0)
    outline = np.concatenate([[0.0], np.repeat(x, 2), [0.0]]) / 2
    curves = []
    for sign in (1, -1):
        curves.append(Curve("found" if sign > 0 else "", np.repeat(edges, 2), sign * outline))
        curves.append(
            Curve(
                "closed form" if sign > 0 else "",
                (edges[1:] + edges[:-1]) / 2,
                sign * exact / 2,
                "dots",
            )
        )
        label = "uniform beam that sinks as far" if sign > 0 else ""
        curves.append(Curve(label, edges[[0, -1]], sign * np.full(2, uniform / 2), "dashed"))
    return plots_png(
        [
            Plot(
                "side view, clamped on the left",
                "lengths of a segment",
                "height in units of x",
                curves,
            )
        ]
    )
