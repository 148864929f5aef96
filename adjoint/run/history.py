"""The history of an iteration: rows of named numbers, as columns and as CSV with every digit."""

import csv
import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

Number = int | float


class History:
    """Rows of named numbers, one row per iteration.

    The first row fixes the columns and their order.

    Examples
    --------
    >>> history = History()
    >>> history.append({"iteration": 1, "compliance": 1007.0221})
    >>> history.append({"iteration": 2, "compliance": 1 / 3})
    >>> print(history.csv(), end="")
    iteration,compliance
    1,1007.0221
    2,0.3333333333333333
    >>> history.column("iteration")
    array([1., 2.])
    """

    def __init__(self):
        self._rows: list[dict[str, Number]] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the first row."""
        return tuple(self._rows[0]) if self._rows else ()

    @property
    def last(self) -> dict[str, Number]:
        """The last row; empty before the first one."""
        return dict(self._rows[-1]) if self._rows else {}

    @property
    def rows(self) -> list[dict[str, Number]]:
        """Copies of all rows."""
        return [dict(row) for row in self._rows]

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row.

        Parameters
        ----------
        row
            Numbers by column: Python numbers, NumPy or JAX scalars.

        Raises
        ------
        ValueError
            When the columns are not those of the first row.
        TypeError
            When a value is not one real number.
        """
        if self._rows and tuple(row) != self.columns:
            raise ValueError(
                f"a history row has the columns {list(row)}, expected {list(self.columns)}"
            )
        self._rows.append({name: _number(name, value) for name, value in row.items()})

    def column(self, name: str) -> Float[np.ndarray, " rows"]:
        """One column as float64.

        Raises
        ------
        KeyError
            When there is no such column.
        """
        if name not in self.columns:
            raise KeyError(
                f"no column {name!r} in this history; the columns are {list(self.columns)}"
            )
        return np.array([row[name] for row in self._rows], dtype=np.float64)

    def csv(self) -> str:
        """The history as CSV: a header, then one line per row.

        Floats read back to the same bits.
        """
        text = io.StringIO()
        # The csv module writes floats with repr, the shortest text that reads back to the same
        # float64.
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(row.values() for row in self._rows)
        return text.getvalue()


def _number(name: str, value: object) -> Number:
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "iuf":
        raise TypeError(
            f"the history column {name!r} got {value!r}, expected one integer or real number"
        )
    return int(array) if array.dtype.kind in "iu" else float(array)
