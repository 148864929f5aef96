"""Progress: few plain lines in a file, a table on a terminal, and the last row in both."""

import io
import math
import re

import pytest

from adjoint.run.progress import PlainProgress, TerminalProgress, format_number, progress_on


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines_of(durations):
    """The iterations that are printed when each takes so many seconds."""
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock) as progress:
        for k, duration in enumerate(durations, start=1):
            clock.now += duration
            progress.show({"iteration": k, "compliance": 1.0 / k})
    header, *rows = stream.getvalue().splitlines()
    assert header.split() == ["iteration", "compliance"]
    return [int(row.split()[0]) for row in rows]


def test_slow_iterations_are_all_printed():
    assert lines_of([2.0] * 10) == list(range(1, 11))


def test_of_fast_iterations_one_per_second_is_printed_and_the_last():
    assert lines_of([0.25] * 15) == [1, 5, 9, 13, 15]


def test_the_last_row_is_not_printed_twice():
    assert lines_of([1.0] * 3) == [1, 2, 3]


@pytest.mark.parametrize(("seconds", "most"), [(900, 100), (86_400, 200)])
def test_a_long_run_prints_a_bounded_number_of_lines(seconds, most):
    printed = lines_of([1.0] * seconds)
    assert most / 2 < len(printed) <= most
    assert printed[-1] == seconds


def test_columns_line_up():
    stream = io.StringIO()
    with PlainProgress(stream, Clock()) as progress:
        progress.show({"iteration": 7, "compliance": 216.8056, "largest change": 0.2, "s": 1e-12})
    header, row = stream.getvalue().splitlines()
    assert len(header) == len(row)
    assert row.split() == ["7", "216.81", "0.20000", "1.0000e-12"]


def test_a_run_that_ends_before_its_first_iteration_prints_nothing():
    stream = io.StringIO()
    with PlainProgress(stream):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (12, "12"),
        (216.8056, "216.81"),
        (0.5, "0.50000"),
        (1e-12, "1.0000e-12"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_format_number(number, text):
    assert format_number(number) == text


def test_the_stream_decides():
    assert isinstance(progress_on(io.StringIO()), PlainProgress)
    assert isinstance(progress_on(Terminal()), TerminalProgress)


def test_a_terminal_shows_a_table_of_the_latest_rows(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with TerminalProgress(stream) as progress:
        for k in range(1, 31):
            progress.show({"iteration": k, "compliance": 1000.0 + k})
    # The table that stays on the screen is the last one drawn; before it there are older ones.
    last = stream.getvalue()[stream.getvalue().rindex("compliance") :]
    assert "1030.0" in last
    assert "1019.0" in last
    assert "1018.0" not in last
    assert "since the start" in last


def test_a_terminal_says_that_it_waits_for_the_first_iteration(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with TerminalProgress(stream):
        pass
    assert "waiting for the first iteration" in stream.getvalue()


# What `mbb_beam` and `double_pendulum` report, and a row of numbers as wide as they come.
WIDE = {
    "iteration": 106,
    "compliance": 216.8056,
    "volume_fraction": 0.5,
    "change": 0.0099,
    "stationarity_of_the_lagrangian": -1.2345e-105,
    "evaluations": 100_000,
    "seconds": 12.5,
    "largest violation": -1.2345e-105,
    "noise": 1e-300,
}


def last_table(stream):
    """What stays on the screen, without colors."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    return text[text.rindex("┏") :]


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 132, 200])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_a_narrow_terminal_cuts_no_number(monkeypatch, columns, count):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    row = dict(list(WIDE.items())[:count])
    with TerminalProgress(stream) as progress:
        progress.show(row)
    last = last_table(stream)
    assert "…" not in last
    cells = [cell.strip() for cell in last.split("┡")[1].splitlines()[1].strip("│ ").split("│")]
    assert cells == [format_number(value) for value in row.values()][: len(cells)]
    assert len(cells) == count or columns < 132
    # What does not fit is named.
    for name in list(row)[len(cells) :]:
        assert "".join(name.split()) in "".join(last.split())


def test_a_name_is_broken_between_its_words(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with TerminalProgress(stream) as progress:
        progress.show({"stationarity_of_the_lagrangian": 1.0, "volume fraction": 0.5})
    last = last_table(stream)
    header = [
        [cell.strip() for cell in line.strip("┃").split("┃")] for line in last.splitlines()[1:]
    ]
    assert [line[0] for line in header[:3]] == ["stationarity_", "of_the_", "lagrangian"]
