"""Deliberate mutants of the linear rules: one wrong word each, and the check that must notice.

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
    """`original` becomes `wrong` in the file; the check of test_mutants.py named `killed_by` must
    then fail.
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
    """Each token with where it begins and ends, but for comments, space and commas before a bracket
    that closes.
    """
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
    """`.solve` is the copy of `adjoint/linear/solve.py`, and so on; imported when it is asked
    for.
    """

    def __getattr__(self, name: str) -> Any:
        (folder,) = (
            folder
            for folder in ("tracing", "linear", "implicit")
            if (HOME / folder / f"{name}.py").exists()
        )
        return importlib.import_module(f"{COPY}.{folder}.{name}")


# Their checks take seconds each.
SLOW = (
    "sparse A v is A' v",
    "sparse A' v is A v",
    "A_bar = -conj(lam) x'",
    "A^H lam = x_bar",
    "b_dot dropped",
    "A_dot x dropped",
    "block counted as one when compiled",
    "columns mixed",
    "logdet: sign",
    "logdet: A^-1 for A'^-1",
    "GMRES without conjugate",
    "CG without conjugate",
    "step limit ignored",
)


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


_RULE = "linear/solve.py"
_DENSE = "linear/dense.py"
_SPARSE = "linear/sparse.py"
_SUPERLU = "linear/superlu.py"
_CACHE = "linear/factor_cache.py"
_OPERATORS = "linear/operators.py"
_PATTERN = "linear/sparse_pattern.py"
_KRYLOV = "linear/krylov.py"

_TRANSPOSED = "TransposedSolver(solver), factor, Transposed(A)"
_ADJOINT_SOLVE = f"tangent_solve({_TRANSPOSED}, x_bar)"

MUTANTS: tuple[Mutant, ...] = (
    # The rule: A' lam = x_bar, b_bar = lam, A_bar = -(adjoint of A -> A x)(lam).
    Mutant(
        "sign of A_bar",
        _RULE,
        "adjoint_of_matvec(-lam)",
        "adjoint_of_matvec(lam)",
        "dense_gradient",
    ),
    Mutant(
        "A_bar twice",
        _RULE,
        "adjoint_of_matvec(-lam)",
        "adjoint_of_matvec(-2 * lam)",
        "dense_gradient",
    ),
    Mutant(
        "A_bar = -conj(lam) x'",
        _RULE,
        "adjoint_of_matvec(-lam)",
        "adjoint_of_matvec(-lam.conj())",
        "complex_lu",
    ),
    Mutant(
        "A_bar = -x lam'",
        _RULE,
        "vjp(lambda A: A.matvec(x), A)",
        "vjp(lambda A: A.transpose_matvec(x), A)",
        "dense_gradient",
    ),
    Mutant(
        "sign of b_bar",
        _RULE,
        "return None, A_bar, lam",
        "return None, A_bar, -lam",
        "dense_gradient",
    ),
    Mutant(
        "lam 1.001 times too large",
        _RULE,
        _ADJOINT_SOLVE,
        _ADJOINT_SOLVE[:-6] + "1.001 * x_bar)",
        "verified_gradient",
    ),
    Mutant(
        "A lam = x_bar",
        _RULE,
        _ADJOINT_SOLVE,
        "tangent_solve(solver, factor, A, x_bar)",
        "dense_gradient",
    ),
    Mutant(
        "A^H lam = x_bar",
        _RULE,
        "x_bar, _ = cotangents",
        "x_bar = cotangents[0].conj()",
        "complex_lu",
    ),
    # The tangent: x_dot = A^-1 (b_dot - A_dot x).
    Mutant(
        "forward mode: sign of A_dot x",
        _RULE,
        "else b_dot - moved",
        "else b_dot + moved",
        "dense_tangent",
    ),
    Mutant(
        "forward mode: b_dot dropped", _RULE, "else b_dot - moved", "else -moved", "dense_tangent"
    ),
    Mutant(
        "forward mode: A_dot x dropped", _RULE, "else b_dot - moved", "else b_dot", "dense_tangent"
    ),
    Mutant(
        "forward mode: 1.001 x_dot",
        _RULE,
        "factor, A, c)[0])",
        "factor, A, 1.001 * c)[0])",
        "dense_tangent",
    ),
    Mutant(
        "forward mode with A'",
        _RULE,
        "(solver, factor, A, c)",
        f"({_TRANSPOSED}, c)",
        "dense_tangent",
    ),
    Mutant(
        "b_dot dropped",
        _RULE,
        "together(b, ",
        "together(jax.lax.stop_gradient(b), ",
        "dense_second_order",
    ),
    Mutant(
        "A_dot x dropped",
        _RULE,
        "together(A.matvec(x), ",
        "together(fixed.matvec(x), ",
        "dense_second_order",
    ),
    Mutant(
        "sign of A_dot x",
        _RULE,
        "together(A.matvec(x), ",
        "together(2 * fixed.matvec(x) - A.matvec(x), ",
        "dense_second_order",
    ),
    Mutant(
        "tangent with A'",
        _RULE,
        "=with_outcome(solver.solve)",
        "=with_outcome(solver.solve_transpose)",
        "dense_second_order",
    ),
    Mutant(
        "transposed tangent with A",
        _RULE,
        "=with_outcome(solver.solve_transpose)",
        "=with_outcome(solver.solve)",
        "dense_second_order",
    ),
    Mutant(
        "A' v is A v",
        _RULE,
        "return self.A.transpose_matvec(x)",
        "return self.A.matvec(x)",
        "dense_second_order",
    ),
    Mutant(
        "(A')' v is A' v",
        _RULE,
        "return self.A.matvec(x)",
        "return self.A.transpose_matvec(x)",
        "transposed_second_order",
    ),
    Mutant(
        "(A')' solved with A'",
        _RULE,
        "return self.solver.solve(factor, A.A, c)",
        "return self.solver.solve_transpose(factor, A.A, c)",
        "dense_second_order",
    ),
    # Failures.
    Mutant(
        "selected, not multiplied, NaN",
        "solution.py",
        "return v * factor.astype(v.real.dtype)",
        "return jnp.where(ok, v, jnp.nan)",
        "nan_in_b",
    ),
    Mutant(
        "gradient not poisoned",
        _RULE,
        "return poison(x, outcome.code == 0)",
        "return (x)",
        "nan_in_b",
    ),
    Mutant(
        "NaN in b unnoticed",
        _DENSE,
        "jnp.where(_finite(b), code, Status.NONFINITE_INPUT.code)",
        "code",
        "nan_in_b",
    ),
    Mutant("residual unchecked", _DENSE, "error <= residual_limit(b.dtype)", "True", "false_claim"),
    Mutant(
        "condition unchecked",
        _DENSE,
        "condition_code(rcond, float(jnp.finfo(A.dtype).eps))",
        "0",
        "singular",
    ),
    Mutant(
        "logdet of failed LU",
        _DENSE,
        "triangles)))), factor.code == 0)",
        "triangles)))), True)",
        "singular",
    ),
    Mutant("asymmetry unchecked", _DENSE, "symmetric | (code != 0)", "True", "false_claim"),
    Mutant(
        "sparse residual unchecked",
        _SPARSE,
        "if not (error <= residual_limit(np.float64) and",
        "if not (",
        "lying_backend",
    ),
    Mutant(
        "sparse condition unchecked",
        _SPARSE,
        "code = int(condition_code(reciprocal_condition, UNIT_ROUNDOFF, np))",
        "code = 0",
        "singular",
    ),
    Mutant(
        "step limit ignored",
        _KRYLOV,
        "~(end.norm <= target)",
        "~(end.norm >= 0)",
        "step_limit",
    ),
    # Dense factors.
    Mutant("row order dropped", _DENSE, "b[factor.permutation]", "b", "dense_gradient"),
    Mutant(
        "row order not inverted",
        _DENSE,
        "jnp.zeros_like(z).at[factor.permutation].set(z, unique_indices=True)",
        "z[factor.permutation]",
        "dense_gradient",
    ),
    Mutant(
        "U^H for U'", _DENSE, "c, lower=False, trans=1)", "c, lower=False, trans=2)", "complex_lu"
    ),
    Mutant(
        "diagonal of L read",
        _DENSE,
        "y, lower=True, trans=1, unit_diagonal=True)",
        "y, lower=True, trans=1)",
        "dense_gradient",
    ),
    Mutant(
        "Cholesky: A lam = c",
        _DENSE,
        "jnp.conj(cls._substitute(factor, jnp.conj(c)))",
        "cls._substitute(factor, c)",
        "complex_cholesky",
    ),
    Mutant(
        "A^H v for A' v",
        _OPERATORS,
        "return self.matrix.T @ x",
        "return self.matrix.conj().T @ x",
        "complex_lu",
    ),
    # log|det A|.
    Mutant(
        "logdet: sign",
        _SPARSE,
        "return jnp.sum(jax.lax.map",
        "return -jnp.sum(jax.lax.map",
        "logdet",
    ),
    Mutant(
        "logdet: A^-1 for A'^-1",
        _SPARSE,
        "solver.solve_transpose(fixed, fixed, c)[0]",
        "solver.solve(fixed, fixed, c)[0]",
        "logdet",
    ),
    Mutant(
        "logdet: conjugate",
        _SPARSE,
        "jnp.sum(lam_k * A_dot",
        "jnp.sum(lam_k.conj() * A_dot",
        "logdet",
    ),
    Mutant(
        "logdet: half of the dense one",
        _DENSE,
        "poison(jnp.sum(",
        "poison(0.5 * jnp.sum(",
        "logdet",
    ),
    # Sparse matrices and their factors.
    Mutant(
        "sparse A v is A' v",
        _PATTERN,
        "return self._apply(self.pattern.rows, self.pattern.cols, x)",
        "return self._apply(self.pattern.cols, self.pattern.rows, x)",
        "sparse_derivatives",
    ),
    Mutant(
        "sparse A' v is A v",
        _PATTERN,
        "return self._apply(self.pattern.cols, self.pattern.rows, x)",
        "return self._apply(self.pattern.rows, self.pattern.cols, x)",
        "sparse_derivatives",
    ),
    Mutant(
        "duplicates overwritten",
        _PATTERN,
        ".at[self._slot].add(values)",
        ".at[self._slot].set(values)",
        "sparse_derivatives",
    ),
    Mutant(
        "SuperLU N for T",
        _SUPERLU,
        'mode = "T" if transpose',
        'mode = "N" if transpose',
        "sparse_derivatives",
    ),
    Mutant(
        "SuperLU H for T",
        _SUPERLU,
        'mode = "T" if transpose',
        'mode = "H" if transpose',
        "sparse_complex",
    ),
    Mutant(
        "order not inverted",
        _SUPERLU,
        "position[self.order] = np.arange(n)",
        "position = self.order",
        "sparse_derivatives",
    ),
    Mutant(
        "x left in elimination order",
        _SUPERLU,
        "x[order] = self._lu.solve",
        "x[:] = self._lu.solve",
        "sparse_derivatives",
    ),
    Mutant(
        "residual with A for A'",
        _SPARSE,
        "held.matrix.T if transpose else held.matrix",
        "held.matrix",
        "sparse_derivatives",
    ),
    Mutant(
        "callback shared by A and A'",
        _SPARSE,
        "key = (backend, transpose, rank)",
        "key = (backend, rank)",
        "sparse_derivatives",
    ),
    Mutant(
        "columns mixed",
        _SPARSE,
        "np.ascontiguousarray(columns[:, k])",
        "np.ascontiguousarray(columns[:, 0])",
        "many_right_hand_sides",
    ),
    Mutant(
        "lanes mixed", _SPARSE, "tuple(0 if size == 1 else index for", "tuple(0 for", "sparse_lanes"
    ),
    Mutant(
        "right-hand sides mixed",
        _SPARSE,
        "values[own], b[lane], transpose",
        "values[own], b[(0,) * len(lane)], transpose",
        "sparse_lanes",
    ),
    # The cache of factors.
    Mutant(
        "cache ignores values",
        _CACHE,
        "entry.signature == signature and np.array_equal(entry.values, values)",
        "True",
        "cache",
    ),
    Mutant(
        "cache compares a sample",
        _CACHE,
        "entry.signature == signature and np.array_equal(entry.values, values)",
        "entry.signature == signature",
        "cache",
    ),
    Mutant("cache ignores pattern", _CACHE, "entry.key == key and entry", "entry", "cache"),
    Mutant(
        "cache ignores backend",
        _SPARSE,
        "find_or_make((pattern, backend), values",
        "find_or_make(pattern, values",
        "cache",
    ),
    Mutant(
        "cache aliases values",
        _CACHE,
        "_Entry(key, signature, values.copy(), factors)",
        "_Entry(key, signature, values, factors)",
        "cache",
    ),
    # Krylov methods.
    Mutant(
        "preconditioner not transposed",
        _KRYLOV,
        "_transposed(M, c) if M else _identity",
        "M or _identity",
        "preconditioner",
    ),
    Mutant("scale forgotten on exit", _KRYLOV, "x = end.x * scale", "x = end.x", "krylov_gradient"),
    Mutant(
        "adjoint iterates with A",
        _KRYLOV,
        "self._iterate(A.transpose_matvec,",
        "self._iterate(A.matvec,",
        "krylov_gradient",
    ),
    Mutant(
        "matrix-free A' v is A v",
        _OPERATORS,
        "apply = lambda v: transpose(v)[0]",
        "apply = lambda v: self.function(v)",
        "krylov_gradient",
    ),
    Mutant("atol in wrong units", _KRYLOV, "self.atol / scale", "self.atol", "absolute_tolerance"),
    Mutant(
        "GMRES without conjugate",
        "linear/iterative.py",
        "projection = V.conj() @ w",
        "projection = V @ w",
        "complex_krylov",
    ),
    Mutant(
        "CG without conjugate",
        "norm.py",
        "(jnp.vdot(x / a, y / b).real * a)",
        "(jnp.sum((x / a) * (y / b)).real * a)",
        "complex_krylov",
    ),
    # Counts.
    Mutant(
        "factorization not counted",
        _SPARSE,
        '    record("factorizations", 1)\n',
        "",
        "sparse_counts",
    ),
    Mutant(
        "kinds of solve swapped",
        _SPARSE,
        '"transpose_solves" if transpose else "solves"',
        '"solves" if transpose else "transpose_solves"',
        "sparse_counts",
    ),
    Mutant(
        "block counted as one",
        _SPARSE,
        '"solves", columns.shape[1])',
        '"solves", 1)',
        "sparse_counts",
    ),
    Mutant(
        "block counted as one when compiled",
        "tracing/host_call.py",
        "jnp.full((number,), 0.0",
        "jnp.full((1,), 0.0",
        "compiled_counts",
    ),
)
