"""Every sensitivity, with an explicit and an implicit solver, against closed forms.

It is on every kind of functional, and where each must say that it is not to be believed.
"""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ode_cases import KINDS, coupled, error, exact, solved

import adjoint
from adjoint.ode import runge_kutta

TIGHT = {"rtol": 1e-9, "atol": 1e-11}
# Errors of a gradient are some hundred times those that a step is allowed.
GRADIENT_ERROR = {"Tsit5": 1e3 * TIGHT["rtol"], "Kvaerno5": 1e2 * TIGHT["rtol"]}
SENSITIVITIES: dict[str, Any] = {
    "discrete": adjoint.DiscreteAdjoint(),
    "forward": adjoint.ForwardSensitivity(),
    "interpolating": adjoint.InterpolatingAdjoint(),
    "Gauss": adjoint.GaussAdjoint(),
    "backsolve": adjoint.BacksolveAdjoint(),
}
SOLVERS = {"Tsit5": diffrax.Tsit5(), "Kvaerno5": diffrax.Kvaerno5()}


@functools.cache
def expected(kind, backwards=False):
    return jax.jit(jax.value_and_grad(functools.partial(exact, kind)))(coupled(backwards))


def found(kind, case, **options):
    return jax.jit(
        jax.value_and_grad(functools.partial(solved, adjoint.ode_solve, kind, **options))
    )(case)


FAST = [
    *(("Tsit5", name, "mixed") for name in SENSITIVITIES),
    ("Kvaerno5", "discrete", "mixed"),
]
SLOW = [
    case
    for s in SOLVERS
    for name in SENSITIVITIES
    for kind in KINDS
    if (case := (s, name, kind)) not in FAST
]


@pytest.mark.parametrize(
    ("solver", "name", "kind"), [*FAST, *(pytest.param(*c, marks=pytest.mark.slow) for c in SLOW)]
)
def test_the_gradient_is_that_of_the_closed_form(solver, name, kind):
    """With respect to y0, each leaf of p, what f closes over, t0, t1 and ts."""
    options = {"sensitivity": SENSITIVITIES[name], "solver": SOLVERS[solver], **TIGHT}
    assert error(found(kind, coupled(), **options), expected(kind)) < GRADIENT_ERROR[solver]


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SENSITIVITIES)
def test_time_may_run_backwards(name, solver):
    options = {"sensitivity": SENSITIVITIES[name], "solver": SOLVERS[solver], **TIGHT}
    assert (
        error(found("mixed", coupled(backwards=True), **options), expected("mixed", True))
        < GRADIENT_ERROR[solver]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["discrete", "interpolating", "Gauss"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("checkpoints", [1, 4, 200])
def test_checkpoints_change_nothing(solver, name, checkpoints):
    """200 hold two levels of the at most 4096 steps."""
    full, few = SENSITIVITIES[name], type(SENSITIVITIES[name])(checkpoints=checkpoints)
    results = [
        found("mixed", coupled(), sensitivity=s, solver=SOLVERS[solver], **TIGHT)
        for s in (full, few)
    ]
    assert error(*results) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gauss", "interpolating"])
def test_a_small_cotangent_has_as_good_a_gradient(name):
    """The adjoint's tolerances are relative to its size, or 1e-13 would be left to chance.

    It would be below atol.
    """

    @jax.jit
    def gradient(case, scale):
        g = functools.partial(
            solved, adjoint.ode_solve, "mixed", sensitivity=SENSITIVITIES[name], **TIGHT
        )
        return jax.grad(lambda case: scale * g(case))(case)

    small = gradient(coupled(), 1e-13)
    assert error(jax.tree.map(lambda leaf: 1e13 * leaf, small), gradient(coupled(), 1.0)) < 1e-12


def stiff(_, y, p):
    """Robertson's kinetics, its rates in units of their usual values."""
    k1, k2, k3 = 0.04 * p[0], 3e7 * p[1], 1e4 * p[2]
    made = k2 * y[1] ** 2
    r = k1 * y[0] - k3 * y[1] * y[2]
    return jnp.stack([-r, r - made, made])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["discrete", "forward", "interpolating", "Gauss"])
def test_stiff_kinetics(name):
    """The solution at t = 40 and its sensitivities to the rates, as SUNDIALS prints them.

    The example program is cvsRoberts_FSA_dns.
    """
    y0 = jnp.array([1.0, 0.0, 0.0])

    def end(p):
        options = {
            "solver": diffrax.Kvaerno5(),
            "rtol": 1e-8,
            "atol": 1e-12,
            "sensitivity": SENSITIVITIES[name],
        }
        return adjoint.ode_solve(stiff, y0, p, 0.0, 40.0, **options).value

    y, J = jax.jit(lambda p: (end(p), jax.jacrev(end)(p)))(jnp.ones(3))
    np.testing.assert_allclose(y, [7.1583e-01, 9.1851e-06, 2.8416e-01], rtol=1e-4)
    for column, rate, printed in (
        (0, 0.04, [-4.2475e00, 4.5913e-05, 4.2475e00]),
        (1, 3e7, [-2.2883e-09, -1.1380e-13, 2.2884e-09]),
        (2, 1e4, [1.3731e-05, -2.3573e-10, -1.3730e-05]),
    ):
        np.testing.assert_allclose(J[:, column] / rate, printed, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("K", "size"), [(1e7, 1e5), (1e4, 1e8), (1e12, 1.0)])
def test_stiffness_that_ends_within_a_step(K, size, monkeypatch):
    """Half of 70 states rest at size p, held there until t = 1/2.

    The matrix at the start of a step tells nothing of its stages.
    """
    monkeypatch.setattr(runge_kutta, "MANY", 1)
    n = 35

    def f(t, y, p):
        k = jnp.where(t < 0.5, K, 0.0)
        return jnp.concatenate([-0.3 * y[:n], -k * (y[n:] - size * p)])

    def g(p):
        start = jnp.concatenate([jnp.ones(n), jnp.full(n, size * p)])
        end = adjoint.ode_solve(f, start, p, 0.0, 1.0, solver=diffrax.Kvaerno5()).value
        return jnp.sum(end[:n]) + jnp.sum(end[n:]) / size

    np.testing.assert_allclose(jax.grad(g)(2.0), n, rtol=1e-6)


class TestTrust:
    def test_a_harmless_gradient_is_certified(self):
        case = coupled()
        solution = adjoint.ode_solve(
            _pull, case.y0, case.p["own"], 0.0, 1.0, certificate=True, rtol=1e-8, atol=1e-10
        )
        assert solution.status.name == "SUCCESS"
        assert solution.stats["gradient_digits"] > 5
        # Disturbances of a decay do not grow.
        assert solution.stats["growth"] < 10
        assert solution.stats["disagreement"] < 1e-6

    @pytest.mark.slow
    def test_a_chaotic_gradient_is_untrusted(self):
        """A double pendulum of two unit masses and lengths, released with both arms raised.

        There is no digit of a gradient at T = 20.
        """

        def end(y0, T):
            return adjoint.ode_solve(
                double_pendulum, y0, 9.81, 0.0, T, rtol=1e-8, atol=1e-8, certificate=True
            )

        y0 = jnp.array([3 * np.pi / 4, np.pi, 0.0, 0.0])
        long, short = end(y0, 20.0), end(y0, 1.0)
        assert long.status.name == "UNTRUSTED"
        assert np.all(np.isnan(long.value))
        # NaN where tangents have found no steps to suit them.
        assert not long.stats["gradient_digits"] >= 1
        assert long.stats["growth"] > 1e6
        assert short.status.name == "SUCCESS"
        assert short.stats["gradient_digits"] > 3
        gradient = jax.grad(lambda y0: end(y0, 20.0).value[0])(y0)
        assert np.all(np.isnan(gradient))
        with pytest.raises(adjoint.SolveError, match=r"UNTRUSTED.*growth"):
            adjoint.require(long)

    @pytest.mark.slow
    def test_at_the_stability_limit_the_default_is_right_and_says_so(self):
        """The Brusselator on 16 x 16 points.

        Reference: the exact gradient of equal steps well inside stability.
        """
        f, y0, p = brusselator(16)

        def gradient(**options):
            def g(y0):
                solution = adjoint.ode_solve(f, y0, p, 0.0, 1.0, max_steps=100_000, **options)
                return 0.5 * jnp.sum(solution.value**2), solution

            bar, solution = jax.jit(jax.grad(g, has_aux=True))(y0)
            return np.asarray(bar), solution

        reference, _ = gradient(steps=20_000, sensitivity=adjoint.DiscreteAdjoint())
        (default, solution), (discrete, other) = (
            gradient(),
            gradient(sensitivity=adjoint.DiscreteAdjoint()),
        )
        norm = np.linalg.norm(reference)
        assert np.linalg.norm(default - reference) < 1e-3 * norm
        # Its estimate tells it, and it takes other steps.
        assert np.linalg.norm(discrete - reference) < 1e-3 * norm
        assert bool(solution.stats["at_stability_limit"])
        assert bool(other.stats["at_stability_limit"])


def _pull(_, y, p):
    return p * y


def double_pendulum(_, y, g):
    """Angles and angular velocities of two unit masses on unit rods."""
    a, b, u, v = y
    d = a - b
    bottom = 3 - jnp.cos(2 * d)
    u_dot = (
        -3 * g * jnp.sin(a) - g * jnp.sin(a - 2 * b) - 2 * jnp.sin(d) * (v**2 + u**2 * jnp.cos(d))
    ) / bottom
    v_dot = 2 * jnp.sin(d) * (2 * u**2 + 2 * g * jnp.cos(a) + v**2 * jnp.cos(d)) / bottom
    return jnp.stack([u, v, u_dot, v_dot])


def brusselator(n):
    """The Brusselator u' = 10 lap(u) + 1 + u^2 v - 4.4 u, v' = 10 lap(v) + 3.4 u - u^2 v.

    It is on the periodic unit square, with its Laplacian.
    """
    x = np.linspace(0, 1, n)
    u0, v0 = (
        22 * (x * (1 - x))[None, :] ** 1.5 * np.ones((n, 1)),
        27 * (x * (1 - x))[:, None] ** 1.5 * np.ones((1, n)),
    )

    def laplacian(z):
        neighbours = sum(jnp.roll(z, shift, axis) for shift in (1, -1) for axis in (0, 1))
        return (neighbours - 4 * z) * (n - 1) ** 2

    def f(_, y, p):
        u, v = y.reshape(2, n, n)
        du = p * laplacian(u) + 1 + u**2 * v - 4.4 * u
        dv = p * laplacian(v) + 3.4 * u - u**2 * v
        return jnp.concatenate([du.ravel(), dv.ravel()])

    return f, jnp.asarray(np.concatenate([u0.ravel(), v0.ravel()])), jnp.asarray(10.0)
