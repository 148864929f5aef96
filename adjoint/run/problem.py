"""A problem, of the gallery or in a file: what it must define, how it is found and loaded.

A problem is a Python module that defines

- ``Settings``: a frozen dataclass, see `adjoint.run.settings`;
- ``run(settings, record)``: does the work, reports it to the record, and returns its checks, a list
  of `Check`, or an `Ending` of its own. Called again in the folder of a killed run it must end in
  the same bits, because it is deterministic or because it goes on from what the record has saved of
  it;

and may define

- ``SUMMARY``: what it is, in one line; left out, the first line of the file's docstring is taken;
- ``verify(settings)``: the verdict on its gradient, as `adjoint.verify_gradient` returns it. A run
  begins with it;
- ``JUDGED``: where the gradient was judged, in a sentence.
"""

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from adjoint.run.settings import UsageError, did_you_mean, listed

SMALLEST = '''"""A spring pulled by a force: its extension, and a check of it."""

from dataclasses import dataclass, field

import jax.numpy as jnp

import adjoint
from adjoint.run.checks import Check


@dataclass(frozen=True)
class Settings:
    force: float = field(default=2.0, metadata={"help": "in N", "minimum": 0.0})


def extension(stiffness, force):  # of one spring, by a linear solve
    return adjoint.linear_solve(jnp.reshape(stiffness, (1, 1)), jnp.reshape(force, 1)).value[0]


def verify(settings):
    return adjoint.verify_gradient(lambda k: extension(k, settings.force), jnp.array(4.0))


def run(settings, record):
    x = float(extension(jnp.array(4.0), settings.force))
    expected = settings.force / 4
    return [Check("extension in m", x, reference=expected, bound=1e-12, source="Hooke's law")]
'''


@dataclass(frozen=True)
class Problem:
    """A problem as it was found.

    Attributes
    ----------
    name
        How it is called: its name in the gallery, or the path of its file.
    module
        Its module.
    """

    name: str
    module: ModuleType

    @property
    def title(self) -> str:
        """A name for folders and headings."""
        return Path(self.name).stem

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        documented = (self.module.__doc__ or "").strip().partition("\n")[0]
        return getattr(self.module, "SUMMARY", documented or self.title)

    @property
    def judged(self) -> str:
        """Where its gradient is judged, in a sentence."""
        return getattr(self.module, "JUDGED", "Judged by verify(settings) of the problem.")

    @property
    def verify(self) -> Callable[[Any], Any] | None:
        """What judges its gradient, if it has that."""
        return getattr(self.module, "verify", None)


@dataclass(frozen=True)
class Gallery:
    """The problems of a package.

    Parameters
    ----------
    package
        The package; None where there is no gallery.
    """

    package: ModuleType | None

    def names(self) -> list[str]:
        """The modules, whether or not they are problems."""
        if self.package is None:
            return []
        found = sorted(
            module.name
            for module in pkgutil.iter_modules(self.package.__path__)
            if not module.ispkg
        )
        return [name for name in found if name != "__main__"]

    def problems(self) -> dict[str, Problem]:
        """All problems by name, in alphabetical order; all modules are imported."""
        found = {name: self._load(name) for name in self.names()}
        return {
            name: problem for name, problem in found.items() if hasattr(problem.module, "Settings")
        }

    def find(self, name: str) -> Problem:
        """The problem of that name, or the one in the file of that name. Only this one is imported.

        Raises
        ------
        UsageError
            When there is none; the message lists those that there are, or says what the file lacks.
        """
        if name.endswith(".py"):
            return load_file(Path(name))
        if name in self.names():
            problem = self._load(name)
            if hasattr(problem.module, "Settings"):
                return problem
        known = self.problems()
        if not known:
            raise UsageError(f"there is no problem {name!r} and no gallery here; {OWN_FILE}")
        raise UsageError(
            f"there is no problem {name!r}{did_you_mean(name, known)}; the problems are "
            f"{listed(known)}"
        )

    def _load(self, name: str) -> Problem:
        assert self.package is not None
        return Problem(name, importlib.import_module(f"{self.package.__name__}.{name}"))


OWN_FILE = (
    "run a file of your own, such as adjoint run my_bracket.py; adjoint new my_bracket.py writes "
    "one to begin with"
)


def load_file(path: Path) -> Problem:
    """The problem in a file.

    Raises
    ------
    UsageError
        When there is no such file, or it is no problem; the message says what is missing in it.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    path = path.resolve()
    # A name that is nobody else's: a file json.py must not take the place of the module json.
    spec = importlib.util.spec_from_file_location(f"problem_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # What stands beside the file can be imported by it, as if it were run by Python; dataclasses
    # look up their module.
    sys.path.insert(0, str(path.parent))
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    missing = _missing(module)
    if missing:
        raise UsageError(
            f"{path} is no problem: it has no {' and no '.join(missing)}. The smallest one that "
            f"works:\n\n{SMALLEST}"
        )
    return Problem(str(path), module)


def _missing(module: ModuleType) -> list[str]:
    missing = []
    settings = getattr(module, "Settings", None)
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        missing.append("dataclass Settings")
    if not callable(getattr(module, "run", None)):
        missing.append("function run(settings, record)")
    return missing


def gallery_here() -> Gallery:
    """The current folder's gallery, its package `problems`, if that is a clone of the library."""
    if not all((Path(package) / "__main__.py").is_file() for package in ("adjoint", "problems")):
        return Gallery(None)
    sys.path.insert(0, str(Path.cwd()))
    return Gallery(importlib.import_module("problems"))
