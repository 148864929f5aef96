"""Which sensitivity ode_solve takes when none is named, that it says so, and its gradient.

The gradient is the one of that sensitivity. All on y_i' = -k_i (y_i - m_i), m_i the mean of row i
of p: y_i(1) = m_i + (y0_i - m_i) exp(-k_i).
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint

STIFF = diffrax.Kvaerno5()
RATES = (1.0, 1e3)


def relax(t, y, p):
    return -jnp.asarray(RATES) * (y - p.mean(axis=1))


def relax_slowly(t, y, p):
    return -jnp.linspace(0.5, 1.5, y.size) * (y - p.mean(axis=1))


def solve(f, n, per_state, **options):
    p = jnp.asarray(np.random.default_rng(0).standard_normal((n, per_state)))
    return adjoint.ode_solve(f, jnp.linspace(1.0, 2.0, n), p, 0.0, 1.0, **options)


THREE_TIMES = jnp.array([0.2, 0.5, 1.0])
CASES: dict[str, tuple[Any, int, int, dict[str, Any], str]] = {
    "few": (relax_slowly, 2, 7, {}, "ForwardSensitivity: 2 states and 14 parameters are few"),
    "just few": (
        relax_slowly,
        2,
        8,
        {},
        "DiscreteAdjoint: 16 parameters for 2 states and 0 samples; Interp",
    ),
    "data": (
        relax_slowly,
        2,
        60,
        {"ts": THREE_TIMES},
        "DiscreteAdjoint: 120 parameters for 2 states and 3 samples; Interp",
    ),
    "stiff": (
        relax,
        2,
        60,
        {"solver": STIFF},
        "InterpolatingAdjoint: a stiff solver and 120 parameters for 2 states",
    ),
    "stiff, one sample": (
        relax,
        2,
        60,
        {"solver": STIFF, "ts": THREE_TIMES[-1:]},
        "InterpolatingAdjoint: a stiff",
    ),
    "stiff, data": (
        relax,
        2,
        60,
        {"solver": STIFF, "ts": THREE_TIMES},
        "DiscreteAdjoint: 120 parameters for 2 states and 3",
    ),
    "stiff, no more than 100": (
        relax,
        2,
        50,
        {"solver": STIFF},
        "DiscreteAdjoint: 100 parameters for 2 states and 0",
    ),
    "stiff, no more than 10 n": (
        relax_slowly,
        12,
        10,
        {"solver": STIFF},
        "DiscreteAdjoint: 120 parameters for 12 states",
    ),
    "mass": (
        relax,
        2,
        60,
        {"solver": STIFF, "mass_matrix": jnp.eye(2)},
        "DiscreteAdjoint: there is a mass matrix",
    ),
    "equal steps": (
        relax_slowly,
        2,
        60,
        {"steps": 9},
        "DiscreteAdjoint: 120 parameters for 2 states and 0 samples",
    ),
    "as asked": (relax, 2, 60, {"sensitivity": adjoint.GaussAdjoint()}, "GaussAdjoint: as asked"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_choice_is_said(name):
    f, n, per_state, options, words = CASES[name]
    said = solve(f, n, per_state, **options).stats["sensitivity"]
    assert said.startswith(words)
    # Equal steps, implicit ones and those of a sensitivity that was asked for do not change with
    # the stability of the solve.
    may_change = (
        words.startswith("DiscreteAdjoint")
        and not {"solver", "steps", "sensitivity"} & options.keys()
    )
    assert said.endswith("InterpolatingAdjoint where at_stability_limit") == may_change


def test_stiff_with_many_parameters_takes_the_adjoint_equation():
    """InterpolatingAdjoint, not GaussAdjoint: that needs the interpolant of stiff steps.

    They have a poor one.
    """
    y0, w = jnp.array([1.0, 2.0]), jnp.array([0.7, -1.3])
    p = jnp.asarray(np.random.default_rng(0).standard_normal((2, 60)))

    def gradient(sensitivity):
        def g(y0, p):
            return (
                w
                @ adjoint.ode_solve(
                    relax, y0, p, 0.0, 1.0, solver=STIFF, sensitivity=sensitivity
                ).value
            )

        return jax.jit(jax.grad(g, argnums=(0, 1)))(y0, p)

    chosen, named, other = (
        gradient(None),
        gradient(adjoint.InterpolatingAdjoint()),
        gradient(adjoint.DiscreteAdjoint()),
    )
    for found, expected, different in zip(chosen, named, other, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert not np.array_equal(found, different)
    decay = jnp.exp(-jnp.asarray(RATES))
    # rtol is 1e-6, and errors of a gradient are some ten times those that a step is allowed.
    np.testing.assert_allclose(chosen[0], w * decay, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        chosen[1], jnp.broadcast_to((w * (1 - decay) / 60)[:, None], (2, 60)), rtol=0, atol=1e-6
    )
