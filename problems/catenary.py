"""A hanging chain: least energy for given links, and its sensitivity to every length and mass.

Links of lengths l_i and masses m_i hang between two points at the same height, a span s apart.
Their nodes (x, y) minimize the energy g sum of m_i (y_i + y_i+1) / 2 subject to |r_i+1 - r_i|^2 =
l_i^2: `adjoint.argmin` with equality constraints, whose multipliers times 2 l_i are the tensions.
One adjoint solve gives the derivative of the sag with respect to all l_i and m_i.

Equal links have a closed form: the horizontal tension H is the same everywhere and the slopes of
the links grow evenly, tan t_i = w (i - (n - 1) / 2) / H with the weight w of a link, where H
follows from s = sum of l cos t_i. With many links that is the catenary y = a cosh(x / a), a = H /
(weight per length), found by Leibniz, Huygens and Johann Bernoulli in 1691.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pictures import Curve, Plot, plots_png

SUMMARY = (
    "A hanging chain as an energy minimizer under length constraints, and the sensitivity of its "
    "sag."
)
JUDGED = "Judged on a chain of at most 10 links."
GRAVITY = 9.81  # m/s^2
Parameters = dict[str, Float[Array, " links"]]


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    links: int = field(
        default=20, metadata={"help": "links of the chain", "minimum": 2, "maximum": 200}
    )
    span: float = field(
        default=1.0, metadata={"help": "distance of the ends in m", "minimum": 0.01}
    )
    length: float = field(
        default=1.5, metadata={"help": "of the whole chain in m", "minimum": 0.01}
    )
    mass: float = field(default=2.0, metadata={"help": "of the whole chain in kg", "minimum": 1e-6})

    def __post_init__(self) -> None:
        if self.length < 1.001 * self.span:
            raise ValueError(
                f"a chain of length {self.length} m does not hang over a span of {self.span} m; "
                "make it longer"
            )


def parameters(settings: Settings) -> Parameters:
    """Equal lengths in m and masses in kg."""
    ones = jnp.ones(settings.links) / settings.links
    return {"length": settings.length * ones, "mass": settings.mass * ones}


def nodes(settings: Settings, inner: Float[Array, "inner 2"]) -> Float[Array, "nodes 2"]:
    """All nodes of the chain, its ends among them, in m."""
    return jnp.concatenate([jnp.zeros((1, 2)), inner, jnp.array([[settings.span, 0.0]])])


def hang(settings: Settings, p: Parameters) -> adjoint.Solution[Float[Array, "inner 2"]]:
    """The inner nodes of the chain at rest, in m."""

    def energy(inner: Array, p: Any) -> Array:
        y = nodes(settings, inner)[:, 1]
        # In units of the weight times the length of the whole chain, so that sizes are about 1.
        return p["mass"] @ (y[1:] + y[:-1]) / (2 * settings.mass * settings.length)

    def too_long(inner: Array, p: Any) -> Array:
        links = jnp.diff(nodes(settings, inner), axis=0)
        return (jnp.sum(links**2, axis=1) / p["length"] ** 2 - 1) / settings.links

    # A parabola with about the right length.
    t = jnp.linspace(0.0, 1.0, settings.links + 1)[1:-1]
    depth = 0.6 * (settings.length**2 - settings.span**2) ** 0.5
    start = jnp.stack([settings.span * t, -4 * depth * t * (1 - t)], axis=1)
    return adjoint.argmin(energy, start, p, equality=too_long)


def sag(settings: Settings, p: Parameters) -> Float[Array, ""]:
    """How far the middle of the chain hangs below its ends, in m."""
    y = nodes(settings, hang(settings, p).value)[:, 1]
    n = settings.links
    return -(y[n // 2] + y[(n + 1) // 2]) / 2


def closed_form(settings: Settings) -> tuple[float, Float[np.ndarray, "nodes 2"]]:
    """The horizontal tension in N and the nodes in m of a chain of equal links."""
    n = settings.links
    link = settings.length / settings.links
    weight = GRAVITY * settings.mass / n
    number = np.arange(n) - (n - 1) / 2

    def cosines(H: float) -> np.ndarray:
        return 1 / np.sqrt(1 + (weight * number / H) ** 2)

    H = _zero(lambda H: link * cosines(H).sum() - settings.span, 1e-9 * weight, 1e6 * weight * n)
    steps = link * np.stack([cosines(H), cosines(H) * weight * number / H], axis=1)
    return H, np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def _zero(f: Callable[[float], float], low: float, high: float) -> float:
    """The zero of f between low and high, to the last digits."""
    found: Any = scipy.optimize.root_scalar(
        f, bracket=(low, high), method="brentq", xtol=1e-15 * low, maxiter=1000
    )
    return float(found.root)


def verify(settings: Settings) -> adjoint.Verdict:
    """Check d sag / d (lengths, masses) by independent oracles, on a chain of at most 10 links."""
    small = replace(settings, links=min(settings.links, 10))
    return adjoint.verify_gradient(jax.jit(lambda p: sag(small, p)), parameters(small))


def run(settings: Settings, record: Record) -> Ending:
    """Hang the chain, compare it with the closed form, and show what its sag depends on.

    Raises
    ------
    adjoint.SolveError
        When the chain at rest is not found.
    OSError
        When a file cannot be written.
    """
    record.phase("hanging the chain")
    p = parameters(settings)
    solution = jax.jit(lambda p: hang(settings, p))(p)
    r = np.asarray(nodes(settings, adjoint.require(solution)))
    gradient = jax.tree.map(np.asarray, jax.jit(jax.grad(lambda p: sag(settings, p)))(p))
    H, expected = closed_form(settings)
    found = horizontal_tension(settings, r, solution)
    for row in _rows(r, found, gradient):
        record.iteration(row)
    record.phase("drawing the pictures")
    record.picture(
        "chain.png", _picture(settings, r, H), "The chain, and the catenary of its length."
    )
    record.picture(
        "sensitivity.png",
        _sensitivities(settings, gradient),
        "Derivatives of the sag by every length and mass.",
    )
    off = float(np.abs(r - expected).max() / settings.length)
    off_tension = float(np.abs(found / H - 1).max())
    checks = [
        Check("nodes off, over the length", off, 1e-8, "the catenary"),
        Check("horizontal tension off, relative", off_tension, 1e-6, "the catenary"),
    ]
    return judged(
        checks, f"The sag is {-r[:, 1].min():.6f} m, the horizontal tension {found.mean():.6f} N."
    )


def horizontal_tension(
    settings: Settings, r: np.ndarray, solution: adjoint.Solution[Any]
) -> Float[np.ndarray, " links"]:
    """In N, by the multipliers: dE = -m_i d(c_i), with the energy's unit put back.

    c_i = (|r_i+1 - r_i|^2 / l^2 - 1) / n.
    """
    link = settings.length / settings.links
    unit = GRAVITY * settings.mass * settings.length
    m = np.asarray(solution.stats["equality_multipliers"])
    return 2 * m * unit / (settings.links * link**2) * np.diff(r[:, 0])


def _rows(
    r: np.ndarray, tension: np.ndarray, gradient: dict[str, np.ndarray]
) -> Iterator[dict[str, object]]:
    """One row for each link."""
    for i, H in enumerate(tension):
        middle = (r[i] + r[i + 1]) / 2
        yield {
            "link": i + 1,
            "x": float(middle[0]),
            "y": float(middle[1]),
            "horizontal_tension": float(H),
            "sag_by_length": float(gradient["length"][i]),
            "sag_by_mass": float(gradient["mass"][i]),
        }


def _picture(settings: Settings, r: np.ndarray, H: float) -> bytes:
    # 2 a sinh(s / 2a) = L for the smooth chain.
    s = settings.span
    L = settings.length
    a = _zero(lambda a: 2 * a * np.sinh(s / (2 * a)) - L, s / 200, 1e4 * s)
    x = np.linspace(0, s, 201)
    curves = [
        Curve("catenary", x, a * (np.cosh((x - s / 2) / a) - np.cosh(s / (2 * a))), "line"),
        Curve(f"{settings.links} links", r[:, 0], r[:, 1], "dots"),
    ]
    return plots_png([Plot(f"horizontal tension {H:.3f} N", "x in m", "y in m", curves)])


def _sensitivities(settings: Settings, gradient: dict[str, np.ndarray]) -> bytes:
    number = np.arange(1, settings.links + 1)
    plots = [
        Plot(
            "by the length of a link",
            "link",
            "d sag / d l in m/m",
            [Curve("", number, gradient["length"], "dots")],
        ),
        Plot(
            "by the mass of a link",
            "link",
            "d sag / d m in m/kg",
            [Curve("", number, gradient["mass"], "dots")],
        ),
    ]
    return plots_png(plots)
