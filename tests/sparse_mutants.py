"""Deliberate mutants of sparse matrices and their factors, the cache, Krylov methods and counts."""

from mutation import Mutant

_SPARSE = "linear/sparse.py"
_SUPERLU = "linear/superlu.py"
_CACHE = "linear/factor_cache.py"
_OPERATORS = "linear/operators.py"
_PATTERN = "linear/sparse_pattern.py"
_KRYLOV = "linear/krylov.py"

SPARSE_MUTANTS: tuple[Mutant, ...] = (
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
        "jnp.vdot(x, y, precision=jax.lax.Precision.HIGHEST).real",
        "jnp.sum(x * y).real",
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
