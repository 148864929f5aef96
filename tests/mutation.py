"""Mutants of the library: what one is, how its code is found, and copies of the library with it.

A mutant replaces code in one file, where it must stand once, so that a refactoring that moves it
fails loudly. Code is found by its tokens: spaces, line breaks, comments and trailing commas are
nothing to it. `library(mutant)` executes a fresh copy of the sources under another name: nothing
healthy that is kept can answer.
"""

import importlib
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import adjoint

HOME = Path(adjoint.__file__).parent
COPY = "adjoint_mutated"


@dataclass(frozen=True)
class Mutant:
    """`original` becomes `wrong` in the file; then the check `killed_by` must fail.

    The check is among the tests of its table.
    """

    name: str
    file: str
    original: str
    wrong: str
    killed_by: str

    def __str__(self) -> str:
        return self.name

    def source(self) -> str:
        text = (HOME / self.file).read_text()
        found = list(occurrences(self.original, text))
        if len(found) != 1:  # no AssertionError, which would be a kill
            raise LookupError(
                f"mutant {self.name!r}: its code stands {len(found)} times in {self.file}, "
                "expected once"
            )
        begin, end = found[0]
        return text[:begin] + self.wrong.strip() + text[end:]


_TOKEN = re.compile(r'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\w+|#[^\n]*|\s+|,(?=\s*[\])}])|[^\w\s]')


def tokens(code: str) -> list[tuple[str, int, int]]:
    """Each token with its bounds, but for comments, space and commas before a closing bracket."""
    found = ((m.group(), m.start(), m.end()) for m in _TOKEN.finditer(code))
    return [
        token
        for token in found
        if not token[0].isspace() and token[0][0] != "#" and not _trails(token, code)
    ]


def _trails(token: tuple[str, int, int], code: str) -> bool:
    return token[0] == "," and re.match(r"\s*[\])}]", code[token[2] :]) is not None


def occurrences(part: str, code: str) -> Iterator[tuple[int, int]]:
    """Where the tokens of a part begin and end in code."""
    wanted, given = [token[0] for token in tokens(part)], tokens(code)
    names = [token[0] for token in given]
    for i in range(len(names) - len(wanted) + 1):
        if names[i : i + len(wanted)] == wanted:
            yield given[i][1], given[i + len(wanted) - 1][2]


_code = cache(lambda path, text: compile(text, str(path), "exec"))


class _Copies(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports COPY and its modules from the sources of the library, one of them mutated."""

    def __init__(self, mutant: Mutant | None):
        self.mutant = mutant

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.split(".")[0] != COPY:
            return None
        place = HOME.joinpath(*fullname.split(".")[1:])
        return importlib.machinery.ModuleSpec(
            fullname, self, origin=str(place), is_package=place.is_dir()
        )

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        path = Path(str(module.__spec__.origin))
        if path.is_dir():
            return
        path = path.with_suffix(".py")
        is_mutated = self.mutant is not None and path == HOME / self.mutant.file
        text = self.mutant.source() if is_mutated and self.mutant else path.read_text()
        module.__file__ = str(path)
        exec(_code(path, text.replace("from adjoint.", f"from {COPY}.")), module.__dict__)


class _Library:
    """`.solve` is the copy of `adjoint/linear/solve.py`, and so on; imported when asked for."""

    def __getattr__(self, name: str) -> Any:
        (folder,) = (
            folder
            for folder in ("tracing", "linear", "implicit")
            if (HOME / folder / f"{name}.py").exists()
        )
        return importlib.import_module(f"{COPY}.{folder}.{name}")


@contextmanager
def library(mutant: Mutant | None) -> Iterator[Any]:
    """A fresh copy of the rules, mutated or (None) healthy: its modules by name."""
    finder = _Copies(mutant)
    sys.meta_path.insert(0, finder)
    try:
        yield _Library()
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == COPY]:
            del sys.modules[name]
