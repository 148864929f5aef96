"""ode_solve: values and derivatives in every mode against closed forms (`ode_cases.py`).

They are of linear equations, by the default sensitivity and by each other one.
"""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from ode_cases import coupled, coupling, error, exact, exact_states, exponential, nonnormal, solved

import adjoint

TIGHT = {"rtol": 1e-9, "atol": 1e-11}
# Errors of a gradient are some hundred times those that a step is allowed.
GRADIENT_ERROR = 1e3 * TIGHT["rtol"]
SENSITIVITIES: dict[str, Any] = {
    "chosen": None,
    "discrete": adjoint.DiscreteAdjoint(),
    "Gauss": adjoint.GaussAdjoint(),
    "interpolating": adjoint.InterpolatingAdjoint(),
    "backsolve": adjoint.BacksolveAdjoint(),
}


def slow(*cases):
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]


@pytest.mark.parametrize(
    ("n", "name"),
    [
        (50, "chosen"),
        *slow(
            (1, "chosen"),
            (7, "chosen"),
            *((n, name) for n in (2, 7) for name in SENSITIVITIES if name != "chosen"),
            (50, "Gauss"),
        ),
    ],
)
def test_a_linear_functional_has_the_gradient_of_the_exponential(n, name):
    A, b, c, y0, w = nonnormal(n)
    given = {"A": A, "b": b, "c": c, "y0": y0, "t0": np.asarray(0.3), "t1": np.asarray(1.4)}

    @jax.jit
    @jax.value_and_grad
    def found(q):
        f = lambda t, y, _: q["A"] @ y + q["b"] + t * q["c"]
        options = {"sensitivity": SENSITIVITIES[name], **TIGHT}
        return w @ adjoint.ode_solve(f, q["y0"], None, q["t0"], q["t1"], **options).value

    assert error(found(given), exponential(A, b, c, y0, w, 0.3, 1.4)) < GRADIENT_ERROR


@functools.cache
def flat_case():
    return ravel_pytree(coupled())


@functools.cache
def exact_derivatives(kind):
    """The closed form with its gradient and Hessian by all that it depends on, as one vector.

    That is y0, p, what is closed over, t0, t1 and ts.
    """
    z, unravel = flat_case()
    g = lambda z: exact(kind, unravel(z))
    return jax.jit(lambda z: (g(z), jax.grad(g)(z), jax.hessian(g)(z)))(z)


def flat_objective(kind, **options):
    _, unravel = flat_case()
    return lambda z: solved(adjoint.ode_solve, kind, unravel(z), **TIGHT, **options)


V = jnp.asarray(np.random.default_rng(1).normal(size=12))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("discrete", "terminal"),
        *slow(*((name, kind) for name in SENSITIVITIES for kind in ("cost", "mixed"))),
    ],
)
@pytest.mark.slow
def test_hessians(name, kind):
    """jacfwd of the gradient."""
    z, _ = flat_case()
    gradient = jax.grad(flat_objective(kind, sensitivity=SENSITIVITIES[name]))
    found = jax.jit(jax.jacfwd(gradient))(z)
    assert error(found, exact_derivatives(kind)[2]) < 10 * GRADIENT_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("name", SENSITIVITIES)
def test_hessian_vector_products(name):
    z, _ = flat_case()
    g = flat_objective("cost", sensitivity=SENSITIVITIES[name])
    _, gradient, hessian = exact_derivatives("cost")
    found = jax.jit(lambda z: jax.jvp(jax.grad(g), (z,), (V,)))(z)
    assert error(found, (gradient, hessian @ V)) < 10 * GRADIENT_ERROR


@pytest.mark.parametrize("kind", ["samples", "terminal", "cost", "mixed"])
@pytest.mark.slow
def test_both_modes(kind):
    z, _ = flat_case()
    g = flat_objective(kind)
    value, gradient, _ = exact_derivatives(kind)
    found = jax.jit(lambda z: (jax.jvp(g, (z,), (V,)), jax.grad(g)(z)))(z)
    assert error(found, ((value, gradient @ V), gradient)) < GRADIENT_ERROR


@pytest.mark.slow
def test_second_derivatives_in_both_modes():
    z, _ = flat_case()
    g = flat_objective("mixed")
    hessian = exact_derivatives("mixed")[2]
    assert error(jax.jit(jax.jacfwd(jax.grad(g)))(z), hessian) < 10 * GRADIENT_ERROR
    assert error(jax.jit(jax.jacfwd(jax.jacfwd(g)))(z), hessian) < 10 * GRADIENT_ERROR
    with pytest.raises(NotImplementedError, match="expected reverse mode innermost"):
        jax.grad(lambda z: jax.grad(g)(z) @ V)(z)


@pytest.mark.parametrize(
    "name", ["chosen", *slow("discrete", "Gauss", "interpolating", "backsolve")]
)
def test_lanes_of_a_batch(name):
    """Initial states, parameters and ends all differ, so that lanes take different steps."""
    z, unravel = flat_case()
    lanes = jnp.stack([z, z * 1.1, z.at[:2].set(-z[:2])])
    g = flat_objective("mixed", sensitivity=SENSITIVITIES[name])
    found = jax.jit(jax.vmap(jax.value_and_grad(g)))(lanes)
    expected = jax.jit(jax.vmap(jax.value_and_grad(lambda z: exact("mixed", unravel(z)))))(lanes)
    assert error(found, expected) < GRADIENT_ERROR


def test_states_may_be_pytrees_and_parameters_hold_integers():
    """Two decays, rates by index: y_i(t) = y_i(0) exp(-a_[k_i] t), d y_0/d a_[k_0] = -t y_0."""

    def decay(t, y, p):
        rate = p["a"][p["k"]]
        return {"u": -rate * y["u"], "v": (jnp.exp(-t) * y["v"][0],)}

    def end(y0, p):
        solution = adjoint.ode_solve(decay, y0, p, 0.0, 2.0, ts=[0.5, 2.0], **TIGHT)
        return solution.value["u"][1, 0], solution.value

    y0 = {"u": jnp.array([3.0, 1.0]), "v": (jnp.ones((1, 1)),)}
    p = {"a": jnp.array([0.4, 0.2, 0.7]), "k": jnp.array([2, 0])}
    (value, states), (y0_bar, p_bar) = jax.value_and_grad(
        end, (0, 1), has_aux=True, allow_int=True
    )(y0, p)
    assert value == pytest.approx(3 * np.exp(-1.4), rel=1e-8)
    np.testing.assert_allclose(states["u"][0], [3 * np.exp(-0.35), np.exp(-0.2)], rtol=1e-7)
    np.testing.assert_allclose(states["v"][0][:, 0, 0], np.exp(1 - np.exp([-0.5, -2.0])), rtol=1e-7)
    np.testing.assert_allclose(p_bar["a"], [0, 0, -6 * np.exp(-1.4)], rtol=1e-7, atol=1e-12)
    assert p_bar["k"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(y0_bar["u"], [np.exp(-1.4), 0], rtol=1e-7, atol=1e-12)


@pytest.mark.slow
def test_float32():
    case, options = coupled(), {"rtol": 1e-5, "atol": 1e-6}
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case)
    found = jax.jit(
        jax.value_and_grad(lambda case: solved(adjoint.ode_solve, "mixed", case, **options))
    )(single)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {"float32"}
    assert error(found, jax.value_and_grad(lambda case: exact("mixed", case))(case)) < 1e-3


def test_one_compilation_for_each_f():
    case, traces = coupled(), []

    def counted(t, y, p):
        traces.append(1)
        return coupling(0.0)(t, y, p)

    for scale in (1.0, 2.0, 3.0):
        before = len(traces)
        end = adjoint.require(adjoint.ode_solve(counted, scale * case.y0, case.p, 0.0, 1.0))
        there = case._replace(y0=scale * case.y0, drive=0.0, t0=0.0)
        np.testing.assert_allclose(end, exact_states(there, jnp.ones(1))[0], rtol=1e-5)
    # The shape of what f returns is looked at in every call.
    assert len(traces) - before <= 1


def test_samples_of_a_stiff_solver_are_as_accurate_as_its_end():
    """y' = -k (y - sin t) + cos t: y = sin t + exp(-k t), k = 1e3; cubics miss it by 1e-5."""
    k, ts = 1e3, jnp.concatenate([jnp.geomspace(1e-4, 1e-2, 10), jnp.linspace(0.1, 3, 10)])

    def relax(t, y, k):
        return -k * (y - jnp.sin(t)) + jnp.cos(t)

    solution = adjoint.ode_solve(relax, jnp.ones(()), k, 0.0, 3.0, ts=ts, solver=diffrax.Kvaerno5())
    # The error of one step is below 1e-8, and nothing amplifies it.
    np.testing.assert_allclose(solution.value, jnp.sin(ts) + jnp.exp(-k * ts), atol=2e-8, rtol=0)


@pytest.mark.parametrize("dtypes", [(jnp.float64, jnp.float32), (jnp.float32, jnp.float64)])
@pytest.mark.parametrize(
    "name", ["interpolating", *slow("chosen", "discrete", "Gauss", "backsolve")]
)
def test_parameters_may_be_of_another_precision(name, dtypes):
    """y' = -p y, p = 1/2 exact in both; p's gradient -y0 t exp(-p t) is in p's precision."""
    of_y, of_p = dtypes

    def end(p):
        field = lambda t, y, p: (-p * y).astype(of_y)
        options = {
            "sensitivity": SENSITIVITIES[name],
            "rtol": 1e-5,
            "ts": jnp.array([0.5, 2.0], of_y),
        }
        return jnp.sum(adjoint.ode_solve(field, jnp.ones(20, of_y), p, 0.0, 2.0, **options).value)

    p = jnp.full(20, 0.5, of_p)
    gradient = jax.grad(end)(p)
    assert gradient.dtype == of_p
    np.testing.assert_allclose(gradient, -0.5 * np.exp(-0.25) - 2 * np.exp(-1), rtol=1e-3)


@pytest.mark.parametrize("name", ["interpolating", "Gauss", "discrete"])
@pytest.mark.slow
def test_second_derivatives_by_sample_times_of_a_stiff_solver(name):
    """y' = -p y^2: y = 1 / (1/y0 + p t), so that d2y/dy0 dt = -2 p y^3 / y0^2."""

    def sample(y0, ts):
        options = {
            "sensitivity": SENSITIVITIES[name],
            "solver": diffrax.Kvaerno5(),
            "ts": ts,
            **TIGHT,
        }
        return adjoint.ode_solve(lambda t, y, p: -p * y**2, y0, 2.0, 0.0, 1.0, **options).value[0]

    y0, ts = jnp.asarray(1.5), jnp.array([0.3])
    found = jax.jit(jax.jacfwd(jax.grad(sample), argnums=1))(y0, ts)
    y = 1 / (1 / 1.5 + 2 * 0.3)
    np.testing.assert_allclose(found, [-2 * 2 * y**3 / 1.5**2], rtol=1e-4)


@pytest.mark.parametrize("name", ["chosen", *slow("discrete", "Gauss", "interpolating", "forward")])
def test_a_slope_with_an_infinite_derivative_in_time_at_the_start(name):
    """y' = p sqrt(t) y: y = y0 exp(2/3 p t^1.5), sampled at the start too."""
    sensitivities = {**SENSITIVITIES, "forward": adjoint.ForwardSensitivity()}

    def total(q):
        y0, p, ts = q
        options = {"ts": ts, "sensitivity": sensitivities[name], **TIGHT}
        return jnp.sum(
            adjoint.ode_solve(lambda t, y, p: p * jnp.sqrt(t) * y, y0, p, 0.0, 1.0, **options).value
        )

    def closed(q):
        y0, p, ts = q
        return y0 * (1 + jnp.sum(jnp.exp(2 / 3 * p * ts[1:] ** 1.5)))

    q = (jnp.asarray(1.3), jnp.asarray(0.7), jnp.array([0.0, 0.5, 1.0]))
    assert (
        error(jax.jit(jax.value_and_grad(total))(q), jax.value_and_grad(closed)(q)) < GRADIENT_ERROR
    )


@pytest.mark.slow
def test_a_sample_at_the_start_moves_with_its_slope():
    """y' = p y: of y0 exp(p s) at s = 0 the derivatives by s are p y0 and p^2 y0.

    The mixed ones are p (with y0) and y0 (with p).
    """

    def sample(q):
        y0, p, ts = q
        options = {"ts": ts, "sensitivity": adjoint.DiscreteAdjoint()}
        return adjoint.ode_solve(lambda t, y, p: p * y, y0, p, 0.0, 1.0, **options).value[0]

    q = jnp.array([1.3, 0.7, 0.0, 1.0])
    g = lambda q: sample((q[0], q[1], q[2:]))
    gradient, hessian = jax.jit(lambda q: (jax.grad(g)(q), jax.jacfwd(jax.grad(g))(q)))(q)
    np.testing.assert_allclose(gradient, [1, 0, 0.7 * 1.3, 0], atol=1e-14)
    np.testing.assert_allclose(
        hessian[:3, :3], [[0, 0, 0.7], [0, 0, 1.3], [0.7, 1.3, 0.7**2 * 1.3]], atol=1e-14
    )
