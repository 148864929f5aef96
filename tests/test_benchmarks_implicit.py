"""The benchmark of implicit functions: its systems, right answers, competitors and bars."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.answers import AGREEMENT, GRADIENT, PRODUCT, VALUE, objective, relative_error
from benchmarks.contest import Row, as_record, contest
from benchmarks.harness import Plan
from benchmarks.implicit import comparison, solvers
from benchmarks.implicit.cases import BATCH, LAMBDA, PROBLEMS, Case, dense, non_normal_matrix
from benchmarks.implicit.contest import field
from benchmarks.implicit.reference import answers, root, system
from benchmarks.implicit.solvers import SOLVERS, RootFinder, functions
from benchmarks.machine import installed_version

PLAN = Plan(sizes=(4,), seconds=0.0, limit=100.0, repetitions=(1, 1), own_process_from=float("inf"))
SMALL = {
    "dense": lambda _: dense(6),
    "batch": lambda _: replace(dense(5), problem="batch", systems=3),
}
SMALL["bratu"] = lambda _: PROBLEMS["bratu"](25)


def drawn(case: Case):
    generator = np.random.default_rng(0)
    return case.draw(generator), case.draw(generator)


def test_the_dense_matrix_is_far_from_symmetric_and_the_root_unique():
    A = non_normal_matrix(200)
    assert np.linalg.norm(A - A.T) > 0.3 * np.linalg.norm(A)
    assert np.linalg.norm(A @ A.T - A.T @ A) > 0.1 * np.linalg.norm(A @ A.T)
    assert np.linalg.eigvalsh((A + A.T) / 2)[0] > 1


def test_the_batch_is_made_of_256_systems():
    case = PROBLEMS["batch"](2560)
    assert (case.systems, case.unknowns, case.n) == (BATCH, 10, 2560)


@pytest.mark.parametrize("problem", ["dense", "bratu"])
def test_the_handwritten_system_is_the_one_that_is_solved(problem):
    case = SMALL[problem](0)
    p, v = drawn(case)
    x = np.random.default_rng(1).uniform(0, 1, case.unknowns)
    F = system(case)

    def residual(x, p):
        return case.residual(x, p, case.constants)

    np.testing.assert_allclose(F.residual(x, np.asarray(p)), residual(x, p), rtol=1e-12, atol=1e-13)
    F_x, F_p = jax.jacobian(residual, (0, 1))(x, p)
    b = np.arange(1.0, case.unknowns + 1)
    solve = F.factorized(x, np.asarray(p))
    np.testing.assert_allclose(F_x @ solve(b), b, rtol=1e-10)
    np.testing.assert_allclose(F_x.T @ solve(b, transposed=True), b, rtol=1e-10)
    np.testing.assert_allclose(
        np.diag(F.by_parameters(x, np.asarray(p))), F_p, rtol=1e-12, atol=1e-14
    )
    _, (F_x_dot, F_p_dot) = jax.jvp(jax.jacobian(residual, (0, 1)), (x, p), (b, v))
    by_hand = F.changes(x, np.asarray(p), b, np.asarray(v))
    for found, expected in zip(by_hand, (F_x_dot, F_p_dot), strict=True):
        np.testing.assert_allclose(np.diag(found), expected, rtol=1e-12, atol=1e-13)


def test_the_sparse_system_is_that_of_bratu():
    # One dimension of m x m inner nodes has the eigenpair sin(pi x): -lap has the eigenvalue 8
    # sin^2(pi h / 2) / h^2.
    case = PROBLEMS["bratu"](49)
    h = 1 / 8
    line = np.sin(np.pi * h * np.arange(1, 8))
    u = np.outer(line, line).ravel()
    eigenvalue = 8 * np.sin(np.pi * h / 2) ** 2 / h**2
    expected = eigenvalue * u - LAMBDA * np.exp(u)
    np.testing.assert_allclose(
        case.residual(jnp.asarray(u), jnp.ones(49), ()), expected, rtol=1e-12, atol=1e-12
    )
    # Second order: each halving of h leaves a quarter of the error of the largest u.
    peaks = [root(system(PROBLEMS["bratu"](m * m)), np.ones(m * m)).max() for m in (7, 15, 31)]
    assert (peaks[1] - peaks[0]) / (peaks[2] - peaks[1]) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("problem", SMALL)
def test_the_answers_are_those_of_differentiation_by_jax(problem):
    """Newton's method on dense matrices from the root on, unrolled.

    Two more steps make value and derivatives exact.
    """
    case = SMALL[problem](0)
    p, v = drawn(case)
    starts = [root(system(case), np.asarray(part)) for part in jnp.split(p, case.systems)]

    def g(p):
        total = 0.0
        for x, part in zip(starts, jnp.split(p, case.systems), strict=True):
            F = lambda x, part=part: case.residual(x, part, case.constants)
            for _ in range(2):
                x = x - jnp.linalg.solve(jax.jacfwd(F)(x), F(x))
            total += objective(x)
        return total

    value, gradient = jax.jit(jax.value_and_grad(g))(p)
    product = jax.jit(lambda p: jax.jvp(jax.grad(g), (p,), (v,))[1])(p)
    found = answers(case, p, v)
    assert relative_error(np.asarray(found.value), np.asarray(value)) < 1e-13
    assert relative_error(found.gradient, np.asarray(gradient)) < 1e-11
    assert relative_error(found.hessian_vector_product, np.asarray(product)) < 1e-10


def assert_everybody_agrees(problem, measures):
    small = replace(field(), problems=SMALL)
    said = []
    for row in contest(small, problem, 0, PLAN, [], said.append):
        if row.reason.endswith("is not installed"):
            continue
        assert (row.outcome, row.unsupported) == ("measured", {}), row
        assert set(row.seconds) == set(row.errors) == measures
        assert max(row.errors.values()) < AGREEMENT
    assert len(said) == 1 + len(small.entrants[problem])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")
def test_gradients_on_the_sparse_system_agree_with_the_reference(monkeypatch):
    monkeypatch.setattr(solvers, "GRADIENT_ALONE_ABOVE", 0)
    assert_everybody_agrees("bratu", {GRADIENT})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")
@pytest.mark.parametrize("problem", SMALL)
def test_everybody_agrees_with_the_reference_in_every_measure(problem):
    assert_everybody_agrees(problem, {VALUE, GRADIENT, PRODUCT})


def test_long_ones_are_asked_for_the_gradient_alone(monkeypatch):
    monkeypatch.setattr(solvers, "GRADIENT_ALONE_ABOVE", 5)
    entrants = {"dense": [RootFinder("right", lambda *given: sum(given[2:]), ("dense",))]}
    (row,) = contest(
        replace(field(), problems=SMALL, entrants=entrants), "dense", 0, PLAN, [], lambda _: None
    )
    # x = p is wrong, and named so.
    assert (row.outcome, set(row.errors)) == ("WRONG", {GRADIENT})


def test_obstacles():
    case = PROBLEMS["bratu"](36)
    finder = RootFinder("a", lambda *_: None, ("bratu",), package="no-such-package")
    assert finder.obstacle(case) == "the package no-such-package is not installed"
    assert replace(finder, package="jax", largest=30).obstacle(case) == "compared up to n = 30 only"
    assert replace(finder, package="jax").obstacle(case) is None
    assert {problem for finder in SOLVERS for problem in finder.problems} == set(PROBLEMS)
    assert list(functions(finder, case)) == [VALUE, GRADIENT, PRODUCT]
    assert installed_version("jax") == jax.__version__


def row(problem, n, solver, value, gradient, ours=False):
    seconds = {VALUE: [value] * 3, GRADIENT: [gradient] * 3} if gradient else {}
    outcome = ("measured", "") if gradient else ("skipped", "no result within 120 s")
    return Row(problem, n, n, solver, ours, *outcome, errors={VALUE: 1e-12}, seconds=seconds)


def record(peer_gradient=1.5, peer_at_512=None, our_cg=1.2):
    rows = [
        row("dense", 10, "adjoint Newton, LU", 2.0, 2.4, ours=True),
        row("dense", 10, "peer a", 1.0, peer_gradient),
        row("dense", 10, "peer b", 1.0, 3.0),
        row("batch", 2560, "adjoint Newton, LU", 1.0, None, ours=True),
        row("bratu", 256**2, "adjoint Newton, SuperLU", 1.0, 1.0, ours=True),
        row("bratu", 256**2, "adjoint Newton, CG", 0.9, our_cg, ours=True),
        row("bratu", 256**2, "peer a", 4.0, 6.0),
        row("bratu", 256**2, "peer b", 8.0, 9.0),
        row("bratu", 512**2, "adjoint Newton, SuperLU", 5.0, 6.0, ours=True),
        row("bratu", 512**2, "peer a", 40.0, peer_at_512),
    ]
    return {"rows": as_record(rows), "plan": {"limit": 60.0}}


def test_bars():
    overhead, batch, faster, alone = comparison.bars(record())
    assert (overhead.verdict, overhead.measured.median, overhead.limit) == ("pass", 1.2, 1.5)
    assert "peer a 1.50, peer b 3.00" in overhead.beside
    assert batch.verdict == "not measured"
    assert "no result within 120 s" in batch.beside
    # A sixth of the fastest peer's time, where a fifth was promised.
    assert (faster.verdict, faster.measured.median, faster.limit) == ("pass", 1 / 6, 0.2)
    assert (alone.verdict, alone.measured.median, alone.limit) == ("pass", 1.0, 1.0)


def test_losses_are_losses():
    overhead, _, _, alone = comparison.bars(record(peer_gradient=1.1, peer_at_512=59.0))
    assert (overhead.verdict, overhead.limit) == ("FAIL", 1.1)
    assert (alone.verdict, alone.measured.median) == ("FAIL", 2.0)
    assert "peer a 59.0 s" in alone.beside
    # The fastest of ours counts, whichever it is, and all are named.
    fastest = comparison.bars(record(our_cg=0.5))[2]
    assert fastest.measured.median == pytest.approx(0.5 / 6)
    assert "SuperLU 1.00 s" in fastest.beside
    # What took longer than the limit has not finished.
    assert comparison.bars(record(peer_at_512=61.0))[3].verdict == "pass"


def test_the_report_is_drawn_and_a_wrong_answer_of_ours_is_noticed():
    found = record()
    titles = [table.title.split(",")[0] for table in comparison.tables(found)]
    assert titles == ["dense", "batch", "bratu", "bratu"]
    assert set(comparison.figures(found)) == {"time"}
    assert not comparison.ours_wrong(found)
    found["rows"][0]["outcome"] = "WRONG"
    assert comparison.ours_wrong(found)


def test_which_sizes_are_dense_and_how_each_is_measured(monkeypatch):
    asked = []

    def fake(_field, problem, n, plan, _rows, _say):
        asked.append((problem, n, plan.repetitions, n >= plan.own_process_from))
        return []

    monkeypatch.setattr(comparison, "contest", fake)
    plan = replace(
        PLAN, sizes=(10, 2000, 4096, 256**2, 512**2), repetitions=(3, 50), own_process_from=2000
    )
    comparison.run(plan, lambda _: None)
    assert asked == [
        ("batch", 2560, (3, 50), False),
        ("dense", 10, (3, 50), False),
        ("dense", 2000, (3, 50), True),
        ("bratu", 4096, (3, 50), False),
        ("bratu", 256**2, (3, 50), True),
        ("bratu", 512**2, (1, 1), True),
    ]
