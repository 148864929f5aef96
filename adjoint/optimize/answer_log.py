"""The answers that a run was given, saved so that what cannot be saved itself can be led through them again.

SLSQP keeps its state to itself. It is a function of what it is told, so the same answers lead it to the same place.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from adjoint.inputs import refuse
from adjoint.optimize.continuation import History, files_of_run
from adjoint.optimize.objective import Objective
from adjoint.optimize.problem import Answer, Domain, Method
from adjoint.optimize.run import Limits, Run
from adjoint.run.checkpoint import Checkpoint, Snapshot


class _Entry(NamedTuple):
    """What was asked, and the answer."""

    point: Float[Array, " n"]
    answer: Answer


class AnswerLog:
    """The answers of one run in the order in which they were given; in a checkpoint, or for nobody.

    Attributes
    ----------
    known
        How many answers are in the checkpoint that the run goes on from.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        stage: int,
        objective: Objective,
        method: Method,
        x: Float[Array, " n"],
        domain: Domain,
        limits: Limits,
    ):
        import scipy

        self.known = 0
        self._given = 0
        self._blank = _Entry(x, objective.blank(method, x))
        self._entries: list[_Entry] = []
        self._files = None
        self.every = 1
        if checkpoint is not None:
            self.every = checkpoint.every
            self._files = files_of_run(checkpoint, stage, objective, method, x, domain, limits, scipy=scipy.__version__)

    def load(self) -> tuple[History, float] | None:
        """History and seconds of the saved run, or None where nothing is saved."""
        snapshot = None if self._files is None else self._files.load()
        if snapshot is None:
            return None
        leaves, structure = jax.tree.flatten(self._blank)
        given = [(array.shape[1:], array.dtype) for array in snapshot.arrays]
        assert self._files is not None
        if given != [(leaf.shape, leaf.dtype) for leaf in leaves]:
            refuse(
                "Checkpoint",
                f"{self._files.path} with arrays that do not fit",
                "the points and answers of this problem",
                "Go on with the version of adjoint that wrote it, or delete it to start anew.",
            )
        rows = zip(*snapshot.arrays, strict=True)
        self._entries = [jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in row]) for row in rows]
        self.known = len(self._entries)
        return snapshot.history, snapshot.seconds

    def recall(self, point: Float[Array, " n"], history: History) -> Answer | None:
        """The next saved answer, or None where all have been given, or where another point is asked about.

        Then `history` loses what came of the answers that are no longer of use.
        """
        if self._given == len(self._entries):
            return None
        entry = self._entries[self._given]
        if np.array_equal(entry.point, point):
            self._given += 1
            return entry.answer
        warnings.warn(
            f"SLSQP goes another way than the run in the checkpoint after {self._given} of {self.known} evaluations, as another "
            "SciPy or another processor may: the others are made anew",
            stacklevel=2,
        )
        self.known = self._given
        del self._entries[self.known :]
        history[:] = [row for row in history if row["evaluations"] <= self.known]
        return None

    def append(self, point: Float[Array, " n"], answer: Answer) -> None:
        """Note a new answer."""
        if self._files is not None:
            self._entries.append(_Entry(point, answer))
            self._given += 1

    def save(self, run: Run, history: History, seconds: float) -> None:
        """Write all answers; `run` follows from them."""
        if self._files is not None:
            entries = jax.device_get(self._entries)
            arrays = jax.tree.leaves(jax.tree.map(lambda *parts: np.stack(parts), *entries))
            self._files.save(Snapshot(arrays, history, seconds))
