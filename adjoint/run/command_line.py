"""The command line ``list | run | verify | resume | new``, for the gallery and for own files."""

import dataclasses
import shlex
import sys
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from adjoint.run import stored_run
from adjoint.run.checks import judged
from adjoint.run.ending import Ending, Outcome, Task
from adjoint.run.exit_codes import EXIT_CODES, complain, exit_code
from adjoint.run.interruption import Interruption
from adjoint.run.problem import OWN_FILE, SMALLEST, Gallery, Problem
from adjoint.run.record import Record, remove_checkpoints
from adjoint.run.run_folder import FolderInUseError, RunFolder
from adjoint.run.settings import (
    UsageError,
    assignments,
    domain,
    listed,
    read_settings,
    read_toml,
    spelled,
)
from adjoint.solution import SolveError

RUN_HELP = """Solve a problem and leave pictures, data and a report in one folder.

The problem is one of the gallery, a Python file of your own, or a TOML file that names one of them
and holds its settings. The gradient is verified first. Progress is shown while the run goes on;
Ctrl-C or SIGTERM finishes the iteration and writes what there is, and a second one stops at once.
Either way, and after a kill or a full disk, resume goes on."""

VERIFY_HELP = "Check the gradient of a problem; writes nothing."

RESUME_HELP = """Go on with a run that was stopped, with its settings, to the same bits.

It may have been stopped by Ctrl-C, SIGTERM, SIGKILL, a full disk or a power failure. A long run
goes on from what it saved, every few seconds or every step, a short one runs again. A run that is
done stays as it is."""


SET_HELP = "change a setting by name=value; repeatable"

OUT_HELP = (
    "the output folder: a new or an empty one, since a run never overwrites results "
    "(default: runs/NAME-DATE-TIME below the current folder)"
)


@dataclass(frozen=True)
class Program:
    """A command line: what it is called, and the gallery that it knows.

    Parameters
    ----------
    name
        What is typed before the verb, such as ``adjoint``.
    gallery
        The problems that have names.
    """

    name: str
    gallery: Gallery

    def main(self, arguments: Sequence[str]) -> int:
        """Run the command line and return its exit code.

        Parameters
        ----------
        arguments
            What was typed after the name of the program.
        """
        with Interruption() as interruption:
            try:
                app = self._app(arguments, interruption)
                return app(list(arguments), exit_on_error=False, print_error=False) or Outcome.DONE
            except KeyboardInterrupt:
                return complain("interrupted", Outcome.INTERRUPTED)
            except Exception as error:
                return exit_code(error, interruption)

    def _app(self, arguments: Sequence[str], interruption: Interruption) -> App:
        """The parser; of the problems only the one that is named is imported."""
        codes = EXIT_CODES.format(program=self.name)
        app = App(
            name=self.name,
            help="Engineering problems, solved with adjoint gradients.",
            help_epilogue=codes,
            version_flags=(),
            result_action="return_value",
        )
        app.command(self._list, name="list")
        for verb, text in (("run", RUN_HELP), ("verify", VERIFY_HELP)):
            of_verb = App(name=verb, help=text, help_epilogue=codes)
            of_verb.default(self._which)
            if arguments[:1] == [verb] and arguments[1:] and not arguments[1].startswith("-"):
                of_verb.command(self._of_problem(verb, arguments[1], interruption))
            app.command(of_verb)

        @app.command(help=RESUME_HELP)
        def resume(folder: Annotated[Path, Parameter(help="the output folder of the run")]) -> int:
            return self._resume(folder, interruption)

        app.command(_new, name="new")
        app.register_install_completion_command(add_to_startup=False)
        return app

    def _which(self) -> int:
        known = self.gallery.problems()
        raise UsageError(f"which problem? The problems are {listed(known)}" if known else OWN_FILE)

    def _list(self) -> int:
        """Name the problems of the gallery."""
        known = self.gallery.problems()
        if not known:
            print(
                "no gallery here: it is the folder problems/ of a clone of this library. Go there, "
                "or " + OWN_FILE
            )
        width = max(map(len, known), default=0)
        for name, problem in known.items():
            print(f"{name:<{width}}  {problem.summary}")
        return Outcome.DONE

    def _of_problem(self, verb: str, name: str, interruption: Interruption) -> App:
        """The parser of one problem, with a flag for each of its settings."""
        problem, given = self._named(name)
        app = App(name=name, help=problem.summary, version_flags=())
        Flags = Annotated[
            _flags(problem, read_settings(problem.module, given)),
            Parameter(name="*", accepts_keys=True),
        ]
        Assignments = Annotated[
            list[str], Parameter(name="--set", help=SET_HELP, negative=(), n_tokens=1)
        ]

        def settings(flags: Any, assigned: Sequence[str]) -> Any:
            of_flags = {} if flags is None else dataclasses.asdict(flags)
            typed = {key: value for key, value in of_flags.items() if value is not None}
            return read_settings(problem.module, [*given, *assigned, *assignments(typed)])

        if verb == "verify":

            @app.default
            def verify(
                *,
                flags: Flags | None = None,  # pyright: ignore
                assigned: Assignments | None = None,  # pyright: ignore
            ) -> int:
                return _verify(problem, settings(flags, assigned or ()))

        else:

            @app.default
            def run(
                *,
                flags: Flags | None = None,  # pyright: ignore
                assigned: Assignments | None = None,  # pyright: ignore
                out: Annotated[Path | None, Parameter(help=OUT_HELP)] = None,
            ) -> int:
                return self._run(problem, settings(flags, assigned or ()), out, interruption)

        return app

    def _named(self, name: str) -> tuple[Problem, list[str]]:
        """The problem of that name, Python or TOML file, and the settings in the TOML file."""
        if not name.endswith(".toml"):
            return self.gallery.find(name), []
        of_file, given = read_toml(Path(name))
        if of_file is None:
            raise UsageError(f'{name} names no problem: it has no line problem = "..."')
        return self.gallery.find(of_file), given

    def command(self, problem: Problem, settings: Any) -> str:
        """The command, quoted for a shell, that runs the problem with these settings.

        Every setting is spelled out, so that the command means the same after a default has
        changed. The output folder is not part of it: a run never writes into the folder of another,
        so a repetition goes to a new one.
        """
        spelled = assignments(dataclasses.asdict(settings))
        words = [*self.name.split(), "run", problem.name]
        return shlex.join([*words, *(word for each in spelled for word in ("--set", each))])

    def _task(self, problem: Problem, settings: Any) -> Task:
        return Task(
            problem=problem.name,
            summary=problem.summary,
            settings=dataclasses.asdict(settings),
            meanings={
                field.name: field.metadata.get("help", "") for field in dataclasses.fields(settings)
            },
            command=self.command(problem, settings),
        )

    def _run(
        self, problem: Problem, settings: Any, out: Path | None, interruption: Interruption
    ) -> int:
        task = self._task(problem, settings)
        with _claim(out, problem.title, stored_run.stored(task)) as folder:
            print(f"{problem.title}: {task.summary}\noutput: {folder.path}", flush=True)
            return self._work(problem, settings, task, folder, interruption)

    def _resume(self, path: Path, interruption: Interruption) -> int:
        run = stored_run.read(path, self.gallery)
        task = self._task(run.problem, run.settings)
        with RunFolder.take_over(path) as folder:
            ending = stored_run.finished(folder)
            if ending is not None:
                remove_checkpoints(folder)
                report = folder.path / "report.html"
                print(f"nothing to go on with: the run is done. {ending}\nreport: {report}")
                return Outcome.DONE
            differences = run.differences()
            if differences:
                message = f"the last bits may differ from a run that was not stopped: {differences}"
                warnings.warn(message, stacklevel=2)
            print(f"{run.problem.title}: {task.summary}\ngoing on in: {folder.path}", flush=True)
            return self._work(run.problem, run.settings, task, folder, interruption)

    def _work(
        self,
        problem: Problem,
        settings: Any,
        task: Task,
        folder: RunFolder,
        interruption: Interruption,
    ) -> int:
        """Run the problem, from its start or from where its record is, and leave the record."""
        go_on = f"{self.name} resume {shlex.quote(str(folder.path))}"
        try:
            folder.write("command.txt", task.command + "\n")
            record = Record(folder, task, sys.stdout, interruption)
            with record.activity():
                ending = _ending(problem, settings, record, interruption)
                record.close(ending)
        except OSError as error:
            if isinstance(error, BrokenPipeError) or error.strerror is None:
                raise
            sentence = f"{error.strerror}; once that is mended: {go_on}"
            raise OSError(error.errno, sentence, error.filename) from error
        print(f"{ending.sentence}\nreport: {folder.path / 'report.html'}")
        if ending.outcome == Outcome.INTERRUPTED:
            print(f"to go on: {go_on}")
        return ending.outcome


def _flags(problem: Problem, defaults: Any) -> type:
    """A dataclass with a flag for each setting; None where it was not typed."""
    types = typing.get_type_hints(problem.module.Settings)
    flags = []
    for field in dataclasses.fields(problem.module.Settings):
        meaning = f"{field.metadata.get('help', '')} ({domain(field, types[field.name])})".strip()
        default = spelled(getattr(defaults, field.name))
        described = Parameter(
            help=f"{meaning} [default: {default}]",
            negative=(),
            show_default=False,
            allow_leading_hyphen=True,
        )
        kind = Annotated[types[field.name] | None, described]
        flags.append((field.name, kind, dataclasses.field(default=None)))
    return dataclasses.make_dataclass("Flags", flags, frozen=True)


def _ending(problem: Problem, settings: Any, record: Record, interruption: Interruption) -> Ending:
    """Verify the gradient and run the problem; Ctrl-C and a failed solve are endings, too.

    They leave what there is.
    """
    try:
        if problem.verify is None:
            print("this problem has no verify(settings): its gradient is not checked", flush=True)
        else:
            print("verifying the gradient first", flush=True)
            verdict = problem.verify(settings)
            record.gradient(verdict, problem.judged)
            if not verdict.trusted:
                sentence = "The gradient is not to be trusted, so nothing else was computed."
                return Ending(Outcome.GRADIENT_NOT_TRUSTED, sentence)
        result = problem.module.run(settings, record)
        return result if isinstance(result, Ending) else judged(result)
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, OSError) or not (
            interruption.requested or isinstance(error, SolveError)
        ):
            raise
        if interruption.requested:
            return Ending(
                Outcome.INTERRUPTED, f"Interrupted after {len(record.history)} iterations."
            )
        return Ending(Outcome.NOT_CONVERGED, str(error))


def _verify(problem: Problem, settings: Any) -> int:
    if problem.verify is None:
        raise UsageError(f"{problem.name} has no verify(settings)")
    verdict = problem.verify(settings)
    print(verdict)
    return Outcome.DONE if verdict.trusted else Outcome.GRADIENT_NOT_TRUSTED


def _new(file: Annotated[Path, Parameter(help="its name, such as my_bracket.py")]) -> int:
    """Write the smallest problem that works, to begin with."""
    if file.suffix != ".py":
        raise UsageError(f"{file}: expected the name of a Python file, such as my_bracket.py")
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(SMALLEST)
    except FileExistsError:
        raise UsageError(f"{file} is there already; give another name") from None
    print(f"written: {file}; try it with: adjoint run {shlex.quote(str(file))}")
    return Outcome.DONE


def _claim(out: Path | None, name: str, content: str) -> RunFolder:
    """The output folder; creating its first file finds an unwritable one before the work starts."""
    first = (stored_run.NAME, content)
    if out is None:
        return RunFolder.claim_new(Path("runs"), f"{name}-{datetime.now():%Y%m%d-%H%M%S}", *first)
    try:
        return RunFolder.claim(out, *first)
    except FolderInUseError as error:
        raise FolderInUseError(
            f"{error}; give a new or an empty one, or leave --out away"
        ) from None
