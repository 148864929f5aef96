"""The command line of the benchmarks: ``python -m benchmarks list | run NAME | report [NAME]``."""

import argparse
import dataclasses
import importlib
import io
import logging
import pkgutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax

import benchmarks
from adjoint.run.interruption import Interruption
from benchmarks.harness import Plan
from benchmarks.machine import made_with
from benchmarks.report import bars_table, made_with_table, write
from benchmarks.results import FOLDER, ResultsError, load, require_writable, save, stem

DONE = 0
WRONG_USAGE = 2
NOT_TRUSTED = 4
INPUT_OUTPUT = 5
INTERRUPTED = 130

EPILOG = """examples:
  python -m benchmarks list
  python -m benchmarks run linear --quick
  python -m benchmarks run linear --sizes 1e3,1e5
  python -m benchmarks report

exit codes:
  0    done, whether or not every bar was passed
  2    wrong usage
  4    a result of this library was wrong; what there is has been written
  5    input or output failed, such as an unwritable folder or a full disk
  130  interrupted with Ctrl-C; nothing has been written"""


class UsageError(ValueError):
    """What was typed does not fit; the message says what would."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        What was typed after ``python -m benchmarks``; by default what really was.
    """
    jax.config.update("jax_enable_x64", True)
    with Interruption() as interruption:
        try:
            parsed = _parser().parse_args(arguments)
            return parsed.verb(parsed)
        except KeyboardInterrupt:
            return _complain("interrupted; nothing was written", INTERRUPTED)
        except (UsageError, ResultsError) as error:
            return _complain(str(error), WRONG_USAGE)
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            return _complain(f"{where}{error.strerror or error}", INPUT_OUTPUT)
        except Exception:
            # Ctrl-C in a host callback surfaces as an error of the compiled program that called
            # back.
            if interruption.requested:
                return _complain("interrupted; nothing was written", INTERRUPTED)
            raise


def names() -> list[str]:
    """The benchmarks: the folders beside this file, each with a module ``comparison``."""
    return sorted(
        module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.ispkg
    )


def find(name: str) -> ModuleType:
    """A benchmark's ``comparison``: SUMMARY, plans FULL and QUICK, what `_run`, `_report` call."""
    if name not in names():
        raise UsageError(f"there is no benchmark {name!r}; the benchmarks are {', '.join(names())}")
    return importlib.import_module(f"benchmarks.{name}.comparison")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks",
        description="Time, memory and correctness beside other libraries.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="list | run | report", required=True)
    verbs.add_parser("list", help="name the benchmarks").set_defaults(verb=_list)
    run = verbs.add_parser(
        "run", help="measure, and leave the results as JSON", epilog=EPILOG.partition("exit")[0]
    )
    run.add_argument(
        "name", metavar="NAME", help="the benchmark; python -m benchmarks list names them"
    )
    run.add_argument(
        "--sizes",
        metavar="N,N,...",
        type=_sizes,
        help="numbers of unknowns instead of the usual ones",
    )
    run.add_argument(
        "--limit",
        metavar="SECONDS",
        type=_seconds,
        help="skip calls expected to take longer than this",
    )
    run.set_defaults(verb=_run)
    report = verbs.add_parser(
        "report", help="print the tables and draw the plots of the latest results"
    )
    report.add_argument(
        "name", metavar="NAME", nargs="?", help="the benchmark; all that have results when left out"
    )
    report.set_defaults(verb=_report)
    for verb in (run, report):
        verb.add_argument(
            "--quick",
            action="store_true",
            help="a look in two minutes, kept apart from full results",
        )
        verb.add_argument(
            "--results",
            metavar="DIR",
            type=Path,
            default=FOLDER,
            help="where the results are (default: benchmarks/results below the current folder)",
        )
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = sorted({int(float(part)) for part in text.split(",")})
    except (ValueError, OverflowError):
        sizes = []
    if not sizes or sizes[0] < 100 or sizes[-1] > 10_000_000:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers from 100 to 1e7, such as 1e3,1e5"
        )
    return tuple(sizes)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, such as 12")
    return seconds


def _list(_parsed: argparse.Namespace) -> int:
    width = max(map(len, names()))
    for name in names():
        print(f"{name:<{width}}  {find(name).SUMMARY}")
    return DONE


def _run(parsed: argparse.Namespace) -> int:
    benchmark = find(parsed.name)
    name = stem(parsed.name, parsed.quick)
    require_writable(parsed.results, name)
    plan: Plan = benchmark.QUICK if parsed.quick else benchmark.FULL
    if parsed.sizes:
        plan = dataclasses.replace(plan, sizes=parsed.sizes)
    if parsed.limit:
        plan = dataclasses.replace(plan, limit=parsed.limit)
    # Peers warn and log tracebacks where they fail; that they fail is in the table.
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    start = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - start:5.0f} s  {line}", flush=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record: dict[str, Any] = {
            "benchmark": parsed.name,
            "made_with": made_with(benchmark.PEERS),
            "plan": dataclasses.asdict(plan),
            **benchmark.run(plan, say),
        }
    record["seconds_in_total"] = time.perf_counter() - start
    save(parsed.results, name, record)
    _present(benchmark, load(parsed.results, name), parsed.results, name)
    return NOT_TRUSTED if benchmark.ours_wrong(record) else DONE


def _report(parsed: argparse.Namespace) -> int:
    measured = [
        each for each in names() if (parsed.results / f"{stem(each, parsed.quick)}.json").exists()
    ]
    # With no results at all, the first benchmark's complaint says how to make them.
    for each in [parsed.name] if parsed.name else measured or names():
        benchmark = find(each)
        name = stem(each, parsed.quick)
        _present(benchmark, load(parsed.results, name), parsed.results, name)
    return DONE


def _present(benchmark: ModuleType, record: dict[str, Any], folder: Path, name: str) -> None:
    """Print the tables, and leave them as Markdown with the plots."""
    tables = [
        bars_table(benchmark.bars(record)),
        *benchmark.tables(record),
        made_with_table(record["made_with"]),
    ]
    print("\n" + "\n\n".join(table.plain() for table in tables))
    title = f"{benchmark.SUMMARY} ({record['made_with']['date']})"
    for path in write(folder, name, title, tables, benchmark.figures(record)):
        print(f"written: {path}")


def _complain(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    # A terminal that cannot show a character gets a question mark instead of a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main())
