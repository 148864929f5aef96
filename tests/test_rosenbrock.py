"""rosenbrock: the published value at its start, the minimum, steps to leave the flat valley."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.rosenbrock import METHODS, Settings, descend, distance, valley

VALLEY = Settings(max_steps=100)


def test_the_value_at_the_published_start_is_the_published_one() -> None:
    """24.2 at (-1.2, 1): Rosenbrock (1960).

    Also J. J. More et al., ACM Trans. Math. Softw. 7 (1981) 17-41, problem 1.
    """
    np.testing.assert_allclose(valley(VALLEY, jnp.array([-1.2, 1.0])), 24.2, rtol=1e-14)
    np.testing.assert_allclose(valley(VALLEY, jnp.ones(2)), 0.0, atol=0)


@pytest.mark.parametrize("method", ["BFGS", "Newton"])
def test_a_path_leads_from_the_start_down_to_the_minimum(method: str) -> None:
    path = descend(VALLEY, method)
    assert path.solution.status == adjoint.Status.SUCCESS
    assert distance(path) < 1e-8
    np.testing.assert_allclose(path.x[0], (-1.2, 1.0), rtol=0)
    np.testing.assert_allclose(
        path.value, [valley(VALLEY, jnp.asarray(x)) for x in path.x], atol=1e-13
    )
    assert np.all(np.diff(path.value) <= 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m != "SteepestDescent"])
def test_every_method_but_steepest_descent_is_through_in_a_hundred_steps(method: str) -> None:
    assert distance(descend(VALLEY, method)) < 1e-8


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    """A valley that is hardly curved, so that steepest descent does not take long."""
    assert main(["run", "rosenbrock", "--set", "steepness=1", "--out", str(tmp_path / "run")]) == 0
    assert {"paths.png", "values.png", "history.csv", "report.html"} <= {
        f.name for f in (tmp_path / "run").iterdir()
    }


@pytest.mark.slow
def test_a_run_that_is_cut_short_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["run", "rosenbrock", "--set", "max_steps=100", "--out", str(tmp_path / "run")]) == 3
    )
    said = capsys.readouterr().out
    assert "checks fail: " in said
    assert "SteepestDescent: distance from (1, 1)" in said.split("checks fail: ")[1]
