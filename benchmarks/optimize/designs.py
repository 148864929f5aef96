"""Five problems of engineering design: four of the gallery, and a spring.

Where four limits fix the four unknowns, or the optimum has a closed form, its value is that of the
exact optimum, which is the published one to the digits of that. The spring is that of J. S. Arora,
Introduction to Optimum Design (1989), section 2.9: wire diameter d, coil diameter D and N coils,
all continuous; the least weight (N + 2) D d^2, 0.0126652328, is in many papers.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.optimize.constrained_cases import ConstrainedCase
from problems import cantilever_beam, pressure_vessel, ten_bar_truss, welded_beam
from problems.constrained import Design


def _spring_limits(x: Any) -> Any:
    """Deflection, shear, surge frequency and outer diameter, of x = (d, D, N)."""
    d, D, N = x
    shear = (4 * D**2 - d * D) / (12566 * (D * d**3 - d**4)) + 1 / (5108 * d**2) - 1
    return jnp.stack(
        [1 - D**3 * N / (71785 * d**4), shear, 1 - 140.45 * d / (D**2 * N), (d + D) / 1.5 - 1]
    )


def _design(
    name: str, design: Design, value: float, digits: float, optimum: np.ndarray | None
) -> ConstrainedCase:
    """A design of the gallery."""
    return ConstrainedCase(
        name,
        design.objective,
        design.start,
        value,
        digits,
        optimum,
        None,
        lambda x: jnp.stack(tuple(design.limits(x))),
        design.lower,
        design.upper,
    )


def _exact(name: str, design: Design, optimum: np.ndarray) -> ConstrainedCase:
    """A design whose optimum is known to all digits."""
    return _design(name, design, float(design.objective(jnp.asarray(optimum))), 0.0, optimum)


def designs() -> tuple[ConstrainedCase, ...]:
    """All five, with inequalities only."""
    truss = ten_bar_truss.design(ten_bar_truss.Settings())
    beam = cantilever_beam.design(cantilever_beam.Settings())
    exact_beam = cantilever_beam.closed_form(cantilever_beam.Settings())
    published = ten_bar_truss.PUBLISHED[ten_bar_truss.BOTH]
    spring = ConstrainedCase(
        "spring",
        lambda x: (x[2] + 2) * x[1] * x[0] ** 2,
        np.array([0.1, 0.5, 10.0]),
        0.0126652328,
        5e-11,
        None,
        None,
        _spring_limits,
        np.array([0.05, 0.25, 2.0]),
        np.array([2.0, 1.3, 15.0]),
    )
    return (
        _design("ten-bar truss", truss, published.value, published.tolerance, None),
        _exact("welded beam", welded_beam.DESIGN, welded_beam.vertex()),
        _exact("pressure vessel", pressure_vessel.DESIGN, pressure_vessel.vertex()),
        _exact("cantilever", beam, exact_beam),
        spring,
    )
