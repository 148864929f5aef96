"""The command line: every exit code, what it says, and what it leaves in the folder."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_vtk import parse

import problems
from problems.__main__ import main

ROOT = Path(__file__).parent.parent
PICTURES = {"density.png", "iterations.gif", "convergence.png"}
ALWAYS = {"run.json", "command.txt", "result.json", "report.html"}


@pytest.fixture(autouse=True)
def example(monkeypatch):
    """The gallery with one more problem, which is part of these tests."""
    monkeypatch.setattr(
        problems, "__path__", [*problems.__path__, str(ROOT / "tests" / "gallery_example")]
    )


def run(*arguments, out=None):
    return main(["run", "parabola", *arguments, *(["--out", str(out)] if out is not None else [])])


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_list_names_the_problems(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split() == ["parabola", *["Gradient", "descent", "on", "a", "parabola."]]
        for line in lines
    )
    assert any(line.startswith("mbb_beam ") for line in lines)


def test_run_leaves_everything_and_says_where(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert run("--set", "rate=0.25", "--set", "steps=100", out=out) == 0
    assert names(out) == ALWAYS | PICTURES | {"history.csv"}
    rows = list(csv.DictReader((out / "history.csv").open()))
    # x_k = (3/4)^k, so |x_k| < 1e-6 first at k = 49.
    assert len(rows) == 49
    assert [float(row["x"]) for row in rows[:3]] == [0.75, 0.5625, 0.421875]
    result = json.loads((out / "result.json").read_text())
    assert (result["problem"], result["outcome"]) == ("parabola", "DONE")
    assert result["last_iteration"] == {"iteration": 49, "x": float(rows[-1]["x"])}
    assert result["gradient"] == {
        "trusted": True,
        "relative_error": 1e-12,
        "circumstances": "Judged at x = 1.",
    }
    assert result["settings"] == {"steps": 100, "rate": 0.25, "verbose": False, "trouble": "none"}
    assert result["made_with"]["jax"] == jax.__version__
    report = (out / "report.html").read_text()
    assert "Judged at x = 1.\n\nverdict table: trusted True" in report
    assert report.count("data:image/") == 3
    output = capsys.readouterr()
    assert output.err == ""
    for text in (str(out), "iteration", "0.75000", "Converged: |x| = 7.6e-07."):
        assert text in output.out


def test_the_command_repeats_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--set", "rate=0.3", out=tmp_path / "first") == 0
    words = shlex.split((tmp_path / "first" / "command.txt").read_text())
    assert words[:3] == ["python", "-m", "problems"]
    assert main(words[3:]) == 0
    (second,) = (tmp_path / "runs").iterdir()
    assert second.name.startswith("parabola-")
    assert (second / "history.csv").read_bytes() == (
        tmp_path / "first" / "history.csv"
    ).read_bytes()
    assert (second / "command.txt").read_bytes() == (
        tmp_path / "first" / "command.txt"
    ).read_bytes()
    assert str(Path("runs") / second.name) in capsys.readouterr().out


def test_verify_says_the_verdict_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "parabola"]) == 0
    assert capsys.readouterr().out == "verdict table: trusted True\n"
    assert main(["verify", "parabola", "--set", "trouble=gradient"]) == 4
    assert capsys.readouterr().out == "verdict table: trusted False\n"
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["solve"], 'Unknown command "solve"'),
        (["run"], "which problem? The problems are "),
        (["verify"], "which problem? The problems are "),
        (["run", "parabula"], "did you mean parabola?"),
        (["verify", "parabula"], "did you mean parabola?"),
        (["run", "parabola", "--set", "step=1"], "did you mean steps?"),
        (["run", "parabola", "--set", "steps=x"], "steps must be an integer from 1 to 10000"),
        (["run", "parabola", "--set"], "--set requires an argument"),
        (["run", "parabola", "--step", "3"], "Unknown option: --step. Did you mean --steps?"),
        (["run", "parabola", "--steps", "x"], "Invalid value for --steps"),
        (["run", "parabola", "--steps", "0"], "steps must be an integer from 1 to 10000"),
        (["run", "parabola", "--trouble", "much"], "trouble must be none or solve"),
        (["verify", "parabola", "--out", "x"], "Unknown option: --out"),
        (["run", "parabola", "again"], "again"),
    ],
)
def test_wrong_usage_is_2_and_one_sentence(arguments, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert names(tmp_path) == set()


@pytest.mark.parametrize("verb", ["run", "verify"])
def test_help_lists_the_settings_of_a_problem(verb, capsys):
    assert main([verb, "parabola", "--help"]) == 0
    out = capsys.readouterr().out
    for text in (
        "--set",
        "exit codes:",
        "--steps",
        "[default: 50]",
        "an integer from 1 to 10000",
        "most iterations",
    ):
        assert text in " ".join(out.replace("│", " ").split())
    assert ("--out" in out) == (verb == "run")


@pytest.mark.parametrize("arguments", [["run", "--help"], ["verify", "-h"]])
def test_help_of_a_verb(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"Usage: python -m problems {arguments[0]}" in out
    assert "exit codes:" in out


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["list", "--help"], ["resume", "-h"], ["new", "--help"]]
)
def test_help_of_the_rest(arguments, capsys):
    assert main(arguments) == 0
    assert "Usage: python -m problems" in capsys.readouterr().out


def test_a_folder_that_holds_something_is_2_and_stays_as_it_is(tmp_path, capsys):
    assert run(out=tmp_path) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(out=tmp_path) == 2
    assert (
        "already holds command.txt, convergence.png, density.png and 5 more; give a new"
        in capsys.readouterr().err
    )
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("below", ["file/out", "file"])
def test_an_unwritable_folder_is_5_before_the_work_starts(below, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    # The problem has a defect, so it would raise if it were started.
    assert run("--set", "trouble=bug", out=tmp_path / below) == 5
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {tmp_path / 'file'}")
    assert output.err.count("\n") == 1


def test_a_disk_that_fills_up_is_5_and_a_sentence_and_goes_on_later(tmp_path, capsys):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond 4000 bytes: the command and small pictures fit, the plot does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        code = run(out=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 5
    mended = f"once that is mended: python -m problems resume {tmp_path}"
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / 'iterations.gif'}: File too large; {mended}\n"
    )
    assert names(tmp_path) == {"run.json", "command.txt", "density.png", "checkpoint"}
    assert main(["resume", str(tmp_path)]) == 0
    assert names(tmp_path) == ALWAYS | PICTURES | {"history.csv"}


def test_not_converged_is_3_with_all_outputs(tmp_path, capsys):
    assert run("--set", "steps=5", out=tmp_path) == 3
    assert names(tmp_path) == ALWAYS | PICTURES | {"history.csv"}
    assert "Not converged: |x| = 3.1e-02 after 5 iterations." in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "NOT_CONVERGED"


def test_a_failed_solve_is_3_with_its_message_and_what_there_is(tmp_path, capsys):
    assert run("--set", "trouble=solve", out=tmp_path) == 3
    assert names(tmp_path) == ALWAYS | PICTURES | {"history.csv"}
    assert "a boundary condition may be missing" in capsys.readouterr().out
    assert "a boundary condition may be missing" in (tmp_path / "report.html").read_text()


def test_an_untrusted_gradient_is_4_before_the_iterations_start(tmp_path, capsys):
    assert run("--set", "trouble=gradient", out=tmp_path) == 4
    assert names(tmp_path) == ALWAYS
    assert "verdict table: trusted False" in capsys.readouterr().out
    assert "verdict table: trusted False" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("trouble", "iterations"), [("ctrl-c", 3), ("ctrl-c inside", 2)])
def test_interrupted_is_130_with_what_there_is(trouble, iterations, tmp_path, capsys):
    assert run("--set", f"trouble={trouble}", out=tmp_path) == 130
    assert names(tmp_path) == ALWAYS | PICTURES | {"history.csv", "checkpoint"}
    assert len((tmp_path / "history.csv").read_text().splitlines()) == iterations + 1
    sentence = f"Interrupted after {iterations} iterations."
    assert sentence in capsys.readouterr().out
    assert sentence in (tmp_path / "report.html").read_text()


def test_a_defect_is_not_disguised(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run("--set", "trouble=bug", out=tmp_path)


def test_memory_that_runs_out_is_5_and_a_sentence(monkeypatch, capsys):
    def too_large(_):
        raise MemoryError("Unable to allocate 10 TiB")

    monkeypatch.setattr(problems.parabola, "verify", too_large)
    assert main(["verify", "parabola"]) == 5
    assert "Unable to allocate 10 TiB; choose a smaller problem" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [pytest.param("sensitivity", marks=pytest.mark.slow), "density"])
def test_the_beam_leaves_a_state_that_agrees_with_its_history(kind, tmp_path):
    settings = [
        "--set",
        "nelx=12",
        "--set",
        "nely=4",
        "--set",
        "max_iterations=3",
        "--set",
        f"filter={kind}",
    ]
    assert main(["run", "mbb_beam", *settings, "--out", str(tmp_path)]) == 3
    assert names(tmp_path) == ALWAYS | PICTURES | {"history.csv", "state.vti"}
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert list(rows[0]) == ["iteration", "compliance", "volume", "change", "seconds"]
    _, arrays = parse((tmp_path / "state.vti").read_bytes())
    density = arrays["CellData", "density"].reshape(4, 12)
    assert density.mean() == pytest.approx(float(rows[-1]["volume"]), rel=1e-12)
    # The load is 1, downwards, at the upper left node, so that node sinks by f'u, the compliance.
    displacement = arrays["PointData", "displacement"].reshape(5, 13, 3)
    assert -displacement[4, 0, 1] == pytest.approx(float(rows[-1]["compliance"]), rel=1e-9)
    # The left edge is the plane of symmetry and the lower right corner rests on a roller.
    np.testing.assert_array_equal(displacement[:, 0, 0], 0.0)
    assert displacement[0, 12, 1] == 0.0
    # The picture shows the same design, the right way up.
    picture = np.asarray(Image.open(tmp_path / "density.png"))
    assert picture.shape == (400, 1200)
    np.testing.assert_array_equal(picture[50::100, 50::100], np.round(255 * (1 - density[::-1])))
    assert "gradient trusted" in (tmp_path / "report.html").read_text()


def python(*arguments, **options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "problems", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_as_a_program_it_lists_and_exits_with_the_code():
    process = python("list")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "mbb_beam" in out
    process = python("run", "mbb_bean")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert "did you mean mbb_beam?" in err
