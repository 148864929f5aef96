"""One step of the adjoint with its quadrature, on lam' = -2 s M' lam and F_p' lam = 2 s C lam with constant matrices.

Back from s_1 to s_0, with the exponential E of (s_1^2 - s_0^2) M': lam_0 = E lam_1, and the integral of F_p' lam over the step is
C M'^-1 (E - 1) lam_1.
"""

from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from adjoint.ode.integrate import Integrator
from adjoint.ode.quadrature import rule_of_gauss, rule_of_stages
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
    backward = Integrator(Linear(), RungeKutta(solver), TOLERANCES, 1, None, ())  # pyright: ignore[reportCallIssue, reportArgumentType]
    return rule(backward, (jnp.asarray(START), jnp.asarray(END)), jnp.asarray(LAM), None)


# Of lam and of the integral by stages an error of size h^(order + 1) is left, with h = 0.05; the integral of the interpolant is
# as good as that: cubic for Midpoint and Kvaerno5, quartic else.
SOLVERS = {
    diffrax.Midpoint: (1e-3, 1e-3),
    diffrax.Tsit5: (1e-10, 1e-9),
    diffrax.Dopri8: (1e-14, 1e-10),
    diffrax.Kvaerno5: (1e-8, 3e-7),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", [rule_of_stages, rule_of_gauss])
def test_closed_form(rule, solver):
    step = adjoint_step(rule, solver)
    E = scipy.linalg.expm((START**2 - END**2) * M.T)
    integral = np.linalg.solve(M.T, (E - np.eye(3)) @ LAM)
    assert step.converged
    by_steps, by_interpolant = SOLVERS[solver]
    tolerance = by_interpolant if rule is rule_of_gauss else by_steps
    np.testing.assert_allclose(step.lam, E @ LAM, atol=by_steps, rtol=0)
    np.testing.assert_allclose(step.integral[0], C @ integral, atol=tolerance, rtol=0)
    np.testing.assert_allclose(step.integral[1], integral[0], atol=tolerance, rtol=0)


@pytest.mark.parametrize("solver", [diffrax.Tsit5, diffrax.Dopri8, diffrax.Midpoint])
def test_an_explicit_step_is_that_of_the_solver(solver):
    # First same as last, and not; an estimate of the error at the stages, and none.
    method, s, lam = RungeKutta(solver), (jnp.asarray(START), jnp.asarray(END)), jnp.asarray(LAM)
    field: Any = Linear()
    expected, found = (
        method.step(field, TOLERANCES, s, lam, field(s[0], lam, None), None),
        adjoint_step(rule_of_stages, solver),
    )
    np.testing.assert_allclose(found.lam, expected.y, rtol=1e-13)
    np.testing.assert_allclose(found.error, expected.error, rtol=1e-11, atol=1e-17)


def test_the_error_of_the_integral_is_that_of_lower_order():
    """Of Tsit5's embedded rule, whose error is O(h^5) and no rounding; by Gauss it is the difference to the stages."""
    by_stages, by_gauss = (adjoint_step(rule, diffrax.Tsit5) for rule in (rule_of_stages, rule_of_gauss))
    for error in by_stages.integral_error:
        assert np.all((np.abs(error) > 1e-12) & (np.abs(error) < 1e-6))
    for error, new, old in zip(by_gauss.integral_error, by_gauss.integral, by_stages.integral, strict=True):
        np.testing.assert_allclose(error, new - old, rtol=1e-12)
