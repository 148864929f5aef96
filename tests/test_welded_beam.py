"""welded_beam: costs and limits by hand and by publication, the vertex, and searches.

The vertex is the minimizer, which the searches find.
"""

from pathlib import Path

import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.constrained import METHODS, conditions, search
from problems.welded_beam import DESIGN, NAMES, Settings, buckling_load, cost, limits, shear, vertex


def test_cost_and_limits_are_those_of_a_published_beam() -> None:
    """Coello (2000): cost 1.74830941, x = (0.208800, 3.420500, 8.997500, 0.210000).

    The limits are in psi, in, lb and $. Tolerances are what the last digits of x and of the
    published numbers leave.
    """
    x = np.array([0.2088, 3.4205, 8.9975, 0.2100])
    np.testing.assert_allclose(cost(x), 1.74830941, atol=1e-6)
    np.testing.assert_allclose(shear(x) - 13600, -0.337812, atol=5e-3)
    np.testing.assert_allclose(30000 * limits(x)[1], -353.902604, atol=1e-3)
    np.testing.assert_allclose(0.25 * limits(x)[2], -0.235649, atol=1e-6)
    np.testing.assert_allclose(6000 - buckling_load(x), -363.232384, atol=1e-2)
    np.testing.assert_allclose(x[3] * limits(x)[4], -0.0012, atol=1e-12)
    np.testing.assert_allclose(x[0] * limits(x)[5], -0.0838, atol=1e-12)
    np.testing.assert_allclose(5 * limits(x)[6], -3.411865, atol=2e-2)


def test_the_vertex_is_the_published_minimizer() -> None:
    """1.724852 at (0.205730, 3.470489, 9.036624, 0.205730) in many papers after Coello (2000)."""
    np.testing.assert_allclose(vertex(), (0.205730, 3.470489, 9.036624, 0.205730), atol=5e-7)
    np.testing.assert_allclose(cost(vertex()), 1.724852, atol=5e-7)


def test_the_vertex_meets_the_conditions() -> None:
    """Four limits hold four unknowns: the conditions say that all four multipliers are positive."""
    found = conditions(DESIGN, vertex())
    assert found.residual < 1e-12
    assert found.violation < 1e-12
    active = {
        name for name, multiplier in zip(NAMES, found.multipliers, strict=True) if multiplier > 0.1
    }
    assert active == {"shear of the weld", "bending", "buckling", "weld within the bar"}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_vertex(method: str) -> None:
    solution = search(DESIGN, Settings(method=method))
    np.testing.assert_allclose(adjoint.require(solution), vertex(), rtol=1e-6)
    multipliers = conditions(DESIGN, vertex()).multipliers
    np.testing.assert_allclose(
        solution.stats["multipliers"], multipliers, atol=1e-6 * multipliers.max()
    )


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    assert main(["run", "welded_beam", "--out", str(tmp_path / "run")]) == 0
    assert {"history.png", "design.png", "limits.csv", "report.html"} <= {
        f.name for f in (tmp_path / "run").iterdir()
    }
