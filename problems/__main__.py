"""The command line of the gallery: ``python -m problems list | run NAME | verify NAME | resume DIR``."""

import argparse
import dataclasses
import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax

from adjoint import SolveError
from adjoint.record.ending import Ending, Outcome, Task
from adjoint.record.interruption import Interruption
from adjoint.record.record import Record, remove_checkpoints
from adjoint.record.run_folder import FolderInUseError, RunFolder
from problems import stored_run
from problems.gallery import UsageError, command, find, gallery, read_settings, settings_help

WRONG_USAGE = 2
INPUT_OUTPUT = 5

EXIT_CODES = """exit codes:
  0    done
  2    wrong usage
  3    not converged; what there is has been written
  4    the gradient is not to be trusted
  5    input or output failed, such as an unwritable folder or a full disk, or memory ran out
  130  interrupted with Ctrl-C or SIGTERM; what there is has been written

A run that ended with 5 or 130, or that was killed, goes on with: python -m problems resume DIR"""

EPILOG = f"""examples:
  python -m problems list
  python -m problems run mbb_beam
  python -m problems run mbb_beam --set nelx=300 --set nely=100 --out wide
  python -m problems run mbb_beam --help
  python -m problems resume wide

{EXIT_CODES}"""

RUN_HELP = """Solve a problem and leave pictures, data and a report in one folder.

The gradient is verified first. Progress is shown while the run goes on; Ctrl-C or SIGTERM finishes the iteration and
writes what there is, and a second one stops at once. Either way, and after a kill or a full disk, resume goes on."""

RESUME_HELP = """Go on with a run that was stopped, with the settings that it began with, to the same bits as if it had not been.

It may have been stopped by Ctrl-C, SIGTERM, SIGKILL, a full disk or a power failure. A long run goes on from what it
saved, every few seconds or every step, a short one runs again. A run that is done stays as it is."""

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
        case ValueError() if str(error).startswith("Checkpoint: "):
            return _complain(str(error), INPUT_OUTPUT)
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
    verbs = parser.add_subparsers(metavar="list | run | verify | resume", required=True)
    list_parser = verbs.add_parser("list", help="name the problems", description="Name the problems.")
    list_parser.set_defaults(verb=_list)
    run_parser = _add_problem_verb(verbs, "run", "solve a problem and leave pictures, data and a report", RUN_HELP)
    run_parser.add_argument("--out", metavar="DIR", type=Path, help=OUT_HELP)
    run_parser.set_defaults(verb=_run)
    verify_help = "check the gradient of a problem; writes nothing"
    _add_problem_verb(verbs, "verify", verify_help, f"{verify_help.capitalize()}.").set_defaults(verb=_verify)
    resume_parser = verbs.add_parser(
        "resume",
        help="go on with a run that was stopped",
        description=RESUME_HELP,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    resume_parser.add_argument("folder", metavar="DIR", type=Path, help="the output folder of the run")
    resume_parser.set_defaults(verb=_resume)
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
    task = _task(parsed.name, problem, settings)
    with _claim(parsed.out, parsed.name, stored_run.stored(task)) as folder:
        print(f"{task.problem}: {task.summary}\noutput: {folder.path}", flush=True)
        return _work(problem, settings, task, folder, interruption)


def _resume(parsed: argparse.Namespace, interruption: Interruption) -> int:
    run = stored_run.read(parsed.folder)
    task = _task(run.name, run.problem, run.settings)
    with RunFolder.take_over(parsed.folder) as folder:
        ending = stored_run.finished(folder)
        if ending is not None:
            remove_checkpoints(folder)
            print(f"nothing to go on with: the run is done. {ending}\nreport: {folder.path / 'report.html'}")
            return Outcome.DONE
        differences = run.differences()
        if differences:
            warnings.warn(f"the last bits may differ from a run that was not stopped: {differences}", stacklevel=2)
        print(f"{task.problem}: {task.summary}\ngoing on in: {folder.path}", flush=True)
        return _work(run.problem, run.settings, task, folder, interruption)


def _task(name: str, problem: ModuleType, settings: Any) -> Task:
    return Task(
        problem=name,
        summary=problem.SUMMARY,
        settings=dataclasses.asdict(settings),
        meanings={field.name: field.metadata.get("help", "") for field in dataclasses.fields(settings)},
        command=command(name, settings),
    )


def _work(problem: ModuleType, settings: Any, task: Task, folder: RunFolder, interruption: Interruption) -> int:
    """Run the problem, from its start or from where its record has got to, and leave the record."""
    go_on = f"python -m problems resume {shlex.quote(str(folder.path))}"
    try:
        folder.write("command.txt", task.command + "\n")
        record = Record(folder, task, sys.stdout, interruption)
        print("verifying the gradient first", flush=True)
        with record.activity():
            ending = _ending(problem, settings, record, interruption)
            record.close(ending)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.strerror is None:
            raise
        raise OSError(error.errno, f"{error.strerror}; once that is mended: {go_on}", error.filename) from error
    print(f"{ending.sentence}\nreport: {folder.path / 'report.html'}")
    if ending.outcome == Outcome.INTERRUPTED:
        print(f"to go on: {go_on}")
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


def _claim(out: Path | None, name: str, content: str) -> RunFolder:
    """The output folder; creating its first file finds an unwritable one before the work starts."""
    first = (stored_run.NAME, content)
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


def _warn(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    warnings.showwarning = _warn
    # A terminal that cannot show a character gets a question mark instead of a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main())
