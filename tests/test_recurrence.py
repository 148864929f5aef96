"""recurrence: plain JAX's gradient with any number of checkpoints, in every mode.

Also what it refuses, and what diverges.
"""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint

X0 = {"u": jnp.array([0.3, -0.8]), "v": jnp.array(0.5)}
P = {"a": jnp.array([0.9, 0.4]), "b": jnp.array(0.05), "shift": jnp.array([1, 0])}
CHECKPOINTS = (None, 1, 2, 3, 7, 70)


def step(k, x, p):
    """A nonlinear map that mixes its states, uses k, and gathers by an integer parameter."""
    u, v = x["u"], x["v"]
    return {
        "u": jnp.sin(u[p["shift"]]) * p["a"] + 0.1 * v,
        "v": jnp.cos(v * u[0]) + p["b"] * k / (k + 1.0),
    }


def cost(k, x, p):
    return p["b"] * k * x["v"] ** 2 + jnp.sum(p["a"] * x["u"] ** 3)


def objective(x, integral):
    return jnp.sin(x["u"][0]) * x["v"] + 3.0 * x["u"][1] + integral


def by_recurrence(checkpoints, steps, x0, varying, **options):
    p = {**varying, "shift": P["shift"]}
    solution = adjoint.recurrence(
        step, x0, p, steps, running_cost=cost, checkpoints=checkpoints, **options
    )
    return objective(*solution.value)


def by_scan(steps, x0, varying):
    p = {**varying, "shift": P["shift"]}
    body = lambda x, k: (step(k, x, p), cost(k, x, p))
    x, costs = jax.lax.scan(body, x0, jnp.arange(steps))
    return objective(x, jnp.sum(costs))


VARYING = {"a": P["a"], "b": P["b"]}


@functools.cache
def gradient(checkpoints, steps):
    return jax.jit(
        jax.value_and_grad(functools.partial(by_recurrence, checkpoints, steps), (0, 1))
    )(X0, VARYING)


@functools.cache
def expected(steps):
    return jax.jit(jax.value_and_grad(functools.partial(by_scan, steps), (0, 1)))(X0, VARYING)


def assert_close(found, expected, rtol=1e-12):
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=rtol, atol=1e-14), found, expected
    )


FAST = [(c, 50) for c in (None, 3, 15)] + [(None, 0), (2, 1)]
SLOW = [(c, n) for c in CHECKPOINTS for n in (0, 1, 2, 7, 50, 1000) if (c, n) not in FAST]


@pytest.mark.parametrize(
    ("checkpoints", "steps"), [*FAST, *(pytest.param(*c, marks=pytest.mark.slow) for c in SLOW)]
)
def test_every_schedule_equals_plain_jax_and_gives_the_same_bits(checkpoints, steps):
    assert_close(gradient(checkpoints, steps), expected(steps))
    jax.tree.map(
        np.testing.assert_array_equal, gradient(checkpoints, steps)[1], gradient(None, steps)[1]
    )


@pytest.mark.parametrize("checkpoints", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_second_derivatives(checkpoints):
    """jacfwd of the gradient against jax.hessian of a scan; there is no reverse over reverse."""

    def flat(f):
        def g(z):
            return f({"u": z[:2], "v": z[2]}, {"a": z[3:5], "b": z[5]})

        return g

    z = jnp.concatenate([X0["u"], X0["v"][None], P["a"], P["b"][None]])
    found = jax.jit(jax.jacfwd(jax.grad(flat(functools.partial(by_recurrence, checkpoints, 12)))))(
        z
    )
    assert_close(found, jax.jit(jax.hessian(flat(functools.partial(by_scan, 12))))(z), rtol=1e-11)
    both = functools.partial(by_recurrence, checkpoints, 12, mode="both")
    assert_close(
        jax.jit(jax.jacfwd(flat(both)))(z),
        jax.jit(jax.grad(flat(functools.partial(by_scan, 12))))(z),
    )


def test_lanes_of_a_batch():
    """Batched gradients are the single ones."""
    scales = jnp.array([1.0, 0.7, -0.4])
    lanes = jax.tree.map(lambda leaf: jnp.stack([s * leaf for s in scales]), X0)
    found = jax.jit(jax.vmap(jax.grad(functools.partial(by_recurrence, 3, 50)), (0, None)))(
        lanes, VARYING
    )
    wanted = jax.jit(jax.vmap(jax.grad(functools.partial(by_scan, 50)), (0, None)))(lanes, VARYING)
    assert_close(found, wanted)


def test_closures_integers_and_float32():
    """x[k+1] = q x[k] + w[k], both closed over: x[3] = q^3 x0 + q^2 w[0] + q w[1] + w[2]."""

    def end(q, w, x0):
        return adjoint.recurrence(
            lambda k, x, p: q * x + w[k * p], x0, jnp.asarray(1), 3, checkpoints=2
        ).value

    q, w, x0 = (jnp.asarray(v, jnp.float32) for v in (0.5, [1.0, 2.0, 4.0], 8.0))
    value, bars = jax.value_and_grad(end, (0, 1, 2))(q, w, x0)
    assert {leaf.dtype for leaf in (value, *bars)} == {np.dtype("float32")}
    # 1 + 1 + 4 + 0.25; d/dq = 3 q^2 x0 + 2 q w0 + w1
    np.testing.assert_allclose(value, 6.25, rtol=1e-6)
    for bar, by_hand in zip(bars, (9.0, [0.25, 0.5, 1.0], 0.125), strict=True):
        np.testing.assert_allclose(bar, by_hand, rtol=1e-6)


@pytest.mark.parametrize("checkpoints", [None, 2])
def test_what_diverges_or_is_not_finite_is_nan_in_value_and_gradient(checkpoints):
    """x[k+1] = p x[k]^2 leaves the numbers in twenty steps from x0 > 1/p; the last lane is fine."""

    def evaluate(x0, p):
        def run(x0, p):
            solution = adjoint.recurrence(
                lambda _, x, p: p["a"] * x**2 + 0.0 * p["b"], x0, p, 20, checkpoints=checkpoints
            )
            return solution.value, solution.status

        return jax.value_and_grad(run, (0, 1), has_aux=True)(x0, p)

    x0 = jnp.array([2.0, np.nan, 0.5, np.inf, 0.5])
    p = {"a": jnp.array([1.0, 1.0, np.nan, 1.0, 1.0]), "b": jnp.ones(5)}
    (value, status), gradient = jax.jit(jax.vmap(evaluate))(x0, p)
    codes = ["DIVERGED", *["NONFINITE_INPUT"] * 3, "SUCCESS"]
    assert [adjoint.Status(code).name for code in status.code] == codes
    for leaf in jax.tree.leaves((value, gradient)):
        np.testing.assert_array_equal(np.isnan(leaf), [True] * 4 + [False])
    single = jax.tree.map(lambda leaf: leaf[0], (x0, p))
    (value, status), gradient = evaluate(*single)
    assert status.name == "DIVERGED"
    assert all(np.isnan(leaf) for leaf in jax.tree.leaves((value, gradient)))
    with pytest.raises(adjoint.SolveError, match=r"recurrence of 20 steps.*DIVERGED"):
        adjoint.require(adjoint.recurrence(lambda _, x, p: p * x**2, single[0], 1.0, 20))


def test_no_steps_return_the_start():
    solution = adjoint.recurrence(step, X0, P, 0, running_cost=cost)
    jax.tree.map(np.testing.assert_array_equal, adjoint.require(solution), (X0, jnp.zeros(())))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": -1}, ValueError, "steps = -1, expected an integer of at least 0"),
        ({"steps": 2.0}, ValueError, "steps = 2.0, expected an integer"),
        ({"checkpoints": 0}, ValueError, "checkpoints = 0, expected at least 1"),
        ({"mode": "forward"}, ValueError, 'mode = \'forward\', expected "reverse" or "both"'),
        ({"x0": jnp.array([1, 2])}, TypeError, "x0 with int64, expected floating-point"),
        (
            {"x0": {"a": jnp.ones(2), "b": jnp.ones(2, jnp.float32)}},
            TypeError,
            "x0 with float32 and float64, expected",
        ),
        ({"x0": {}}, TypeError, "x0 with no arrays, expected floating-point"),
        (
            {"f": lambda _, x, __: x[:1]},
            ValueError,
            r"f that returns \(\(1,\), 'float64'\), expected \(\(2,\), 'float64'\)",
        ),
        (
            {"f": lambda _, x, __: x.astype(jnp.float32)},
            ValueError,
            "f that returns .*float32.*, expected .*float64",
        ),
        ({"f": lambda _, x, __: {"x": x}}, ValueError, "f that returns {'x': .*expected .*as x0"),
    ],
)
def test_what_is_no_recurrence_is_refused(change, error, message):
    given = {"f": lambda _k, x, _p: x, "x0": jnp.ones(2), "p": 1.0, "steps": 3} | change
    with pytest.raises(error, match="recurrence: .*" + message):
        adjoint.recurrence(**given)


MILLION_STEPS = """
import resource
import jax, jax.numpy as jnp
import adjoint
jax.config.update("jax_enable_x64", True)

def step(k, x, p):
    return p * (x + 0.1 * jnp.roll(x, 1)) / (1 + x * x)

def end(x0, p):
    return jnp.sum(adjoint.recurrence(step, x0, p, steps).value)

x0 = jnp.linspace(0.1, 1.0, 1000)
compiled = {}
for steps in (4, 1_000_000):
    compiled[steps] = jax.jit(jax.grad(end, (0, 1))).lower(x0, jnp.asarray(1.3)).compile()
jax.block_until_ready(compiled[4](x0, jnp.asarray(1.3)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x0_bar, p_bar = jax.block_until_ready(compiled[1_000_000](x0, jnp.asarray(1.3)))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert bool(jnp.isfinite(p_bar)), p_bar
print((after - before) / 1024, float(p_bar))
"""


@pytest.mark.slow
def test_a_million_steps_of_a_thousand_states_fit_into_200_megabytes():
    """The fixed point x (1 + x^2) = 1.1 p x has x = sqrt(1.1 p - 1): d(sum x)/dp = 550 / x.

    Every state has it.
    """
    run = subprocess.run(
        [sys.executable, "-c", MILLION_STEPS], capture_output=True, text=True, check=True
    )
    megabytes, p_bar = (float(word) for word in run.stdout.split())
    assert megabytes < 200
    assert p_bar == pytest.approx(550 / np.sqrt(0.43), rel=1e-9)
