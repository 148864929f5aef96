"""bouncing_ball: impacts, tops, heights and the design against the geometric series, and a run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.bouncing_ball import (
    Bounces,
    Settings,
    design_and_slopes,
    design_by_series,
    follow,
    height_at,
    height_by_series,
    parameters,
    series,
    solve,
)

P = parameters(Settings(restitution=0.7, height=1.5))


def assert_close(found: Bounces, expected: Bounces) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_series_is_that_of_the_textbook() -> None:
    """1 m at g = 2 m/s^2, e = 1/2: impacts after 1, 2, 2.5 s, tops of 1/4, 1/16, 1/64 m.

    It is at rest after 3 s, (1 + e) / (1 - e).
    """
    p = jnp.array([0.5, 2.0, 1.0])
    assert_close(
        series(p, 3),
        Bounces(*map(jnp.array, ([1.0, 2.0, 2.5], [1.5, 2.25, 2.625], [0.25, 0.0625, 0.015625]))),
    )
    np.testing.assert_allclose(series(p, 50).impacts[-1], 3.0, rtol=1e-12)


@pytest.mark.slow
def test_impacts_and_tops_and_their_derivatives() -> None:
    found, slopes = jax.jit(lambda p: (follow(p, 3), jax.jacfwd(lambda p: follow(p, 3))(p)))(P)
    assert_close(found, series(P, 3))
    assert_close(slopes, jax.jacfwd(lambda p: series(p, 3))(P))


def test_the_ball_is_held_at_its_last_top() -> None:
    value = adjoint.require(solve(P, 2))
    np.testing.assert_allclose(value.y, [0.7**4 * 1.5, 0.0, -1.0], rtol=1e-12)


@pytest.mark.slow
def test_the_derivative_of_the_height_jumps_at_the_impact_by_the_change_of_speed() -> None:
    """dz/de right after the second impact less that right before is -(v+ - v-) dt/de."""
    impact, by_e = series(P, 2).impacts[1], jax.jacfwd(lambda p: series(p, 2))(P).impacts[1, 0]
    times = impact + jnp.array([-1e-9, 1e-9])
    z, slopes = jax.jit(jax.vmap(lambda t: jax.value_and_grad(lambda p: height_at(t, p, 2))(P)))(
        times
    )
    np.testing.assert_allclose(z, [height_by_series(t, P, 2) for t in times], atol=1e-12)
    e, g, h = P
    before = -e * jnp.sqrt(2 * g * h)
    np.testing.assert_allclose(slopes[1, 0] - slopes[0, 0], (1 + e) * before * by_e, rtol=1e-7)


@pytest.mark.slow
def test_the_design_and_its_derivatives() -> None:
    wanted = jnp.array([2.5, 0.4, 9.81])
    found, slopes = design_and_slopes(wanted, jnp.log(P[jnp.array([0, 2])]))
    np.testing.assert_allclose(found, design_by_series(wanted), rtol=1e-9)
    np.testing.assert_allclose(slopes, jax.jacfwd(design_by_series)(wanted), rtol=1e-9)
    # The design itself: the second top is where it is wanted.
    second = series(jnp.array([np.exp(found[0]), 9.81, np.exp(found[1])]), 2)
    np.testing.assert_allclose([second.top_times[1], second.tops[1]], [2.5, 0.4], rtol=1e-9)


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    assert main(["run", "bouncing_ball", "--set", "bounces=3", "--out", str(tmp_path / "run")]) == 0
    names = {"path.png", "design.png", "history.csv", "report.html"}
    assert names <= {f.name for f in (tmp_path / "run").iterdir()}


def test_a_top_that_comes_too_soon_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "bouncing_ball", "--set", "top_time=1"]) == 2
    assert "before 1.277 s" in capsys.readouterr().err
