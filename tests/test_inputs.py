"""Mistakes visible at trace time are refused before any computing, with both sides and a fix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import adjoint
from adjoint import (
    CG,
    GMRES,
    LU,
    MINRES,
    Cholesky,
    MatrixFree,
    Sparse,
    SparseDirect,
    SparsePattern,
    linear_solve,
)
from adjoint.inputs import as_inexact_array, describe, require_same_precision

EYE, ONES = jnp.eye(3), jnp.ones(3)
PATTERN = SparsePattern(np.arange(3), np.arange(3), (3, 3))
SPARSE = PATTERN.matrix(ONES)
FREE = MatrixFree(lambda x: 2.0 * x, 3)
INDICES = jnp.array([[0, 0], [1, 1], [2, 2]])

# what is called, the error, and the parts of its message: what was given, what was expected, what
# to do
Mistake = tuple[Callable[[], Any], type[Exception], tuple[str, ...]]
MISTAKES: dict[str, Mistake] = {
    "A is not square": (
        lambda: linear_solve(jnp.ones((3, 2)), ONES),
        ValueError,
        ("(3, 2)", "square", "lstsq"),
    ),
    "A is a batch": (
        lambda: linear_solve(jnp.ones((4, 3, 3)), ONES),
        ValueError,
        ("(4, 3, 3)", "(n, n)", "jax.vmap"),
    ),
    "A is empty": (
        lambda: linear_solve(jnp.ones((0, 0)), jnp.ones(0)),
        ValueError,
        ("(0, 0)", "square"),
    ),
    "A of integers": (
        lambda: linear_solve(jnp.eye(3, dtype=int), ONES),
        TypeError,
        ("A = int64", "astype(float)"),
    ),
    "A of booleans": (
        lambda: linear_solve(EYE > 0, ONES),
        TypeError,
        ("A = bool", "astype(float)"),
    ),
    "A in half precision": (
        lambda: linear_solve(EYE.astype(jnp.float16), ONES),
        TypeError,
        ("A = float16", "single or double", "float32"),
    ),
    "A is a string": (lambda: linear_solve("A", ONES), TypeError, ("A = str 'A'", "array")),
    "A is a SciPy matrix": (
        lambda: linear_solve(scipy.sparse.eye(3, format="csr"), ONES),
        TypeError,
        ("csr", "SparsePattern"),
    ),
    "A is None": (lambda: linear_solve(None, ONES), TypeError, ("A = a NoneType", "array")),
    "b too short": (
        lambda: linear_solve(EYE, jnp.ones(2)),
        ValueError,
        ("(2,)", "(3,) or (3, k)", "(3, 3)"),
    ),
    "b as a row": (
        lambda: linear_solve(EYE, jnp.ones((1, 3))),
        ValueError,
        ("(1, 3)", "(3, k)", "transpose b"),
    ),
    "b three-dimensional": (
        lambda: linear_solve(EYE, jnp.ones((3, 1, 1))),
        ValueError,
        ("(3, 1, 1)", "jax.vmap"),
    ),
    "b with no column": (
        lambda: linear_solve(EYE, jnp.ones((3, 0))),
        ValueError,
        ("(3, 0)", "(3, k)"),
    ),
    "b a scalar": (lambda: linear_solve(EYE, jnp.array(1.0)), ValueError, ("shape ()", "(3,)")),
    "b of integers": (
        lambda: linear_solve(EYE, jnp.arange(3)),
        TypeError,
        ("b = int64", "b.astype(float)"),
    ),
    "b too short for a sparse A": (
        lambda: linear_solve(SPARSE, jnp.ones(2)),
        ValueError,
        ("(2,)", "(3,)"),
    ),
    "b too short for a matrix-free A": (
        lambda: linear_solve(FREE, jnp.ones(2)),
        ValueError,
        ("(2,)", "(3,)"),
    ),
    "float32 A, float64 b": (
        lambda: linear_solve(EYE.astype(jnp.float32), ONES),
        TypeError,
        ("A in float32", "b in float64", "b.astype(float32)"),
    ),
    "float64 A, complex64 b": (
        lambda: linear_solve(EYE, ONES.astype(jnp.complex64)),
        TypeError,
        ("A in float64", "b in complex64", "one precision"),
    ),
    "float64 sparse A, float32 b": (
        lambda: linear_solve(SPARSE, ONES.astype(jnp.float32)),
        TypeError,
        ("A in float64", "b in float32"),
    ),
    "matvec returns another shape": (
        lambda: linear_solve(MatrixFree(lambda x: x[:2], 3), ONES),
        ValueError,
        ("shape (2,)", "shape (3,)", "A x"),
    ),
    "matvec returns a column": (
        lambda: linear_solve(MatrixFree(lambda x: x[:, None], 3), ONES),
        ValueError,
        ("shape (3, 1)", "shape (3,)"),
    ),
    "matvec returns a tuple": (
        lambda: linear_solve(MatrixFree(lambda x: (x,), 3), ONES),
        ValueError,
        ("a tuple", "shape (3,)"),
    ),
    "matvec returns another precision": (
        lambda: linear_solve(MatrixFree(lambda x: x.astype(jnp.float32), 3), ONES),
        TypeError,
        ("float32", "float64", "convert"),
    ),
    "matvec is an array": (
        lambda: MatrixFree(EYE, 3),
        TypeError,
        ("array of shape (3, 3)", "function"),
    ),
    "n is not a number": (
        lambda: MatrixFree(lambda x: x, 3.0),
        TypeError,
        ("3.0", "positive integer", "b.size"),
    ),
    "n is zero": (
        lambda: MatrixFree(lambda x: x, 0),
        (TypeError, ValueError),
        ("0", "positive integer"),
    ),
    "the class in place of a solver": (
        lambda: linear_solve(EYE, ONES, LU),
        TypeError,
        ("LU, the class", "LU()"),
    ),
    "a sparse solver for a dense A": (
        lambda: linear_solve(EYE, ONES, SparseDirect()),
        TypeError,
        ("SparseDirect", "dense matrix", "LU()"),
    ),
    "LU for a sparse A": (
        lambda: linear_solve(SPARSE, ONES, LU()),
        TypeError,
        ("LU()", "sparse", "SparseDirect()"),
    ),
    "Cholesky for a matrix-free A": (
        lambda: linear_solve(FREE, ONES, Cholesky()),
        TypeError,
        ("Cholesky()", "MatrixFree", "GMRES()"),
    ),
    "an unknown mode": (
        lambda: linear_solve(EYE, ONES, mode="forward"),
        ValueError,
        ("'forward'", '"both"'),
    ),
    "an unknown backend": (lambda: SparseDirect("umfpack"), ValueError, ("'umfpack'", "superlu")),
    "negative rtol": (lambda: CG(rtol=-1.0), ValueError, ("rtol = -1.0", ">= 0")),
    "no tolerance at all": (lambda: MINRES(rtol=0.0), ValueError, ("rtol = 0.0", "one > 0")),
    "rtol is NaN": (lambda: CG(rtol=float("nan")), ValueError, ("rtol = nan", ">= 0")),
    "no steps": (lambda: GMRES(max_steps=0), ValueError, ("max_steps = 0", "positive")),
    "no restart": (lambda: GMRES(restart=0), ValueError, ("restart = 0", "positive")),
    "a preconditioner that is a matrix": (
        lambda: CG(preconditioner=EYE),
        TypeError,
        ("preconditioner", "function"),
    ),
    "a preconditioner of another shape": (
        lambda: linear_solve(FREE, ONES, CG(preconditioner=lambda v: v[:2])),
        ValueError,
        ("(2,)", "(3,)", "A^-1"),
    ),
    "a preconditioner of another precision": (
        lambda: linear_solve(FREE, ONES, CG(preconditioner=lambda v: v.astype(jnp.float32))),
        (TypeError, ValueError),
        ("float32", "float64"),
    ),
    "factors of a matrix-free A": (
        lambda: adjoint.factorize(FREE),
        TypeError,
        ("MatrixFree", "linear_solve"),
    ),
    "log-determinant without factors": (
        lambda: adjoint.factorize(EYE, CG()).logdet(),
        TypeError,
        ("CG", "direct", "LU()"),
    ),
    "a BCOO with batches": (
        lambda: linear_solve(BCOO.fromdense(jnp.stack([EYE, EYE]), n_batch=1), ONES),
        ValueError,
        ("n_batch=1", "jax.vmap"),
    ),
    "a BCOO that is not square": (
        lambda: linear_solve(BCOO.fromdense(jnp.ones((3, 2))), ONES),
        ValueError,
        ("(3, 2)", "square"),
    ),
    "a BCOO with traced indices": (
        lambda: jax.jit(lambda i: linear_solve(BCOO((ONES, i), shape=(3, 3)), ONES).value)(INDICES),
        TypeError,
        ("traced indices", "before compilation", "SparsePattern"),
    ),
    "a pattern with traced rows": (
        lambda: jax.jit(lambda i: SparsePattern(i, np.arange(3), (3, 3)).matrix(ONES).values)(
            jnp.arange(3)
        ),
        TypeError,
        ("traced rows", "outside jit"),
    ),
    "a row out of range": (
        lambda: SparsePattern(np.array([0, 3]), np.array([0, 1]), (3, 3)),
        ValueError,
        ("rows from 0 to 3", "0 to 2", "from zero"),
    ),
    "a negative column": (
        lambda: SparsePattern(np.array([0, 1]), np.array([-1, 1]), (3, 3)),
        ValueError,
        ("cols from -1 to 1", "0 to 2"),
    ),
    "rows and cols of different lengths": (
        lambda: SparsePattern(np.arange(3), np.arange(2), (3, 3)),
        ValueError,
        ("3 rows and 2 cols", "equally many"),
    ),
    "fractional indices": (
        lambda: SparsePattern(np.ones(3), np.arange(3), (3, 3)),
        TypeError,
        ("float64", "integer"),
    ),
    "a matrix of indices": (
        lambda: SparsePattern(np.ones((3, 1), int), np.arange(3), (3, 3)),
        TypeError,
        ("(3, 1)", "one-dimensional"),
    ),
    "a pattern that is not square": (
        lambda: SparsePattern(np.arange(2), np.arange(2), (2, 3)),
        ValueError,
        ("(2, 3)", "square"),
    ),
    "a size in place of a shape": (
        lambda: SparsePattern(np.arange(3), np.arange(3), 3),
        (TypeError, ValueError),
        ("3", "(n, n)"),
    ),
    "too few values": (lambda: PATTERN.matrix(jnp.ones(2)), ValueError, ("(2,)", "(3,)", "order")),
    "values of integers": (
        lambda: PATTERN.matrix(jnp.arange(3)),
        TypeError,
        ("int64", "astype(float)"),
    ),
    "a Sparse made by hand with too few values": (
        lambda: linear_solve(Sparse(jnp.ones(2), PATTERN), ONES),
        ValueError,
        ("(2,)", "(3,)"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_with_both_sides_and_the_fix(name: str) -> None:
    call, error, parts = MISTAKES[name]
    with adjoint.count_solves() as count, pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    assert count._numbers == {"factorizations": 0, "solves": 0, "transpose_solves": 0}


@pytest.mark.parametrize(
    ("A", "b", "error"),
    [
        (jnp.ones((3, 2)), ONES, ValueError),
        (EYE, jnp.ones(2), ValueError),
        (EYE.astype(jnp.float32), ONES, TypeError),
        (EYE.astype(int), ONES, TypeError),
    ],
)
@pytest.mark.parametrize(
    "transform", [jax.jit, lambda f: jax.grad(lambda A, b: jnp.sum(f(A, b).value), 1)]
)
def test_a_mistake_is_refused_while_tracing(A: Any, b: Any, error: Any, transform: Any) -> None:
    with pytest.raises(error, match="linear_solve: got"):
        transform(linear_solve)(A, b)


def test_complex_b_with_real_factors() -> None:
    with pytest.raises(TypeError, match=r"complex128.*float64.*astype"):
        adjoint.factorize(EYE).solve(ONES + 0j)


def test_describe() -> None:
    assert describe(np.ones((3, 4))) == "float64 array of shape (3, 4)"
    assert describe(2) == "int 2"
    assert describe([1]) == "a list"


def test_what_is_accepted() -> None:
    for x in (1.5, [1.0, 2.0], np.float32(1), np.ones(3), jnp.ones(3), np.ones(3, np.complex64)):
        assert jnp.issubdtype(as_inexact_array("here", "x", x).dtype, jnp.inexact)
    solution = linear_solve([[2.0, 0.0], [0.0, 4.0]], (2.0, 4.0))
    np.testing.assert_array_equal(solution.value, [1.0, 1.0])


def test_real_and_complex_of_one_precision_meet() -> None:
    assert require_same_precision("here", ("a", jnp.float32), ("b", jnp.complex64)) == jnp.complex64
    with pytest.raises(TypeError, match="one precision"):
        require_same_precision("here", ("a", jnp.float32), ("b", jnp.complex128))
