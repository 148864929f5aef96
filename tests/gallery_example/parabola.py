"""A problem for the gallery's tests: descent on x^2 / 2 from x = 1, with trouble on demand."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from adjoint import SolveError, Status
from adjoint.run.ending import Ending, Outcome
from adjoint.run.figures import Panel, convergence_png, density_png
from adjoint.run.record import Record

SUMMARY = "Gradient descent on a parabola."
JUDGED = "Judged at x = 1."


@dataclass(frozen=True)
class Settings:
    steps: int = field(
        default=50, metadata={"help": "most iterations", "minimum": 1, "maximum": 10_000}
    )
    rate: float = field(
        default=0.5, metadata={"help": "step length", "minimum": 0.0, "maximum": 2.0}
    )
    verbose: bool = field(default=False, metadata={"help": "says more"})
    trouble: str = field(
        default="none",
        metadata={
            "help": "what goes wrong at iteration 3",
            "choices": ("none", "solve", "gradient", "ctrl-c", "ctrl-c inside", "bug"),
        },
    )

    def __post_init__(self) -> None:
        if self.steps > 5000 and self.rate == 2.0:
            raise ValueError("rate = 2 never converges; choose fewer steps or a smaller rate")


@dataclass(frozen=True)
class Verdict:
    trusted: bool
    relative_error: float

    def __str__(self) -> str:
        return f"verdict table: trusted {self.trusted}"


def verify(settings: Settings) -> Verdict:
    return Verdict(True, 1e-12) if settings.trouble != "gradient" else Verdict(False, 0.5)


def run(settings: Settings, record: Record) -> Ending:
    start = 1.0 if record.state is None else float(record.state[0])
    x = start
    try:
        for k, x in record.follow(_descent(settings, len(record.history), start)):
            record.iteration({"iteration": k, "x": x}, np.full((6, 2), abs(x)), f"iteration {k}")
            record.keep([np.array(x)])
    finally:
        if len(record.history):
            record.picture(
                "density.png", density_png(np.full((6, 2), abs(x))), "x as a gray level."
            )
            record.picture("iterations.gif", record.film.gif(), "The iterations.")
            panels = [Panel("|x|", np.abs(record.history.column("x")), "log")]
            record.picture(
                "convergence.png",
                convergence_png(record.history.column("iteration"), panels, "Descent"),
                "Descent.",
            )
    if abs(x) > 1e-6:
        return Ending(
            Outcome.NOT_CONVERGED,
            f"Not converged: |x| = {abs(x):.1e} after {settings.steps} iterations.",
        )
    return Ending(Outcome.DONE, f"Converged: |x| = {abs(x):.1e}.")


def _descent(settings: Settings, done: int, x: float) -> Iterator[tuple[int, float]]:
    for k in range(done + 1, settings.steps + 1):
        if abs(x) < 1e-6:
            return
        if k == 3:
            _trouble(settings.trouble)
        x -= settings.rate * x
        yield k, x


def _trouble(kind: str) -> None:
    if kind == "solve":
        raise SolveError(
            "SparseDirect: SINGULAR: a boundary condition may be missing.", Status.SINGULAR, {}
        )
    if kind.startswith("ctrl-c"):
        os.kill(os.getpid(), signal.SIGINT)
    if kind == "ctrl-c inside":
        # What a compiled program makes of an exception in its host callback.
        raise RuntimeError("INTERNAL: CpuCallback error: KeyboardInterrupt")
    if kind == "bug":
        raise ZeroDivisionError("a defect of the problem")
