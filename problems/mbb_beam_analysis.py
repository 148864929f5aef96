"""The compliance of a half MBB beam of given densities: SIMP, filters and the elastic analysis."""

from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.fem.assembly import Elasticity
from adjoint.fem.filters import ConeFilter
from adjoint.fem.grid import Grid


class Beam(Protocol):
    """What the analysis needs of the settings of `problems.mbb_beam`."""

    @property
    def nelx(self) -> int: ...
    @property
    def nely(self) -> int: ...
    @property
    def penalty(self) -> float: ...
    @property
    def filter(self) -> str: ...
    @property
    def filter_radius(self) -> float: ...
    @property
    def minimum_stiffness(self) -> float: ...
    @property
    def poisson_ratio(self) -> float: ...


def elasticity(settings: Beam) -> Elasticity:
    """The beam with its supports and its load; the load is -1 at the upper left corner."""
    grid = Grid((settings.nelx, settings.nely))
    fixed = np.zeros((grid.node_count, 2), bool)
    fixed[grid.boundary("left"), 0] = True
    fixed[grid.node_numbers[-1, 0], 1] = True
    load = np.zeros((grid.node_count, 2))
    load[grid.node_numbers[0, -1], 1] = -1.0
    return Elasticity(grid, fixed, load, settings.poisson_ratio)


def young_modulus(settings: Beam, density: Float[Array, "nelx nely"]) -> Float[Array, "nelx nely"]:
    """E = E_min + x~^p (1 - E_min): modified SIMP, equation (1)."""
    return settings.minimum_stiffness + density**settings.penalty * (1 - settings.minimum_stiffness)


def compliance(settings: Beam) -> Callable[[Float[Array, "nelx nely"]], Float[Array, ""]]:
    """The pure function x -> c(x) of design variables (nelx, nely), to differentiate and compile.

    It is NaN, and so is its derivative, when the linear solve fails.
    """
    analyze = analysis(settings)
    return lambda x: analyze(x)[0]


def displacement(
    settings: Beam, density: Float[np.ndarray, "nelx nely"]
) -> Float[np.ndarray, "nodex nodey 2"]:
    """u of every node, of shape (nelx + 1, nely + 1, 2), for physical densities.

    Raises
    ------
    adjoint.SolveError
        When the linear solve fails.
    """
    beam = elasticity(settings)
    solution = _solve(beam, young_modulus(settings, jnp.asarray(density)))
    return np.asarray(beam.expand(adjoint.require(solution))).reshape(*beam.grid.nodes, 2)


def cone_filter(settings: Beam) -> ConeFilter:
    """The filter over the elements of the beam."""
    return ConeFilter(Grid((settings.nelx, settings.nely)), settings.filter_radius)


def filter_roles(
    settings: Beam, cone: ConeFilter
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """What makes physical densities from x, and what the update's derivative from x and dc/dx."""
    match settings.filter:
        case "density":
            return cone.density, lambda _, derivative: derivative
        case "sensitivity":
            return lambda x: x, cone.sensitivity
    raise ValueError(
        f"mbb_beam: got filter = {settings.filter!r}, expected 'sensitivity' or 'density'."
    )


def _solve(
    beam: Elasticity, moduli: Float[Array, "nelx nely"]
) -> adjoint.Solution[Float[Array, " free"]]:
    return adjoint.linear_solve(
        beam.stiffness(moduli), jnp.asarray(beam.free_load), adjoint.SparseDirect()
    )


def analysis(
    settings: Beam,
) -> Callable[[Array], tuple[Array, tuple[Array, adjoint.Solution[Array]]]]:
    """x -> c(x), with the physical density and the solution beside it."""
    beam = elasticity(settings)
    to_density, _ = filter_roles(settings, cone_filter(settings))

    def analyze(x: Array) -> tuple[Array, tuple[Array, adjoint.Solution[Array]]]:
        density = to_density(x)
        solution = _solve(beam, young_modulus(settings, density))
        return solution.value @ beam.free_load, (density, solution)

    return analyze
