"""Checkers of the house rules: layers, no cycles, small rooms, documented names, registered rules.

A checker takes sources, {module name: text}, and returns complaints.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layers import LAYERS
from mutation import Mutant
from registry import Rule

import adjoint

HOME = Path(adjoint.__file__).parents[1]
TESTS = Path(__file__).parent
Sources = dict[str, str]

PLACE = {
    f"adjoint.{name}": (layer, i)
    for layer, names in enumerate(LAYERS)
    for i, name in enumerate(names)
}

LINES_PER_FILE = 400
LINES_PER_FUNCTION, LINES_AT_MOST = 40, 80
# One function in so many may have LINES_PER_FUNCTION lines or more.
ONE_IN = 10


def sources(*packages: str) -> Sources:
    """The modules of these packages by name; a package's own file is named after the package."""
    files = [path for package in packages for path in sorted((HOME / package).rglob("*.py"))]
    return {
        ".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path.read_text()
        for path in files
    }


def imports(source: str, modules: set[str]) -> Iterator[str]:
    """Every imported name, wherever the import stands.

    `from a import b` is a.b if that is a module or the package is bare.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in modules or base == "adjoint" else base


def layer_complaints(library: Sources, place: dict[str, tuple[int, int]]) -> list[str]:
    """Imports that point upwards, sideways into another folder, or at the package root.

    Files without a place count, too.
    """
    complaints = [
        f"{name} has no place in LAYERS"
        for name, text in library.items()
        if name not in place and _has_code(text)
    ]
    complaints += [
        f"{name} has a place in LAYERS and no file" for name in place if name not in library
    ]
    for name in place.keys() & library.keys():
        for imported in imports(library[name], set(library)):
            if imported.startswith("."):
                complaints.append(f"{name} imports {imported}: write the full name")
            elif imported.split(".")[0] in ("problems", "benchmarks"):
                complaints.append(f"{name} imports {imported}, which is above the library")
            elif imported.split(".")[0] == "adjoint" and not _may_import(name, imported, place):
                complaints.append(f"{name} imports {imported}")
    return complaints


def _may_import(name: str, imported: str, place: dict[str, tuple[int, int]]) -> bool:
    if imported not in place:
        return False
    if place[imported][0] != place[name][0]:
        return place[imported][0] < place[name][0]
    return _folder(imported) == _folder(name) and place[imported] < place[name]


def _folder(name: str) -> str:
    return name.rpartition(".")[0]


def _has_code(source: str) -> bool:
    """Anything beside a docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(source).body)


def cycles(library: Sources) -> list[list[str]]:
    """Import cycles: paths that return to where they began, found depth first."""
    graph = {
        name: sorted({i for i in imports(text, set(library)) if i in library})
        for name, text in library.items()
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for imported in graph[name]:
                visit(imported, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


PUBLIC_FOLDERS = ("run", "fem")


def public_use_complaints(gallery: Sources, public: set[str]) -> list[str]:
    """What the gallery takes from the library beside its public names and public folders."""
    complaints = []
    for name, text in gallery.items():
        for imported in imports(text, set(gallery)):
            package, _, rest = imported.partition(".")
            is_public = not rest or rest in public or rest.split(".")[0] in PUBLIC_FOLDERS
            if package == "benchmarks" or (package == "adjoint" and not is_public):
                complaints.append(f"{name} imports {imported}")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node.value) == "adjoint"
                and node.attr not in public
            ):
                complaints.append(f"{name} uses adjoint.{node.attr}")
    return complaints


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function that are neither docstring nor comment nor blank."""
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    skipped = range(docstring.lineno, (docstring.end_lineno or 0) + 1) if docstring else range(0)
    body = (i for i in range(function.lineno, (function.end_lineno or 0) + 1) if i not in skipped)
    return sum(1 for i in body if lines[i - 1].strip() and not lines[i - 1].strip().startswith("#"))


def function_lengths(library: Sources) -> dict[str, int]:
    return {
        f"{name}:{node.lineno} {node.name}": code_lines(node, text.splitlines())
        for name, text in library.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def length_complaints(library: Sources) -> list[str]:
    complaints = []
    for name, text in library.items():
        if (lines := len(text.splitlines())) > LINES_PER_FILE:
            complaints.append(f"{name} has {lines} lines, more than {LINES_PER_FILE}")
    lengths = function_lengths(library)
    complaints += [
        f"{name} has {n} lines, more than {LINES_AT_MOST}"
        for name, n in lengths.items()
        if n > LINES_AT_MOST
    ]
    long = [name for name, n in lengths.items() if n >= LINES_PER_FUNCTION]
    if len(long) > len(lengths) // ONE_IN:
        complaints.append(
            f"{len(long)} of {len(lengths)} functions have {LINES_PER_FUNCTION} lines or more: "
            f"{long}"
        )
    return complaints


def configuration_complaints(library: Sources) -> list[str]:
    """Touching jax.config, under any name it is imported by."""
    return [
        f"{name}:{node.lineno} touches {ast.unparse(node)}"
        for name, text in library.items()
        for node in ast.walk(ast.parse(text))
        if (
            isinstance(node, ast.Attribute)
            and re.search(r"(^|\.)config\.update$", ast.unparse(node))
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "jax"
            and any(a.name == "config" for a in node.names)
        )
    ]


def unfinished_complaints(library: Sources) -> list[str]:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    return [f"{name}: {word}" for name, text in library.items() for word in words.findall(text)]


def documentation_complaints(name: str, thing: Any) -> list[str]:
    """A docstring with an example, and annotations on all that can be called."""
    described = thing if callable(thing) else type(thing)
    if not (described.__doc__ or "").strip():
        return [f"{name} has no docstring"]
    complaints = [] if ">>> " in described.__doc__ else [f"{name} has no example in its docstring"]
    functions = {name: described}
    if inspect.isclass(described):
        own = {k: v for k, v in vars(described).items() if not k.startswith("_") and callable(v)}
        functions = {name: described.__init__} | {f"{name}.{k}": v for k, v in own.items()}
    for label, function in functions.items():
        complaints += _annotation_complaints(label, getattr(function, "__wrapped__", function))
    return complaints


def _annotation_complaints(label: str, function: Any) -> list[str]:
    if not inspect.isfunction(function) or function.__qualname__.startswith("object."):
        return []
    signature = inspect.signature(function)
    bare = [
        k
        for k, v in signature.parameters.items()
        if v.annotation is v.empty and k not in ("self", "cls")
    ]
    complaints = [f"{label}: no annotation on {bare}"] if bare else []
    if signature.return_annotation is signature.empty and function.__name__ != "__init__":
        complaints.append(f"{label}: no annotation of what it returns")
    return complaints


def rules_in(library: Sources) -> set[tuple[str, str]]:
    """(file, name) of each derivative rule in a source.

    That is each `name.defvjp(...)`, `attach_derivative(name(...), ...)` and `with_forward_mode(_,
    name)`.
    """
    rules, at = set(), {"attach_derivative": 0, "with_forward_mode": 1}
    for module, text in library.items():
        file = "/".join(module.split(".")[1:]) + ".py"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr in ("defvjp", "defjvp", "defjvps"):
                rules.add((file, ast.unparse(node.value)))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in at:
                rules.add((file, ast.unparse(node.args[at[ast.unparse(node.func)]]).split("(")[0]))
    return rules


def registration_complaints(
    library: Sources, rules: tuple[Rule, ...], mutants: tuple[Mutant, ...]
) -> list[str]:
    found, registered = rules_in(library), {(rule.file, rule.function) for rule in rules}
    complaints = [
        f"{rule} is not registered in tests/registry.py" for rule in sorted(found - registered)
    ]
    complaints += [
        f"{rule} is registered and does not exist" for rule in sorted(registered - found)
    ]
    known = {mutant.name for mutant in mutants}
    for rule in rules:
        complaints += [
            f"{rule.function}: no test file {name}"
            for name in rule.tests
            if not (TESTS / name).is_file()
        ]
        complaints += [
            f"{rule.function}: no mutant {name!r}" for name in rule.mutants if name not in known
        ]
        if not rule.tests or not rule.mutants:
            complaints.append(f"{rule.function} has no tests or no mutants")
    return complaints
