"""The gallery's command line: ``python -m problems list | run NAME | verify NAME | resume DIR``."""

import sys
from collections.abc import Sequence

import jax

import problems
from adjoint.run.command_line import Program
from adjoint.run.exit_codes import end_process_with
from adjoint.run.problem import Gallery

PROGRAM = Program("python -m problems", Gallery(problems))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        What was typed after ``python -m problems``; by default what really was.
    """
    # The problems are differentiated to 1e-9 and better, which float32 cannot show.
    jax.config.update("jax_enable_x64", True)
    return PROGRAM.main(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    end_process_with(PROGRAM.main)
