"""Promise 3 for ode_solve: what fails is NaN in value and gradient, with a status that says why.

It is NaN in every leaf of the gradient. All faults of adaptive solves are data of one field, so
that each sensitivity is compiled once for a batch of all of them and once for single ones; lanes of
the batch that are healthy must not notice the others.
"""

import functools
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint

MAX_STEPS = 1000


class Data(NamedTuple):
    """What a solve is made of, all of it differentiated."""

    y0: Any
    p: Any
    t0: Any
    t1: Any
    ts: Any


def field(t, y, p):
    """A pole where p_0 y_0 grows faster than p_1 y_0 falls; no real number after t = p_2."""
    return jnp.stack(
        [p["square"] * y[0] ** 2 + p["rate"] * y[0], y[0] - y[1] + 1e-3 * jnp.sqrt(p["hole"] - t)]
    )


def cost(_, y, p):
    return p["rate"] * y[1] ** 2


def data(y0=(1.0, 0.5), p=(0.3, -0.8, 1e6), t1=2.0, ts=(0.0, 0.7, 1.9)):
    square, rate, hole = (jnp.asarray(number) for number in p)
    p = {"square": square, "rate": rate, "hole": hole}
    return Data(jnp.asarray(y0), p, jnp.asarray(0.0), jnp.asarray(t1), jnp.asarray(ts))


FAULTS = {
    "healthy": (data(), "SUCCESS"),
    "also healthy": (data(y0=(0.2, -1.0), ts=(0.1, 0.1, 2.0)), "SUCCESS"),
    "blow-up": (data(y0=(4.0, 0.5)), "STEP_UNDERFLOW"),
    "no field after t = 0.5": (data(p=(0.3, -0.8, 0.5)), "STEP_UNDERFLOW"),
    "no field at all": (data(p=(0.3, -0.8, -1.0)), "STEP_UNDERFLOW"),
    "step limit": (data(t1=1e5, ts=(1.0, 2.0, 3.0)), "MAX_STEPS"),
    "NaN in y0": (data(y0=(1.0, np.nan)), "NONFINITE_INPUT"),
    "Inf in y0": (data(y0=(np.inf, 1.0)), "NONFINITE_INPUT"),
    "NaN in p": (data(p=(0.3, np.nan, 1e6)), "NONFINITE_INPUT"),
    "NaN in ts": (data(ts=(0.0, np.nan, 1.9)), "NONFINITE_INPUT"),
    "NaN in t1": (data(t1=np.nan), "NONFINITE_INPUT"),
    "t1 = t0": (data(t1=0.0), "NONFINITE_INPUT"),
    "ts after t1": (data(ts=(0.0, 0.7, 2.1)), "OUT_OF_RANGE"),
    "ts before t0": (data(ts=(-0.1, 0.7, 1.9)), "OUT_OF_RANGE"),
    "ts not in order": (data(ts=(0.0, 1.9, 0.7)), "OUT_OF_RANGE"),
}
METHODS: dict[str, Any] = {
    "chosen": {},
    "both modes": {"mode": "both"},
    "discrete": {"sensitivity": adjoint.DiscreteAdjoint()},
    "few checkpoints": {"sensitivity": adjoint.DiscreteAdjoint(checkpoints=3)},
    "interpolating": {"sensitivity": adjoint.InterpolatingAdjoint()},
    "Gauss": {"sensitivity": adjoint.GaussAdjoint()},
    "backsolve": {"sensitivity": adjoint.BacksolveAdjoint(reconstruction=1e6)},
    "Kvaerno5, discrete": {"solver": diffrax.Kvaerno5(), "sensitivity": adjoint.DiscreteAdjoint()},
    "Kvaerno5, Gauss": {"solver": diffrax.Kvaerno5(), "sensitivity": adjoint.GaussAdjoint()},
}


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def solve(method, d):
    options = {"running_cost": cost, "max_steps": MAX_STEPS, **METHODS[method]}
    return adjoint.ode_solve(field, d.y0, d.p, d.t0, d.t1, ts=d.ts, **options)


def evaluate(method, d):
    """The value with its status, and the gradient with respect to all data."""

    def total(d):
        solution = solve(method, d)
        return jnp.sum(solution.value[0]) + solution.value[1], solution

    (_, solution), gradient = jax.value_and_grad(total, has_aux=True)(d)
    return solution.value, solution.status.code, gradient


@functools.cache
def compiled(method):
    return jax.jit(functools.partial(evaluate, method))


def status_of(method, name):
    # What is too far for an explicit solver is not for one that may take long steps.
    reaches_the_end = name == "step limit" and "Kvaerno5" in method
    return "SUCCESS" if reaches_the_end else FAULTS[name][1]


def assert_as_expected(method, name, value, code, gradient):
    expected = status_of(method, name)
    assert adjoint.Status(code).name == expected
    for leaf in jax.tree.leaves((value, gradient)):
        finite = np.isfinite(leaf)
        assert np.all(finite) if expected == "SUCCESS" else not np.any(finite), (
            f"{name}: {value} with gradient {gradient}"
        )


@functools.cache
def batch(method):
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(d for d, _ in FAULTS.values()))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(functools.partial(evaluate, method)))(lanes))


FAST = ("chosen",)
REST = [name for name in METHODS if name not in FAST]


@pytest.mark.parametrize("method", [*FAST, *slow(*REST)])
class TestEveryFault:
    @pytest.mark.parametrize("name", FAULTS)
    def test_in_a_batch(self, method, name):
        assert_as_expected(
            method, name, *jax.tree.map(lambda leaf: leaf[list(FAULTS).index(name)], batch(method))
        )

    def test_the_healthy_lanes_are_those_of_single_solves(self, method):
        for lane, name in enumerate(("healthy", "also healthy")):
            single = compiled(method)(FAULTS[name][0])
            lanes = jax.tree.map(lambda leaf: leaf[lane], batch(method))  # noqa: B023
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13), lanes, single
            )

    @pytest.mark.parametrize("name", FAULTS)
    def test_alone(self, method, name):
        assert_as_expected(method, name, *compiled(method)(FAULTS[name][0]))


@pytest.mark.parametrize("method", ["chosen", *slow(*FAST[1:], *REST)])
def test_outside_jit(method):
    for name, (d, _) in FAULTS.items():
        solution, expected = solve(method, d), status_of(method, name)
        assert solution.status.name == expected, name
        assert np.all(np.isnan(solution.value[0])) != (expected == "SUCCESS")
        if expected != "SUCCESS":
            with pytest.raises(adjoint.SolveError, match=f"ode_solve with .*{expected}"):
                adjoint.require(solution)
    for name in ("blow-up", "ts before t0", "no field at all"):
        assert_as_expected(method, name, *evaluate(method, FAULTS[name][0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_forward_mode_and_second_derivatives(name):
    """Tangents of all outputs, and the Hessian of a failed solve: all NaN."""
    d = FAULTS[name][0]
    healthy = FAULTS[name][1] == "SUCCESS"
    dots = jax.tree.map(jnp.ones_like, d)
    _, tangent = _tangents()(d, dots)
    _, product = _products()(d, dots)
    for leaf in jax.tree.leaves((tangent, product)):
        assert np.all(np.isfinite(leaf)) if healthy else np.all(np.isnan(leaf))


@functools.cache
def _tangents():
    return jax.jit(lambda d, dots: jax.jvp(lambda d: solve("both modes", d).value, (d,), (dots,)))


@functools.cache
def _products():
    gradient = lambda d: evaluate("discrete", d)[2]
    return jax.jit(lambda d, dots: jax.jvp(gradient, (d,), (dots,)))


def pole(_, y, p):
    return p * y**2


@pytest.mark.parametrize(
    "name",
    ["Gauss", *slow(*(name for name in METHODS if name != "Gauss" and "Kvaerno5" not in name))],
)
@pytest.mark.parametrize(
    "solver", [diffrax.Tsit5(), pytest.param(diffrax.Kvaerno3(), marks=pytest.mark.slow)]
)
def test_fixed_steps_over_a_pole_diverge(name, solver):
    """y' = y^2 from 1 is infinite at t = 1; an implicit step beyond it has no real root.

    y(0.5) = 2 in the second lane.
    """

    def end(y0, p, t1):
        options = {**METHODS[name], "solver": solver, "steps": 40}
        solution = adjoint.ode_solve(pole, y0, p, 0.0, t1, **options)
        return solution.value[0], solution

    t1 = jnp.array([2.0, 0.5])
    (value, solution), gradient = jax.jit(
        jax.vmap(jax.value_and_grad(end, (0, 1, 2), has_aux=True), (None, None, 0))
    )(jnp.ones(1), jnp.ones(()), t1)
    assert [adjoint.Status(code).name for code in solution.status.code] == ["DIVERGED", "SUCCESS"]
    assert np.isnan(value[0])
    assert value[1] == pytest.approx(2.0, rel=1e-5)
    # y = y0 / (1 - p y0 t)
    for bar, expected in zip(gradient, (4.0, 2.0, 4.0), strict=True):
        assert np.all(np.isnan(bar[0])), f"finite after divergence: {gradient}"
        np.testing.assert_allclose(bar[1], expected, rtol=1e-3)


def test_an_implicit_stage_that_does_not_converge_is_a_failure():
    """y' = 1000 (cos 20 y - y) stays in [-1, 1].

    With two steps its stages have many roots and the iteration finds none.
    """
    wild = lambda _, y, p: p * (jnp.cos(20 * y) - y)
    solution = adjoint.ode_solve(
        wild, jnp.ones(1), jnp.asarray(1e3), 0.0, 1.0, steps=2, solver=diffrax.Kvaerno3()
    )
    assert not bool(solution.status.ok) or abs(solution.value[0]) <= 1


def relay(_, y, p):
    """y' = -p sign(y): at rest at 0 in theory, across it with every step in practice."""
    return -p * jnp.sign(y)


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), *slow(diffrax.Kvaerno5())])
def test_chattering_ends_at_the_step_limit(solver):
    def end(y0, p):
        solution = adjoint.ode_solve(relay, y0, p, 0.0, 2.0, solver=solver, max_steps=500)
        return solution.value[0], solution.status

    (value, status), gradient = jax.value_and_grad(end, (0, 1), has_aux=True)(
        jnp.ones(1), jnp.ones(())
    )
    assert status.name in ("MAX_STEPS", "STEP_UNDERFLOW")
    assert np.isnan(value)
    assert all(np.all(np.isnan(bar)) for bar in gradient)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_single_jump_of_the_field_is_integrated_across(name):
    """y' = y until t = 0.7, then -y: y(2) = exp(0.7 - 1.3), and dy(2)/dy0 the same."""
    flip = lambda t, y, p: jnp.where(t < 0.7, p, -p) * y
    end = lambda y0, p: adjoint.ode_solve(flip, y0, p, 0.0, 2.0, **METHODS[name]).value[0]
    value, bars = jax.value_and_grad(end, (0, 1))(jnp.ones(1), jnp.ones(()))
    np.testing.assert_allclose(value, np.exp(-0.6), rtol=1e-3)
    np.testing.assert_allclose(bars[0], [np.exp(-0.6)], rtol=1e-3)
    np.testing.assert_allclose(bars[1], -0.6 * np.exp(-0.6), rtol=1e-2)


def test_backsolve_of_a_decay_finds_that_it_does_not_come_back():
    """exp(100) times the last rounding error of y(1) is what running back makes of it."""

    def end(y0, p):
        options = {"sensitivity": adjoint.BacksolveAdjoint(), "solver": diffrax.Kvaerno5()}
        solution = adjoint.ode_solve(
            lambda t, y, p: -p * (y - jnp.cos(t)), y0, p, 0.0, 1.0, **options
        )
        return solution.value[0], solution.status

    (value, status), gradient = jax.value_and_grad(end, (0, 1), has_aux=True)(
        jnp.ones(1), jnp.asarray(100.0)
    )
    assert status.name == "SUCCESS"
    # The solution follows (p^2 cos t + p sin t) / (p^2 + 1).
    assert value == pytest.approx((1e4 * np.cos(1) + 100 * np.sin(1)) / 10001, rel=1e-5)
    assert all(np.all(np.isnan(bar)) for bar in gradient)


class NoErrorEstimate(diffrax.Heun):
    tableau = diffrax.ButcherTableau(
        c=np.array([1.0]),
        b_sol=np.array([0.5, 0.5]),
        b_error=np.zeros(2),
        a_lower=(np.array([1.0]),),
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mode": "forward"}, ValueError, 'mode = \'forward\', expected "reverse" or "both"'),
        ({"rtol": 0.0}, ValueError, "rtol = 0.0, expected a positive number"),
        ({"atol": -1.0}, ValueError, "atol = -1.0, expected a positive number"),
        ({"sensitivity": "discrete"}, TypeError, "sensitivity = 'discrete'"),
        ({"sensitivity": adjoint.DiscreteAdjoint}, TypeError, "expected DiscreteAdjoint"),
        ({"max_steps": 0}, ValueError, "max_steps = 0, expected a positive integer"),
        ({"max_steps": 1e3}, ValueError, "max_steps = 1000.0, expected a positive integer"),
        ({"steps": 0}, ValueError, "steps = 0, expected a positive integer"),
        ({"t0": jnp.zeros(1)}, ValueError, r"t0 of shape \(1,\), expected one number"),
        ({"t1": jnp.ones(2)}, ValueError, r"t1 of shape \(2,\), expected one number"),
        ({"ts": 0.5}, ValueError, r"ts of shape \(\), expected a list of times"),
        ({"ts": jnp.zeros(0)}, ValueError, r"ts of shape \(0,\), expected a list of times"),
        (
            {"y0": jnp.array([1, 2])},
            TypeError,
            "y0 with int64, expected real floating-point arrays",
        ),
        ({"y0": jnp.array([1j, 2])}, TypeError, "y0 with complex128.*real and imaginary parts"),
        ({"y0": (jnp.ones(1), jnp.ones(1, jnp.float32))}, TypeError, "y0 with float32 and float64"),
        ({"y0": ()}, TypeError, "y0 with no arrays"),
        (
            {"f": lambda _t, y, _p: y[:1]},
            ValueError,
            r"f that returns \(1,\), expected \(2,\), as y0",
        ),
        ({"f": lambda _t, y, _p: (y,)}, ValueError, r"f that returns \(\(2,\),\), expected \(2,\)"),
        (
            {"solver": diffrax.Euler()},
            TypeError,
            "expected an explicit Runge-Kutta solver of diffrax",
        ),
        (
            {"solver": diffrax.KenCarp4()},
            TypeError,
            "expected an explicit Runge-Kutta solver of diffrax",
        ),
        ({"solver": "Tsit5"}, TypeError, "solver = 'Tsit5', expected"),
        (
            {"solver": NoErrorEstimate()},
            ValueError,
            "expected one with an error estimate. Or give steps",
        ),
    ],
)
def test_what_is_no_problem_is_refused(change, error, message):
    given = {
        "f": lambda _, y, p: -p * y,
        "y0": jnp.ones(2),
        "p": 1.0,
        "t0": 0.0,
        "t1": 1.0,
    } | change
    with pytest.raises(error, match="ode_solve: .*" + message):
        adjoint.ode_solve(**given)


def test_a_field_that_holds_arrays_is_taken():
    class Decay:
        def __init__(self, rate):
            self.rate = rate

        __hash__ = None

        def __call__(self, t, y, p):
            return -self.rate * p * y

    found = jax.grad(
        lambda p: adjoint.ode_solve(Decay(jnp.array(2.0)), 1.0, p, 0.0, 1.0, rtol=1e-9).value
    )(0.5)
    np.testing.assert_allclose(found, -2 * np.exp(-1.0), rtol=1e-7)


def test_checkpoints_that_cannot_be_are_refused():
    with pytest.raises(
        ValueError, match="DiscreteAdjoint: got checkpoints = 0, expected at least 1, or None"
    ):
        adjoint.DiscreteAdjoint(checkpoints=0)
    for kind in (adjoint.InterpolatingAdjoint, adjoint.GaussAdjoint):
        with pytest.raises(ValueError, match="checkpoints = 0, expected at least 1"):
            kind(checkpoints=0)
