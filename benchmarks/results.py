"""Results as JSON, one file per benchmark.

A quick look has its own, so that it never replaces a full measurement.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path("benchmarks") / "results"


class ResultsError(ValueError):
    """There are no such results, or the file does not hold any; the message says what to do."""


def stem(name: str, quick: bool) -> str:
    """What the files of a benchmark are called, without their extension."""
    return f"{name}-quick" if quick else name


def require_writable(folder: Path, name: str) -> None:
    """Find out before the work whether results can be left in the folder, made if there is none.

    Raises
    ------
    OSError
        When not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{name}.writable"
    probe.write_text("")
    probe.unlink()


def save(folder: Path, name: str, record: dict[str, Any]) -> Path:
    """Write the record; the former one is replaced only by a complete new one."""
    path = folder / f"{name}.json"
    unfinished = folder / f".{name}.json.unfinished"
    unfinished.write_text(json.dumps(_rounded(record), indent=1, allow_nan=False) + "\n")
    unfinished.replace(path)
    return path


def load(folder: Path, name: str) -> dict[str, Any]:
    """Read a record.

    Raises
    ------
    ResultsError
        When there is none, or the file is damaged.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        quick = " --quick" if name.endswith("-quick") else ""
        run = f"python -m benchmarks run {name.removesuffix('-quick')}{quick}"
        raise ResultsError(f"there are no results in {path}; make them with: {run}")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ResultsError(
            f"{path} is damaged ({error}); delete it or run the benchmark again"
        ) from error
    if not isinstance(record, dict) or "benchmark" not in record:
        raise ResultsError(
            f"{path} holds no results of a benchmark; delete it or run the benchmark again"
        )
    return record


def _rounded(value: Any) -> Any:
    """Six digits are more than any time is good for.

    What is not finite, which JSON has no number for, becomes text.
    """
    match value:
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case float():
            return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)
    return value
