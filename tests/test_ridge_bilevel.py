"""ridge_bilevel: NIST's certified coefficients, Allen's closed form of the errors, and a run.

The closed form is also that of their gradient.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from problems import ridge_bilevel
from problems.__main__ import main
from problems.ridge_bilevel import (
    DEVIATION,
    MEAN,
    closed_form_errors,
    fit,
    left_out_errors,
    log_error,
)

# https://www.itl.nist.gov/div898/strd/lls/data/LINKS/DATA/Longley.dat, certified values: intercept,
# then the six regressors.
CERTIFIED = np.array(
    [
        -3482258.63459582,
        15.0618722713733,
        -0.358191792925910e-1,
        -2.02022980381683,
        -1.03322686717359,
        -0.511041056535807e-1,
        1829.15146461355,
    ]
)


def test_without_penalties_the_coefficients_are_the_certified_ones() -> None:
    w = adjoint.require(jax.jit(fit)(jnp.zeros(6), jnp.ones(16)))
    effects = np.asarray(w.effects) / DEVIATION
    # The normal equations of these standardized data have a condition number of 1e4, which the
    # intercept feels most.
    np.testing.assert_allclose(effects, CERTIFIED[1:], rtol=1e-9)
    np.testing.assert_allclose(float(w.intercept) - MEAN @ effects, CERTIFIED[0], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "p",
    [np.linspace(-6.0, 3.0, 6), pytest.param(np.zeros(6), marks=pytest.mark.slow)],
    ids=["spread", "equal"],
)
def test_the_errors_and_their_derivatives_have_the_closed_form(p: np.ndarray) -> None:
    np.testing.assert_allclose(
        jax.jit(left_out_errors)(jnp.asarray(p)), closed_form_errors(p), rtol=1e-9
    )

    def closed_form(p: jax.Array) -> jax.Array:
        X = jnp.column_stack([jnp.ones(16), ridge_bilevel.STANDARDIZED])
        penalties = jnp.concatenate([jnp.zeros(1), jnp.exp(p)])
        hat = X @ jnp.linalg.solve(X.T @ X + jnp.diag(penalties), X.T)
        errors = (ridge_bilevel.EMPLOYED - hat @ ridge_bilevel.EMPLOYED) / (1 - jnp.diagonal(hat))
        return jnp.log(jnp.mean(errors**2))

    p = jnp.asarray(p)
    np.testing.assert_allclose(
        jax.jit(jax.grad(log_error))(p), jax.grad(closed_form)(p), rtol=1e-8, atol=1e-9
    )
    np.testing.assert_allclose(
        jax.jit(jax.hessian(log_error))(p), jax.hessian(closed_form)(p), rtol=1e-7, atol=1e-8
    )


@pytest.mark.slow
def test_a_run_ends_at_a_minimum(tmp_path: Path) -> None:
    assert main(["run", "ridge_bilevel", "--out", str(tmp_path / "run")]) == 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert "predictions.png" in report
    history = np.genfromtxt(tmp_path / "run" / "history.csv", delimiter=",", names=True)
    p = np.array([history[f"log_penalty_{k}"][-1] for k in range(1, 7)])
    # No neighbor is better, by the closed form, than what is left of the slope allows.
    best = np.mean(closed_form_errors(p) ** 2)
    for k in range(6):
        for change in (-0.1, 0.1):
            q = p.copy()
            q[k] = np.clip(q[k] + change, -12, 12)
            assert np.mean(closed_form_errors(q) ** 2) >= best * (1 - 1e-6)
    assert best < np.mean(closed_form_errors(np.zeros(6)) ** 2)
