"""``run.json`` in a run's folder: what it was asked, so that another process can go on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjoint.run.ending import Outcome, Task
from adjoint.run.problem import Gallery, Problem
from adjoint.run.provenance import provenance
from adjoint.run.run_folder import RunFolder
from adjoint.run.settings import UsageError, assignments, read_settings

NAME = "run.json"
# Of the file, to be raised when older code could not read it.
FORMAT = 1
# A system or a machine of another name mostly gives the same digits.
DECISIVE = ("adjoint", "jax", "jaxlib", "numpy", "scipy", "processor", "jax device")


@dataclass(frozen=True)
class StoredRun:
    """A run as its folder tells it.

    Attributes
    ----------
    problem, settings
        The problem and its settings.
    made_with
        `provenance` when it began.
    """

    problem: Problem
    settings: Any
    made_with: dict[str, str]

    def differences(self) -> str:
        """What differs from then and could change the last bits, in words; empty for nothing."""
        now = provenance()
        changed = [name for name in DECISIVE if self.made_with.get(name) != now[name]]
        return ", ".join(
            f"{name} {self.made_with.get(name, 'unknown')} then and {now[name]} now"
            for name in changed
        )


def stored(task: Task) -> str:
    """The content of ``run.json``."""
    content = {
        "format": FORMAT,
        "problem": task.problem,
        "settings": dict(task.settings),
        "command": task.command,
        "made_with": provenance(),
    }
    return json.dumps(content, indent=2) + "\n"


def read(path: Path, gallery: Gallery) -> StoredRun:
    """The run in that folder, of a problem of the gallery or of a file.

    Raises
    ------
    UsageError
        When there is none, or none that this version knows how to go on with.
    """
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}")
    try:
        text = (path / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"the folder {path} holds no run: it has no {NAME}") from None
    if not text:
        raise UsageError(
            f"the run in {path} was stopped before it began; remove the folder and run again"
        )
    try:
        content = json.loads(text)
        layout, name, settings, made_with = (
            content[key] for key in ("format", "problem", "settings", "made_with")
        )
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{path / NAME} is damaged; run again what {path / 'command.txt'} says"
        ) from None
    if layout != FORMAT:
        raise UsageError(
            f"{path / NAME} has format {layout}, expected {FORMAT}; go on with the version that "
            "wrote it"
        )
    problem = gallery.find(name)
    return StoredRun(problem, read_settings(problem.module, assignments(settings)), made_with)


def finished(folder: RunFolder) -> str | None:
    """How the run in the folder ended, or None when it was stopped before its end."""
    try:
        result = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return None if result["outcome"] == Outcome.INTERRUPTED.name else result["ending"]
