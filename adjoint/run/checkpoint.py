"""Checkpoints of a run: two generations of one file, each whole or known as damaged; no pickle.

A file is one line of JSON (what was run, the history, the shapes of the arrays), then the bytes of
the arrays, then the SHA-256 of all that. A new generation is complete on the disk before the older
ones move.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adjoint.inputs import refuse
from adjoint.run.run_folder import RunFolder

# Of the file, to be raised when older code could not read it.
FORMAT = 1
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """Where `minimize` saves its run, and goes on from when it is called again.

    Parameters
    ----------
    path
        The file. The generation before the newest is kept next to it as ``PATH.previous``. Its
        folder is created.
    every
        Save every so many steps; the end is always saved, also after Ctrl-C, SIGTERM or
        max_seconds.

    Raises
    ------
    ValueError
        For `every` below 1. By `minimize`: when both generations are damaged, or the file belongs
        to another problem, start, method or tolerance, or to another format.

    Warns
    -----
    UserWarning
        Once, when nothing can be saved (a full disk, a read-only folder): the run goes on and the
        last good file stays. When the newest generation is damaged and the one before is used. When
        JAX or the device has changed, and so perhaps the last bits.

    Notes
    -----
    A run that goes on takes the same steps, bit by bit, as one that was never stopped. Its seconds
    add up, and max_seconds is for all of them. A finished run is returned at once; one that ran out
    of max_steps, max_evaluations or max_seconds goes on when these are raised. The callback may see
    a step again that was not yet saved.

    An objective that JAX traces is recognized by its traced program; one with its own ``gradient=``
    by the names of the functions alone.

    **Cost**: the state of the method is written each time, n^2 numbers for `BFGS`, 2 memory n for
    `LBFGS`.

    Examples
    --------
    >>> import pathlib, tempfile, jax.numpy as jnp, adjoint
    >>> checkpoint = adjoint.Checkpoint(
    ...     pathlib.Path(tempfile.mkdtemp()) / "bowl.checkpoint", every=5
    ... )
    >>> cost = lambda x: jnp.sum((x - 1) ** 4)
    >>> first = adjoint.minimize(
    ...     cost, jnp.zeros(2), adjoint.BFGS(), max_steps=3, checkpoint=checkpoint
    ... )
    >>> second = adjoint.minimize(cost, jnp.zeros(2), adjoint.BFGS(), checkpoint=checkpoint)
    >>> int(first.stats["iterations"]), second.status
    (3, Status.SUCCESS)
    """

    path: str | os.PathLike[str]
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            refuse(
                "Checkpoint",
                f"every = {self.every}",
                "a number of steps, at least 1",
                "1 is usual.",
            )


class Snapshot(NamedTuple):
    """What is saved of a run.

    Attributes
    ----------
    arrays
        The leaves of its state.
    history
        Rows of numbers by name.
    seconds
        Spent so far.
    """

    arrays: Sequence[np.ndarray]
    history: list[dict[str, float]]
    seconds: float


class Generations:
    """The newest file and the one before, for one problem.

    Parameters
    ----------
    path
        The newest file.
    problem
        What is run, in words by name; only a file with the same words is taken.
    origin
        With what it is run; a difference is worth a warning.

    Examples
    --------
    >>> import tempfile
    >>> files = Generations(Path(tempfile.mkdtemp()) / "run.checkpoint", {"method": "BFGS()"}, {})
    >>> files.save(Snapshot([np.arange(3.0)], [], 1.5))
    >>> files.load().arrays
    [array([0., 1., 2.])]
    """

    def __init__(self, path: Path, problem: dict[str, str], origin: dict[str, str]):
        self.path = path
        self.previous = path.with_name(f"{path.name}.previous")
        self._problem = problem
        self._origin = origin
        self._keep_newest = True
        self._complained = False

    def save(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest generation.

        When that fails, warn the first time and leave the files as they are.
        """
        following = self.path.with_name(f"{self.path.name}.next")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            RunFolder(self.path.parent).write(
                following.name, _encode(snapshot, self._problem, self._origin)
            )
            if self._keep_newest and self.path.exists():
                os.replace(self.path, self.previous)
            os.replace(following, self.path)
        except OSError as error:
            with suppress(OSError):
                following.unlink()
            if not self._complained:
                warnings.warn(
                    f"checkpoint {self.path} could not be saved ({error.strerror or error}); the "
                    "run goes on without, and the "
                    "last good checkpoint is kept",
                    stacklevel=2,
                )
            self._complained = True
        else:
            self._keep_newest = True

    def load(self) -> Snapshot | None:
        """The newest generation that is whole, or None when there is none at all.

        Raises
        ------
        ValueError
            When no generation is whole, or when it belongs to something else.
        """
        damages = []
        for path in (self.path, self.previous):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                damages.append(f"{path} ({error.strerror})")
                continue
            if (
                len(content) < _DIGEST
                or hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]
            ):
                damages.append(f"{path} (wrong checksum)")
                continue
            snapshot = self._decode(path, content)
            if damages:
                self._keep_newest = False
                warnings.warn(
                    f"damaged checkpoint {damages[0]}: going on from {path}, the one before",
                    stacklevel=2,
                )
            return snapshot
        if damages:
            refuse(
                "Checkpoint",
                f"the damaged files {' and '.join(damages)}",
                "a whole checkpoint",
                "Restore one, or delete them to start anew.",
            )
        return None

    def _decode(self, path: Path, content: bytes) -> Snapshot:
        line, _, data = memoryview(content)[:-_DIGEST].tobytes().partition(b"\n")
        header = json.loads(line)
        if header["format"] != FORMAT:
            refuse(
                "Checkpoint",
                f"{path} of format {header['format']}",
                f"format {FORMAT}",
                "Go on with the version of adjoint that wrote it, or delete it to start anew.",
            )
        same_origin = header["origin"] == self._origin
        problem = header["problem"]
        different = [
            k
            for k in self._problem.keys() | problem.keys()
            if problem.get(k) != self._problem.get(k)
        ]
        # The text of a traced program is that of one version of JAX.
        different = sorted(k for k in different if same_origin or not k.endswith("program"))
        if different:
            refuse(
                "Checkpoint",
                f"{path} of a run with {_named(problem, different)}",
                _named(self._problem, different),
                "Name another file for another run, or delete this one to start anew.",
            )
        if not same_origin:
            warnings.warn(
                f"checkpoint {path} was written with "
                f"{_named(header['origin'], sorted(header['origin']))} and goes on with "
                f"{_named(self._origin, sorted(self._origin))}: the last bits may differ",
                stacklevel=3,
            )
        return Snapshot(_arrays(header["arrays"], data), header["history"], header["seconds"])


def _named(words: dict[str, str], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {words.get(name, 'none')}" for name in names)


def _encode(snapshot: Snapshot, problem: dict[str, str], origin: dict[str, str]) -> bytes:
    header: dict[str, object] = {
        "format": FORMAT,
        "problem": problem,
        "origin": origin,
        "seconds": snapshot.seconds,
        "arrays": [[array.dtype.str, list(array.shape)] for array in snapshot.arrays],
        "history": snapshot.history,
    }
    body = b"".join(
        [json.dumps(header).encode(), b"\n", *(array.tobytes() for array in snapshot.arrays)]
    )
    return body + hashlib.sha256(body).digest()


def _arrays(layout: list[tuple[str, list[int]]], data: bytes) -> list[np.ndarray]:
    arrays = []
    start = 0
    for dtype, shape in layout:
        array = np.frombuffer(data, dtype, count=int(np.prod(shape)), offset=start).reshape(shape)
        arrays.append(array)
        start += array.nbytes
    return arrays
