"""The record of one run: what its iterations report, and the files that it leaves at any end."""

import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO, TypeVar

import numpy as np
from jaxtyping import Float

from adjoint.inputs import refuse
from adjoint.run.activity import Activity
from adjoint.run.checkpoint import Checkpoint, Generations, Snapshot
from adjoint.run.ending import Ending, GradientVerdict, Outcome, Task
from adjoint.run.film import Film
from adjoint.run.history import History
from adjoint.run.interruption import Interruption
from adjoint.run.progress import progress_on
from adjoint.run.provenance import provenance
from adjoint.run.report import Picture, report_page
from adjoint.run.result import Result
from adjoint.run.run_folder import RunFolder

T = TypeVar("T")

# Seconds between two versions of history.csv and of the state: what a killed run may lose.
PAUSE = 5.0
CHECKPOINTS = "checkpoint"


class Record:
    """The record of one run.

    A problem reports its gradient's verdict, runs its iterations through `follow`, reports each
    with `iteration`, and adds its pictures and files; whoever runs the problem calls `close`.

    A killed run goes on in its folder with a new record. A problem whose run takes seconds simply
    runs again. One with iterations of its own hands their state to `keep` and begins with `state`;
    one on `minimize` gives it a `checkpoint`.

    Parameters
    ----------
    folder
        Where the files go.
    task
        What the run was asked to do.
    stream
        Where progress is shown.
    interruption
        Tells about Ctrl-C; `follow` stops between two iterations.

    Attributes
    ----------
    history
        One row per iteration.
    film
        One frame per iteration, thinned out.
    state
        The latest of `keep` or `save`, in a run that goes on the one that was saved, with its
        history and its film; None when there is none.

    Raises
    ------
    ValueError
        When the saved state in the folder is damaged.

    Examples
    --------
    >>> import pathlib, sys, tempfile
    >>> folder = RunFolder.claim(
    ...     pathlib.Path(tempfile.mkdtemp()), "command.txt", "python -m problems run square"
    ... )
    >>> task = Task("square", "Halve a number.", {}, {}, "python -m problems run square")
    >>> record = Record(folder, task, sys.stdout, Interruption())
    >>> for k in record.follow(range(2)):
    ...     record.iteration({"iteration": k, "x": 0.5**k})
    iteration            x
            0       1.0000
            1      0.50000
    >>> record.close(Ending(Outcome.DONE, "done"))
    >>> sorted(p.name for p in folder.path.iterdir())
    ['command.txt', 'history.csv', 'report.html', 'result.json']
    """

    def __init__(self, folder: RunFolder, task: Task, stream: TextIO, interruption: Interruption):
        self.history = History()
        self.film = Film()
        self._folder = folder
        self._task = task
        self._stream = stream
        self._interruption = interruption
        self._progress = progress_on(stream)
        self._activity = Activity(stream)
        self._verdict: GradientVerdict | None = None
        self._circumstances = ""
        self._pictures: list[Picture] = []
        self._files: list[tuple[str, str]] = [("command.txt", "the command that repeats this run")]
        self._began = datetime.now().astimezone()
        self._started = time.monotonic()
        self._written = self._saved = self._started
        self._complained = False
        self.state: Sequence[np.ndarray] | None = None
        self._kept = 0
        self._generations = Generations(
            folder.path / CHECKPOINTS / "record",
            {"problem": task.problem, "settings": str(dict(task.settings))},
            {},
        )
        self._restore()

    def gradient(self, verdict: GradientVerdict, circumstances: str) -> None:
        """Note the gradient's verdict and say it; the whole table when it is not to be trusted.

        Parameters
        ----------
        verdict
            What `adjoint.verify_gradient` returned.
        circumstances
            Where the gradient was judged, in a sentence: at which parameters, on which size of the
            problem.
        """
        self._verdict = verdict
        self._circumstances = circumstances
        self._activity.pause()
        if verdict.trusted:
            print(
                f"gradient: trusted, relative error {verdict.relative_error:.1e}",
                file=self._stream,
                flush=True,
            )
        else:
            print(f"gradient: not trusted\n{verdict}", file=self._stream, flush=True)
        self._activity.begin("computing")

    @contextmanager
    def activity(self) -> Iterator[None]:
        """Signs of life wherever no iterations are followed.

        Whoever runs the problem calls it in this context.
        """
        with self._activity:
            self._activity.begin("verifying the gradient")
            yield

    def phase(self, what: str) -> None:
        """Say what is done from now on, if it may take over a few seconds and is no iteration.

        Parameters
        ----------
        what
            Such as "computing the sensitivities".
        """
        self._activity.begin(what)

    def follow(self, iterations: Iterable[T]) -> Iterator[T]:
        """Yield the iterations with live progress, and stop between two of them after a Ctrl-C.

        Then save what is kept.

        Raises
        ------
        KeyboardInterrupt
            After the iteration in which Ctrl-C was pressed.
        """
        self._activity.pause()
        try:
            with self._progress:
                try:
                    yield from self._interruption.between(iterations)
                finally:
                    self._save()
        finally:
            self._activity.begin("drawing the pictures")

    def iteration(
        self,
        row: Mapping[str, object],
        density: Float[np.ndarray, "x y"] | None = None,
        caption: str = "",
    ) -> None:
        """Report one iteration.

        Parameters
        ----------
        row
            Its numbers by column, the same columns every time.
        density
            A frame for the film: values from 0 to 1, indexed like coordinates.
        caption
            A line of text below that frame.

        Warns
        -----
        UserWarning
            The first time that the history cannot be written; the run goes on.
        """
        self.history.append(row)
        self._progress.show(self.history.last)
        if density is not None:
            self.film.add(density, caption)
        if time.monotonic() - self._written > PAUSE:
            self._written = time.monotonic()
            try:
                self._folder.write("history.csv", self.history.csv())
            except OSError as error:
                self._complain(error)

    def keep(self, state: Sequence[np.ndarray]) -> None:
        """Take what iterations go on from after the one just reported.

        It is saved now and then, and when `follow` ends.

        Parameters
        ----------
        state
            Arrays, the same kinds every time, which nobody changes afterwards.

        Warns
        -----
        UserWarning
            The first time that it cannot be saved; the run goes on and the last good state stays.
        """
        self.state = state
        self._kept = len(self.history)
        if time.monotonic() - self._saved > PAUSE:
            self._save()

    def save(self, state: Sequence[np.ndarray]) -> None:
        """As `keep`, saved at once: for a callback of `minimize`, which saves its state then."""
        self.state = state
        self._kept = len(self.history)
        self._save()

    def reported(self, number: int) -> bool:
        """Whether iteration `number`, from 1, was reported, perhaps before the run was stopped.

        Raises
        ------
        ValueError
            When not even the one before it is there: `minimize` could save its state and the record
            could not.
        """
        rows = len(self.history)
        if number > rows + 1:
            refuse(
                "Checkpoint",
                f"iterations up to {rows} of the record and to {number - 1} of minimize",
                "as many of both",
                f"Delete the folder {self._folder.path / CHECKPOINTS} and resume to start anew.",
            )
        return number <= rows

    def checkpoint(self, name: str, every: int = 1) -> Checkpoint:
        """A checkpoint in this folder for `minimize`, which is removed when the run is done.

        Parameters
        ----------
        name
            Of the minimization, if a run has several.
        every
            Save every so many steps.
        """
        return Checkpoint(self._folder.path / CHECKPOINTS / f"minimize-{name}", every)

    def picture(self, name: str, content: bytes, caption: str) -> None:
        """Write a picture, which also goes into the report.

        Parameters
        ----------
        name
            Its file name, which ends in ``.png`` or ``.gif``.
        content
            The bytes of the file.
        caption
            A sentence.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        self.file(name, content, caption)
        self._pictures.append(Picture(name, content, caption))

    def file(self, name: str, content: str | bytes, meaning: str) -> None:
        """Write a file that the report only names.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        self._folder.write(name, content)
        self._files.append((name, meaning))

    def close(self, ending: Ending) -> None:
        """Write the history, ``report.html`` and at last ``result.json``.

        Unless interrupted, remove the checkpoints.

        Parameters
        ----------
        ending
            How the run ended.

        Raises
        ------
        OSError
            When they cannot be written.
        """
        seconds = time.monotonic() - self._started
        if len(self.history):
            self.file(
                "history.csv", self.history.csv(), "the numbers of every iteration, with all digits"
            )
        self._files.append(("result.json", "this page for programs"))
        result = Result(
            task=self._task,
            ending=ending,
            last=self.history.last,
            verdict=self._verdict,
            circumstances=self._circumstances,
            seconds=seconds,
            made_with={"date": self._began.isoformat(timespec="seconds"), **provenance()},
        )
        page = report_page(result.report(self._pictures, self._files))
        self._folder.write("report.html", page)
        self._folder.write("result.json", result.json())
        if ending.outcome != Outcome.INTERRUPTED:
            remove_checkpoints(self._folder)

    def _restore(self) -> None:
        snapshot = self._generations.load()
        if snapshot is None:
            return
        used = self.film.restore(snapshot.arrays)
        for row in snapshot.history:
            self.history.append(row)
        self.state = snapshot.arrays[used:]
        self._kept = len(self.history)
        self._started -= snapshot.seconds

    def _save(self) -> None:
        """Unless an iteration was cut off between its report and its state."""
        if self.state is None or self._kept != len(self.history):
            return
        self._saved = time.monotonic()
        arrays = [*self.film.arrays(), *self.state]
        self._generations.save(Snapshot(arrays, self.history.rows, self._saved - self._started))

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            warnings.warn(
                f"{error.filename}: {error.strerror}; the run goes on without", stacklevel=3
            )
        self._complained = True


def remove_checkpoints(folder: RunFolder) -> None:
    """Of a run that is done and will not go on."""
    shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)
