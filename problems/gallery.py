"""The gallery: which problems there are, what their settings mean, and how text from a command line becomes settings.

A problem is a module of this folder that defines

- ``SUMMARY``: what it is, in one line;
- ``Settings``: a frozen dataclass of int, float, str and bool fields with defaults. The metadata of a field may hold
  ``help`` (its meaning and unit), ``minimum`` and ``maximum`` (both allowed themselves) and ``choices``;
- ``verify(settings)``: the verdict on its gradient;
- ``run(settings, record)``: does the work, reports it to the record, and returns how it ended. Called again in the
  folder of a killed run, it ends in the same bits, because it is deterministic or because it goes on from what the
  record has saved of it.
"""

import dataclasses
import difflib
import importlib
import math
import pkgutil
import shlex
import typing
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import problems


class UsageError(ValueError):
    """What was typed does not fit; the message says what would."""


def gallery() -> dict[str, ModuleType]:
    """The problems by name, in alphabetical order."""
    modules = {name: importlib.import_module(f"problems.{name}") for name in _module_names()}
    return {name: module for name, module in modules.items() if hasattr(module, "Settings")}


def find(name: str) -> ModuleType:
    """The problem of that name. Only this one is imported.

    Raises
    ------
    UsageError
        When there is none; the message lists those that there are.
    """
    if name in _module_names():
        module = importlib.import_module(f"problems.{name}")
        if hasattr(module, "Settings"):
            return module
    known = gallery()
    raise UsageError(f"there is no problem {name!r}{_did_you_mean(name, known)}; the problems are {_list(known)}")


def _module_names() -> list[str]:
    names = sorted(module.name for module in pkgutil.iter_modules(problems.__path__) if not module.ispkg)
    return [name for name in names if name != "__main__"]


def read_settings(problem: ModuleType, assignments: Sequence[str]) -> Any:
    """The settings of a problem: its defaults, changed by assignments such as ``nelx=300``; the last one counts.

    Parameters
    ----------
    problem
        A module of the gallery.
    assignments
        Texts ``name=value``.

    Returns
    -------
    settings
        An instance of ``problem.Settings``.

    Raises
    ------
    UsageError
        When a text is no assignment, a name is unknown, or a value does not fit; the message says what would.
    """
    fields = {field.name: field for field in dataclasses.fields(problem.Settings)}
    types = typing.get_type_hints(problem.Settings)
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected name=value, such as --set {next(iter(fields))}=...")
        if name not in fields:
            raise UsageError(
                f"--set {assignment}: there is no setting {name!r}{_did_you_mean(name, fields)}; "
                f"the settings are {_list(fields)}"
            )
        value = _value(types[name], text)
        if value is None or not _allowed(fields[name], value):
            raise UsageError(f"--set {assignment}: {name} must be {_domain(fields[name], types[name])}")
        values[name] = value
    try:
        return problem.Settings(**values)
    except ValueError as error:  # settings that do not go together
        raise UsageError(str(error)) from error


def settings_help(problem: ModuleType) -> str:
    """The settings of a problem as text: name, default, what is allowed, and the meaning."""
    types = typing.get_type_hints(problem.Settings)
    rows = [
        (field.name, _text(field.default), _domain(field, types[field.name]), field.metadata.get("help", ""))
        for field in dataclasses.fields(problem.Settings)
    ]
    rows = [("setting", "default", "allowed", "meaning"), *rows]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)) for row in rows)
    return "\n".join(f"  {line}  {row[3]}".rstrip() for line, row in zip(lines, rows, strict=True))


def command(name: str, settings: Any) -> str:
    """The command, quoted for a shell, that runs a problem with these settings.

    Every setting is spelled out, so that the command means the same after a default has changed. The output folder is
    not part of it: a run never writes into the folder of another, so a repetition goes to a new one.
    """
    words = ["python", "-m", "problems", "run", name]
    spelled = assignments(dataclasses.asdict(settings))
    return shlex.join([*words, *(word for assignment in spelled for word in ("--set", assignment))])


def assignments(settings: Mapping[str, Any]) -> list[str]:
    """The texts from which `read_settings` makes these settings again."""
    return [f"{name}={_text(value)}" for name, value in settings.items()]


def _value(kind: type, text: str) -> Any:
    """The text as a value of that type, or None."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    try:
        value = kind(text)
    except ValueError:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _allowed(field: dataclasses.Field, value: Any) -> bool:
    allowed = field.metadata
    return (
        ("minimum" not in allowed or value >= allowed["minimum"])
        and ("maximum" not in allowed or value <= allowed["maximum"])
        and ("choices" not in allowed or value in allowed["choices"])
    )


def _domain(field: dataclasses.Field, kind: type) -> str:
    """What a field may be, in words."""
    allowed = field.metadata
    if kind is bool:
        return "true or false"
    if "choices" in allowed:
        return " or ".join(_text(choice) for choice in allowed["choices"])
    noun = {int: "an integer", float: "a number", str: "text"}[kind]
    if "minimum" in allowed and "maximum" in allowed:
        return f"{noun} from {_text(allowed['minimum'])} to {_text(allowed['maximum'])}"
    if "minimum" in allowed:
        return f"{noun} of at least {_text(allowed['minimum'])}"
    if "maximum" in allowed:
        return f"{noun} of at most {_text(allowed['maximum'])}"
    return noun


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
