"""pressure_vessel: published costs and volumes, the vertex that is the minimizer, searches.

The searches find it.
"""

from pathlib import Path

import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.constrained import METHODS, conditions, search
from problems.pressure_vessel import DESIGN, Settings, cost, limits, vertex, volume


def test_the_published_vessel_of_plates_that_are_sold_costs_what_is_published() -> None:
    """6059.714335 at (0.8125, 0.4375, 42.0984456, 176.6365958).

    Source: X.-S. Yang et al., Int. J. Bio-Inspired Comput. 5 (2013) 329.
    """
    x = np.array([0.8125, 0.4375, 42.0984455958549, 176.6365958424394])
    np.testing.assert_allclose(cost(x), 6059.714335048436, rtol=1e-12)
    np.testing.assert_allclose([limits(x)[0], limits(x)[2]], 0.0, atol=1e-13)


def test_a_ball_has_the_volume_of_a_ball() -> None:
    np.testing.assert_allclose(volume((1, 1, 3, 0)), 36 * np.pi, rtol=1e-15)
    np.testing.assert_allclose(volume((1, 1, 3, 2)) - volume((1, 1, 3, 0)), 18 * np.pi, rtol=1e-14)


def test_the_vertex_is_the_published_minimizer_of_the_relaxation() -> None:
    """5885.33 at (0.77817, 0.38465, 40.3196, 200) in many papers."""
    np.testing.assert_allclose(vertex(), (0.77817, 0.38465, 40.3196, 200.0), rtol=1e-5)
    np.testing.assert_allclose(cost(vertex()), 5885.33, atol=5e-3)


def test_the_vertex_meets_the_conditions() -> None:
    found = conditions(DESIGN, vertex())
    assert found.residual < 1e-12
    assert found.violation < 1e-12
    assert np.all(found.multipliers > 1000)


def test_a_shorter_vessel_does_not_meet_them() -> None:
    """All limits equalities, but l < 200: then nothing holds l."""
    x = vertex()
    r = x[2] * 1.01
    x = np.array([x[0] * 1.01, x[1] * 1.01, r, (1296000 - 4 / 3 * np.pi * r**3) / (np.pi * r**2)])
    found = conditions(DESIGN, x)
    np.testing.assert_allclose(found.limits, 0.0, atol=1e-13)
    assert found.residual > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_vertex(method: str) -> None:
    solution = search(DESIGN, Settings(method=method))
    np.testing.assert_allclose(adjoint.require(solution), vertex(), rtol=1e-6)
    multipliers = conditions(DESIGN, vertex()).multipliers
    np.testing.assert_allclose(solution.stats["multipliers"], multipliers, rtol=1e-6)


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    assert main(["run", "pressure_vessel", "--out", str(tmp_path / "run")]) == 0
    assert {"history.png", "design.png", "limits.csv", "report.html"} <= {
        f.name for f in (tmp_path / "run").iterdir()
    }
