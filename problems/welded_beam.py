"""The cheapest welded beam: a bar welded to a wall carries a load at its free end.

Stresses, deflection and buckling are limited. Unknowns in inches: h and l, height and length of the
two welds, t and b, height and width of the bar, which sticks out by L = 14 in and carries P = 6000
lb. The cost in dollars is that of weld and bar metal (K. M. Ragsdell, D. T. Phillips, J. Eng. Ind.
98 (1976) 1021-1025), 1.10471 h^2 l + 0.04811 t b (14 + l). The limits and constants are those of C.
A. Coello Coello, Comput. Ind. 41 (2000) 113-127, whose buckling load differs from that of 1976,
with E = 3e7 psi and G = 1.2e7 psi:

    shear of the weld     (t1^2 + t1 t2 l / R + t2^2)^(1/2) <= 13600 psi,
                          t1 = P / (sqrt 2 h l),   t2 = P (L + l / 2) R / J,
                          R^2 = l^2 / 4 + (h + t)^2 / 4,
                          J = 2 sqrt 2 h l (l^2 / 12 + (h + t)^2 / 4)
    bending of the bar    6 P L / (b t^2) <= 30000 psi
    deflection            4 P L^3 / (E t^3 b) <= 0.25 in
    buckling              P <= 4.013 E t b^3 / (6 L^2) (1 - t / (2 L) sqrt(E / (4 G)))
    weld within the bar   h <= b
    least weld            h >= 0.125 in
    cost of weld at l = h, and of the bar   0.10471 h^2 + 0.04811 t b (14 + l) <= 5

Four of them are equalities at the minimizer, as many as there are unknowns: bending and buckling
give t and b, h = b, and the shear gives l, each as the zero of a function of one number. The least
cost of this formulation, 1.724852, is in many papers.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float

import adjoint
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems import constrained
from problems.constrained import Conditions, Design, Reference

SUMMARY = (
    "The cheapest welded beam within shear, bending, deflection and buckling limits (Ragsdell and "
    "Phillips; Coello)."
)
JUDGED = constrained.JUDGED
LOAD = 6000.0  # lb
REACH = 14.0  # in
ELASTICITY = 30e6  # psi
RIGIDITY = 12e6  # psi
SHEAR = 13600.0  # psi
BENDING = 30000.0  # psi
DEFLECTION = 0.25  # in
PUBLISHED = Reference(1.724852, 5e-7, "half of its last digit", "published")


@dataclass(frozen=True)
class Settings(constrained.Search):
    """What can be set, each with its meaning and its range in the metadata of the field."""


def cost(x: Any) -> Any:
    """Of x = (h, l, t, b) in inches, in dollars."""
    h, l, t, b = x
    return 1.10471 * h**2 * l + 0.04811 * t * b * (14 + l)


def shear(x: Any) -> Any:
    """The stress of the weld in psi."""
    h, l, t, _ = x
    radius = (l**2 / 4 + (h + t) ** 2 / 4) ** 0.5
    inertia = 2 * 2**0.5 * h * l * (l**2 / 12 + (h + t) ** 2 / 4)
    direct = LOAD / (2**0.5 * h * l)
    turning = LOAD * (REACH + l / 2) * radius / inertia
    return (direct**2 + direct * turning * l / radius + turning**2) ** 0.5


def buckling_load(x: Any) -> Any:
    """In lb."""
    _, _, t, b = x
    slender = 1 - t / (2 * REACH) * (ELASTICITY / (4 * RIGIDITY)) ** 0.5
    return 4.013 * ELASTICITY * t * b**3 / (6 * REACH**2) * slender


def limits(x: Any) -> tuple[Any, ...]:
    """Used shares less 1; by plain arithmetic, for JAX and for NumPy."""
    h, l, t, b = x
    return (
        shear(x) / SHEAR - 1,
        6 * LOAD * REACH / (b * t**2) / BENDING - 1,
        4 * LOAD * REACH**3 / (ELASTICITY * t**3 * b) / DEFLECTION - 1,
        LOAD / buckling_load(x) - 1,
        h / b - 1,
        0.125 / h - 1,
        (0.10471 * h**2 + 0.04811 * t * b * (14 + l)) / 5 - 1,
    )


NAMES = (
    "shear of the weld",
    "bending",
    "deflection",
    "buckling",
    "weld within the bar",
    "least weld",
    "cost of 5 $",
)
DESIGN = Design(
    objective=lambda x: cost(jnp.asarray(x)),
    limits=limits,
    again=lambda x: (cost(x), limits(x)),
    lower=np.array([0.1, 0.1, 0.1, 0.1]),
    upper=np.array([2.0, 10.0, 10.0, 2.0]),
    start=np.array([0.4, 6.0, 9.0, 0.5]),
    names=NAMES,
    goal="cost",
    unit="$",
)


def vertex() -> Float[np.ndarray, " 4"]:
    """Where shear, bending, buckling and h <= b are equalities."""

    def bar(t: float) -> tuple[float, float]:
        return t, 6 * LOAD * REACH / (BENDING * t**2)

    # The bar of given bending stress buckles the more easily, the higher and so the thinner it is.
    t, b = bar(_zero(lambda t: buckling_load((0, 0, *bar(t))) - LOAD, 5.0, 10.0))
    length = _zero(lambda l: shear((b, l, t, b)) - SHEAR, 1.0, 10.0)
    return np.array([b, length, t, b])


def _zero(f: Any, low: float, high: float) -> float:
    found: Any = scipy.optimize.root_scalar(
        f, bracket=(low, high), method="brentq", xtol=1e-15, rtol=1e-15
    )
    return float(found.root)


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the derivatives of cost and limits by independent oracles, at the first guess."""
    return constrained.verify(DESIGN)


def run(settings: Settings, record: Record) -> Ending:
    """Find the cheapest beam, and compare it with the published one and with the vertex.

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
    """Side view of the beam, and its limits."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    h, l, t, b = x
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    side, shares = figure.subplots(1, 2)
    side.add_patch(
        Rectangle((-l, -t / 2), l + REACH, t, facecolor="lightsteelblue", edgecolor="black")
    )
    for y in (t / 2, -t / 2 - h):
        side.add_patch(Rectangle((-l, y), l, h, facecolor="tab:red", edgecolor="tab:red"))
    side.axvspan(-l - 1, 0, color="gainsboro", zorder=0)
    side.annotate(
        "6000 lb",
        (REACH, t / 2),
        (REACH, t / 2 + 3),
        ha="center",
        arrowprops={"arrowstyle": "->", "lw": 1.5},
    )
    side.set(
        title=f"h = {h:.4f}, l = {l:.4f}, t = {t:.4f}, b = {b:.4f} in; welds red",
        xlabel="distance from the edge of the wall in inches",
        ylabel="inches",
        xlim=(-l - 1, REACH + 2),
        ylim=(-t / 2 - 2, t / 2 + 4),
        aspect="equal",
    )
    constrained.draw_limits(shares, DESIGN, found)
    return constrained.png(figure)
