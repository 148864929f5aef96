"""Settings of a problem: what they mean, and how text becomes settings.

The text is a command line's or a TOML file's. `Settings` is a frozen dataclass of int, float, str
and bool fields with defaults. The metadata of a field may hold ``help`` (its meaning and unit),
``minimum`` and ``maximum`` (both allowed themselves) and ``choices``.
"""

import dataclasses
import difflib
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class UsageError(ValueError):
    """What was typed does not fit; the message says what would."""


def read_settings(problem: ModuleType, assignments: Sequence[str]) -> Any:
    """The settings of a problem: its defaults, then assignments like ``nelx=300``; the last counts.

    Parameters
    ----------
    problem
        A module with `Settings`.
    assignments
        Texts ``name=value``.

    Returns
    -------
    settings
        An instance of ``problem.Settings``.

    Raises
    ------
    UsageError
        When a text is no assignment, a name is unknown, or a value does not fit; the message says
        what would.
    """
    fields = {field.name: field for field in dataclasses.fields(problem.Settings)}
    types = typing.get_type_hints(problem.Settings)
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"{assignment}: expected name=value, such as --set {next(iter(fields))}=..."
            )
        if name not in fields:
            raise UsageError(
                f"{assignment}: there is no setting {name!r}{did_you_mean(name, fields)}; "
                f"the settings are {listed(fields)}"
            )
        value = _value(types[name], text)
        if value is None or not _allowed(fields[name], value):
            raise UsageError(f"{assignment}: {name} must be {domain(fields[name], types[name])}")
        values[name] = value
    try:
        return problem.Settings(**values)
    except ValueError as error:  # settings that do not go together
        raise UsageError(str(error)) from error


def read_toml(path: Path) -> tuple[str | None, list[str]]:
    """The problem that a TOML file names, if it does, and its settings as assignments.

    A file may hold ``problem = "mbb_beam"``, or the path of a file beside it, and a table
    ``[settings]``::

        problem = "my_bracket.py"

        [settings]
        nelx = 300
        filter = "density"

    Raises
    ------
    UsageError
        When there is no such file, or it holds anything else.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    unknown = sorted(content.keys() - {"problem", "settings"})
    if unknown:
        raise UsageError(
            f"{path} has {listed(unknown)}, expected problem = ... and a table [settings] only"
        )
    settings = content.get("settings", {})
    name = content.get("problem")
    if not isinstance(settings, dict) or not (name is None or isinstance(name, str)):
        raise UsageError(f'{path}: expected problem = "..." and a table [settings]')
    if name is not None and name.endswith(".py"):
        name = str(path.parent / name)
    return name, assignments(settings)


def settings_help(problem: ModuleType) -> str:
    """The settings of a problem as text: name, default, what is allowed, and the meaning."""
    types = typing.get_type_hints(problem.Settings)
    rows = [
        (
            field.name,
            spelled(field.default),
            domain(field, types[field.name]),
            field.metadata.get("help", ""),
        )
        for field in dataclasses.fields(problem.Settings)
    ]
    rows = [("setting", "default", "allowed", "meaning"), *rows]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        for row in rows
    )
    return "\n".join(f"  {line}  {row[3]}".rstrip() for line, row in zip(lines, rows, strict=True))


def assignments(settings: Mapping[str, object]) -> list[str]:
    """The texts from which `read_settings` makes these settings again."""
    return [f"{name}={spelled(value)}" for name, value in settings.items()]


def _value(kind: type, text: str) -> Any:
    """The text as a value of that type, or None."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    try:
        value = kind(text)
    except ValueError:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _allowed(field: dataclasses.Field, value: object) -> bool:
    allowed = field.metadata
    return (
        ("minimum" not in allowed or value >= allowed["minimum"])
        and ("maximum" not in allowed or value <= allowed["maximum"])
        and ("choices" not in allowed or value in allowed["choices"])
    )


def domain(field: dataclasses.Field, kind: type) -> str:
    """What the value of a setting may be, in words."""
    allowed = field.metadata
    if kind is bool:
        return "true or false"
    if "choices" in allowed:
        return " or ".join(spelled(choice) for choice in allowed["choices"])
    noun = {int: "an integer", float: "a number", str: "text"}[kind]
    if "minimum" in allowed and "maximum" in allowed:
        return f"{noun} from {spelled(allowed['minimum'])} to {spelled(allowed['maximum'])}"
    if "minimum" in allowed:
        return f"{noun} of at least {spelled(allowed['minimum'])}"
    if "maximum" in allowed:
        return f"{noun} of at most {spelled(allowed['maximum'])}"
    return noun


def spelled(value: object) -> str:
    """A value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def listed(names: Iterable[str]) -> str:
    """The names with commas."""
    return ", ".join(names)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is closest, as a question in parentheses; empty when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
