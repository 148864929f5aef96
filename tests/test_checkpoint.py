"""Checkpoints of `minimize`: the same bits after any stop, damage seen, nothing lost.

Nothing is lost when nothing can be written. Expected is always the run that was never stopped; no
number is our own.
"""

import random
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checkpoint_run import METHOD, START, run

import adjoint
from adjoint.run import checkpoint as checkpoint_file


@pytest.fixture(scope="module")
def whole() -> adjoint.Solution:
    """Never stopped, never saved."""
    return run("", checkpoint=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.checkpoint"


def bits(solution: adjoint.Solution) -> dict[str, tuple[str, bytes] | str]:
    """All that a solution says, but for the clock."""
    history = {
        name: column for name, column in solution.stats["history"].items() if name != "seconds"
    }
    all_of_it = {"x": solution.value, "code": solution.status.code} | solution.stats | history
    del all_of_it["history"]
    arrays = {name: np.asarray(v) for name, v in all_of_it.items()}
    return {name: (str(v.dtype), v.tobytes()) for name, v in arrays.items()}


def same(one: adjoint.Solution, other: adjoint.Solution) -> bool:
    """Bit by bit; and the clock only goes forward."""
    return bits(one) == bits(other) and bool(
        np.all(np.diff(other.stats["history"]["seconds"]) >= 0)
    )


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


class TestTheSameBits:
    def test_a_saved_run_is_the_run(self, whole: adjoint.Solution, path: Path) -> None:
        assert same(whole, run(path))
        assert names(path.parent) == ["run.checkpoint", "run.checkpoint.previous"]

    @pytest.mark.parametrize("every", [1, 4])
    def test_after_an_exception_of_the_callback(
        self, whole: adjoint.Solution, path: Path, every: int
    ) -> None:
        checkpoint = adjoint.Checkpoint(path, every)
        seen: list[int] = []

        def callback(step: adjoint.Step) -> None:
            seen.append(step.iteration)
            if len(seen) in (3, 8):
                raise RuntimeError("the callback is broken")

        for _ in range(2):
            with pytest.raises(RuntimeError, match="callback is broken"):
                run(path, callback=callback, checkpoint=checkpoint)
        assert same(whole, run(path, callback=callback, checkpoint=checkpoint))
        # A step that was not saved yet is seen again, none is left out.
        assert sorted(set(seen)) == list(range(13))
        assert (len(seen) == 15) == (every == 1)

    @pytest.mark.parametrize(
        "method",
        [
            METHOD,
            *(
                pytest.param(m, marks=pytest.mark.slow)
                for m in (adjoint.BFGS(), adjoint.SteepestDescent())
            ),
        ],
    )
    def test_after_a_stop_at_every_evaluation(self, path: Path, method: object) -> None:
        whole = run(path, method=method, checkpoint=None, max_steps=6)
        for most in range(1, int(whole.stats["evaluations"])):
            part = run(path, method=method, max_steps=6, max_evaluations=most)
            assert part.status == adjoint.Status.MAX_EVALUATIONS
            assert part.stats["evaluations"] == most
        assert same(whole, run(path, method=method, max_steps=6))

    def test_in_the_middle_of_an_examination(self, path: Path) -> None:
        """A wrong gradient is found out by evaluations between two steps."""
        calls: list[float] = []

        def cost(x: np.ndarray) -> float:
            calls.append(float(x[0]))
            return float(np.sum((x - 1) ** 2) + np.sum(x**4))

        def wrong(x: np.ndarray) -> np.ndarray:
            return -2 * (x - 1) - 4 * x**3

        def some(**given: object) -> adjoint.Solution:
            return adjoint.minimize(cost, np.array([0.3, 2.0]), METHOD, gradient=wrong, **given)

        whole = some()
        assert whole.status == adjoint.Status.UNTRUSTED_GRADIENT
        expected, calls[:] = list(calls), []
        for most in range(1, int(whole.stats["evaluations"]) + 1):
            part = some(max_evaluations=most, checkpoint=adjoint.Checkpoint(path))
        assert same(whole, some(checkpoint=adjoint.Checkpoint(path)))
        assert calls == expected
        assert part.stats["evaluations"] == whole.stats["evaluations"]

    def test_nothing_in_the_state_is_weakly_typed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A weak type would not come back from the file, and might promote otherwise."""
        from adjoint.optimize import continuation

        leaves: list[jax.Array] = []
        monkeypatch.setattr(
            continuation.Continuation,
            "save",
            lambda _s, run, *_: leaves.extend(jax.tree.leaves(run)),
        )
        monkeypatch.setattr(checkpoint_file.Generations, "load", lambda _self: None)
        run("unused", max_steps=2)
        assert leaves
        assert not any(leaf.weak_type for leaf in leaves)


class TestWhatIsDoneIsDone:
    def test_a_finished_run_is_returned_without_an_evaluation(self, path: Path) -> None:
        calls: list[int] = []

        def cost(x: np.ndarray) -> float:
            calls.append(1)
            return float(x @ x)

        def again(cost: Any = cost, **given: Any) -> adjoint.Solution:
            checkpoint = adjoint.Checkpoint(path)
            return adjoint.minimize(
                cost, START, METHOD, gradient=lambda x: 2 * x, checkpoint=checkpoint, **given
            )

        def other(x: np.ndarray) -> float:
            return 2 * cost(x)

        first, evaluations = again(), len(calls)
        assert first.status == adjoint.Status.SUCCESS
        assert same(first, again(max_steps=5000))
        with pytest.raises(
            ValueError,
            match=r"with functions .*cost, .*expected functions .*other, .*Name another file",
        ):
            again(other)
        assert len(calls) == evaluations

    def test_seconds_add_up_and_a_raised_limit_goes_on(
        self, whole: adjoint.Solution, path: Path
    ) -> None:
        def slow(step: adjoint.Step) -> None:
            if step.iteration == 2:
                time.sleep(0.2)

        late = run(path, callback=slow, max_seconds=0.2)
        assert late.status == adjoint.Status.TIME_LIMIT
        evaluations = int(late.stats["evaluations"])
        again = run(path, max_seconds=0.2)
        assert again.status == adjoint.Status.TIME_LIMIT
        assert int(again.stats["evaluations"]) == evaluations
        rest = run(path)
        assert same(whole, rest)
        assert rest.stats["history"]["seconds"][-1] > 0.2

    def test_a_stage_after_which_another_has_begun_is_final(self, path: Path) -> None:
        """The chain of `minimize` finds its way again, and goes on in no stage it has left."""
        chain = (adjoint.SteepestDescent(), METHOD)

        def through(**given: object) -> adjoint.Solution:
            return run(path, method=None, **given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("adjoint.optimize.minimize.choose", lambda *_: (chain, "for a test"))
            unsaved = through(max_steps=4, checkpoint=None)
            whole_chain = unsaved.stats["history"]["iteration"].tolist()
            assert whole_chain == [*range(5), *range(5)]
            seen: list[int] = []

            def callback(step: adjoint.Step) -> bool:
                seen.append(step.iteration)
                return len(seen) in (3, 7)

            assert through(max_steps=4, callback=callback).status == adjoint.Status.INTERRUPTED
            assert through(max_steps=4, callback=callback).status == adjoint.Status.INTERRUPTED
            assert same(unsaved, through(max_steps=4, callback=callback))
            assert seen == whole_chain
            assert through(max_steps=6).stats["history"]["iteration"].tolist() == [
                *range(5),
                *range(7),
            ]


class TestDamage:
    def damage(self, path: Path, seed: int) -> None:
        content = bytearray(path.read_bytes())
        bit = random.Random(seed).randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    @pytest.mark.parametrize("seed", range(12))
    def test_a_flipped_bit_falls_back_to_the_generation_before(
        self, whole: adjoint.Solution, path: Path, seed: int
    ) -> None:
        run(path, max_evaluations=8)
        self.damage(path, seed)
        good = path.with_name("run.checkpoint.previous")
        before = good.read_bytes()
        with pytest.warns(
            UserWarning, match="damaged checkpoint .*run.checkpoint .*going on from .*previous"
        ):
            # Stopped before the first save, the damaged file has not pushed out the good one.
            run(path, callback=self.stop_at_once, max_evaluations=8)
        assert good.read_bytes() == before
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert same(whole, run(path))

    @staticmethod
    def stop_at_once(_step: adjoint.Step) -> bool:
        return True

    def test_with_both_damaged_nothing_is_guessed(self, path: Path) -> None:
        run(path, max_evaluations=8)
        for seed, file in enumerate((path, path.with_name("run.checkpoint.previous"))):
            self.damage(file, seed)
        contents = path.read_bytes()
        with pytest.raises(
            ValueError,
            match=r"Checkpoint: got the damaged files .*expected a whole checkpoint\. Restore",
        ):
            run(path)
        assert path.read_bytes() == contents

    @pytest.mark.parametrize("content", [b"", b"x" * 31, b"my thesis\n" * 9])
    def test_what_is_no_checkpoint_is_not_overwritten(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            run(path)
        assert path.read_bytes() == content
        assert names(path.parent) == ["run.checkpoint"]
