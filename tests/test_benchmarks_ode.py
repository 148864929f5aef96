"""The benchmark of ordinary differential equations: its problems, its right answers, its
competitors, its bars.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.answers import GRADIENT, VALUE
from benchmarks.contest import Row, as_record
from benchmarks.harness import Plan
from benchmarks.machine import installed_version
from benchmarks.ode import casadi_peer, comparison, contest, torch_peer
from benchmarks.ode.cases import (
    PROBLEMS,
    Case,
    brusselator,
    double_pendulum,
    lotka_volterra,
    neural,
    robertson,
)
from benchmarks.ode.contest import COMPILE
from benchmarks.ode.reference import (
    answers,
    by_adjoint_equations,
    by_variational_equations,
    gradient_error,
)
from benchmarks.ode.solvers import (
    CASADI,
    DIFFRAX_DEFAULT,
    ODEINT,
    OUR_DEFAULT,
    SOLVERS,
    Solver,
    by_jax,
)

PLAN = Plan(sizes=(), seconds=0.0, limit=1000.0, repetitions=(1, 1), own_process_from=float("inf"))
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


def exact(case):
    """The misfit of two states that do not move, with a gradient by the parameters of zero."""
    return lambda y0, p: jnp.broadcast_to(y0 + 0 * p[0], (case.ts.size, case.n))


@pytest.mark.slow
def test_the_contest_checks_and_then_times(monkeypatch):
    still = Case(
        "still",
        lambda t, y, p: 0 * y * p[0],
        np.ones(2),
        np.ones(1),
        False,
        np.ones(1),
        np.zeros((1, 2)),
        np.ones(2),
    )
    moving = replace(still, f=lambda t, y, p: p[0] * y)

    def crash(_):
        raise RuntimeError("no such solver")

    solvers = [
        Solver(OUR_DEFAULT, by_jax(lambda _: lambda y0, p: (y0 * jnp.exp(p[0]))[None]), ours=True),
        Solver(DIFFRAX_DEFAULT, by_jax(lambda _: lambda y0, p: (y0 * jnp.exp(p[0]))[None])),
        Solver("wrong", by_jax(lambda _: lambda y0, p: (y0 * p[0])[None])),
        Solver("not a number", by_jax(lambda _: lambda y0, p: (y0 * p[0] * jnp.nan)[None])),
        Solver("missing", crash, package="no-such-package"),
        Solver("crashing", crash),
    ]
    said = []
    rows = contest.contest(moving, solvers, PLAN, 2, said.append)
    outcomes = [row.outcome for row in rows]
    assert outcomes == ["measured", "measured", "WRONG", "failed", "skipped", "failed"]
    assert rows[4].reason == "the package no-such-package is not installed"
    assert "no such solver" in rows[5].reason
    # The wrong one is timed too, and named so.
    assert set(rows[2].seconds) == {VALUE, GRADIENT}
    assert rows[3].seconds == {}
    assert [len(row.seconds[COMPILE]) for row in rows[:2]] == [2, 2]
    assert rows[0].errors[GRADIENT] < 1e-10


def test_what_takes_too_long_is_skipped():
    case = TINY["Lotka-Volterra"]
    solver = Solver("slow", by_jax(exact))
    row = Row(case.problem, 2, 6, "slow", False)
    calls = {VALUE: lambda p, v: 0.0, GRADIENT: lambda p, v: (0.0, p)}
    expected = answers(case, drawn(case))
    remaining = contest._examine(row, case, calls, drawn(case), expected, 0.0)
    assert (remaining, set(row.unsupported)) == ({}, {VALUE, GRADIENT})
    assert solver.obstacle(case) is None


@pytest.mark.slow
def test_errors_over_time(monkeypatch):
    monkeypatch.setattr(contest, "PROBLEMS", {"Lotka-Volterra": lambda: TINY["Lotka-Volterra"]})
    mine = [
        Solver(OUR_DEFAULT, SOLVERS[0].functions, ours=True),
        Solver("not compared", SOLVERS[0].functions),
    ]
    monkeypatch.setattr(contest, "SOLVERS", tuple(mine))
    points = contest.precision_sweep("Lotka-Volterra", (1e-4, 1e-8), PLAN, lambda _: None)
    assert [(point["solver"], point["rtol"]) for point in points] == [
        (OUR_DEFAULT, 1e-4),
        (OUR_DEFAULT, 1e-8),
    ]
    assert points[1]["error"] < 1e-6 < points[0]["error"]
    assert all(len(point["seconds"]) == 1 for point in points)


def test_obstacles_and_who_takes_part():
    case = TINY["Robertson"]
    assert Solver("a", by_jax(exact), package="no-such-package").obstacle(case) == (
        "the package no-such-package is not installed"
    )
    entrants = contest.field().entrants
    assert {solver.name for solver in entrants["Robertson"]}.isdisjoint(
        {"jax odeint", "torchdiffeq"}
    )
    assert "adjoint DiscreteAdjoint, 16 checkpoints" in {
        solver.name for solver in entrants["long neural ODE"]
    }
    assert installed_version("jax") == jax.__version__


def row(problem, solver, gradient=1.0, value=1.0, error=1e-6, compiling=1.0, peak=None, ours=False):
    seconds = {VALUE: [value] * 3, GRADIENT: [gradient] * 3, COMPILE: [compiling]}
    errors = {VALUE: 1e-7, GRADIENT: error}
    compile_seconds = {GRADIENT: compiling}
    return Row(
        problem,
        2,
        4,
        solver,
        ours,
        errors=errors,
        seconds=seconds,
        compile_seconds=compile_seconds,
        peak_bytes=peak,
    )


def record(**ours):
    rows = [
        row(
            "Lotka-Volterra",
            OUR_DEFAULT,
            **{"gradient": 2.0, "compiling": 2.0, "ours": True, **ours},
        ),
        row("Lotka-Volterra", DIFFRAX_DEFAULT, gradient=5.0, compiling=8.0, error=1e-5),
        row("long neural ODE", OUR_DEFAULT, ours=True, peak=2**24),
        row("long neural ODE", DIFFRAX_DEFAULT),
        row("long neural ODE", comparison.STORE_ALL, ours=True, peak=2**24),
        row("long neural ODE", comparison.BOUNDED, ours=True, peak=2**20),
    ]
    points = [
        {
            "problem": "Lotka-Volterra",
            "solver": name,
            "ours": name == OUR_DEFAULT,
            "rtol": rtol,
            "error": rtol,
            "seconds": [1.0],
        }
        for name in (OUR_DEFAULT, DIFFRAX_DEFAULT)
        for rtol in (1e-4, 1e-6)
    ]
    return {"rows": as_record(rows), "sweep": points}


def test_bars():
    bars = comparison.bars(record())
    found = {bar.promise: (bar.verdict, bar.measured.median, bar.limit) for bar in bars}
    ours_to_theirs = "Lotka-Volterra: default / diffrax's default"
    assert found[f"value and gradient, {ours_to_theirs}"] == ("pass", 0.4, 0.5)
    assert found[f"compilation of value and gradient, {ours_to_theirs}"] == ("pass", 0.25, 0.5)
    assert found[f"error of the gradient, {ours_to_theirs}"] == ("pass", pytest.approx(0.1), 1.0)
    assert found["value and gradient / value, Lotka-Volterra, default"] == ("pass", 2.0, 4.0)
    (memory,) = (value for promise, value in found.items() if promise.startswith("memory"))
    assert memory == ("pass", 1 / 16, 1 / 3)
    assert len(bars) == 2 + 2 + 2 + 2 + 1


def test_losses_are_losses_and_errors_of_rounding_are_none():
    bars = comparison.bars(record(gradient=5.0, error=1e-4))
    assert [bar.verdict for bar in bars if "Lotka-Volterra" in bar.promise] == [
        "FAIL",
        "pass",
        "FAIL",
        "FAIL",
    ]
    below_the_floor = comparison.bars(record(error=1e-11))
    assert below_the_floor[4].measured.median == pytest.approx(1e-3)
    found = record()
    for each in found["rows"]:
        each["seconds"], each["errors"], each["peak_bytes"] = {}, {}, None
    assert {bar.verdict for bar in comparison.bars(found)} == {"not measured"}


def test_the_report_is_drawn_and_a_wrong_answer_of_ours_is_noticed():
    found = record()
    titles = [table.title.split(",")[0] for table in comparison.tables(found)]
    assert titles == ["Lotka-Volterra", "long neural ODE", "Error of the gradient and its time"]
    assert set(comparison.figures(found)) == {"time", "precision"}
    assert not comparison.ours_wrong(found)
    # The gradient of the steps is what DiscreteAdjoint is asked for, also where it is none of the
    # solution.
    found["rows"][4]["outcome"] = "WRONG"
    assert not comparison.ours_wrong(found)
    found["rows"][0]["outcome"] = "WRONG"
    assert comparison.ours_wrong(found)
    assert "WRONG" in comparison.tables(found)[0].plain()


def test_which_problems_are_measured_and_how(monkeypatch):
    asked, swept = [], []

    def fake(case, _solvers, plan, compilations, _say):
        asked.append((case.problem, compilations, case.n >= plan.own_process_from))
        return [row(case.problem, OUR_DEFAULT, ours=True)]

    def fake_sweep(problem, tolerances, _plan, _say):
        swept.append((problem, len(tolerances)))
        return []

    monkeypatch.setattr(comparison, "contest", fake)
    monkeypatch.setattr(comparison, "precision_sweep", fake_sweep)
    comparison.run(comparison.QUICK, lambda _: None)
    assert [problem for problem, *_ in asked] == list(comparison.QUICK.problems)
    assert not any(own for *_, own in asked)
    assert swept == [("Lotka-Volterra", 3)]
    asked.clear()
    swept.clear()
    comparison.run(replace(comparison.FULL, sizes=(3, 160, 512)), lambda _: None)
    assert asked == [
        ("neural ODE", 0, False),
        ("long neural ODE", 3, True),
        ("Robertson", 3, False),
        ("Brusselator, explicit", 0, True),
        ("Brusselator, implicit", 0, False),
    ]
    assert swept == [("Robertson", 7)]
