"""The systems F(x, p) = 0 of the comparison: dense, many small ones at once, and sparse.

What a residual needs besides x and p, such as a matrix, are `constants`: arguments of the compiled
function, since XLA would fold what is closed over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint

# The sparse system's lambda, and by how much its coefficients c differ from 1. The turning point
# for c = 1 is at lambda = 6.808124423 (Mohsen, Computers & Mathematics with Applications 67, 2014),
# so the lower branch is regular.
LAMBDA = 5.0
SPREAD = 0.2
# Of the cubic term of the dense system, and the largest load: at the root, x is about 0.5 and up to
# 1.
CUBIC = 1.0
LOAD = 3.0
BATCH = 256


@dataclass(frozen=True)
class Case:
    """One system, or many of one kind.

    Attributes
    ----------
    problem
        Its name in `PROBLEMS`.
    residual
        F(x, p, constants) of one system; x and p have `unknowns` entries each.
    unknowns
        Of one system; all start at zero.
    systems
        How many are solved at once, each with parameters of its own.
    parameter_range
        Parameters are drawn uniformly from it.
    constants
        What F needs besides.
    pattern
        Where F_x may be nonzero, of a sparse one.
    """

    problem: str
    residual: Callable[[Array, Array, Any], Array]
    unknowns: int
    systems: int
    parameter_range: tuple[float, float]
    constants: Any
    pattern: adjoint.SparsePattern | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """Number of unknowns in all."""
        return self.systems * self.unknowns

    @property
    def parameters(self) -> int:
        """As many as unknowns."""
        return self.n

    def draw(self, generator: np.random.Generator) -> Float[Array, " parameters"]:
        """Parameters that have not been used before, so that no cache can know their matrix."""
        return jnp.asarray(generator.uniform(*self.parameter_range, self.parameters))


def dense(n: int) -> Case:
    """A x + x^3 - p = 0, with A nonsymmetric and non-normal."""
    return Case("dense", _cubic, n, 1, (-LOAD, LOAD), non_normal_matrix(n))


def batch(n: int) -> Case:
    """256 systems as the dense one, of size n / 256 and with one A."""
    small = max(2, round(n / BATCH))
    return Case("batch", _cubic, small, BATCH, (-LOAD, LOAD), non_normal_matrix(small))


def non_normal_matrix(n: int) -> Float[np.ndarray, "n n"]:
    """3 I + U + 0.3 R, U strictly upper triangular, R full, of normal entries of variance 1 / n.

    The symmetric part has eigenvalues of about 1.6 or more for large n (3 less 1 for U and 0.42 for
    R, by the semicircle law), so F is monotone and its root unique.
    """
    generator = np.random.default_rng(n)
    U, R = (generator.standard_normal((n, n)) / n**0.5 for _ in range(2))
    return 3 * np.eye(n) + np.triu(U, 1) + 0.3 * R


def _cubic(
    x: Float[Array, " n"], p: Float[Array, " n"], A: Float[Array, "n n"]
) -> Float[Array, " n"]:
    return A @ x + CUBIC * x**3 - p


def bratu(n: int) -> Case:
    """-lap(u) = lambda c exp(u) on the unit square, u = 0 around it; p = c at m x m inner nodes.

    m = round(sqrt(n)). Five-point differences with h = 1 / (m + 1); starting at u = 0 leads to the
    lower branch, where F_x is symmetric positive definite.
    """
    m = max(2, round(n**0.5))
    node = np.arange(m * m).reshape(m, m)
    pairs = [
        (node[:-1], node[1:]),
        (node[1:], node[:-1]),
        (node[:, :-1], node[:, 1:]),
        (node[:, 1:], node[:, :-1]),
    ]
    rows = np.concatenate([node.ravel(), *(row.ravel() for row, _ in pairs)])
    cols = np.concatenate([node.ravel(), *(col.ravel() for _, col in pairs)])
    pattern = adjoint.SparsePattern(rows, cols, (m * m, m * m))
    return Case("bratu", _reaction_diffusion, m * m, 1, (1 - SPREAD, 1 + SPREAD), (), pattern)


def _reaction_diffusion(u: Float[Array, " n"], c: Float[Array, " n"], _: Any) -> Float[Array, " n"]:
    m = round(u.size**0.5)
    grid = jnp.pad(u.reshape(m, m), 1)
    neighbors = grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:]
    return (m + 1) ** 2 * (4 * u - neighbors.ravel()) - LAMBDA * c * jnp.exp(u)


PROBLEMS: dict[str, Callable[[int], Case]] = {"dense": dense, "batch": batch, "bratu": bratu}
