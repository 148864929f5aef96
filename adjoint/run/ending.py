"""What a run was asked to do, and how it ended."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Outcome(enum.IntEnum):
    """How a run ended; the value is the exit code of the command line."""

    DONE = 0
    NOT_CONVERGED = 3
    GRADIENT_NOT_TRUSTED = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes
    ----------
    outcome
        The kind of ending.
    sentence
        What happened, with the numbers that decided it.
    """

    outcome: Outcome
    sentence: str


class GradientVerdict(Protocol):
    """What `adjoint.verify_gradient` returns; ``str`` of it is a readable table."""

    @property
    def trusted(self) -> bool: ...

    @property
    def relative_error(self) -> float: ...


@dataclass(frozen=True)
class Task:
    """What a run was asked to do.

    Attributes
    ----------
    problem, summary
        The problem's name and what it is, in a line.
    settings, meanings
        The value of each setting, and what it means.
    command
        The command that repeats the run.
    """

    problem: str
    summary: str
    settings: Mapping[str, int | float | str | bool]
    meanings: Mapping[str, str]
    command: str
