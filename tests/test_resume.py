"""``python -m problems resume``: the same bits after a stop, and a sentence for every folder."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import problem_run
import pytest
from checkpoint_run import Lines

import problems
from adjoint.run import record as record_module
from adjoint.run.run_folder import RunFolder
from problems.__main__ import PROGRAM, main

ROOT = Path(__file__).parents[1]
ALIKE = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(jax.config.read("jax_disable_most_optimizations")))
}
PARABOLA = ("run", "parabola", "--set", "steps=30")
BEAM = ("run", "mbb_beam", "--set", "max_iterations=6", "--set", "filter=density")
MMA = (*BEAM, "--set", "method=MMA", "--set", "nelx=12", "--set", "nely=4")
DESCENTS = ("run", "brachistochrone", "--set", "segments=12", "--set", "grids=2")


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gallery with one more problem, which is part of these tests."""
    monkeypatch.setattr(
        problems, "__path__", [*problems.__path__, str(ROOT / "tests" / "gallery_example")]
    )


def process(line: int, arguments: Sequence[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "tests" / "problem_run.py"), str(line), *arguments]
    environment = os.environ | ALIKE | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def numbers(folder: Path) -> dict[str, Any]:
    """What has to be the same: history without times, pictures, states, the result's numbers."""
    found: dict[str, Any] = {"names": sorted(path.name for path in folder.iterdir())}
    for path in folder.iterdir():
        if path.suffix in {".png", ".gif", ".vti"}:
            found[path.name] = path.read_bytes()
    rows = csv.DictReader((folder / "history.csv").open())
    found["history"] = [
        {name: text for name, text in row.items() if name != "seconds"} for row in rows
    ]
    result = json.loads((folder / "result.json").read_text())
    result["last_iteration"].pop("seconds", None)
    return found | {
        name: value for name, value in result.items() if name not in ("total_seconds", "made_with")
    }


class Killed:
    """Of one command: the run that was not killed, and others that were."""

    def __init__(self, arguments: Sequence[str], folder: Path):
        self.arguments = arguments
        with (
            pytest.MonkeyPatch.context() as patch,
            Lines(0, lambda: None, problem_run.WATCHED) as lines,
        ):
            patch.setattr(record_module, "PAUSE", -1.0)
            patch.setattr(
                problems, "__path__", [*problems.__path__, str(ROOT / "tests" / "gallery_example")]
            )
            self.code = main([*arguments, "--out", str(folder)])
        self.lines = lines.count
        self.expected = numbers(folder)

    def check(self, seed: int, folder: Path) -> None:
        """Killed at a line, in every second case killed again from there on, and resumed."""
        generator = random.Random(seed)
        self.kill(generator.randrange(1, self.lines), [*self.arguments, "--out", str(folder)])
        if not (folder / "run.json").exists() or not (folder / "run.json").read_text():
            assert main(["resume", str(folder)]) == 2
            return
        done = (folder / "result.json").exists()
        if not done and generator.random() < 0.5:
            self.kill(generator.randrange(1, self.lines // 2), ["resume", str(folder)])
            done = (folder / "result.json").exists()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert main(["resume", str(folder)]) == (0 if done else self.code)
        assert numbers(folder) == self.expected

    def kill(self, line: int, arguments: Sequence[str]) -> None:
        child = process(line, arguments)
        _, errors = child.communicate(timeout=600)
        # What goes on may be done before it gets there.
        assert child.returncode in (
            -signal.SIGKILL,
            *([self.code] if arguments[0] == "resume" else []),
        ), errors


def killed(arguments: Sequence[str]) -> Any:
    """A fixture: the command, run once and not killed."""

    @pytest.fixture(scope="module")
    def run(tmp_path_factory: pytest.TempPathFactory) -> Killed:
        return Killed(arguments, tmp_path_factory.mktemp("whole") / "run")

    return run


parabola, beam, mma, descents = (killed(command) for command in (PARABOLA, BEAM, MMA, DESCENTS))


class TestKilled:
    @pytest.mark.parametrize("seed", range(1))
    def test_the_example(self, parabola: Killed, tmp_path: Path, seed: int) -> None:
        parabola.check(seed, tmp_path / "run")

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(1, 13))
    def test_the_example_wherever_it_is_killed(
        self, parabola: Killed, tmp_path: Path, seed: int
    ) -> None:
        parabola.check(seed, tmp_path / "run")

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(20))
    def test_iterations_of_its_own(self, beam: Killed, tmp_path: Path, seed: int) -> None:
        beam.check(seed, tmp_path / "run")

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(10))
    def test_steps_of_minimize_that_are_seen(self, mma: Killed, tmp_path: Path, seed: int) -> None:
        mma.check(seed, tmp_path / "run")

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(4))
    def test_several_runs_of_minimize(self, descents: Killed, tmp_path: Path, seed: int) -> None:
        descents.check(seed, tmp_path / "run")


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_run_goes_on(
        self,
        parabola: Killed,
        tmp_path: Path,
        number: signal.Signals,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with monkeypatch.context() as patch:
            self.interrupt_at(patch, 3, number)
            assert main([*PARABOLA, "--out", str(tmp_path / "run")]) == 130
        assert (
            f"to go on: python -m problems resume {tmp_path / 'run'}\n" in capsys.readouterr().out
        )
        assert (
            json.loads((tmp_path / "run" / "result.json").read_text())["outcome"] == "INTERRUPTED"
        )
        assert main(["resume", str(tmp_path / "run")]) == 0
        said = capsys.readouterr().out
        assert "iteration            x\n        4" in said
        assert numbers(tmp_path / "run") == parabola.expected

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_inside_of_minimize(
        self, mma: Killed, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            self.interrupt_at(patch, 3, number)
            assert main([*MMA, "--out", str(tmp_path / "run")]) == 130
        assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 3
        assert main(["resume", str(tmp_path / "run")]) == 3
        assert numbers(tmp_path / "run") == mma.expected

    @staticmethod
    def interrupt_at(patch: pytest.MonkeyPatch, iteration: int, number: signal.Signals) -> None:
        reported = record_module.Record.iteration

        def interrupted(self: Any, row: Any, *rest: Any) -> None:
            reported(self, row, *rest)
            if row["iteration"] == iteration:
                os.kill(os.getpid(), number)

        patch.setattr(record_module.Record, "iteration", interrupted)


class TestNothingCanBeWritten:
    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
    def test_while_it_runs_it_runs_on(
        self, parabola: Killed, tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the 20 iterations the disk is full from the 6th to the 12th."""
        reported = record_module.Record.iteration
        synced = os.fsync

        def fail(_: int) -> None:
            raise OSError(error, os.strerror(error))

        def full(self: Any, row: Any, *rest: Any) -> None:
            monkeypatch.setattr(os, "fsync", fail if 6 <= row["iteration"] <= 12 else synced)
            reported(self, row, *rest)

        monkeypatch.setattr(record_module, "PAUSE", -1.0)
        monkeypatch.setattr(record_module.Record, "iteration", full)
        with pytest.warns(UserWarning, match=os.strerror(error)) as caught:
            assert main([*PARABOLA, "--out", str(tmp_path / "run")]) == 0
        said = sorted(str(warning.message) for warning in caught)
        assert len(said) == 2
        assert f"history.csv: {os.strerror(error)}; the run goes on without" in said[0]
        assert f"could not be saved ({os.strerror(error)})" in said[1]
        assert numbers(tmp_path / "run") == parabola.expected

    def test_at_the_end_it_is_5_and_goes_on_when_there_is_room(
        self,
        parabola: Killed,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = tmp_path / "run"
        written = RunFolder.write

        def full(self: RunFolder, name: str, content: str | bytes) -> Path:
            if name == "report.html":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / name))
            return written(self, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "write", full)
            assert main([*PARABOLA, "--out", str(folder)]) == 5
        mended = f"once that is mended: python -m problems resume {folder}"
        assert (
            capsys.readouterr().err
            == f"error: {folder / 'report.html'}: No space left on device; {mended}\n"
        )
        # Everything has been saved.
        monkeypatch.setattr(
            PROGRAM.gallery.find("parabola").module, "_descent", lambda *_: iter(())
        )
        assert main(["resume", str(folder)]) == 0
        assert numbers(folder) == parabola.expected


class TestFolders:
    def test_a_run_that_is_done_stays_as_it_is(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "run"
        assert main([*PARABOLA, "--set", "steps=5", "--out", str(folder)]) == 3
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
        capsys.readouterr()
        assert main(["resume", str(folder)]) == 0
        assert (
            "nothing to go on with: the run is done. Not converged: |x| = 3.1e-02"
            in capsys.readouterr().out
        )
        assert before == {
            path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()
        }

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (None, "holds no run: it has no run.json"),
            ("", "was stopped before it began; remove the folder and run again"),
            ("{", "run.json is damaged; run again what"),
            ("[]", "run.json is damaged; run again what"),
            ('{"format": 1, "problem": "parabola"}', "run.json is damaged; run again what"),
            (
                '{"format": 2, "problem": "", "settings": {}, "made_with": {}}',
                "has format 2, expected 1",
            ),
            (
                '{"format": 1, "problem": "parabula", "settings": {}, "made_with": {}}',
                "did you mean parabola?",
            ),
            (
                '{"format": 1, "problem": "parabola", "settings": {"step": 1}, "made_with": {}}',
                "did you mean steps?",
            ),
        ],
    )
    def test_a_folder_that_holds_no_run_of_this_version(
        self, tmp_path: Path, content: str | None, sentence: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        self.refused(tmp_path, sentence, capsys)

    def test_no_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.refused(tmp_path / "missing", f"there is no folder {tmp_path / 'missing'}", capsys)

    def test_a_folder_in_use(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.interrupted(tmp_path / "run")
        with RunFolder.take_over(tmp_path / "run"):
            self.refused(tmp_path / "run", "another process works in the folder", capsys)
        assert main(["resume", str(tmp_path / "run")]) == 0

    def test_other_versions_are_said(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        self.interrupted(folder)
        content = json.loads((folder / "run.json").read_text())
        content["made_with"]["jax"] = "0.0.1"
        (folder / "run.json").write_text(json.dumps(content))
        with pytest.warns(
            UserWarning,
            match=rf"last bits may differ .*: jax 0\.0\.1 then and {jax.__version__} now",
        ):
            assert main(["resume", str(folder)]) == 0

    def test_a_damaged_state(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "run"
        self.interrupted(folder)
        for path in (folder / "checkpoint").iterdir():
            path.write_bytes(path.read_bytes()[:-1])
        capsys.readouterr()
        assert main(["resume", str(folder)]) == 5
        assert "delete them to start anew" in capsys.readouterr().err

    @staticmethod
    def interrupted(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            TestSignals.interrupt_at(patch, 3, signal.SIGINT)
            assert main([*PARABOLA, "--out", str(folder)]) == 130

    @staticmethod
    def refused(folder: Path, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert main(["resume", str(folder)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        assert sentence in output.err


def test_help_tells_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in (
        "Usage: python -m problems resume",
        "FOLDER",
        "SIGKILL",
        "same bits",
        "exit codes:",
    ):
        assert text in said
    assert main(["resume"]) == 2
    assert "requires an argument" in capsys.readouterr().err
