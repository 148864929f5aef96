"""Steps of ode_solve: fixed ones against plain JAX, solvers' orders, transposes, and costs.

Plain JAX goes through a loop in Python.
"""

import functools
import re
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ode_cases import by_hand, coupled, coupling, error, exact_states, solved
from test_ode_solve import slow

import adjoint
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.runge_kutta import RungeKutta, Tolerances

# Steps of fixed size: a polynomial of the data, differentiated by plain JAX.
FIXED = {
    "Tsit5, discrete": (diffrax.Tsit5, adjoint.DiscreteAdjoint()),
    "Tsit5, discrete, 2 checkpoints": (diffrax.Tsit5, adjoint.DiscreteAdjoint(checkpoints=2)),
    "Tsit5, forward": (diffrax.Tsit5, adjoint.ForwardSensitivity()),
    "Heun, discrete": (diffrax.Heun, adjoint.DiscreteAdjoint()),
    "Kvaerno3, discrete": (diffrax.Kvaerno3, adjoint.DiscreteAdjoint()),
    "Kvaerno3, forward": (diffrax.Kvaerno3, adjoint.ForwardSensitivity()),
    "Kvaerno5, discrete": (diffrax.Kvaerno5, adjoint.DiscreteAdjoint()),
}
FIXED_STEPS = 2


@functools.cache
def gradient_by_hand(solver):
    return jax.value_and_grad(functools.partial(by_hand, solver.tableau, FIXED_STEPS))(coupled())


@pytest.mark.parametrize(
    "name",
    [
        *("Tsit5, discrete", "Tsit5, forward", "Kvaerno3, discrete"),
        *slow(
            "Tsit5, discrete, 2 checkpoints",
            "Heun, discrete",
            "Kvaerno3, forward",
            "Kvaerno5, discrete",
        ),
    ],
)
def test_the_gradient_of_fixed_steps_is_that_of_the_loop_written_out(name):
    solver, sensitivity = FIXED[name]
    # The tolerances are those of the iterations of implicit stages.
    options = {
        "steps": FIXED_STEPS,
        "solver": solver(),
        "rtol": 1e-11,
        "atol": 1e-13,
        "sensitivity": sensitivity,
    }
    g = functools.partial(solved, adjoint.ode_solve, "cost", **options)
    assert error(jax.jit(jax.value_and_grad(g))(coupled()), gradient_by_hand(solver)) < 1e-12


@pytest.mark.parametrize("solver", [diffrax.Tsit5, diffrax.Kvaerno5])
@pytest.mark.slow
def test_oracles_trust_the_gradient_of_fixed_steps(solver):
    """A pendulum with drag, sampled inside its steps."""
    g, p = pendulum(solver, adjoint.DiscreteAdjoint())
    verdict = adjoint.verify_gradient(g, p)
    assert verdict.trusted, str(verdict)


@pytest.mark.slow
def test_the_taylor_remainders_of_fixed_steps_shrink():
    for options in ({"sensitivity": adjoint.DiscreteAdjoint(checkpoints=3)}, {"mode": "both"}):
        result = adjoint.taylor_test(*pendulum(diffrax.Tsit5, **options))
        assert result.passed, str(result)


def pendulum(solver, sensitivity=None, mode="reverse"):
    def swing(t, y, p):
        return jnp.stack([y[1], -p["g"] * jnp.sin(y[0]) - 0.1 * y[1] ** 3 + jnp.cos(t)])

    @jax.jit
    def g(p):
        options = {
            "ts": p["ts"],
            "steps": 12,
            "rtol": 1e-12,
            "atol": 1e-14,
            "sensitivity": sensitivity,
            "mode": mode,
        }
        return jnp.sum(
            adjoint.ode_solve(
                swing, jnp.array([1.2, 0.3]), p, 0.0, p["t1"], solver=solver(), **options
            ).value
            ** 3
        )

    return g, {"g": jnp.asarray(2.0), "t1": jnp.asarray(2.0), "ts": jnp.array([0.21, 1.97])}


# (order, steps): few enough that the error of the finer solve stands far above rounding.
ORDERS = {
    **dict.fromkeys(("Heun", "Midpoint", "Ralston"), (2, 40)),
    **dict.fromkeys(("Bosh3", "Kvaerno3"), (3, 40)),
    **dict.fromkeys(("Tsit5", "Dopri5", "Kvaerno5"), (5, 40)),
    **{"Dopri8": (8, 10), "Kvaerno4": (4, 40)},
}


@pytest.mark.parametrize(
    "name",
    [
        "Heun",
        "Dopri5",
        "Kvaerno4",
        *slow("Midpoint", "Ralston", "Bosh3", "Tsit5", "Dopri8", "Kvaerno3", "Kvaerno5"),
    ],
)
def test_halving_the_steps_divides_the_error_by_two_to_the_order(name):
    """Up to one power more, where the leading error is small."""
    order, steps = ORDERS[name]
    solver, case = getattr(diffrax, name)(), coupled()
    exact_end = exact_states(case, jnp.array([4.3]))[0]

    def distance(steps):
        options = {"solver": solver, "steps": steps, "rtol": 1e-13, "atol": 1e-14}
        return np.linalg.norm(
            adjoint.ode_solve(coupling(0.4), case.y0, case.p, 0.3, 4.3, **options).value - exact_end
        )

    assert order - 0.25 < np.log2(distance(steps) / distance(2 * steps)) < order + 1


@pytest.mark.parametrize("solver", [diffrax.Tsit5, diffrax.Dopri8, diffrax.Midpoint])
@pytest.mark.parametrize("has_product", [False, True])
def test_a_step_to_transpose_is_the_step(solver, has_product):
    # First same as last, and not; a field without a matrix product, whose stages are a loop, and
    # one with.
    p: Any = jnp.array([0.7, -1.3])
    y = jnp.array([0.4, 1.1])

    def field(s, y, p):
        y = jnp.array([[2.0, 1.0], [0.0, 3.0]]) @ y if has_product else y
        return jnp.stack([p[0] * y[1] + s, p[1] * jnp.sin(y[0])])

    integrator = Integrator(field, RungeKutta(solver), Tolerances(1e-6, 1e-9), max_steps=1)
    s = (jnp.asarray(0.2), jnp.asarray(0.5))
    state = State(y, field(s[0], y, p))
    in_a_loop = "scan" in str(
        jax.make_jaxpr(lambda state: integrator.step_to_transpose(s, state, p))(state)
    )
    assert in_a_loop is not has_product
    expected, found = integrator.step(s, state, p), integrator.step_to_transpose(s, state, p)
    for name in ("y", "slope", "error", "stages"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-13, atol=1e-15
        )


@pytest.mark.parametrize(
    ("differentiate", "most"), [(lambda g: g, 1), (jax.grad, 2)], ids=["value", "gradient"]
)
def test_a_single_sample_costs_no_step_of_its_own_in_every_step(differentiate, most):
    """XLA computes ahead of a loop what all its turns have in common.

    For a single sample that is the step to it, wanted or not. A step factorizes one matrix, its
    transpose one more for the stages.
    """
    relax = lambda t, y, k: -k * (y - jnp.sin(t))
    options: dict[str, Any] = {
        "solver": diffrax.Kvaerno5(),
        "sensitivity": adjoint.DiscreteAdjoint(),
    }

    def g(k):
        return adjoint.ode_solve(
            relax, jnp.ones(3), k, 0.0, 1.0, ts=jnp.array([1.0]), **options
        ).value.sum()

    text = jax.jit(differentiate(g)).lower(1e3).compile().as_text()
    assert "getrf" in text
    assert (
        max(
            part.count('custom_call_target="lapack_dgetrf_ffi"')
            for part in re.split(r"\n(?=%|ENTRY)", text)
        )
        == most
    )
