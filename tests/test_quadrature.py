"""One step of the adjoint with quadrature: lam' = -2 s M' lam and F_p' lam = 2 s C lam.

M and C are constant matrices. Back from s_1 to s_0, with the exponential E of (s_1^2 - s_0^2) M':
lam_0 = E lam_1, and the integral of F_p' lam over the step is C M'^-1 (E - 1) lam_1.
"""

from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from adjoint.ode import quadrature
from adjoint.ode.integrator import Integrator
from adjoint.ode.quadrature import gauss_kronrod, stage_quadrature
from adjoint.ode.runge_kutta import RungeKutta, Tolerances

# Not symmetric and not normal.
M = np.array([[0.3, 1.7, 0.0], [-0.2, -0.4, 0.9], [0.0, 1.1, -0.8]])
C = np.array([[1.0, -0.5, 0.2], [0.0, 0.7, 2.0]])
LAM = np.array([0.6, -1.3, 0.8])
START, END = 0.7, 0.65
TOLERANCES = Tolerances(1e-10, 1e-12)


class Linear:
    """That field; along it the `solution` is 2 s."""

    def __call__(self, s: Any, lam: Any, along: Any) -> Any:
        return self.with_parameters(s, lam, 2 * s, along)[0]

    def solution(self, s: Any, along: Any) -> Any:
        return 2 * s

    def with_parameters(self, s: Any, lam: Any, u: Any, along: Any) -> Any:
        return -u * jnp.asarray(M.T) @ lam, [2 * s * jnp.asarray(C) @ lam, u * lam[0]]


def adjoint_step(rule: Any, solver: Any) -> Any:
    backward = Integrator(Linear(), RungeKutta(solver), TOLERANCES, max_steps=1)
    return rule(backward, (jnp.asarray(START), jnp.asarray(END)), jnp.asarray(LAM), None)


# Of lam and of the integral by stages an error of size h^(order + 1) is left, with h = 0.05; that
# of the integral of the interpolant depends on its degree: 3 for Midpoint and Kvaerno5, 4 for
# Tsit5, 6 for Dopri8.
SOLVERS = {
    diffrax.Midpoint: (1e-3, 1e-3),
    diffrax.Tsit5: (1e-10, 1e-9),
    diffrax.Dopri8: (1e-14, 1e-10),
    diffrax.Kvaerno5: (1e-8, 3e-7),
}


@pytest.mark.parametrize("few", [quadrature.FEW, 1])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", [stage_quadrature, gauss_kronrod])
def test_closed_form(rule, solver, few, monkeypatch):
    # Rates that are kept, and rates that are summed on the way.
    monkeypatch.setattr(quadrature, "FEW", few)
    step = adjoint_step(rule, solver)
    E = scipy.linalg.expm((START**2 - END**2) * M.T)
    integral = np.linalg.solve(M.T, (E - np.eye(3)) @ LAM)
    assert step.converged
    by_steps, by_interpolant = SOLVERS[solver]
    tolerance = by_interpolant if rule is gauss_kronrod else by_steps
    np.testing.assert_allclose(step.lam, E @ LAM, atol=by_steps, rtol=0)
    np.testing.assert_allclose(step.integral[0], C @ integral, atol=tolerance, rtol=0)
    np.testing.assert_allclose(step.integral[1], integral[0], atol=tolerance, rtol=0)


@pytest.mark.parametrize("solver", [diffrax.Tsit5, diffrax.Dopri8, diffrax.Midpoint])
def test_an_explicit_step_is_that_of_the_solver(solver):
    # First same as last, and not.
    method, s, lam = RungeKutta(solver), (jnp.asarray(START), jnp.asarray(END)), jnp.asarray(LAM)
    field: Any = Linear()
    expected, found = (
        method.step(field, TOLERANCES, s, lam, field(s[0], lam, None), None),
        adjoint_step(stage_quadrature, solver),
    )
    np.testing.assert_allclose(found.lam, expected.y, rtol=1e-13)
    np.testing.assert_allclose(found.error, expected.error, rtol=1e-11, atol=1e-17)


@pytest.mark.parametrize("few", [quadrature.FEW, 1])
@pytest.mark.parametrize("solver", [diffrax.Tsit5, diffrax.Kvaerno5])
def test_the_error_of_the_integral_is_that_of_the_embedded_rule(solver, few, monkeypatch):
    """The sum of h (b_i - b^_i) F_p' lam_i by NumPy's stages; by Gauss, the gap to the stages."""
    monkeypatch.setattr(quadrature, "FEW", few)
    by_stages, by_gauss = (adjoint_step(rule, solver) for rule in (stage_quadrature, gauss_kronrod))
    tableau, h = solver.tableau, END - START
    diagonal = (
        np.zeros(1 + len(tableau.a_lower)) if tableau.a_diagonal is None else tableau.a_diagonal
    )
    k, terms = [], []
    for i, c in enumerate([tableau.c1, *tableau.c]):
        s, known = START + c * h, LAM + (np.dot(tableau.a_lower[i - 1], k) if i else 0)
        stage = np.linalg.solve(np.eye(3) + diagonal[i] * h * 2 * s * M.T, known)
        k.append(-h * 2 * s * M.T @ stage)
        terms.append(-h * tableau.b_error[i] * 2 * s * C @ stage)
    # What the iteration of a stage may leave, and rounding.
    np.testing.assert_allclose(by_stages.integral_error[0], sum(terms), rtol=1e-4, atol=1e-14)
    assert np.all(np.abs(by_stages.integral_error[0]) > 1e-12)
    for error, new, old in zip(
        by_gauss.integral_error, by_gauss.integral, by_stages.integral, strict=True
    ):
        np.testing.assert_allclose(error, new - old, rtol=1e-12)
