"""The benchmark of ordinary differential equations: its problems, right answers and competitors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.answers import GRADIENT
from benchmarks.ode import casadi_peer, torch_peer
from benchmarks.ode.cases import (
    PROBLEMS,
    Case,
    brusselator,
    double_pendulum,
    lotka_volterra,
    neural,
    robertson,
)
from benchmarks.ode.reference import (
    answers,
    by_adjoint_equations,
    by_variational_equations,
    gradient_error,
)
from benchmarks.ode.solvers import CASADI, DIFFRAX_DEFAULT, ODEINT, OUR_DEFAULT, SOLVERS

# Small and short, with the names of the real ones, since solvers are chosen by those.
TINY: dict[str, Case] = {
    "Lotka-Volterra": replace(lotka_volterra(3), ts=np.array([0.5, 1.0, 1.5])),
    "double pendulum": double_pendulum(0.5),
    "neural ODE": neural("neural ODE", 1.0, 2, features=2, width=3, batch=2),
    "long neural ODE": neural("long neural ODE", 3.0, 2, features=2, width=3, batch=2),
    "Robertson": robertson(0.1, 3),
    "Brusselator, explicit": brusselator("Brusselator, explicit", False, N=3, end=0.2),
    "Brusselator, implicit": brusselator("Brusselator, implicit", True, N=3, end=0.2),
}


def drawn(case):
    return case.draw(np.random.default_rng(0))


def test_the_problems_are_those_that_were_announced():
    sizes = {
        name: (case.n, case.p.size, case.ts.size)
        for name, make in PROBLEMS.items()
        for case in [make()]
    }
    assert sizes["Lotka-Volterra"] == (2, 4, 100)
    assert sizes["neural ODE"][1] == sizes["long neural ODE"][1] == 5514
    assert sizes["Robertson"] == (3, 3, 20)
    assert sizes["Brusselator, explicit"] == sizes["Brusselator, implicit"] == (512, 768, 1)
    assert {case.problem for case in TINY.values()} == set(TINY) == set(PROBLEMS)


def test_the_network_turns_small_states():
    case = neural("neural ODE", 1.0, 2, features=3, width=8, batch=2)
    layers = case.f.layers(case.p)
    assert sum(W.size + b.size for W, b in layers) == case.p.size
    without_bias = np.concatenate([np.append(W, 0 * b) for W, b in layers])
    J = jax.jacobian(lambda y: case.f(0.0, y, case.arranged(jnp.asarray(without_bias))))(
        jnp.zeros(6)
    )
    np.testing.assert_allclose(J, -J.T, atol=1e-14)
    np.testing.assert_array_equal(J[:3, 3:], 0)


def test_diffusion_of_the_brusselator():
    # u = cos(2 pi i / N) is an eigenvector of periodic differences: -4 sin^2(pi / N) (N - 1)^2.
    f = brusselator("Brusselator, explicit", False, N=8).f
    wave = np.cos(2 * np.pi * np.arange(8) / 8)[:, None] * np.ones((1, 8))
    np.testing.assert_allclose(
        f.laplacian(jnp.asarray(wave)), -4 * np.sin(np.pi / 8) ** 2 * 49 * wave, atol=1e-12
    )
    # Without diffusion u = b, v = c / b is the rest.
    rest = jnp.concatenate([jnp.full(64, 2.0), jnp.full(64, 1.5)])
    p = jnp.concatenate([jnp.full(64, 3.0), jnp.full(64, 2.0), jnp.zeros(64)])
    np.testing.assert_allclose(f(0.0, rest, p), 0, atol=1e-14)


@pytest.mark.parametrize("problem", TINY)
def test_the_equations_in_the_symbols_of_casadi_are_those_of_jax(problem):
    casadi = pytest.importorskip("casadi")
    case, generator = TINY[problem], np.random.default_rng(1)
    y, p = generator.uniform(0.2, 0.9, case.n), case.p * generator.uniform(0.8, 1.2, case.p.size)
    equation = casadi_peer.equation(case)
    found = casadi.Function("f", [equation["x"], equation["p"]], [equation["ode"]])(y, p)
    np.testing.assert_allclose(
        found.full().ravel(),
        case.f(0.0, jnp.asarray(y), case.arranged(jnp.asarray(p))),
        rtol=1e-13,
        atol=1e-14,
    )


@pytest.mark.parametrize("problem", torch_peer.PROBLEMS)
def test_the_equations_in_torch_are_those_of_jax(problem):
    torch = pytest.importorskip("torch")
    case, generator = TINY[problem], np.random.default_rng(1)
    y, p = generator.uniform(0.2, 0.9, case.n), case.p * generator.uniform(0.8, 1.2, case.p.size)
    found = torch_peer.rate(case, torch.tensor(y), case.arranged(torch.tensor(p))).numpy()
    np.testing.assert_allclose(
        found, case.f(0.0, jnp.asarray(y), case.arranged(jnp.asarray(p))), rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize(
    ("way", "is_stiff"),
    [
        (by_variational_equations, False),
        (by_variational_equations, True),
        (by_adjoint_equations, False),
    ],
)
def test_the_right_answers_are_those_of_the_closed_form(way, is_stiff):
    """y' = -p y, so y = y0 exp(-p t); the derivatives by the factors of y0 and p are by hand."""
    y0, p, ts = np.array([2.0, 0.5]), np.array([1.0, 3.0]), np.array([0.5, 1.0])
    data, scale = np.array([[0.3, 0.1], [0.2, -0.1]]), np.array([1.0, 2.0])
    case = Case("decay", lambda t, y, p: -p * y, y0, p, True, ts, data, scale, is_stiff)
    factors = np.array([1.1, 0.9, 1.2, 0.8])
    y = y0 * factors[:2] * np.exp(-p * factors[2:] * ts[:, None])
    weights = (y - data) / scale**2 / 4
    gradient = np.concatenate(
        [(weights * y).sum(0) / factors[:2], -(weights * y * ts[:, None]).sum(0) * p]
    )
    found = way(case, factors)
    assert found.value == pytest.approx(0.5 * np.mean(((y - data) / scale) ** 2), rel=1e-11)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-10)


def test_both_ways_to_the_right_answers_agree():
    case = TINY["Lotka-Volterra"]
    one, other = (
        by_variational_equations(case, drawn(case)),
        by_adjoint_equations(case, drawn(case)),
    )
    assert one.value == pytest.approx(other.value, rel=1e-11)
    assert gradient_error(case, one.gradient, other.gradient) < 1e-9


def test_an_error_in_either_part_is_seen():
    case, right = TINY["Lotka-Volterra"], np.array([1e-3, 1e-3, 1e3, 1e3, 1e3, 1e3])
    assert gradient_error(case, right + np.array([1e-3, 0, 0, 0, 0, 0]), right) == pytest.approx(
        0.5**0.5
    )
    assert gradient_error(case, right * np.array([1, 1, 1, 1, 1, 1.5]), right) == pytest.approx(
        0.25
    )
    assert gradient_error(case, right * np.nan, right) == np.inf


def assert_agrees(case, solver, expected):
    if solver.obstacle(case):
        pytest.skip(solver.obstacle(case))
    factors = drawn(case)
    function = solver.functions(case)[GRADIENT][0]
    found = jax.block_until_ready(jax.jit(function)(factors, factors, ()))
    assert float(found[0]) == pytest.approx(expected.value, rel=1e-3)
    assert gradient_error(case, found[1], expected.gradient) < 3e-3


@pytest.mark.slow
def test_the_right_answer_is_computed_once_for_explicit_and_implicit_solvers():
    explicit, implicit = TINY["Brusselator, explicit"], TINY["Brusselator, implicit"]
    found = answers(explicit, drawn(explicit))
    assert answers(implicit, drawn(implicit)) is found
    other = answers(explicit, 1.01 * drawn(explicit))
    assert not np.allclose(other.gradient, found.gradient, rtol=1e-4)


# Of each library the one that compiles fastest; the others are among the slow ones.
QUICK_ONES = (
    OUR_DEFAULT,
    "adjoint DiscreteAdjoint",
    DIFFRAX_DEFAULT,
    ODEINT,
    CASADI,
    "torchdiffeq",
)


@pytest.mark.parametrize(
    "solver", [s for s in SOLVERS if s.name in QUICK_ONES], ids=lambda s: s.name
)
@pytest.mark.slow
def test_gradients_agree_with_the_reference(solver, right_answers):
    assert_agrees(TINY["Lotka-Volterra"], solver, right_answers("Lotka-Volterra"))


# What integrates the state backwards fails where it decays fast, as its documentation says.
BACKWARDS, DECAYING = (
    ("diffrax BacksolveAdjoint", ODEINT),
    ("Robertson", "Brusselator, explicit", "Brusselator, implicit"),
)
ALL = [
    (p, s)
    for p in TINY
    for s in SOLVERS
    if p in s.problems and not (s.name in BACKWARDS and p in DECAYING)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "solver"), ALL, ids=lambda given: getattr(given, "name", given)
)
def test_everybody_agrees_with_the_reference(problem, solver, right_answers):
    assert_agrees(TINY[problem], solver, right_answers(problem))


@pytest.fixture(scope="module")
def right_answers():
    found = {}

    def of(problem):
        if problem not in found:
            found[problem] = answers(TINY[problem], drawn(TINY[problem]))
        return found[problem]

    return of
