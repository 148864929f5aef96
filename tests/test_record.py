"""The record of a run: what it keeps up to date while the run goes on, and what it writes at the end."""

import io
import json
import math

import numpy as np
import pytest

from adjoint.record import record as record_module
from adjoint.record.interruption import Interruption
from adjoint.record.record import Ending, Outcome, Record, Task
from adjoint.record.run_folder import RunFolder

TASK = Task("beam", "A beam.", {"nelx": 60}, {"nelx": "elements along x"}, "python -m problems run beam --set nelx=60")


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def record(tmp_path, stream):
    return Record(RunFolder.claim(tmp_path, "command.txt", ""), TASK, stream, Interruption())


def test_the_history_on_disk_follows_the_run(record, tmp_path, monkeypatch):
    monkeypatch.setattr(record_module, "PAUSE", -1.0)
    for k in record.follow(range(3)):
        record.iteration({"iteration": k, "x": 0.5**k})
        # What a killed run leaves: every iteration up to this one, in a whole file.
        assert (tmp_path / "history.csv").read_text().splitlines()[-1] == f"{k},{0.5**k}"


def test_the_history_is_not_rewritten_in_every_iteration(record, tmp_path):
    for k in record.follow(range(100)):
        record.iteration({"iteration": k})
    assert not (tmp_path / "history.csv").exists()
    record.close(Ending(Outcome.DONE, "done"))
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 101


def test_nan_is_null_in_the_result(record, tmp_path):
    record.iteration({"iteration": 1, "x": math.nan, "y": math.inf, "z": 0.1})
    record.close(Ending(Outcome.NOT_CONVERGED, "diverged"))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    result = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert result["last_iteration"] == {"iteration": 1, "x": None, "y": None, "z": 0.1}
    assert result["gradient"] is None
    assert "nan" in (tmp_path / "report.html").read_text()


def test_a_run_without_an_iteration_leaves_no_empty_history(record, tmp_path):
    record.close(Ending(Outcome.INTERRUPTED, "Interrupted after 0 iterations."))
    assert {p.name for p in tmp_path.iterdir()} == {"command.txt", "result.json", "report.html"}
    assert "Interrupted after 0 iterations." in (tmp_path / "report.html").read_text()


def test_pictures_and_files_are_written_at_once_and_named_in_the_report(record, tmp_path):
    record.picture("density.png", b"picture", "The density.")
    record.file("state.vti", "<VTKFile/>", "the final state")
    assert (tmp_path / "density.png").read_bytes() == b"picture"
    assert (tmp_path / "state.vti").read_text() == "<VTKFile/>"
    record.close(Ending(Outcome.DONE, "done"))
    report = (tmp_path / "report.html").read_text()
    for text in ("command.txt", "density.png", "The density.", "state.vti", "the final state", "elements along x"):
        assert text in report


def test_frames_go_into_the_film(record):
    for k in record.follow(range(3)):
        record.iteration({"iteration": k}, np.full((2, 1), 0.5), f"frame {k}")
    assert record.film.captions == ["frame 0", "frame 1", "frame 2"]


def test_progress_goes_to_the_stream(record, stream):
    for k in record.follow(range(2)):
        record.iteration({"iteration": k, "x": 0.5**k})
    assert [line.split() for line in stream.getvalue().splitlines()] == [
        ["iteration", "x"],
        ["0", "1.0000"],
        ["1", "0.50000"],
    ]


def test_outcomes_are_the_exit_codes_of_the_command_line():
    assert {outcome.name: outcome.value for outcome in Outcome} == {
        "DONE": 0,
        "NOT_CONVERGED": 3,
        "GRADIENT_NOT_TRUSTED": 4,
        "INTERRUPTED": 130,
    }
