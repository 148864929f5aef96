"""Gradients where the solution limits no step: at rest, from zero, beside what moves.

Right answers are closed forms.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint

# A thousand times rtol.
ENOUGH = 1e-3
SOLVERS: dict[str, Any] = {
    name: getattr(diffrax, name)() for name in ("Tsit5", "Dopri8", "Kvaerno5", "Kvaerno3")
}
SENSITIVITIES: dict[str, Any] = {
    "discrete": adjoint.DiscreteAdjoint(),
    "few checkpoints": adjoint.DiscreteAdjoint(checkpoints=3),
    "forward": adjoint.ForwardSensitivity(),
    "interpolating": adjoint.InterpolatingAdjoint(),
}
OTHERS: dict[str, Any] = {
    "Gauss": adjoint.GaussAdjoint(),
    "backsolve": adjoint.BacksolveAdjoint(),
}
OMEGA = 7.0


def oscillators(_, y, p):
    """x'' = -x, which may swing, z'' = -OMEGA^2 z + p_0 b, which may rest; p_1 is the unit b."""
    return jnp.stack([y[1], -y[0], y[3], -(OMEGA**2) * jnp.sin(y[2]) + p])


def quadrature(t, y, p):
    """y' = 1 + p cos^2 20 t: no state in it."""
    return 1 + p * jnp.cos(20 * t) ** 2 * jnp.ones_like(y)


def rest(x, **options):
    return adjoint.ode_solve(oscillators, x[:4], x[4], 0.0, 3.0, **options).value[2]


def integral(x, **options):
    return adjoint.ode_solve(quadrature, x[:1], x[1], 0.0, 5.0, **options).value[0]


OF_REST = np.array(
    [0, 0, np.cos(3 * OMEGA), np.sin(3 * OMEGA) / OMEGA, (1 - np.cos(3 * OMEGA)) / OMEGA**2]
)
CASES: dict[str, Any] = {
    "all rests": (rest, jnp.zeros(5), OF_REST),
    "one swings": (rest, jnp.array([1.0, 0, 0, 0, 0]), OF_REST),
    "no state": (integral, jnp.zeros(2), np.array([1.0, 2.5 + np.sin(200.0) / 80])),
}
FAST = [("Tsit5", "discrete", "one swings"), ("Kvaerno5", "forward", "one swings")]
SLOW = [
    (solver, name, case)
    for solver in SOLVERS
    for name in SENSITIVITIES
    for case in CASES
    if (solver, name, case) not in FAST
]


@pytest.mark.parametrize(
    ("solver", "name", "case"),
    [*FAST, *(pytest.param(*given, marks=pytest.mark.slow) for given in SLOW)],
)
def test_the_gradient_is_right(solver, name, case):
    g, x, expected = CASES[case]
    # Kvaerno3, of order 3, takes thousands of steps, and more where they are for tangents only.
    options = {"solver": SOLVERS[solver], "sensitivity": SENSITIVITIES[name], "max_steps": 40_000}
    found = jax.jit(jax.grad(lambda x: g(x, **options)))(x)
    assert np.linalg.norm(found - expected) < ENOUGH * np.linalg.norm(expected)


def of_knots(count: int) -> np.ndarray:
    """d x(3) / d u_k for x'' = u(t), x(0) = x'(0) = 0, u linear between knots u_k.

    It is the integral of (3 - t) times the hat of knot k; Simpson's rule is exact on each half of a
    hat.
    """
    t = np.linspace(0.0, 3.0, 2 * count - 1)
    weights = np.full(t.size, 2.0)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    hats = np.array([np.interp(t, t[::2], column) for column in np.eye(count)])
    return hats @ ((3 - t) * weights) * (t[1] / 3)


@pytest.mark.parametrize(
    ("name", "count", "level"),
    [
        ("forward", 6, 0.0),
        ("discrete", 6, 0.1),
        *(
            pytest.param(name, count, level, marks=pytest.mark.slow)
            for name in ("forward", "discrete", "interpolating")
            for count in (6, 24)
            for level in (0.0, 0.1)
        ),
    ],
)
def test_controls_that_are_equal_hide_the_kinks_between_them(name, count, level):
    """A constant control has none, and the steps are long; a change of one of them has three."""
    ends = jnp.linspace(0.0, 3.0, count)
    move = lambda t, y, u: jnp.stack([y[1], jnp.interp(t, ends, u)])
    options = {"sensitivity": SENSITIVITIES[name]}
    g = lambda u: adjoint.ode_solve(move, jnp.zeros(2), u, 0.0, 3.0, **options).value[0]
    found, expected = jax.grad(g)(jnp.full(count, level)), of_knots(count)
    assert np.linalg.norm(found - expected) < ENOUGH * np.linalg.norm(expected)


@pytest.mark.slow
def test_lanes_that_rest_and_move():
    """The one that moves has the gradient that it has alone."""
    g = lambda x: rest(x, sensitivity=adjoint.DiscreteAdjoint())
    lanes = jnp.stack([jnp.zeros(5), jnp.array([1.0, 0.3, 0.5, -1.0, 0.2])])
    found = jax.jit(jax.vmap(jax.grad(g)))(lanes)
    np.testing.assert_allclose(found[0], OF_REST, rtol=ENOUGH, atol=ENOUGH)
    np.testing.assert_allclose(found[1], jax.jit(jax.grad(g))(lanes[1]), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_too_few_steps_are_no_number():
    g = lambda x: rest(x, sensitivity=adjoint.DiscreteAdjoint(), max_steps=20)
    assert np.all(np.isnan(jax.grad(g)(jnp.zeros(5))))


@pytest.mark.slow
def test_terms_that_cancel_leave_zero_and_not_nan():
    """At its top the height of what was thrown does not change with the end of time.

    Steps are exact for parabolas, so that a sum of lam . f is left that is all rounding.
    """

    def height(t1, speed):
        flight = lambda t, y, g: jnp.stack([y[1], -g])
        return adjoint.ode_solve(
            flight,
            jnp.stack([0 * speed, speed]),
            9.81,
            0.0,
            t1,
            sensitivity=SENSITIVITIES["discrete"],
        ).value[0]

    speeds = jnp.asarray(np.random.default_rng(3).uniform(1.0, 9.0, 40))
    slopes = jax.jit(jax.vmap(jax.grad(height, argnums=(0, 1))))(speeds / 9.81, speeds)
    np.testing.assert_allclose(slopes[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(slopes[1], speeds / 9.81, rtol=1e-12)


@pytest.mark.slow
def test_a_factor_of_time_at_a_turning_point():
    """x = cos(p t) at t = pi and p = 1, by p and by an array of two that p is the mean of: 0."""

    def turned(p):
        swing = lambda t, y, p: jnp.mean(p) * jnp.stack([y[1], -y[0]])
        return adjoint.ode_solve(
            swing, jnp.array([1.0, 0.0]), p, 0.0, np.pi, sensitivity=SENSITIVITIES["discrete"]
        ).value[0]

    for p in (1.0, jnp.array([0.5, 1.5])):
        np.testing.assert_allclose(jax.jit(jax.grad(turned))(p), 0.0, atol=ENOUGH)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("discrete", 1.0),
        ("discrete", 1e-8),
        *[
            pytest.param(name, share, marks=pytest.mark.slow)
            for name in ("few checkpoints", "forward", "interpolating", "Gauss", "backsolve")
            for share in (1e-5, 1e-8)
        ],
    ],
)
def test_what_counts_for_little_is_as_right(name, share):
    """What rests beside what swings, as a small share of the output: as right as by itself."""

    def output(force):
        y = adjoint.ode_solve(
            oscillators,
            jnp.array([1.0, 0, 0, 0]),
            force,
            0.0,
            3.0,
            sensitivity=(SENSITIVITIES | OTHERS)[name],
        ).value
        return y[0] + share * y[2]

    np.testing.assert_allclose(jax.grad(output)(0.0) / share, OF_REST[4], rtol=ENOUGH)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["discrete", "forward", "interpolating", "Gauss", "backsolve"])
def test_the_unit_of_a_control_at_zero_does_not_matter(name):
    """y' = -y + sum of p_k hat_k(t): the gradient at p = 0 is the integral of hat_k exp(t - 3)."""
    centers = np.linspace(0.3, 2.7, 9)
    width = 0.1
    # Of exp(-((t - c) / w)^2 + t - 3) over all t; what is left out is less than 1e-4 of it.
    right = width * np.sqrt(np.pi) * np.exp(centers - 3 + width**2 / 4)

    def end(p, unit):
        hats = lambda t: jnp.exp(-(((t - jnp.asarray(centers)) / width) ** 2))
        return adjoint.ode_solve(
            lambda t, y, p: -y + unit * (p @ hats(t)),
            jnp.array(0.0),
            p,
            0.0,
            3.0,
            sensitivity=(SENSITIVITIES | OTHERS)[name],
        ).value

    gradient = jax.jit(jax.grad(end))
    found = [gradient(jnp.zeros(9), unit) / unit for unit in (1.0, 1e-9, 1e9)]
    np.testing.assert_allclose(found[0], right, rtol=ENOUGH)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5)


def test_a_datum_that_rests_between_two():
    """y'' = -49 y + p for t > 1, sampled at 0.9 and 3.

    From rest the derivatives by y0 are those of the free swing.
    """

    def g(y):
        options = {"ts": jnp.array([0.9, 3.0]), "sensitivity": adjoint.DiscreteAdjoint()}
        return (
            adjoint.ode_solve(
                lambda t, y, p: jnp.stack([y[1], -49.0 * y[0]]), y, None, 0.0, 4.0, **options
            )
            .value[:, 0]
            .sum()
        )

    expected = [np.cos(6.3) + np.cos(21.0), (np.sin(6.3) + np.sin(21.0)) / 7]
    np.testing.assert_allclose(jax.grad(g)(jnp.zeros(2)), expected, rtol=ENOUGH)


class TestJumps:
    @pytest.mark.parametrize(
        ("solver", "name"),
        [
            pytest.param(s, n, marks=() if (s, n) == ("Tsit5", "forward") else pytest.mark.slow)
            for s in SOLVERS
            for n in SENSITIVITIES
        ],
    )
    def test_a_pulse_between_two_times(self, solver, name):
        """y' = -y + k from a to b, else -y: y(6) = exp(-6) + k (exp(b - 6) - exp(a - 6)).

        The times are not sorted.
        """

        def end(q):
            a, b, _ = q
            f = lambda t, y, p: -y + p[2] * jnp.where((t > p[0]) & (t < p[1]), 1.0, 0.0)
            options = {
                "solver": SOLVERS[solver],
                "sensitivity": SENSITIVITIES[name],
                "rtol": 1e-8,
                "atol": 1e-10,
                # Kvaerno3, of order 3, takes 5941.
                "max_steps": 10_000,
            }
            return adjoint.ode_solve(f, jnp.array(1.0), q, 0.0, 6.0, jumps=[b, a], **options).value

        q = jnp.array([5.0, 5.05, 10.0])
        a, b, k = q
        pulse = [-k * np.exp(a - 6), k * np.exp(b - 6), np.exp(b - 6) - np.exp(a - 6)]
        value, found = jax.jit(jax.value_and_grad(end))(q)
        np.testing.assert_allclose(value, np.exp(-6.0) + k * pulse[2], rtol=1e-6)
        np.testing.assert_allclose(found, pulse, rtol=1e-6)

    def test_what_is_no_jump_is_refused(self):
        for change, message in (
            ({"jumps": jnp.zeros((1, 1))}, "jumps of shape"),
            ({"max_step": -1.0}, "max_step = -1.0"),
            ({"max_step": 0.1, "steps": 3}, "steps with jumps or max_step"),
        ):
            with pytest.raises(ValueError, match=message):
                adjoint.ode_solve(lambda t, y, p: -y, jnp.ones(1), None, 0.0, 1.0, **change)

    @pytest.mark.slow
    def test_a_largest_step_finds_a_pulse(self):
        f = lambda t, y, p: -y + p * jnp.where((t > 5) & (t < 5.05), 10.0, 0.0)
        found = adjoint.ode_solve(f, jnp.array(1.0), 1.0, 0.0, 6.05, max_step=0.025).value
        np.testing.assert_allclose(
            found, np.exp(-6.05) + 10 * (np.exp(-1.0) - np.exp(-1.05)), rtol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("f", "y0", "p", "t1", "solver", "name"),
    [
        (
            lambda t, y, p: jnp.where(t < p, 1.0, 0.0) * jnp.ones_like(y),
            0.0,
            0.98,
            2.0,
            "Tsit5",
            "UNTRUSTED",
        ),
        (lambda t, y, p: jnp.where(y < p, 2.0, 1.0), 0.0, 0.7, 1.0, "Tsit5", "UNTRUSTED"),
        (
            lambda t, y, p: -y + p * jnp.where((t > 5) & (t < 5.05), 10.0, 0.0),
            1.0,
            1.0,
            6.05,
            "Tsit5",
            "UNTRUSTED",
        ),
        (
            lambda t, y, p: -y + p * jnp.where((t > 5) & (t < 5.05), 10.0, 0.0),
            1.0,
            1.0,
            6.05,
            "Dopri8",
            "UNTRUSTED",
        ),
        (lambda t, y, p: -p * y + jnp.where(t > 1.3, 1.0, 0.0), 1.0, 0.5, 2.0, "Tsit5", "SUCCESS"),
        (lambda t, y, p: p * jnp.sin(y), 0.0, 2.0, 2.0, "Kvaerno5", "SUCCESS"),
    ],
)
def test_the_certificate(f, y0, p, t1, solver, name):
    """Switches at p in time and in y, and a pulse that steps pass by.

    A switch at a fixed time, and rest, have right gradients.
    """
    found = adjoint.ode_solve(
        f, jnp.array([y0]), p, 0.0, t1, solver=SOLVERS[solver], certificate=True
    )
    assert found.status.name == name
