"""The benchmarks' own machinery: turns and statistics on fake clocks, right answers, reports, the
command line.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.answers import AGREEMENT, GRADIENT, PRODUCT, VALUE, objective, relative_error
from benchmarks.contest import Row, as_record, contest, summary
from benchmarks.harness import Competitor, Plan, Spread, ratio, time_by_turns
from benchmarks.linear import comparison
from benchmarks.linear.beam import _hidden
from benchmarks.linear.cases import PROBLEMS, Case, per_cell
from benchmarks.linear.contest import ASSEMBLY, field
from benchmarks.linear.reference import answers
from benchmarks.linear.solvers import SOLVERS, LinearSolver
from benchmarks.machine import made_with
from benchmarks.report import Bar, Table, bars_table, duration
from benchmarks.results import ResultsError, load, save

ROOT = Path(__file__).parent.parent
PLAN = Plan(
    sizes=(100,), seconds=1.0, limit=10.0, repetitions=(3, 5), own_process_from=float("inf")
)


class FakeClock:
    """A clock that only moves when work is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def worker(name, clock, durations, log):
    """A competitor with one measure for each duration; each call moves the clock by its
    duration.
    """

    def work(measure, seconds):
        def run(argument):
            log.append((name, measure, argument))
            clock.now += seconds

        return run

    count = iter(range(1000))
    return Competitor(
        name, lambda: next(count), {measure: work(measure, s) for measure, s in durations.items()}
    )


@pytest.mark.slow
def test_turns_go_back_and_forth_on_fresh_inputs():
    clock, log = FakeClock(), []
    competitors = [worker(name, clock, {"v": 0.25, "g": 0.5}, log) for name in "ab"]
    seconds = time_by_turns(competitors, PLAN, clock)
    assert seconds == {name: {"v": [0.25] * 3, "g": [0.5] * 3} for name in "ab"}
    there = [("a", "v"), ("a", "g"), ("b", "v"), ("b", "g")]
    assert [entry[:2] for entry in log] == [*there, *there[::-1], *there]
    for name in "ab":
        arguments = [argument for who, _, argument in log if who == name]
        assert arguments == list(range(6))


@pytest.mark.slow
def test_a_slow_one_drops_out_after_the_fewest_repetitions_and_a_fast_one_goes_on():
    clock, log = FakeClock(), []
    seconds = time_by_turns(
        [worker("slow", clock, {"v": 2.0}, log), worker("fast", clock, {"v": 0.1}, log)],
        PLAN,
        clock,
    )
    assert len(seconds["slow"]["v"]) == 3
    assert len(seconds["fast"]["v"]) == 5


@pytest.mark.slow
def test_the_time_to_make_inputs_is_not_measured():
    clock = FakeClock()

    def draw():
        clock.now += 100.0

    def work(_):
        clock.now += 0.5

    seconds = time_by_turns([Competitor("a", draw, {"v": work})], PLAN, clock)
    assert seconds["a"]["v"] == [0.5] * 3


def test_spread_and_ratio():
    # Quartiles of 1 to 5 by linear interpolation (Hyndman and Fan, 1996, type 7): 2, 3, 4.
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(1.0, 2.0, 3.0, 4.0, 5)
    # A drift of the machine by a factor of 10 between rounds leaves the ratio alone.
    assert ratio([1.5, 15.0, 150.0], [1.0, 10.0, 100.0]) == Spread(1.5, 1.5, 1.5, 1.5, 3)
    with pytest.raises(ValueError, match="empty sample"):
        Spread.of([])
    with pytest.raises(ValueError, match="equally many"):
        ratio([1.0], [1.0, 2.0])


def test_parameters_of_any_number_cover_the_cells():
    p = jnp.arange(7.0)
    np.testing.assert_array_equal(per_cell(p, 3), [(0 + 3 + 6) / 3, (1 + 4) / 2, (2 + 5) / 2])
    np.testing.assert_array_equal(per_cell(p[:2], 5), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(per_cell(p[:5], 5), p[:5])


def test_convection_diffusion_conserves_and_is_nonsymmetric():
    case = PROBLEMS["convection-diffusion"](64)
    A = np.asarray(case.matrix(jnp.zeros(64)).todense())
    inner = np.arange(64).reshape(8, 8)[1:-1, 1:-1].ravel()
    # What leaves an inner cell enters its neighbors (columns), and a constant is carried along
    # unchanged (rows).
    np.testing.assert_allclose(A[:, inner].sum(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose(A[inner].sum(axis=1), 0, atol=1e-13)
    off = A - np.diag(np.diag(A))
    assert (off <= 0).all()
    assert (np.diag(A) > 0).all()
    assert abs(A - A.T).max() > 1


@pytest.fixture(scope="module", params=list(PROBLEMS))
def answered(request):
    """A small case, a point, a direction, and the answers."""
    case = PROBLEMS[request.param](100)
    generator = np.random.default_rng(0)
    p, v = case.draw(generator), case.draw(generator)
    return case, p, v, answers(case, p, v)


@pytest.mark.slow
def test_the_answers_are_those_of_dense_algebra(answered):
    case, p, v, found = answered

    def g(p):
        return objective(
            jnp.linalg.solve(case.matrix(p).todense(), jnp.asarray(case.right_hand_side))
        )

    value, gradient = jax.value_and_grad(g)(p)
    product = jax.jvp(jax.grad(g), (p,), (v,))[1]
    assert relative_error(np.asarray(found.value), np.asarray(value)) < 1e-11
    assert relative_error(found.gradient, np.asarray(gradient)) < 1e-10
    assert relative_error(found.hessian_vector_product, np.asarray(product)) < 1e-10


def broken(factor=1.0, error=None):
    """A solver whose solution is off by a factor, or that raises."""

    def solve(case, _constants, A):
        if error is not None:
            raise error
        return factor * jnp.linalg.solve(A.todense(), jnp.asarray(case.right_hand_side))

    return solve


@pytest.mark.slow
def test_wrong_failing_missing_and_oversized_competitors_are_named_and_not_timed():
    def no_rule(*_):
        raise NotImplementedError("no rule for this")

    solvers = (
        LinearSolver("right", broken()),
        LinearSolver("wrong", broken(1 + 1e-5)),
        LinearSolver("NaN", broken(np.nan)),
        LinearSolver("raises", broken(error=RuntimeError("out of luck"))),
        LinearSolver("no rule", no_rule),
        LinearSolver("missing", broken(), package="no-such-package"),
        LinearSolver("slow", broken(), growth=3.0),
    )
    entrants = replace(field(), entrants={"elasticity": solvers})
    said = []
    before = Row("elasticity", 10, 10, "slow", False, seconds={GRADIENT: [5.0]})
    rows = {
        row.solver: row for row in contest(entrants, "elasticity", 60, PLAN, [before], said.append)
    }
    assert set(rows["right"].seconds) == {VALUE, GRADIENT, PRODUCT}
    assert max(rows["right"].errors.values()) < 1e-9 < AGREEMENT
    outcomes = {name: (row.outcome, row.reason) for name, row in rows.items()}
    assert outcomes["wrong"] == (
        "WRONG",
        "relative error 1.0e-05 in the value, 1.0e-05 in the value and gradient, 1.0e-05 in the "
        "Hessian-vector product",
    )
    assert outcomes["NaN"][0] == "failed"
    assert outcomes["raises"] == ("failed", "RuntimeError: out of luck")
    assert outcomes["missing"] == ("skipped", "the package no-such-package is not installed")
    assert outcomes["slow"][0] == "skipped"
    assert "the limit is 10 s" in outcomes["slow"][1]
    assert outcomes["no rule"] == ("failed", "NotImplementedError: no rule for this")
    assert all(not row.seconds for name, row in rows.items() if name != "right")
    assert any("WRONG" in line for line in said)


def test_dense_arrays_that_do_not_fit_are_refused():
    big = Case("elasticity", lambda _: None, np.ones(1), 1, True, _Pattern(10_000_000))
    (dense,) = (solver for solver in SOLVERS if solver.name == "jnp.linalg.solve, dense")
    assert "too large" in dense.obstacle(big)


class _Pattern:
    def __init__(self, n):
        self.n = n


def test_the_innermost_message_of_a_failed_callback_is_kept():
    text = "INTERNAL: callback:\nTraceback\n  File\npackage.SomeError: the reason\n\nmore"
    assert summary(RuntimeError(text)) == "RuntimeError: the reason"


def test_a_package_can_be_hidden_and_comes_back():
    held = sys.modules["numpy"]
    with _hidden("numpy", True), pytest.raises(ImportError):
        __import__("numpy")
    assert sys.modules["numpy"] is held


def test_tables_and_bars():
    table = Table("T", ["a", "b"], [["x|y", "1"], ["z", "22"]], ["a note"])
    assert table.plain().splitlines() == [
        "T",
        "-------",
        "a     b",
        "-------",
        "x|y   1",
        "z    22",
        "  a note",
    ]
    assert (
        table.markdown() == "## T\n\n| a | b |\n| :-- | --: |\n| x\\|y | 1 |\n| z | 22 |\n\na note"
    )
    with pytest.raises(ValueError, match="got a row of 1 cells, expected 2"):
        Table("T", ["a", "b"], [["x"]])
    bars = [
        Bar("kept", Spread.of([1.05]), 1.05),
        Bar("missed", Spread.of([1.1]), 1.0, "a peer reaches 2"),
        Bar("unknown", None, 1.0),
    ]
    assert [bar.verdict for bar in bars] == ["pass", "FAIL", "not measured"]
    text = bars_table(bars).plain()
    assert "FAIL, by 10.0 %" in text
    assert "a peer reaches 2" in text
    assert [duration(s) for s in (0.0123, 12.34, None)] == ["12.3 ms", "12.3 s", "-"]


def record(gradient_seconds=1.1, outcome="measured"):
    """A small record of the linear benchmark, as `run` makes it."""
    times = {VALUE: [1.0, 2.0], GRADIENT: [gradient_seconds, 2 * gradient_seconds]}
    name = "adjoint SparseDirect, SuperLU"
    row = Row(
        "elasticity",
        9940,
        9940,
        name,
        True,
        outcome,
        "",
        {PRODUCT: "no rule"},
        {VALUE: 1e-12},
        seconds=times,
    )
    skipped = Row("elasticity", 9940, 9940, "jax spsolve", False, "skipped", "not installed")
    rows = as_record([row, skipped])
    sweep = [
        {
            "n": 10_000,
            "parameters": P,
            "solver": name,
            "seconds": {GRADIENT: [1 + s] * 2, ASSEMBLY: [s] * 2},
        }
        for P, s in ((1, 0.5), (1_000_000, 4.0))
    ]
    beam = [
        {
            "library": library,
            "backend": "SuperLU",
            "outcome": "measured",
            "reason": "",
            "compliances": [1052.1],
            "seconds": s,
        }
        for library, s in (("adjoint", [2.0, 2.0, 2.0]), ("pyMOTO", [1.0, 1.0]))
    ]
    return {"rows": rows, "sweep": sweep, "beam": beam}


def test_the_bars_of_the_linear_benchmark():
    bars = comparison.bars(record())
    assert [(bar.verdict, round(bar.measured.median, 12), bar.limit) for bar in bars] == [
        ("pass", 1.1, 1.15),
        ("pass", 1.0, 1.05),
        ("FAIL", 2.0, 1.0),
    ]
    assert comparison.bars(record(1.2))[0].verdict == "FAIL"
    assert not comparison.ours_wrong(record())
    assert comparison.ours_wrong(record(outcome="WRONG"))
    assert [comparison.gradient_limit(n) for n in (1_012, 9_940, 99_856, 300_304)] == [
        None,
        1.15,
        1.05,
        1.05,
    ]


@pytest.fixture
def fake_run(monkeypatch):
    """The linear benchmark with a ready record in place of minutes of measuring; the plans that it
    was given.
    """
    plans = []

    def run(plan, _say):
        plans.append(plan)
        return record()

    monkeypatch.setattr(comparison, "run", run)
    return plans


def test_run_leaves_results_and_report_draws_them(tmp_path, capsys, fake_run):
    assert (
        main(
            [
                "run",
                "linear",
                "--sizes",
                "1e4,2000",
                "--limit",
                "5",
                "--results",
                str(tmp_path / "new"),
            ]
        )
        == 0
    )
    assert (fake_run[0].sizes, fake_run[0].limit) == ((2000, 10_000), 5.0)
    files = {
        "linear.json",
        "linear.md",
        "linear-ratio.png",
        "linear-time.png",
        "linear-parameters.png",
    }
    assert {path.name for path in (tmp_path / "new").iterdir()} == files
    saved = json.loads((tmp_path / "new" / "linear.json").read_text())
    assert saved["made_with"]["jax"] == jax.__version__
    assert str(Path.home()) not in json.dumps(saved)
    printed = capsys.readouterr().out
    assert "FAIL, by 100.0 %" in printed
    (tmp_path / "new" / "linear-time.png").unlink()
    assert main(["report", "--results", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == printed
    assert (tmp_path / "new" / "linear-time.png").read_bytes()[1:4] == b"PNG"
    assert "| mbb_beam iteration" in (tmp_path / "new" / "linear.md").read_text()


def test_a_wrong_result_of_ours_is_exit_code_4(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "run", lambda *_: record(outcome="WRONG"))
    assert main(["run", "linear", "--quick", "--results", str(tmp_path)]) == 4
    assert (tmp_path / "linear-quick.json").exists()


def test_an_interrupted_run_writes_nothing(tmp_path, monkeypatch, capsys):
    def run(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "run", run)
    assert main(["run", "linear", "--results", str(tmp_path)]) == 130
    assert list(tmp_path.iterdir()) == []
    assert "nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "list | run | report"),
        (["run"], "NAME"),
        (
            ["run", "linaer"],
            "there is no benchmark 'linaer'; the benchmarks are implicit, linear, ode",
        ),
        (["run", "linear", "--sizes", "10"], "'10' is not a list of numbers from 100 to 1e7"),
        (["run", "linear", "--sizes", "many"], "'many' is not a list"),
        (["run", "linear", "--limit", "-1"], "'-1' is not a number of seconds"),
        (["report", "linear"], "make them with: python -m benchmarks run linear"),
        (
            ["report", "linear", "--quick"],
            "make them with: python -m benchmarks run linear --quick",
        ),
    ],
)
def test_wrong_usage_is_exit_code_2_and_a_sentence(arguments, sentence, tmp_path, capsys):
    results = ["--results", str(tmp_path)] if len(arguments) > 1 else []
    assert main([*arguments, *results]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_an_unwritable_folder_is_exit_code_5_before_the_work(tmp_path, capsys, fake_run):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["run", "linear", "--results", str(blocked)]) == 5
    assert fake_run == []
    assert str(blocked) in capsys.readouterr().err


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "linear.json").write_text("{")
    with pytest.raises(ResultsError, match="is damaged"):
        load(tmp_path, "linear")
    (tmp_path / "linear.json").write_text("[]")
    with pytest.raises(ResultsError, match="holds no results"):
        load(tmp_path, "linear")
    save(tmp_path, "linear", {"benchmark": "linear", "x": [1 / 3, np.inf]})
    assert load(tmp_path, "linear") == {"benchmark": "linear", "x": [0.333333, "inf"]}


def test_what_a_result_was_made_with_names_no_place():
    found = made_with(("numpy", "no-such-package"))
    assert found["no-such-package"] == "not installed"
    assert {"processor", "memory", "threads", "date", "commit", "jaxlib"} <= set(found)
    import socket

    assert socket.gethostname() not in " ".join(found.values()).split()


@pytest.mark.slow
def test_list_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "implicit",
        "linear",
        "ode",
        "optimize",
    ]
