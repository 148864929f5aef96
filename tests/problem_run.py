"""The command line in a process that kills itself: ``problem_run.py LINE ARGUMENT...``.

The process dies by SIGKILL before the given line of those that the records, the checkpoints and the
command line run through; a line of 0 is never reached, and their number is the last line of what it
prints. Nothing waits: records save every iteration.
"""

import os
import signal
import sys
from pathlib import Path

from checkpoint_run import Lines

import problems
from adjoint.run import record
from problems.__main__ import main

WATCHED = (
    "run/record.py",
    "run/result.py",
    "run/run_folder.py",
    "run/checkpoint.py",
    "run/film.py",
    "optimize/driver.py",
    "run/command_line.py",
    "problems/mbb_beam.py",
    "problems/mbb_beam_analysis.py",
    "gallery_example/parabola.py",
)

if __name__ == "__main__":
    record.PAUSE = -1.0
    problems.__path__.append(str(Path(__file__).parent / "gallery_example"))
    with Lines(int(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL), WATCHED) as lines:
        code = main(sys.argv[2:])
    print(lines.count)
    sys.exit(code)
