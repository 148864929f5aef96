"""The command line of the gallery: ``python -m problems list | run NAME | verify NAME``."""

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax

from adjoint import SolveError
from adjoint.record.interruption import Interruption
from adjoint.record.record import Ending, Outcome, Record, Task
from adjoint.record.run_folder import FolderInUseError, RunFolder
from problems.gallery import UsageError, command, find, gallery, read_settings, settings_help

WRONG_USAGE = 2
INPUT_OUTPUT = 5

EXIT_CODES = """exit codes:
  0    done
  2    wrong usage
  3    not converged; what there is has been written
  4    the gradient is not to be trusted
  5    input or output failed, such as an unwritable folder or a full disk, or memory ran out
  130  interrupted with Ctrl-C; what there is has been written"""

EPILOG = f"""examples:
  python -m problems list
  python -m problems run mbb_beam
  python -m problems run mbb_beam --set nelx=300 --set nely=100 --out wide
  python -m problems run mbb_beam --help

{EXIT_CODES}"""

RUN_HELP = """Solve a problem and leave pictures, data and a report in one folder.

The gradient is verified first. Progress is shown while the run goes on; Ctrl-C finishes the iteration and writes what
there is, and a second one stops at once."""

OUT_HELP = (
    "the output folder: a new or an empty one, since a run never overwrites results "
    "(default: runs/NAME-DATE-TIME below the current folder)"
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        What was typed after ``python -m problems``; by default what really was.
    """
    # The problems are differentiated to 1e-9 and better, which float32 cannot show.
    jax.config.update("jax_enable_x64", True)
    with Interruption() as interruption:
        try:
            parsed = _parser().parse_args(arguments)
            return parsed.verb(parsed, interruption)
        except KeyboardInterrupt:
            return _complain("interrupted", Outcome.INTERRUPTED)
        except Exception as error:
            return _exit_code(error, interruption)


def _exit_code(error: Exception, interruption: Interruption) -> int:
    """Say in a sentence what is the user's or the machine's error; raise what is ours."""
    match error:
        case UsageError() | FolderInUseError():
            return _complain(str(error), WRONG_USAGE)
        case BrokenPipeError():
            # The reader of our output has left (`... | head`); Python would try to flush to it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return INPUT_OUTPUT
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            return _complain(f"{where}{error.strerror or error}", INPUT_OUTPUT)
        case _ if interruption.requested:
            # Ctrl-C in a host callback surfaces as an error of the compiled program that called back.
            return _complain("interrupted", Outcome.INTERRUPTED)
        case SolveError():
            return _complain(str(error), Outcome.NOT_CONVERGED)
        case MemoryError():
            return _complain(f"out of memory: {error}; choose a smaller problem", INPUT_OUTPUT)
    raise error


def _parser() -> Parser:
    parser = Parser(
        prog="python -m problems",
        description="Real engineering problems, solved with adjoint gradients.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="list | run | verify", required=True)
    list_parser = verbs.add_parser("list", help="name the problems", description="Name the problems.")
    list_parser.set_defaults(verb=_list)
    run_parser = _add_problem_verb(verbs, "run", "solve a problem and leave pictures, data and a report", RUN_HELP)
    run_parser.add_argument("--out", metavar="DIR", type=Path, help=OUT_HELP)
    run_parser.set_defaults(verb=_run)
    verify_help = "check the gradient of a problem; writes nothing"
    _add_problem_verb(verbs, "verify", verify_help, f"{verify_help.capitalize()}.").set_defaults(verb=_verify)
    return parser


def _add_problem_verb(verbs, verb: str, summary: str, description: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        verb,
        help=summary,
        description=description,
        epilog=f"The settings of a problem: python -m problems {verb} NAME --help\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="the problem; python -m problems list names them")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting; repeatable")
    # Our own --help, because after a NAME it also shows the settings of that problem.
    parser.add_argument("-h", "--help", action="store_true", help="show this help; after a NAME, also its settings")
    parser.set_defaults(parser=parser)
    return parser


def _list(_parsed: argparse.Namespace, _interruption: Interruption) -> int:
    known = gallery()
    width = max(map(len, known), default=0)
    for name, problem in known.items():
        print(f"{name:<{width}}  {problem.SUMMARY}")
    return Outcome.DONE


def _run(parsed: argparse.Namespace, interruption: Interruption) -> int:
    if parsed.help or parsed.name is None:
        return _help_or_complain(parsed)
    problem = find(parsed.name)
    settings = read_settings(problem, parsed.set)
    task = Task(
        problem=parsed.name,
        summary=problem.SUMMARY,
        settings=dataclasses.asdict(settings),
        meanings={field.name: field.metadata.get("help", "") for field in dataclasses.fields(settings)},
        command=command(parsed.name, settings),
    )
    folder = _claim(parsed.out, parsed.name, task.command)
    print(f"{task.problem}: {task.summary}\noutput: {folder.path}\nverifying the gradient first", flush=True)
    record = Record(folder, task, sys.stdout, interruption)
    ending = _ending(problem, settings, record, interruption)
    record.close(ending)
    print(f"{ending.sentence}\nreport: {folder.path / 'report.html'}")
    return ending.outcome


def _ending(problem: ModuleType, settings: Any, record: Record, interruption: Interruption) -> Ending:
    """Run the problem; Ctrl-C and a failed solve are endings too, and leave what there is."""
    try:
        return problem.run(settings, record)
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, OSError) or not (interruption.requested or isinstance(error, SolveError)):
            raise
        if interruption.requested:
            return Ending(Outcome.INTERRUPTED, f"Interrupted after {len(record.history)} iterations.")
        return Ending(Outcome.NOT_CONVERGED, str(error))


def _verify(parsed: argparse.Namespace, _interruption: Interruption) -> int:
    if parsed.help or parsed.name is None:
        return _help_or_complain(parsed)
    problem = find(parsed.name)
    verdict = problem.verify(read_settings(problem, parsed.set))
    print(verdict)
    return Outcome.DONE if verdict.trusted else Outcome.GRADIENT_NOT_TRUSTED


def _claim(out: Path | None, name: str, repeat: str) -> RunFolder:
    """The output folder; creating its first file finds an unwritable one before the work starts."""
    first = ("command.txt", repeat + "\n")
    if out is None:
        return RunFolder.claim_new(Path("runs"), f"{name}-{datetime.now():%Y%m%d-%H%M%S}", *first)
    try:
        return RunFolder.claim(out, *first)
    except FolderInUseError as error:
        raise FolderInUseError(f"{error}; give a new or an empty one, or leave --out away") from None


def _help_or_complain(parsed: argparse.Namespace) -> int:
    if not parsed.help:
        parsed.parser.error(f"which problem? The problems are {', '.join(gallery())}")
    print(parsed.parser.format_help())
    if parsed.name is not None:
        problem = find(parsed.name)
        print(f"{parsed.name}: {problem.SUMMARY}\n\n{settings_help(problem)}")
    return Outcome.DONE


def _complain(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    # A terminal that cannot show a character gets a question mark instead of a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main())
