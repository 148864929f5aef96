"""M y' = f(t, y, p), M constant, singular or not: differential-algebraic, of index 1.

With N a basis of the left null space of M the equations are M y' = f and N' f = 0; index 1 means
that M + N N' f_y is regular.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from adjoint.implicit.root import root
from adjoint.inputs import refuse
from adjoint.ode.vector_field import Parameters, VectorField
from adjoint.status import Status


@dataclass(frozen=True)
class MassMatrix:
    """A constant matrix by its bytes, so that equal ones are one constant of compiled code."""

    content: bytes
    size: int
    dtype: str

    @classmethod
    def of(cls, where: str, mass_matrix: Any, n: int, dtype: DTypeLike) -> "MassMatrix":
        """The mass matrix for n unknowns; refuses what is none."""
        if isinstance(mass_matrix, jax.core.Tracer):
            refuse(
                where,
                "a traced mass_matrix",
                "a constant array",
                "Divide by a mass that is a parameter, inside f.",
            )
        array = np.ascontiguousarray(mass_matrix, dtype)
        if array.shape != (n, n):
            refuse(
                where,
                f"mass_matrix of shape {array.shape}",
                f"({n}, {n})",
                "One row and column for each number of y.",
            )
        if not np.all(np.isfinite(array)) or not np.any(array):
            refuse(
                where,
                "mass_matrix with NaN or of zeros only",
                "rates in at least one equation",
                "Take root instead.",
            )
        return cls(array.tobytes(), n, str(array.dtype))

    @cached_property
    def array(self) -> np.ndarray:
        """M."""
        return np.frombuffer(self.content, self.dtype).reshape(self.size, self.size)

    @cached_property
    def constraints(self) -> np.ndarray:
        """N N', the projector onto the left null space of M."""
        U, values, _ = np.linalg.svd(self.array)
        N = U[:, values <= self.size * np.finfo(self.dtype).eps * values[0]]
        return N @ N.T

    @property
    def is_singular(self) -> bool:
        return bool(np.any(self.constraints))

    def rate(
        self, field: Callable[..., Array], s: Array, y: Array, slope: Array, p: Parameters
    ) -> Float[Array, " n"]:
        """y' where M y' = slope, and where N' F(s, y) stays zero."""
        F_s, F_y = jax.jacfwd(lambda s, y: field(s, y, p), argnums=(0, 1))(s, y)
        P = jnp.asarray(self.constraints, y.dtype)
        return jnp.linalg.solve(jnp.asarray(self.array) + P @ F_y, slope - P @ (slope + F_s))

    def with_costs(self, size: int) -> "MassMatrix":
        """The mass matrix of so many states, with ones for the integrals among them."""
        whole = np.eye(size, dtype=self.dtype)
        whole[: self.size, : self.size] = self.array
        return MassMatrix(whole.tobytes(), size, self.dtype)

    def consistent_start(self, field: VectorField, y0: Array, p: Parameters) -> tuple[Array, Array]:
        """y with N' F(0, y) = 0 and M y = M y0, and the code of the root."""
        if not self.is_singular:
            return y0, jnp.asarray(Status.SUCCESS.code)
        M = jnp.asarray(self.array)
        P = jnp.asarray(self.constraints, y0.dtype)

        def residual(y: Array, given: PyTree) -> Array:
            y0, varying = given
            F = field(jnp.zeros((), y0.dtype), y, Parameters(varying, p.constant))
            return M @ (y - y0) + P @ F

        start = root(residual, y0, (y0, p.varying))
        return start.value, jnp.asarray(start.status.code)
