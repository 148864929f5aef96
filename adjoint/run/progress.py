"""Live progress of an iteration: a live table on a terminal, a few plain lines elsewhere."""

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Group

# A log gets a line at most every second at first, and later one each time the run has become 5 %
# older: about ln(T / 20 s) / 0.05 + 20 lines after T seconds, so 100 for a quarter of an hour and
# 200 for a day.
SHORTEST_PAUSE = 1.0  # seconds
PAUSE_PER_AGE = 0.05
ROWS_ON_SCREEN = 12


def format_number(value: float) -> str:
    """A number for reading: integers in full, the rest to 5 significant digits."""
    return str(value) if isinstance(value, int) else f"{value:#.5g}"


class PlainProgress:
    """Progress as plain lines: the first, the last, and some between at growing distances.

    Parameters
    ----------
    stream
        Where the lines go.
    clock
        Seconds since some fixed time.

    Examples
    --------
    >>> import sys
    >>> with PlainProgress(sys.stdout) as progress:
    ...     progress.show({"iteration": 1, "compliance": 1007.0221})
    iteration   compliance
            1       1007.0
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._clock = clock
        self._started = clock()
        self._shown = float("-inf")
        self._unshown: Mapping[str, float] | None = None
        self._headed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unshown is not None:
            self._print(self._unshown)

    def show(self, row: Mapping[str, float]) -> None:
        """Take note of a row, and print it when it is time for one.

        Parameters
        ----------
        row
            Numbers by column; the same columns every time.
        """
        now = self._clock()
        if now - self._shown >= max(SHORTEST_PAUSE, PAUSE_PER_AGE * (now - self._started)):
            self._print(row)
            self._shown = now
            self._unshown = None
        else:
            self._unshown = row

    def _print(self, row: Mapping[str, float]) -> None:
        widths = {name: max(len(name), 10) for name in row}
        widths[next(iter(row))] = len(next(iter(row)))
        if not self._headed:
            print("   ".join(f"{name:>{widths[name]}}" for name in row), file=self._stream)
            self._headed = True
        cells = (f"{format_number(value):>{widths[name]}}" for name, value in row.items())
        print("   ".join(cells), file=self._stream, flush=True)


class TerminalProgress:
    """Progress as a table of the latest rows that redraws itself, with the time since the start.

    Parameters
    ----------
    stream
        A terminal.
    """

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.live import Live

        self._rows: deque[Mapping[str, float]] = deque(maxlen=ROWS_ON_SCREEN)
        self._started = time.monotonic()
        self._console = Console(file=stream)
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, row: Mapping[str, float]) -> None:
        """Add a row to the table.

        Parameters
        ----------
        row
            Numbers by column; the same columns every time.
        """
        self._rows.append(row)

    def _table(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        seconds = f"{time.monotonic() - self._started:.0f} s since the start"
        rows = list(self._rows)
        if not rows:
            return Group(Text("waiting for the first iteration"), Text(seconds))
        names = list(rows[-1])
        cells = [[format_number(value) for value in row.values()] for row in rows]
        widths = [_width(name, [row[k] for row in cells]) for k, name in enumerate(names)]
        shown = _columns_that_fit(widths, self._console.width)
        table = Table()
        for name, width in zip(names[:shown], widths, strict=False):
            table.add_column(_folded(name, width), justify="right", min_width=width)
        for row in cells:
            table.add_row(*row[:shown])
        hidden = ", ".join(names[shown:])
        return Group(table, Text(f"{seconds}; too wide for here: {hidden}" if hidden else seconds))


# What Rich draws around a cell: a border and two spaces; one more border ends the row.
AROUND_A_CELL = 3
# A name may be broken at spaces and after underscores.
WORD = re.compile(r"[^ _]+[ _]*")


def _width(name: str, cells: Sequence[str]) -> int:
    """As wide as the widest number and the longest word of the name: numbers are never cut."""
    return max(map(len, [*(word.rstrip() for word in WORD.findall(name)), *cells]))


def _columns_that_fit(widths: Sequence[int], width: int) -> int:
    """How many columns, from the first one, fit beside each other; at least one."""
    ends = accumulate((each + AROUND_A_CELL for each in widths), initial=1)
    return max(1, sum(end <= width for end in ends) - 1)


def _folded(name: str, width: int) -> str:
    """The name on as few lines of this width as its words allow."""
    lines = [""]
    for word in WORD.findall(name):
        if lines[-1] and len((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def progress_on(stream: TextIO) -> PlainProgress | TerminalProgress:
    """The progress that suits a stream: a live table on a terminal, else plain lines."""
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)
