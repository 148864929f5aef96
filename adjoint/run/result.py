"""The result of a run, told twice: as JSON for programs, and as the content of a report."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adjoint.run.ending import Ending, GradientVerdict, Outcome, Task
from adjoint.run.progress import format_number
from adjoint.run.report import Picture, Report


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Parameters
    ----------
    task
        What the run was asked to do.
    ending
        How it ended.
    last
        The numbers of its last iteration, by column.
    verdict, circumstances
        The gradient's verdict, if it was judged, and where it was judged, in a sentence.
    seconds
        How long it took.
    made_with
        The versions and the machine it was made with, by name.
    """

    task: Task
    ending: Ending
    last: Mapping[str, float]
    verdict: GradientVerdict | None
    circumstances: str
    seconds: float
    made_with: Mapping[str, str]

    def json(self) -> str:
        """All of it, for programs."""
        verdict = self.verdict
        result = {
            "problem": self.task.problem,
            "outcome": self.ending.outcome.name,
            "ending": self.ending.sentence,
            "last_iteration": {name: _json_number(value) for name, value in self.last.items()},
            "total_seconds": self.seconds,
            "gradient": verdict
            and {
                "trusted": bool(verdict.trusted),
                "relative_error": _json_number(verdict.relative_error),
                "circumstances": self.circumstances,
            },
            "settings": dict(self.task.settings),
            "command": self.task.command,
            "made_with": dict(self.made_with),
        }
        return json.dumps(result, indent=2, allow_nan=False) + "\n"

    def report(self, pictures: Sequence[Picture], files: Sequence[tuple[str, str]]) -> Report:
        """The content of its report, with these pictures, and files with their meanings."""
        task = self.task
        judged = f"{self.circumstances}\n\n{self.verdict}" if self.verdict is not None else ""
        return Report(
            title=task.problem,
            summary=task.summary,
            ending=self.ending.sentence,
            successful=self.ending.outcome == Outcome.DONE,
            numbers={name: format_number(value) for name, value in self.last.items()},
            pictures=pictures,
            gradient=judged,
            settings=[
                (name, str(value), task.meanings.get(name, ""))
                for name, value in task.settings.items()
            ],
            command=task.command,
            files=files,
            provenance={"total time": f"{self.seconds:.1f} s", **self.made_with},
        )


def _json_number(value: float) -> float | None:
    # JSON has neither NaN nor Inf.
    return value if math.isfinite(value) else None
