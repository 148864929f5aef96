"""The benchmarks' tables and bars, their results in files, and their command line."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.answers import GRADIENT, PRODUCT, VALUE
from benchmarks.contest import Row, as_record
from benchmarks.harness import Spread
from benchmarks.linear import comparison, targets
from benchmarks.linear.contest import ASSEMBLY
from benchmarks.machine import made_with
from benchmarks.report import Bar, Table, bars_table, duration
from benchmarks.results import ResultsError, load, save

ROOT = Path(__file__).parent.parent


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
    assert [targets.gradient_limit(n) for n in (1_012, 9_940, 99_856, 300_304)] == [
        None,
        1.15,
        1.05,
        1.05,
    ]


@pytest.fixture
def fake_run(monkeypatch):
    """The linear benchmark with a ready record instead of measuring; the plans it was given."""
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
