"""brachistochrone: times of descent in closed form, the order of the grid's error, and steps.

The steps do not grow with the grid.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.brachistochrone import (
    Settings,
    closed_form,
    compare,
    descend,
    grid,
    smooth,
    travel_time,
    verify,
)

WAY = Settings()


def test_a_straight_way_takes_its_exact_time() -> None:
    """Acceleration g H / l along the length l: t = l sqrt(2 / (g H)), on any grid."""
    x = grid(WAY, 12)
    depth = jnp.asarray(WAY.drop * x[1:-1] / WAY.length)
    expected = np.hypot(WAY.length, WAY.drop) * np.sqrt(2 / (WAY.gravity * WAY.drop))
    np.testing.assert_allclose(travel_time(WAY, x, depth), expected, rtol=1e-14)


def test_half_an_arch_is_the_closed_form_of_its_ends() -> None:
    """L = pi R, H = 2 R ends at the lowest point, t_1 = pi.

    There every start on a cycloid leads in pi sqrt(R / g) (Huygens).
    """
    cycloid = closed_form(Settings(length=np.pi * 0.3, drop=0.6, gravity=1.62))
    np.testing.assert_allclose(cycloid, (np.pi, 0.3, np.pi * np.sqrt(0.3 / 1.62)), rtol=1e-13)


def test_the_time_along_the_cycloid_is_of_second_order() -> None:
    cycloid = closed_form(WAY)
    along = cycloid.points()[0]
    errors = []
    for n in (400, 800):
        # The depth at the grid's x, by Newton's method for t.
        x, t = grid(WAY, n), np.interp(grid(WAY, n), along, np.linspace(0, cycloid.end, len(along)))
        for _ in range(50):
            t[1:] -= (cycloid.radius * (t - np.sin(t)) - x)[1:] / (
                cycloid.radius * (1 - np.cos(t))
            )[1:]
        depth = jnp.asarray(cycloid.radius * (1 - np.cos(t)))[1:-1]
        errors.append(float(travel_time(WAY, x, depth)) / cycloid.time - 1)
    assert errors[1] > 0
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=1e-3)
    np.testing.assert_allclose((4 * errors[1] - errors[0]) / 3, 0, atol=1e-9)


def test_the_gradient_is_trusted() -> None:
    assert verify(Settings(segments=10)).trusted


def test_the_sobolev_gradient_finds_the_least_time_in_a_few_steps() -> None:
    solution = descend(WAY, 16, smooth(16), rtol=1e-7)
    adjoint.require(solution)
    values = solution.stats["history"]["value"]
    assert np.argmax(values < values[-1] * (1 + 1e-4)) <= 10
    # No curve is faster than the cycloid, and the grid's error is of order 1 / n^2.
    assert 0 < values[-1] / closed_form(WAY).time - 1 < 1 / 16**2


@pytest.mark.slow
def test_the_least_time_is_the_cycloids_but_for_an_error_of_second_order() -> None:
    off = [
        float(descend(WAY, n, smooth(n), rtol=1e-7).stats["value"]) / closed_form(WAY).time - 1
        for n in (24, 48)
    ]
    np.testing.assert_allclose(off[0] / off[1], 4, rtol=1e-2)
    # The next term of the grid's error is of order 1 / n^4: 1 / 48^4 is 2e-7.
    np.testing.assert_allclose((4 * off[1] - off[0]) / 3, 0, atol=2e-7)


@pytest.mark.slow
def test_the_euclidean_gradient_needs_steps_in_proportion_to_the_square_of_the_grid() -> None:
    coarse, fine = (compare(WAY, n) for n in (12, 24))
    assert 2 * coarse.euclidean < fine.euclidean
    assert 5 * fine.sobolev < fine.euclidean


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    sizes = ["--set", "segments=12", "--set", "grids=2"]
    assert main(["run", "brachistochrone", *sizes, "--out", str(tmp_path / "run")]) == 0
    assert {"steps.png", "curves.png", "history.csv", "report.html"} <= {
        f.name for f in (tmp_path / "run").iterdir()
    }


def test_ends_that_the_grids_do_not_resolve_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "brachistochrone", "--set", "length=100"]) == 2
    assert "length / drop = 200" in capsys.readouterr().err
