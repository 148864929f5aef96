"""cantilever_beam: the closed form, the conditions that judge designs, searches that find it.

They judge all designs under limits.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.cantilever_beam import WEIGHT, Settings, closed_form, design, shares, verify
from problems.constrained import METHODS, conditions, search

BEAM = Settings()


def test_the_shares_and_the_start_are_those_of_svanberg() -> None:
    """61, 37, 19, 7, 1 and x = 5, weight 1.56, where the deflection is just allowed.

    Source: Svanberg 1987, section 6.1.
    """
    np.testing.assert_allclose(shares(BEAM), (61, 37, 19, 7, 1), rtol=0)
    start = jnp.asarray(design(BEAM).start)
    np.testing.assert_allclose(start, 5.0, rtol=0)
    np.testing.assert_allclose(design(BEAM).objective(start), 1.56, rtol=1e-14)
    np.testing.assert_allclose(design(BEAM).limits(start)[0], 0.0, atol=1e-14)


def test_the_closed_form_is_the_published_beam() -> None:
    """Table of Svanberg (1987): x = 6.016, 5.309, 4.494, 3.502, 2.153 and 1.340."""
    np.testing.assert_allclose(closed_form(BEAM), (6.016, 5.309, 4.494, 3.502, 2.153), atol=6e-4)
    np.testing.assert_allclose(WEIGHT * closed_form(BEAM).sum(), 1.34, atol=5e-5)


@pytest.mark.parametrize("settings", [BEAM, Settings(segments=40, deflection=0.3)])
def test_the_closed_form_meets_the_conditions(settings: Settings) -> None:
    """f has degree 1, the deflection -3 in x, so f' x + l h' x = 0 gives l = f / 3 (Euler)."""
    found = conditions(design(settings), closed_form(settings))
    np.testing.assert_allclose(found.limits, 0.0, atol=1e-13)
    np.testing.assert_allclose(found.multipliers, found.value / 3, rtol=1e-12)
    assert found.residual < 1e-13


def test_the_conditions_notice_what_is_no_minimizer() -> None:
    beam, x = design(BEAM), closed_form(BEAM)
    assert conditions(beam, 0.999 * x).violation > 1e-3
    assert conditions(beam, 1.001 * x).residual == 1.0  # nothing is active, so nothing balances f'
    # By first order, another beam of the same deflection: dx = 0.001 x_i in two segments.
    other = x * (1 + 1e-3 * np.array([1.0, 0, 0, 0, -x[0] / x[4]]))
    other *= (np.sum(shares(BEAM) / other**3)) ** (1 / 3)
    assert 1e-4 < conditions(beam, other).residual < 1e-2


@pytest.mark.slow
def test_the_search_finds_the_closed_form() -> None:
    solution = search(design(BEAM), BEAM)
    # Stops at 1e-8 of the derivative at the start, on a curvature of its own size.
    np.testing.assert_allclose(adjoint.require(solution), closed_form(BEAM), rtol=1e-6)
    np.testing.assert_allclose(
        solution.stats["multipliers"], WEIGHT * closed_form(BEAM).sum() / 3, rtol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_a_beam_of_many_segments(method: str) -> None:
    settings = Settings(method=method, segments=20, deflection=2.0)
    np.testing.assert_allclose(
        adjoint.require(search(design(settings), settings)), closed_form(settings), rtol=1e-6
    )


@pytest.mark.slow
def test_the_gradient_is_trusted() -> None:
    assert verify(BEAM).trusted


@pytest.mark.slow
def test_a_run_leaves_its_pictures_and_its_table(tmp_path: Path) -> None:
    assert main(["run", "cantilever_beam", "--out", str(tmp_path / "run")]) == 0
    files = {"history.png", "design.png", "limits.csv", "history.csv", "report.html"}
    assert files <= {f.name for f in (tmp_path / "run").iterdir()}


@pytest.mark.slow
def test_a_run_that_is_cut_short_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = ["--set", "max_steps=3", "--set", "method=MMA"]
    assert main(["run", "cantilever_beam", *cut, "--out", str(tmp_path / "run")]) == 3
    assert "NOT_CONVERGED after 3 steps" in capsys.readouterr().out
