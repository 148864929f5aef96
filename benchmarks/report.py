"""Tables, bars and figures of a benchmark as plain text, Markdown and PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """Rows of text below a header, with a title and notes."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"table {self.title!r}: got a row of {len(row)} cells, expected "
                    f"{len(self.header)}: {row}"
                )

    def plain(self) -> str:
        """Columns aligned with spaces: the first to the left, the others, mostly numbers, right."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.header))]
        text = [
            "  ".join(_aligned(cell, widths[k], k) for k, cell in enumerate(line)).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, text))
        return "\n".join([self.title, rule, text[0], rule, *text[1:], *_notes(self.notes)])

    def markdown(self) -> str:
        """A GitHub table."""
        rules = [":--" if k < 1 else "--:" for k in range(len(self.header))]
        lines = [self.header, rules, *self.rows]
        table = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        notes = "".join(f"\n\n{note}" for note in self.notes)
        return f"## {self.title}\n\n{table}{notes}"


@dataclass(frozen=True)
class Bar:
    """A promise with its measured number: kept when the number is at most the limit.

    Attributes
    ----------
    promise
        In words, with its case.
    measured
        The spread of the number over the repetitions; its median counts. None when it was not
        measured.
    limit
        What the median must not exceed.
    beside
        A note for the reader: what the peers reach, or why it was not measured.
    """

    promise: str
    measured: Spread | None
    limit: float
    beside: str = ""

    @property
    def verdict(self) -> str:
        """``pass``, ``FAIL`` or ``not measured``."""
        if self.measured is None:
            return "not measured"
        return "pass" if self.measured.median <= self.limit else "FAIL"


def bars_table(bars: Sequence[Bar]) -> Table:
    """One line per bar; a missed one says by how much."""
    rows = []
    notes = [bar.beside for bar in bars if bar.beside]
    for bar in bars:
        measured = bar.measured
        number = f"{measured.median:.3f}" if measured else "-"
        quartiles = (
            f"{measured.lower_quartile:.3f} to {measured.upper_quartile:.3f}" if measured else "-"
        )
        # There is no share of a limit of zero.
        missed = measured and bar.verdict == "FAIL" and bar.limit > 0
        loss = (
            f", by {100 * (measured.median / bar.limit - 1):.1f} %" if measured and missed else ""
        )
        rows.append([bar.promise, bar.verdict + loss, number, f"{bar.limit:.2f}", quartiles])
    header = ["bar", "verdict", "median", "at most", "quartiles"]
    return Table("Bars", header, rows, list(dict.fromkeys(notes)))


def made_with_table(made_with: dict[str, str]) -> Table:
    """What the measurement was made on and with."""
    return Table(
        "Machine and versions", ["what", "which"], [list(pair) for pair in made_with.items()]
    )


def duration(seconds: float | None) -> str:
    """A time in three digits with its unit.

    Examples
    --------
    >>> duration(0.01234), duration(2.0), duration(None)
    ('12.3 ms', '2.00 s', '-')
    """
    if seconds is None:
        return "-"
    return f"{_three_digits(seconds)} s" if seconds >= 1 else f"{_three_digits(1e3 * seconds)} ms"


def size(count: int | None) -> str:
    """A number of bytes in MiB."""
    return "-" if count is None else f"{_three_digits(count / 2**20)} MiB"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def write(
    folder: Path, stem: str, title: str, tables: Sequence[Table], figures: dict[str, "Figure"]
) -> list[Path]:
    """Leave the report as Markdown, with its figures beside it as PNG.

    Raises
    ------
    OSError
        When a file cannot be written.
    """
    paths = []
    pictures = []
    for name, figure in figures.items():
        path = folder / f"{stem}-{name}.png"
        path.write_bytes(_png(figure))
        pictures.append(f"![{name}]({path.name})")
        paths.append(path)
    parts = [f"# {title}", *(table.markdown() for table in tables), *pictures]
    text = folder / f"{stem}.md"
    text.write_text("\n\n".join(parts) + "\n")
    return [text, *paths]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 1 else cell.rjust(width)


def _notes(notes: Sequence[str]) -> list[str]:
    return [f"  {note}" for note in notes]
