"""Checkpoints of SQP: a run that was stopped is the run that was not, bit by bit, and nothing is evaluated twice."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.optimize

import adjoint
from adjoint import SQP, Checkpoint, Status
from tests.hock_schittkowski import CASES
from tests.test_checkpoint import same

CASE = CASES["HS7"]
gradient = jax.jit(jax.grad(CASE.f))


class Counted:
    """HS7 on the host, and how often f is asked for."""

    def __init__(self, sign: float = 1.0) -> None:
        self.points: list[tuple[float, ...]] = []
        self._sign = sign

    def f(self, x: np.ndarray) -> float:
        self.points.append(tuple(x))
        return float(CASE.f(x))

    def slope(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(gradient(x)) * np.array([1.0, self._sign])

    def solve(self, path: Path | None = None, every: int = 1, **given: Any) -> adjoint.Solution:
        checkpoint = None if path is None else Checkpoint(path, every)
        given = {"equality": CASE.equality, "checkpoint": checkpoint, "max_steps": 20} | given
        return adjoint.minimize(self.f, np.array(CASE.start), SQP(), gradient=self.slope, **given)


def test_the_same_bits_after_a_stop_at_every_evaluation(tmp_path: Path) -> None:
    whole, parts = Counted(), Counted()
    expected = whole.solve()
    assert expected.status == Status.SUCCESS
    for evaluations in range(1, len(whole.points)):
        part = parts.solve(tmp_path / "run", max_evaluations=evaluations)
        assert part.status == Status.MAX_EVALUATIONS
        assert part.stats["evaluations"] == evaluations
    assert same(expected, parts.solve(tmp_path / "run"))
    assert parts.points == whole.points
    # A finished run is returned as it is.
    assert same(expected, parts.solve(tmp_path / "run"))
    assert parts.points == whole.points


@pytest.mark.slow
def test_in_the_middle_of_an_examination(tmp_path: Path) -> None:
    """A wrong derivative, which SLSQP creeps along, is found out by evaluations that it does not ask for."""
    whole, parts = Counted(-1.0), Counted(-1.0)
    expected = whole.solve()
    assert expected.status == Status.UNTRUSTED_GRADIENT
    for evaluations in (5, len(whole.points) - 4, len(whole.points) - 2):
        parts.solve(tmp_path / "run", every=50, max_evaluations=evaluations)
    assert same(expected, parts.solve(tmp_path / "run", every=50))
    assert parts.points == whole.points


def test_what_was_not_saved_is_done_again(tmp_path: Path) -> None:
    whole, parts = Counted(), Counted()
    expected = whole.solve()
    seen: list[int] = []

    def breaks(step: adjoint.Step) -> None:
        seen.append(step.iteration)
        if len(seen) == 6:
            raise RuntimeError("the callback is broken")

    with pytest.raises(RuntimeError, match="callback is broken"):
        parts.solve(tmp_path / "run", every=4, callback=breaks)
    assert same(expected, parts.solve(tmp_path / "run", every=4, callback=breaks))
    assert seen == [0, 1, 2, 3, 4, 5, *range(5, int(expected.stats["iterations"]) + 1)]


def test_an_slsqp_that_goes_another_way_is_told_of_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Counted()
    parts.solve(tmp_path / "run", max_evaluations=6)
    plain = scipy.optimize.minimize
    monkeypatch.setattr(scipy.optimize, "minimize", lambda f, x, **given: plain(f, x + 0.01, **given))
    with pytest.warns(UserWarning, match="another way than the run in the checkpoint after 1 of 6 evaluations"):
        other = parts.solve(tmp_path / "run")
    assert other.status == Status.SUCCESS
    np.testing.assert_allclose(other.value, CASE.x, atol=1e-6)
    evaluations = other.stats["history"]["evaluations"]
    assert np.all(np.diff(evaluations) > 0)
    assert len(parts.points) == 6 + int(other.stats["evaluations"]) - 1


def test_an_array_of_another_shape_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Counted().solve(tmp_path / "run", max_evaluations=3)
    from adjoint.optimize import answer_log

    monkeypatch.setattr(answer_log, "_Entry", lambda point, answer: (point,))
    with pytest.raises(ValueError, match="arrays that do not fit"):
        Counted().solve(tmp_path / "run")
