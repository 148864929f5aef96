"""The record of a run: what it keeps up to date on the way, and what it writes at the end."""

import io
import json
import math

import numpy as np
import pytest

from adjoint.run import record as record_module
from adjoint.run.ending import Ending, Outcome, Task
from adjoint.run.interruption import Interruption
from adjoint.run.record import Record
from adjoint.run.run_folder import RunFolder

TASK = Task(
    "beam",
    "A beam.",
    {"nelx": 60},
    {"nelx": "elements along x"},
    "python -m problems run beam --set nelx=60",
)


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
    for text in (
        "command.txt",
        "density.png",
        "The density.",
        "state.vti",
        "the final state",
        "elements along x",
    ):
        assert text in report


def test_frames_go_into_the_film(record):
    for k in record.follow(range(3)):
        record.iteration({"iteration": k}, np.full((2, 1), 0.5), f"frame {k}")
    assert record.film.captions == ["frame 0", "frame 1", "frame 2"]


def iterate(record, numbers):
    for k in record.follow(numbers):
        record.iteration(
            {"iteration": k, "x": 0.1 * k, "bad": math.nan}, np.full((2, 1), 0.01 * k), f"frame {k}"
        )
        record.keep([np.array(0.1 * k), np.arange(k)])


def test_a_record_goes_on_in_its_folder(tmp_path, stream):
    with RunFolder.claim(tmp_path, "command.txt", "") as folder:
        iterate(Record(folder, TASK, stream, Interruption()), range(1, 4))
    with RunFolder.take_over(tmp_path) as folder:
        second = Record(folder, TASK, stream, Interruption())
        assert [second.reported(k) for k in (1, 3, 4)] == [True, True, False]
        np.testing.assert_array_equal(second.state[0], 0.1 * 3)
        np.testing.assert_array_equal(second.state[1], [0, 1, 2])
        iterate(second, range(4, 6))
    whole = Record(RunFolder(tmp_path / "whole"), TASK, stream, Interruption())
    iterate(whole, range(1, 6))
    assert second.history.csv() == whole.history.csv()
    assert second.film.gif() == whole.film.gif()


def test_what_is_kept_is_saved_now_and_then_and_what_is_saved_at_once(
    record, tmp_path, monkeypatch
):
    record.iteration({"iteration": 1})
    record.keep([np.zeros(1)])
    assert not (tmp_path / "checkpoint").exists()
    record.save([np.zeros(1)])
    first = (tmp_path / "checkpoint" / "record").read_bytes()
    monkeypatch.setattr(record_module, "PAUSE", -1.0)
    record.iteration({"iteration": 2})
    record.keep([np.ones(1)])
    assert (tmp_path / "checkpoint" / "record").read_bytes() != first


def test_a_report_without_its_state_is_not_saved(record, tmp_path):
    record.iteration({"iteration": 1})
    record.save([np.zeros(1)])
    before = (tmp_path / "checkpoint" / "record").read_bytes()
    steps = record.follow(range(2))
    next(steps)
    record.iteration({"iteration": 2})
    steps.close()
    assert (tmp_path / "checkpoint" / "record").read_bytes() == before


def test_the_checkpoints_are_removed_unless_the_run_goes_on(record, tmp_path):
    checkpoint = record.checkpoint("path", every=3)
    assert checkpoint.every == 3
    record.save([np.zeros(1)])
    record.close(Ending(Outcome.INTERRUPTED, "Interrupted."))
    assert (tmp_path / "checkpoint" / "record").exists()
    record.close(Ending(Outcome.NOT_CONVERGED, "Not converged."))
    assert not (tmp_path / "checkpoint").exists()


def test_steps_that_the_record_has_lost_are_refused(record, tmp_path):
    record.iteration({"iteration": 1})
    with pytest.raises(
        ValueError,
        match=r"up to 1 of the record and to 2 of minimize.*Delete the folder .*checkpoint",
    ):
        record.reported(3)


def test_the_result_comes_last(record, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(RunFolder, "write", lambda self, name, content: written.append(name))
    record.iteration({"iteration": 1})
    record.close(Ending(Outcome.DONE, "done"))
    assert written == ["history.csv", "report.html", "result.json"]


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
