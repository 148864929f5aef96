"""A short run with a checkpoint, and the same in a process that kills itself.

It is called as ``checkpoint_run.py FILE LINE [slowly]``. The process dies by SIGKILL before the
given line of those that the driver and the writer of checkpoints run through; a line of 0 is never
reached.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import adjoint

START = np.array([-1.2, 1.0, 0.5])
METHOD = adjoint.LBFGS(memory=3)
WATCHED = (
    "optimize/driver.py",
    "optimize/continuation.py",
    "run/checkpoint.py",
    "run/run_folder.py",
)


def valley(x: Any) -> Any:
    """Rosenbrock's function in three unknowns."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def run(path: Path | str, **given: Any) -> adjoint.Solution[Any]:
    given = {"method": METHOD, "max_steps": 12, "checkpoint": adjoint.Checkpoint(path)} | given
    return adjoint.minimize(valley, jnp.asarray(START), **given)


class Lines:
    """Counts the lines run through in the watched files; calls `arrived` before the given one."""

    def __init__(self, line: int, arrived: Callable[[], None], watched: tuple[str, ...] = WATCHED):
        self.count = 0
        self._line = line
        self._arrived = arrived
        self._watched = watched

    def __enter__(self) -> "Lines":
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        return self._next if frame.f_code.co_filename.endswith(self._watched) else None

    def _next(self, _frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self._line:
                self._arrived()
        return self._next


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    pause = (lambda _: time.sleep(1)) if "slowly" in sys.argv else None
    with Lines(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)):
        print(run(sys.argv[1], callback=pause).status.name)
