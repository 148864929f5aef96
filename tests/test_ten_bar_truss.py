"""ten_bar_truss: statics by two methods and by hand, the published truss, and searches.

The searches find it or say that they did not.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.constrained import conditions, search
from problems.ten_bar_truss import (
    BARS,
    FORCES,
    NODES,
    STRESS_ONLY,
    B,
    Settings,
    by_forces,
    design,
    displacements,
    names,
    verify,
    weight,
)

TRUSS = Settings()
AREAS = np.array(
    [30.52, 0.10, 23.20, 15.22, 0.10, 0.55, 7.46, 21.04, 21.53, 0.10]
)  # Haftka and Gurdal


def test_forces_balance_the_loads_and_their_moments_the_wall() -> None:
    """By hand at the cut between the bays: bars 9 and 10 carry one load, the chords its moment.

    It is the bars' vertical forces that do.
    """
    stresses, _ = by_forces(AREAS)
    forces = stresses * AREAS
    np.testing.assert_allclose(B.T @ forces, FORCES, atol=1e-10)
    np.testing.assert_allclose(
        (forces[8] - forces[9]) / np.sqrt(2), 100.0, rtol=1e-12
    )  # 9 rises to the left, 10 to the right
    np.testing.assert_allclose((forces[6] - forces[7]) / np.sqrt(2), 200.0, rtol=1e-12)
    # About node 4, of what is right of the cut: 2 + 9 / sqrt 2 on the lever of the bay carries the
    # load at node 2.
    np.testing.assert_allclose(forces[1] + forces[8] / np.sqrt(2), 100.0, rtol=1e-12)


def test_both_methods_of_statics_agree() -> None:
    stresses, u = by_forces(AREAS)
    np.testing.assert_allclose(displacements(jnp.asarray(AREAS)), u, rtol=1e-10)
    stretched = [
        np.linalg.norm(
            np.diff((NODES + 1e-7 * np.append(u, np.zeros(4)).reshape(-1, 2))[bar], axis=0)
        )
        - np.linalg.norm(np.diff(NODES[bar], axis=0))
        for bar in BARS
    ]
    lengths = np.linalg.norm(np.diff(NODES[BARS], axis=1)[:, 0], axis=1)
    # Differences of lengths of 500 in by 1e-7 keep seven digits.
    np.testing.assert_allclose(1e4 * np.array(stretched) / 1e-7 / lengths, stresses, atol=1e-4)


def test_the_published_truss_has_its_weight_and_is_at_its_limits() -> None:
    """Areas have two decimals, which move the weight by up to 2 lb."""
    np.testing.assert_allclose(weight(AREAS), 5060.85, atol=2.0)
    found = conditions(design(TRUSS), AREAS)
    assert found.violation < 1e-3
    largest = [names(TRUSS)[k] for k in np.argsort(found.limits)[-3:]]
    assert set(largest) == {"bar 5 in tension", "node 1 down", "node 2 down"}


@pytest.fixture(scope="module")
def lightest() -> adjoint.Solution:
    return search(design(TRUSS), TRUSS)


def test_the_search_finds_the_published_truss(lightest: adjoint.Solution) -> None:
    areas = adjoint.require(lightest)
    # Half of the last digit; the areas' last digit is 0.01.
    np.testing.assert_allclose(weight(areas), 5060.85, atol=5e-3)
    np.testing.assert_allclose(areas, AREAS, atol=5.1e-3)


def test_the_conditions_hold_by_the_method_of_forces(lightest: adjoint.Solution) -> None:
    """The search stops at 1e-8 of the derivative at the start."""
    found = conditions(design(TRUSS), np.asarray(lightest.value))
    assert found.residual < 1e-6
    assert found.violation <= 1e-8
    np.testing.assert_allclose(
        lightest.stats["multipliers"], found.multipliers, atol=1e-5 * found.multipliers.max()
    )
    assert np.count_nonzero(found.multipliers) == 2


@pytest.mark.slow
def test_without_limits_of_displacement_it_is_the_other_published_truss() -> None:
    """1593.2 lb (Haftka, Gurdal), 7.94, 0.1, 8.06, 3.94, 0.1, 0.1, 5.74, 5.57, 5.57, 0.1 in^2."""
    settings = Settings(limits=STRESS_ONLY)
    areas = np.asarray(adjoint.require(search(design(settings), settings)))
    np.testing.assert_allclose(weight(areas), 1593.2, atol=5e-2)
    np.testing.assert_allclose(
        areas, (7.94, 0.1, 8.06, 3.94, 0.1, 0.1, 5.74, 5.57, 5.57, 0.1), atol=6e-3
    )


@pytest.mark.slow
def test_the_gradient_is_trusted() -> None:
    assert verify(TRUSS).trusted


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert (
        main(["run", "ten_bar_truss", "--set", "method=AugmentedLagrangian", "--out", str(run)])
        == 0
    )
    assert {"history.png", "design.png", "limits.csv", "report.html"} <= {
        f.name for f in run.iterdir()
    }


@pytest.mark.slow
def test_a_run_that_ends_at_the_local_minimum_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """5076.67 lb, the other weight in the literature."""
    assert (
        main(
            [
                "run",
                "ten_bar_truss",
                "--set",
                "method=GCMMA",
                "--set",
                "start=5",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 3
    )
    said = capsys.readouterr().out
    assert "5076.669" in said
    assert "a minimum in its neighborhood only" in " ".join(said.split())
