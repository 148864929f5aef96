"""catenary: the closed form of a chain of equal links, its sag's derivative by length, a run."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import adjoint
from problems.__main__ import main
from problems.catenary import (
    Settings,
    closed_form,
    hang,
    horizontal_tension,
    nodes,
    parameters,
    sag,
)

CHAIN = Settings(links=8)


def test_equal_links_hang_as_the_closed_form_says() -> None:
    solution = jax.jit(lambda p: hang(CHAIN, p))(parameters(CHAIN))
    r = np.asarray(nodes(CHAIN, adjoint.require(solution)))
    H, expected = closed_form(CHAIN)
    np.testing.assert_allclose(r, expected, atol=1e-10)
    np.testing.assert_allclose(horizontal_tension(CHAIN, r, solution), H, rtol=1e-8)


def test_the_closed_form_tends_to_the_catenary() -> None:
    """a cosh(x / a), 2 a sinh(s / 2a) = L: at s = 2 a asinh(1), L = 2 a, sag (sqrt(2) - 1) a.

    Errors are O(1 / n^2).
    """
    errors = []
    for n in (50, 100):
        H, r = closed_form(Settings(links=n, span=2 * np.arcsinh(1.0), length=2.0, mass=2.0))
        np.testing.assert_allclose(H, 9.81, rtol=10 / n**2)
        errors.append(-r[:, 1].min() - (np.sqrt(2) - 1))
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.01)


def test_the_gradient_of_the_sag_agrees_with_the_closed_form_and_with_symmetry() -> None:
    gradient = jax.jit(jax.grad(lambda p: sag(CHAIN, p)))(parameters(CHAIN))
    # All links longer by the same share: a derivative of the closed form, by Richardson's
    # differences.
    sags = lambda h: -closed_form(replace(CHAIN, length=CHAIN.length + h))[1][:, 1].min()
    slope = lambda h: (sags(h) - sags(-h)) / (2 * h)
    np.testing.assert_allclose(
        np.mean(gradient["length"]), (4 * slope(1e-3) - slope(2e-3)) / 3, rtol=1e-8
    )
    # All masses greater by the same share change nothing.
    np.testing.assert_allclose(np.sum(gradient["mass"]), 0.0, atol=1e-10)
    np.testing.assert_allclose(gradient["mass"], gradient["mass"][::-1], atol=1e-10)


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    assert main(["run", "catenary", "--set", "links=6", "--out", str(tmp_path / "run")]) == 0
    assert {"chain.png", "sensitivity.png", "history.csv", "report.html"} <= {
        f.name for f in (tmp_path / "run").iterdir()
    }


def test_a_chain_that_is_too_short_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "catenary", "--set", "length=0.9"]) == 2
    assert "does not hang over a span" in capsys.readouterr().err
