"""What every sensitivity of `ode_solve` has: a solve that remembers, and the way back from it."""

from typing import Protocol

from jaxtyping import Array, Float, PyTree

from adjoint.ode.integrate import Outcome
from adjoint.ode.integrator import Integrator
from adjoint.ode.step_adjoint import Cotangents, Gradient
from adjoint.ode.vector_field import Parameters

# y(1), the samples y(s_j), and how the integration went.
Solved = tuple[Float[Array, " n"], Float[Array, "samples n"], Outcome]


class Sensitivity(Protocol):
    """How derivatives of y' = F(s, y, p), y(0) = y0, with s from 0 to 1, are found.

    `adjoint.ode.solve` calls `forward` for the solution and hands the memory to `backward`, which
    knows the cotangents of y(1) and of the samples. Forward mode has a place of its own,
    `adjoint.ode.tangent`.
    """

    def forward(
        self,
        integrator: Integrator,
        y0: Float[Array, " n"],
        p: Parameters,
        s: Float[Array, " samples"],
        /,
    ) -> tuple[Solved, PyTree]:
        """The solution, and what its gradient needs of it."""
        ...

    def backward(
        self,
        integrator: Integrator,
        memory: PyTree,
        y0: Float[Array, " n"],
        p: Parameters,
        s: Float[Array, " samples"],
        bars: Cotangents,
        /,
    ) -> Gradient:
        """The cotangents of y0, p and s."""
        ...
