"""The exit codes of the command: what each means, and which one an error ends with.

A run that comes to an end of its own exits with the code of its `Outcome`.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable

from cyclopts import CycloptsError

from adjoint.run.ending import Outcome
from adjoint.run.interruption import Interruption
from adjoint.run.run_folder import FolderInUseError
from adjoint.run.settings import UsageError
from adjoint.solution import SolveError

# No outcomes of a run.
WRONG_USAGE = 2
INPUT_OUTPUT = 5

EXIT_CODES = """exit codes:

- 0: done
- 2: wrong usage
- 3: not converged, or a check fails; what there is has been written
- 4: the gradient is not to be trusted
- 5: input or output failed, such as an unwritable folder or a full disk, or memory ran out
- 130: interrupted with Ctrl-C or SIGTERM; what there is has been written

A run that ended with 5 or 130, or that was killed, goes on with: {program} resume DIR"""


def exit_code(error: Exception, interruption: Interruption) -> int:
    """Say in a sentence what is the user's or the machine's error; raise what is ours."""
    match error:
        case CycloptsError():
            return complain(" ".join(str(error).split()), WRONG_USAGE)
        case UsageError() | FolderInUseError():
            return complain(str(error), WRONG_USAGE)
        case BrokenPipeError():
            # The reader of our output has left (`... | head`); Python would try to flush to it once
            # more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return INPUT_OUTPUT
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            return complain(f"{where}{error.strerror or error}", INPUT_OUTPUT)
        case _ if interruption.requested:
            # Ctrl-C in a host callback surfaces as an error of the compiled program that called
            # back.
            return complain("interrupted", Outcome.INTERRUPTED)
        case SolveError():
            return complain(str(error), Outcome.NOT_CONVERGED)
        case ValueError() if str(error).startswith("Checkpoint: "):
            return complain(str(error), INPUT_OUTPUT)
        case MemoryError():
            return complain(f"out of memory: {error}; choose a smaller problem", INPUT_OUTPUT)
    raise error


def complain(sentence: str, code: int) -> int:
    """Say the error and return its code."""
    print(f"error: {sentence}", file=sys.stderr)
    return code


def _warn(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def end_process_with(main: Callable[[list[str]], int]) -> None:
    """Run a command line as a process: warnings are sentences, and it exits with its code."""
    warnings.showwarning = _warn
    # A terminal that cannot show a character gets a question mark instead of a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main(sys.argv[1:]))
