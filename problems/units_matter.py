"""Two systems of units: steepest descent depends on them unless its inner product knows them.

A machine stands on two mounts a distance 2 a apart and is loaded by F at b from its middle. It
sinks by a heave z and leans by a tilt p, which compress the mounts by d = z -+ a p. Mounts harden:
their forces are k d + c d^3. At rest the energy

    E(z, p) = sum over both mounts of (k d^2 / 2 + c d^4 / 4) - F (z + b p)

is least. It is written once in m, N and J, once in mm, kN and J (1 kN mm = 1 J), the tilt in rad in
both.

The derivative of E by z is a force, that by p a moment: a step along minus both adds what cannot be
added, and its direction depends on the units. With the inner product of weights 1 / size^2, where
the sizes F / 2k and F / 2ka are those of z and p, the gradient is a motion, and the iterates are
the same motions in either system.

The minimizer has a closed form: statics gives the force of each mount, F (1 -+ b / a) / 2, and its
compression solves a cubic equation with one real root, d = 2 q sinh(asinh(3 f / (2 k q)) / 3) with
q = sqrt(k / 3c) (del Ferro's, in hyperbolic form).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pictures import Curve, Plot, plots_png

SUMMARY = (
    "A machine on two mounts in m and in mm: steepest descent with and without the inner product "
    "of its units."
)
# Millimetres in a metre, newtons in a kilonewton.
JUDGED = "Judged at the start, in m and N."
THOUSAND = 1000.0
SYSTEMS = ("m", "mm")
INNER_PRODUCTS = ("Euclidean", "Weighted")
LOOKS: dict[str, Literal["dotted", "line"]] = {"Euclidean": "dotted", "Weighted": "line"}
ROUNDING = 1e-9  # largest difference of iterates that counts as rounding, which descents amplify


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    stiffness: float = field(default=1e5, metadata={"help": "k of a mount in N/m", "minimum": 1.0})
    hardening: float = field(
        default=5e8, metadata={"help": "c of a mount in N/m^3", "minimum": 1.0}
    )
    half_width: float = field(
        default=0.4, metadata={"help": "half the distance a of the mounts in m", "minimum": 0.01}
    )
    load: float = field(default=2000.0, metadata={"help": "F in N", "minimum": 1.0})
    offset: float = field(default=0.15, metadata={"help": "b of the load in m", "minimum": 0.0})
    excess: float = field(
        default=1e-10,
        metadata={"help": "count steps to this share of the energy to be lost", "minimum": 1e-13},
    )
    max_steps: int = field(
        default=2000, metadata={"help": "give a descent up after", "minimum": 10}
    )

    def __post_init__(self) -> None:
        if not self.offset < self.half_width:
            raise ValueError(
                f"offset = {self.offset} m is not between the mounts, {self.half_width} m from the "
                "middle"
            )


class Machine(NamedTuple):
    """The machine in some system of units whose energies are in J."""

    stiffness: float
    hardening: float
    half_width: float
    load: float
    offset: float

    def energy(self, x: Float[Array, " 2"]) -> Float[Array, ""]:
        """In J, of x = (heave, tilt)."""
        d = x[0] + self.half_width * x[1] * jnp.array([-1.0, 1.0])
        stored = self.stiffness * d**2 / 2 + self.hardening * d**4 / 4
        return jnp.sum(stored) - self.load * (x[0] + self.offset * x[1])

    def sizes(self) -> Float[np.ndarray, " 2"]:
        """How large heave and tilt are, roughly."""
        heave = self.load / (2 * self.stiffness)
        return np.array([heave, heave / self.half_width])

    def at_rest(self) -> Float[np.ndarray, " 2"]:
        """(heave, tilt) in closed form."""
        forces = self.load * (1 + self.offset / self.half_width * np.array([-1.0, 1.0])) / 2
        q = np.sqrt(self.stiffness / (3 * self.hardening))
        d = 2 * q * np.sinh(np.arcsinh(3 * forces / (2 * self.stiffness * q)) / 3)
        return np.array([d.sum() / 2, (d[1] - d[0]) / (2 * self.half_width)])


def machine(settings: Settings, system: str) -> Machine:
    """In m and N, or in mm and kN."""
    metres = Machine(
        settings.stiffness, settings.hardening, settings.half_width, settings.load, settings.offset
    )
    if system == "m":
        return metres
    return Machine(
        stiffness=metres.stiffness / THOUSAND**2,
        hardening=metres.hardening / THOUSAND**4,
        half_width=metres.half_width * THOUSAND,
        load=metres.load / THOUSAND,
        offset=metres.offset * THOUSAND,
    )


class Path(NamedTuple):
    """All iterates of a descent, their energies in J, and how it ended."""

    x: Float[np.ndarray, "iterates 2"]
    energy: Float[np.ndarray, " iterates"]
    solution: adjoint.Solution[Any]

    def steps(self, least: float, excess: float) -> float:
        """Until the energy was least but for its share of what was to be lost; else infinite."""
        reached = np.flatnonzero(self.energy - least <= excess * (self.energy[0] - least))
        return float(reached[0]) if reached.size else np.inf


def descend(settings: Settings, system: str, inner_product: str) -> Path:
    """From a machine that leans to the wrong side, by steepest descent."""
    body = machine(settings, system)
    sizes = jnp.asarray(body.sizes())
    steps: list[adjoint.Step] = []
    metrics = {"Euclidean": adjoint.Euclidean(), "Weighted": adjoint.Weighted(1 / sizes**2)}
    solution = adjoint.minimize(
        body.energy,
        sizes * jnp.array([0.2, -1.0]),
        adjoint.SteepestDescent(),
        inner_product=metrics[inner_product],
        rtol=1e-10,
        max_steps=settings.max_steps,
        callback=steps.append,
    )
    x = np.array([step.x for step in steps])
    energy = np.array([step.value for step in steps])
    return Path(x, energy, solution)


def difference(settings: Settings, paths: dict[str, Path]) -> float:
    """The largest one of iterates in both systems, in units of their sizes.

    It is infinite for paths of different lengths.
    """
    a, b = (paths[system].x / machine(settings, system).sizes() for system in SYSTEMS)
    return float(np.abs(a - b).max()) if a.shape == b.shape else np.inf


def verify(settings: Settings) -> adjoint.Verdict:
    """Check dE / d (heave, tilt) by independent oracles, at the start and in m."""
    body = machine(settings, "m")
    return adjoint.verify_gradient(body.energy, jnp.asarray(body.sizes()) * jnp.array([0.2, -1.0]))


def run(settings: Settings, record: Record) -> Ending:
    """Descend in both systems with both inner products, and compare the paths and where they end.

    Raises
    ------
    KeyboardInterrupt
        After the descent in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    paths: dict[str, dict[str, Path]] = {name: {} for name in INNER_PRODUCTS}
    for row, (inner_product, system, path) in record.follow(_descents(settings)):
        paths[inner_product][system] = path
        record.iteration(row)
    record.picture(
        "paths.png",
        _paths_picture(settings, paths),
        "The paths of both descents in both systems of units.",
    )
    record.picture(
        "energy.png",
        _energy_picture(settings, paths),
        "Energy yet to be lost against the number of steps.",
    )
    return _ending(settings, paths)


def _descents(settings: Settings) -> Iterator[tuple[dict[str, object], tuple[str, str, Path]]]:
    for inner_product in INNER_PRODUCTS:
        for system in SYSTEMS:
            path = descend(settings, system, inner_product)
            yield (
                {
                    "weighted": int(inner_product == "Weighted"),
                    "per_metre": int(THOUSAND) if system == "mm" else 1,
                    "steps": path.steps(_least(settings, system), settings.excess),
                    "heave": float(path.x[-1, 0]),
                    "tilt": float(path.x[-1, 1]),
                    "off": _off(settings, system, path),
                },
                (inner_product, system, path),
            )


def _least(settings: Settings, system: str) -> float:
    """The energy at rest in J."""
    body = machine(settings, system)
    return float(body.energy(jnp.asarray(body.at_rest())))


def _off(settings: Settings, system: str, path: Path) -> float:
    """The last iterate from the closed form, in units of the sizes."""
    body = machine(settings, system)
    return float(np.abs((path.x[-1] - body.at_rest()) / body.sizes()).max())


def _ending(settings: Settings, paths: dict[str, dict[str, Path]]) -> Ending:
    steps = {
        name: " and ".join(
            _words(paths[name][system], _least(settings, system), settings) for system in SYSTEMS
        )
        for name in INNER_PRODUCTS
    }
    apart = {name: difference(settings, paths[name]) for name in INNER_PRODUCTS}
    off = max(_off(settings, system, paths["Weighted"][system]) for system in SYSTEMS)
    heave, tilt = machine(settings, "m").at_rest()
    sentence = (
        f"At rest the heave is {THOUSAND * heave:.6f} mm, the tilt {THOUSAND * tilt:.6f} mrad. "
        "Weighted, the descents in m and mm "
        f"take {steps['Weighted']} steps to {settings.excess:g} of the energy; in the Euclidean "
        "inner product "
        f"they take {steps['Euclidean']} steps, on different paths."
    )
    checks = [
        Check("iterates apart, Weighted", apart["Weighted"], ROUNDING, "invariance under units"),
        Check("end off, relative", off, 1e-8, "closed form"),
        Check(
            "1 / iterates apart, Euclidean", 1 / apart["Euclidean"], 100.0, "it depends on units"
        ),
    ]
    return judged(checks, sentence)


def _words(path: Path, least: float, settings: Settings) -> str:
    """The number of steps, or that there were not enough."""
    steps = path.steps(least, settings.excess)
    return f"{steps:.0f}" if np.isfinite(steps) else f"more than {len(path.x) - 1}"


def _paths_picture(settings: Settings, paths: dict[str, dict[str, Path]]) -> bytes:
    plots = []
    for system in SYSTEMS:
        rest = machine(settings, system).at_rest()
        euclidean, weighted = (paths[name][system].x for name in INNER_PRODUCTS)
        curves = [
            Curve("Euclidean", euclidean[:, 0], THOUSAND * euclidean[:, 1], LOOKS["Euclidean"]),
            Curve("Weighted", weighted[:, 0], THOUSAND * weighted[:, 1], LOOKS["Weighted"]),
            Curve("at rest", rest[:1], THOUSAND * rest[1:], "dots"),
        ]
        plots.append(Plot(f"in {system}", f"heave in {system}", "tilt in mrad", curves))
    return plots_png(plots)


def _energy_picture(settings: Settings, paths: dict[str, dict[str, Path]]) -> bytes:
    plots = []
    for system in SYSTEMS:
        least = _least(settings, system)
        curves = []
        for name in INNER_PRODUCTS:
            left = paths[name][system].energy - least
            # Below this there is nothing but rounding.
            left = np.maximum(left, 1e-15 * left[0])
            curves.append(Curve(name, 1 + np.arange(len(left)), left, LOOKS[name]))
        plots.append(Plot(f"in {system}", "iterate", "energy above the least in J", curves, "log"))
    return plots_png(plots)
