"""The command ``adjoint``: list | run | verify | resume | new, for anyone's problem."""

import jax

from adjoint.run.command_line import Program
from adjoint.run.exit_codes import end_process_with
from adjoint.run.problem import gallery_here


def main() -> None:
    """Run the command line as a process, in double precision."""
    # Problems are differentiated to 1e-9 and better, which float32 cannot show.
    jax.config.update("jax_enable_x64", True)
    end_process_with(Program("adjoint", gallery_here()).main)


if __name__ == "__main__":
    main()
