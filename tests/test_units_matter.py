"""units_matter: the machine at rest, one energy in two systems, and descents that agree.

Rest is in closed form; they agree when units are known.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.units_matter import SYSTEMS, Settings, descend, difference, machine

LOADED = Settings(max_steps=100)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_closed_form_is_where_forces_and_moments_balance(system: str) -> None:
    """By the statement: k d + c d^3 of both mounts add up to F, and their moments to F b."""
    body = machine(LOADED, system)
    heave, tilt = body.at_rest()
    d = heave + np.array([-1.0, 1.0]) * body.half_width * tilt
    forces = body.stiffness * d + body.hardening * d**3
    np.testing.assert_allclose(forces.sum(), body.load, rtol=1e-13)
    np.testing.assert_allclose(
        body.half_width * (forces[1] - forces[0]), body.load * body.offset, rtol=1e-13
    )
    slope = jax.grad(body.energy)(jnp.asarray(body.at_rest())) * body.sizes()
    np.testing.assert_allclose(slope, 0.0, atol=1e-13 * body.load * body.sizes()[0])


def test_without_hardening_the_machine_is_linear() -> None:
    """z = F / 2k, p = F b / (2 k a^2) as c tends to 0; the next term, c d^2 / k, is below 1e-7."""
    z, p = machine(Settings(hardening=1.0, load=2.0), "m").at_rest()
    np.testing.assert_allclose((z, p), (1e-5, 2 * 0.15 / (2e5 * 0.16)), rtol=1e-7)


def test_the_energy_in_joule_is_the_same_in_both_systems() -> None:
    x = np.array([3e-3, -0.02])
    metres, millimetres = (machine(LOADED, system) for system in SYSTEMS)
    same = millimetres.energy(jnp.asarray(x * np.array([1e3, 1.0])))
    np.testing.assert_allclose(same, metres.energy(jnp.asarray(x)), rtol=1e-14)
    # By hand: d = 11 mm and -5 mm; k d^2 / 2 is 7.3 J in both, c d^4 / 4 1.908 J, 0 J of the load,
    # which does not sink.
    np.testing.assert_allclose(
        metres.energy(jnp.asarray(x)), 5e4 * 146e-6 + 1.25e8 * (11e-3**4 + 5e-3**4), rtol=1e-12
    )


def test_weighted_descents_agree_to_rounding_and_end_at_rest() -> None:
    paths = {system: descend(LOADED, system, "Weighted") for system in SYSTEMS}
    # Rounding of 1e-16 a step, which a dozen steps of a well scaled descent amplify little.
    assert difference(LOADED, paths) < 1e-12
    for system in SYSTEMS:
        body = machine(LOADED, system)
        adjoint.require(paths[system].solution)
        np.testing.assert_allclose(paths[system].x[-1], body.at_rest(), rtol=1e-9)


@pytest.mark.slow
def test_euclidean_descents_depend_on_the_units() -> None:
    paths = {system: descend(LOADED, system, "Euclidean") for system in SYSTEMS}
    slopes = [
        (paths[system].x[1] - paths[system].x[0])[1] / (paths[system].x[1] - paths[system].x[0])[0]
        for system in SYSTEMS
    ]
    # Moment by force: in J/N in the one, J/kN in the other. As motions, in rad/m, they differ by
    # another factor of 1000.
    np.testing.assert_allclose(slopes[1], 1e3 * slopes[0], rtol=1e-9)
    assert paths["m"].solution.status == adjoint.Status.SUCCESS
    assert paths["mm"].solution.status == adjoint.Status.NOT_CONVERGED


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    assert (
        main(["run", "units_matter", "--set", "max_steps=100", "--out", str(tmp_path / "run")]) == 0
    )
    assert {"paths.png", "energy.png", "history.csv", "report.html"} <= {
        f.name for f in (tmp_path / "run").iterdir()
    }


def test_a_load_outside_of_the_mounts_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "units_matter", "--set", "offset=0.5"]) == 2
    assert "not between the mounts" in capsys.readouterr().err
