"""Checkpoints of `minimize` under kills, a full disk, signals, and files of something else."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_run import METHOD, START, Lines, run, valley
from test_checkpoint import names, same

import adjoint
from adjoint.optimize import continuation
from adjoint.run import checkpoint as checkpoint_file

SCRIPT = Path(checkpoint_run.__file__)
# Unlike the others, these tests compare with another process, which has to compile alike.
ALIKE = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(jax.config.read("jax_disable_most_optimizations")))
}


@pytest.fixture(scope="module")
def whole() -> adjoint.Solution:
    """Never stopped, never saved."""
    return run("", checkpoint=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.checkpoint"


def child(path: Path, *words: str) -> "subprocess.Popen[str]":
    home = SCRIPT.parents[1]
    env = os.environ | ALIKE | {"PYTHONPATH": str(home)}
    command = [sys.executable, str(SCRIPT), str(path), *words]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> int:
    """So many lines a process goes through that is not killed."""
    path = tmp_path_factory.mktemp("lines") / "run.checkpoint"
    with Lines(0, lambda: None) as lines:
        run(path)
    assert lines.count > 500
    return lines.count


class TestKilled:
    def killed(self, path: Path, lines: int, seed: int) -> None:
        process = child(path, str(random.Random(seed).randrange(1, lines)))
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors

    def check(self, whole: adjoint.Solution, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert same(whole, run(path))
        assert names(path.parent) == ["run.checkpoint", "run.checkpoint.previous"]

    @pytest.mark.parametrize(
        "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
    )
    def test_a_killed_run_ends_in_the_same_bits(
        self, whole: adjoint.Solution, path: Path, lines: int, seed: int
    ) -> None:
        self.killed(path, lines, seed)
        self.check(whole, path)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3, 53))
    def test_wherever_it_is_killed(
        self, whole: adjoint.Solution, path: Path, lines: int, seed: int
    ) -> None:
        self.killed(path, lines, seed)
        self.check(whole, path)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_ends_the_step_and_saves(
        self,
        whole: adjoint.Solution,
        path: Path,
        number: signal.Signals,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def callback(step: adjoint.Step) -> None:
            if step.iteration == 4:
                os.kill(os.getpid(), number)

        before = signal.getsignal(number)
        stopped = run(path, callback=callback, checkpoint=adjoint.Checkpoint(path, every=100))
        assert stopped.status == adjoint.Status.INTERRUPTED
        assert int(stopped.stats["iterations"]) == 4
        assert "finishing this iteration" in capsys.readouterr().err
        assert signal.getsignal(number) is before
        rest: list[int] = []
        assert same(whole, run(path, callback=lambda step: rest.append(step.iteration)))
        assert rest == list(range(5, 13))

    @pytest.mark.slow
    def test_a_process_that_is_told_to_end_saves_first(
        self, whole: adjoint.Solution, path: Path
    ) -> None:
        process = child(path, "0", "slowly")
        deadline = time.monotonic() + 120
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=120)
        assert (process.returncode, said.strip()) == (0, "INTERRUPTED"), errors
        assert same(whole, run(path))

    def test_the_second_is_at_once(self, whole: adjoint.Solution, path: Path) -> None:
        def callback(step: adjoint.Step) -> None:
            if step.iteration == 4:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            run(path, callback=callback)
        assert same(whole, run(path))

    def test_without_checkpoint_and_callback_it_is_as_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_handler(number: signal.Signals, _handler: Any) -> None:
            raise AssertionError(f"{number} was touched")

        monkeypatch.setattr(signal, "signal", no_handler)
        run("", checkpoint=None)

    def test_outside_of_the_main_thread_nothing_changes(
        self, whole: adjoint.Solution, path: Path
    ) -> None:
        solutions: list[adjoint.Solution] = []
        thread = threading.Thread(
            target=lambda: solutions.append(run(path, callback=lambda _: None))
        )
        thread.start()
        thread.join()
        assert same(whole, solutions[0])


class TestNothingCanBeWritten:
    """The tests may run as root, whom no folder refuses: the system calls do it."""

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            ("fsync", errno.ENOSPC),
            ("fsync", errno.EIO),
            ("replace", errno.ENOSPC),
            ("replace", errno.EROFS),
        ],
    )
    def test_the_run_goes_on_and_the_last_good_file_stays(
        self,
        whole: adjoint.Solution,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        error: int,
    ) -> None:
        run(path, max_evaluations=8)
        good = {p.name: p.read_bytes() for p in path.parent.iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _failing(error))
            self.warned_once(whole, path, error)
        assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == good
        assert same(whole, run(path))

    def test_a_folder_that_is_read_only(
        self, whole: adjoint.Solution, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(path, max_evaluations=8)
        good = path.read_bytes()
        opened = Path.open

        def refusing(self: Path, mode: str = "r", *rest: Any) -> Any:
            return _failing(errno.EACCES)() if "w" in mode else opened(self, mode, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refusing)
            self.warned_once(whole, path, errno.EACCES)
        assert path.read_bytes() == good
        assert same(whole, run(path))

    def test_between_the_two_renames_the_generation_before_is_there(
        self, whole: adjoint.Solution, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(path, max_evaluations=8)
        good = path.read_bytes()
        replaced = os.replace

        def first_two(source: Any, target: Any) -> None:
            if Path(source).name.endswith(".next"):
                _failing(errno.ENOSPC)()
            replaced(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", first_two)
            self.warned_once(whole, path, errno.ENOSPC)
        assert names(path.parent) == ["run.checkpoint.previous"]
        assert path.with_name("run.checkpoint.previous").read_bytes() == good
        assert same(whole, run(path))

    def test_a_disk_with_space_again_is_used_again(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def callback(step: adjoint.Step) -> None:
            monkeypatch.setattr(os, "fsync", _failing(errno.ENOSPC) if step.iteration < 6 else real)

        real = os.fsync
        with pytest.warns(UserWarning, match="could not be saved") as caught:
            solution = run(path, callback=callback)
        assert len(caught) == 1
        assert same(solution, run(path, callback=_never))

    def warned_once(self, whole: adjoint.Solution, path: Path, error: int) -> None:
        with pytest.warns(
            UserWarning, match=rf"could not be saved \({os.strerror(error)}\)"
        ) as caught:
            assert same(whole, run(path))
        assert len(caught) == 1


def _failing(error: int) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def _never(_step: adjoint.Step) -> None:
    raise AssertionError("a finished run takes no step")


class TestAnotherRun:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (
                {"method": adjoint.LBFGS(memory=4)},
                r"method LBFGS\(memory=3, .*\), expected method LBFGS\(memory=4, ",
            ),
            ({"rtol": 1e-4}, "tolerances 1e-08.*expected tolerances 0.0001"),
            ({"bounds": (-5.0, 5.0)}, "bounds"),
            ({"noise": 1e-3}, "noise"),
            (
                {"inner_product": adjoint.Weighted(2.0)},
                "inner product Euclidean.*expected.*inner product Weighted",
            ),
        ],
    )
    def test_of_other_arguments(self, path: Path, change: dict[str, Any], named: str) -> None:
        run(path, max_steps=2)
        self.refused(path, named, lambda: run(path, **change))

    @pytest.mark.parametrize(
        ("start", "named"),
        [
            (START + 1e-9, "start"),
            (np.append(START, 0.0), r"x float64\[3\].*expected.*x float64\[4\]"),
            (START.astype(np.float32), r"expected.*x float32\[3\]"),
        ],
    )
    def test_of_another_start(self, path: Path, start: np.ndarray, named: str) -> None:
        run(path, max_steps=2)
        checkpoint = adjoint.Checkpoint(path)
        self.refused(
            path,
            named,
            lambda: adjoint.minimize(valley, jnp.asarray(start), METHOD, checkpoint=checkpoint),
        )

    def test_of_another_program(self, path: Path) -> None:
        run(path, max_steps=2)
        checkpoint = adjoint.Checkpoint(path)

        def other(x: jax.Array) -> jax.Array:
            return valley(1.000001 * x)

        self.refused(
            path,
            "program",
            lambda: adjoint.minimize(other, jnp.asarray(START), METHOD, checkpoint=checkpoint),
        )

    def test_programs_are_told_apart_by_what_they_hold(self) -> None:
        def program(scale: float, data: np.ndarray) -> str:
            known = jnp.asarray(data)
            shape = jax.ShapeDtypeStruct((3,), known.dtype)
            return continuation._digest(
                [continuation._program(lambda x: scale * jnp.sum((x - known) ** 4), shape)]
            )

        known = np.arange(3.0)
        assert program(1.0, known) == program(1.0, known.copy())
        different = [
            program(1.0, known),
            program(1.0, known + 1e-12),
            program(1.0 + 1e-12, known),
            program(1.0, known[:1]),
        ]
        assert len(set(different)) == 4

    def test_of_another_format(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(path, max_steps=2)
        monkeypatch.setattr(checkpoint_file, "FORMAT", checkpoint_file.FORMAT + 1)
        self.refused(
            path, f"of format {checkpoint_file.FORMAT - 1}, expected format", lambda: run(path)
        )

    def test_another_jax_is_said(
        self, whole: adjoint.Solution, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(jax, "__version__", "0.0.1")
            run(path, max_steps=2)
        with pytest.warns(
            UserWarning, match=r"written with device cpu, jax 0\.0\.1 and goes on with .*last bits"
        ):
            assert same(whole, run(path))

    def test_every_step_at_most(self) -> None:
        with pytest.raises(
            ValueError, match="Checkpoint: got every = 0, expected a number of steps, at least 1"
        ):
            adjoint.Checkpoint("run.checkpoint", every=0)

    def test_inside_jit(self, path: Path) -> None:
        with pytest.raises(ValueError, match="checkpoint inside jit or vmap"):
            jax.jit(
                lambda x: adjoint.minimize(valley, x, METHOD, checkpoint=adjoint.Checkpoint(path))
            )(START)

    @staticmethod
    def refused(path: Path, named: str, call: Callable[[], Any]) -> None:
        content = path.read_bytes()
        with pytest.raises(ValueError, match=f"Checkpoint: got .*{named}"):
            call()
        assert path.read_bytes() == content
