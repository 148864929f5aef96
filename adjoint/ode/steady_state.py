"""steady_state: where y' = f(t, y, p) comes to rest; derivatives do not go back through time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from adjoint.implicit.newton import Newton
from adjoint.implicit.residual import RootProblem
from adjoint.implicit.root import find_root
from adjoint.inputs import refuse, takes_jax_functions
from adjoint.linear.choice import LinearSolver
from adjoint.ode.arguments import require_problem, runge_kutta
from adjoint.ode.integrate import integrate
from adjoint.ode.integrator import Integrator
from adjoint.ode.runge_kutta import RungeKutta, Tolerances
from adjoint.ode.vector_field import VectorField
from adjoint.solution import Solution


@dataclass(frozen=True)
class PseudoTransient:
    """A solver of roots: integrate y' = F(y, p) for a long time, then take Newton steps."""

    time: float
    method: RungeKutta
    tolerances: Tolerances
    max_steps: int

    def find(self, problem: RootProblem, y0: Array, p: PyTree) -> tuple[Array, Array]:
        """y at rest, and the number of steps in time and of Newton."""

        def F(_: Array, y: Array, p: PyTree, __: Any) -> Array:
            return self.time * problem.F(y, p)

        field, parameters = VectorField.of(F, jnp.zeros((), y0.dtype), y0, p)
        integrator = Integrator(field, self.method, self.tolerances, self.max_steps)
        late, _, _, outcome = integrate(integrator, y0, parameters, jnp.zeros(0, y0.dtype))
        y, steps = Newton().find(problem, late, p)
        # A Newton step that leaves the trajectory finds a state that it does not come to. Each
        # state is measured by its own size, as states may have different units; below atol it
        # counts as zero.
        size = jnp.abs(late) + jnp.abs(y) + jnp.abs(y0)
        is_limit = (outcome.code == 0) & jnp.all(
            jnp.abs(y - late) < LEAP * size + self.tolerances.atol
        )
        return jnp.where(is_limit, y, jnp.nan), outcome.accepted + steps


# How far, relative to each state, the limit may be from where the trajectory was at the end.
LEAP = 0.1


@takes_jax_functions("steady_state")
def steady_state(
    f: Callable[..., PyTree],
    y0: PyTree,
    p: PyTree,
    time: float,
    *,
    solver: Any = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 4096,
    linear_solver: LinearSolver | None = None,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[PyTree]:
    """Find where the solution of y' = f(t, y, p) from y0 comes to rest, with f(t, y, p) = 0.

    Parameters
    ----------
    f
        f(t, y, p), structured as y, which must not depend on t.
    y0
        The state to start from. The derivative by y0 is zero.
    p
        Parameters, a pytree with at least one floating-point array.
    time
        So long that what is left of the transient is small; Newton steps do the rest.
    solver, rtol, atol, max_steps
        As for `ode_solve`; the solver is ``diffrax.Kvaerno5()`` if none is given.
    linear_solver, mode
        As for `root`.

    Returns
    -------
    solution
        `Solution` with ``value`` y; ``status``; ``stats`` as of `root`, with the steps in time
        among the ``iterations``.

    Raises
    ------
    ValueError, TypeError
        When f, y0 and p do not make a problem, before any solving.

    Notes
    -----
    **Derivative**: that of `root`, p_bar = -(adjoint of p -> f)(lam) with f_y' lam = y_bar: no
    integration back in time.

    **Status**: `NOT_CONVERGED` when the state still moves at the end of the time; `SINGULAR` where
    a quantity is conserved, so that the limit depends on y0: replace one rate by the conservation
    law; else as for `root`.

    **Cost**: one solve in time, and one factorization of f_y for all derivatives.

    Source: S. G. Johnson, Notes on Adjoint Methods for 18.335, MIT, 2006, sections 2 and 3.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> logistic = lambda t, y, p: y * (p - y)
    >>> limit = lambda p: adjoint.steady_state(logistic, jnp.array(0.1), p, 50.0).value
    >>> round(float(limit(2.0)), 6), round(float(jax.grad(limit)(2.0)), 6)
    (2.0, 1.0)
    """
    require_problem("steady_state", f, y0, p, 0.0, time, rtol, atol, max_steps, mode)
    if not isinstance(time, int | float) or not time > 0:
        refuse(
            "steady_state",
            f"time = {time!r}",
            "a positive number",
            "Give the time that the transient takes.",
        )
    if solver is None:
        import diffrax

        solver = diffrax.Kvaerno5()
    method = runge_kutta("steady_state", solver, None)
    transient = PseudoTransient(float(time), method, Tolerances(rtol, atol), max_steps)

    def rest(y: PyTree, p: PyTree) -> PyTree:
        leaf = jax.tree.leaves(y)[0]
        return f(jnp.zeros((), leaf.dtype), y, p)

    return find_root("steady_state", rest, y0, p, transient, linear_solver, None, mode)
