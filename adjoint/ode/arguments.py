"""What a problem for an ODE solver must be: the checks of arguments that the solvers share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import PyTree

from adjoint.inputs import double_precision_remedy, refuse, require_mode
from adjoint.ode.backsolve import BacksolveAdjoint
from adjoint.ode.continuous import GaussAdjoint, InterpolatingAdjoint
from adjoint.ode.discrete import DiscreteAdjoint
from adjoint.ode.forward import ForwardSensitivity
from adjoint.ode.runge_kutta import RungeKutta


def require_fit(method: RungeKutta, sensitivity: object, certificate: bool) -> None:
    """Refuse what cannot solve with a mass matrix."""
    if not method.is_implicit:
        given = f"mass_matrix with solver {method.solver.__name__}"
        remedy = "Pass solver=diffrax.Kvaerno5()."
        refuse("ode_solve", given, "an implicit solver", remedy)
    if not isinstance(sensitivity, DiscreteAdjoint | ForwardSensitivity | None) or certificate:
        given = f"mass_matrix with {'a certificate' if certificate else sensitivity}"
        refuse(
            "ode_solve",
            given,
            "DiscreteAdjoint() or ForwardSensitivity()",
            "The continuous adjoints have no mass matrix.",
        )


def require_problem(
    where: str,
    f: Callable[..., PyTree],
    y0: PyTree,
    p: PyTree,
    t0: ArrayLike,
    t1: ArrayLike,
    rtol: float,
    atol: float,
    max_steps: int,
    mode: str,
) -> Any:
    """Refuse what is no initial value problem; the dtype of y0."""
    require_mode(where, mode)
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not tolerance > 0:
            refuse(
                where,
                f"{name} = {tolerance}",
                "a positive number",
                "rtol=1e-6 and atol=1e-9 are usual.",
            )
    if not isinstance(max_steps, int) or max_steps < 1:
        refuse(
            where,
            f"max_steps = {max_steps!r}",
            "a positive integer",
            "It must be known when tracing.",
        )
    for name, t in (("t0", t0), ("t1", t1)):
        if jnp.ndim(t) != 0:
            refuse(
                where,
                f"{name} of shape {jnp.shape(t)}",
                "one number",
                "Give times to sample at as ts.",
            )
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(y0)}
    if len(dtypes) != 1 or not jnp.issubdtype(next(iter(dtypes)), jnp.floating):
        names = " and ".join(sorted(str(d) for d in dtypes)) or "no arrays"
        remedy = "Convert them; write complex states as real and imaginary parts."
        refuse(
            where, f"y0 with {names}", "real floating-point arrays of one dtype", remedy, TypeError
        )
    (dtype,) = dtypes
    if not any(jnp.size(leaf) for leaf in jax.tree.leaves(y0)):
        refuse(where, "y0 without numbers", "at least one state", "There is nothing to solve for.")
    if rtol < 4 * float(jnp.finfo(dtype).eps):
        least = f"at least {4 * float(jnp.finfo(dtype).eps):.1e}, four roundings of {dtype}"
        refuse(where, f"rtol = {rtol}", least, f"Loosen rtol. {double_precision_remedy()}")
    y0, p = jax.tree.map(jnp.asarray, (y0, p))
    rate = jax.eval_shape(f, jnp.zeros((), dtype), y0, p)
    given, expected = (
        jax.tree.map(lambda leaf: tuple(jnp.shape(leaf)), tree) for tree in (rate, y0)
    )
    if given != expected:
        refuse(
            where,
            f"f that returns {given}",
            f"{expected}, as y0",
            "Return a rate for each number of y.",
        )
    return dtype


def require_sensitivity(where: str, sensitivity: object) -> None:
    """Refuse what is no sensitivity, a class of them in place of an object among it."""
    kinds = (
        DiscreteAdjoint
        | ForwardSensitivity
        | InterpolatingAdjoint
        | GaussAdjoint
        | BacksolveAdjoint
    )
    if sensitivity is not None and not isinstance(sensitivity, kinds):
        expected = (
            "DiscreteAdjoint(), ForwardSensitivity(), InterpolatingAdjoint(), GaussAdjoint() or "
            "BacksolveAdjoint()"
        )
        refuse(
            where,
            f"sensitivity = {sensitivity!r}",
            expected,
            "Leave it out for the default.",
            TypeError,
        )


def runge_kutta(where: str, solver: Any, steps: int | None) -> RungeKutta:
    """The method of a solver of diffrax; refuses what has no usable tableau."""
    # Not at the top: it takes a second to import.
    import diffrax

    kind = type(diffrax.Tsit5() if solver is None else solver)
    tableau = getattr(kind, "tableau", None)
    if not isinstance(tableau, diffrax.ButcherTableau) or (tableau.implicit and not tableau.fsal):
        refuse(
            where,
            f"solver = {solver!r}",
            "an explicit Runge-Kutta solver of diffrax, or Kvaerno3, Kvaerno4 or Kvaerno5",
            "Leave it out for diffrax.Tsit5(); take diffrax.Kvaerno5() for a stiff problem.",
            TypeError,
        )
    method = RungeKutta(kind)
    if steps is None and not method.has_error_estimate:
        refuse(
            where,
            f"solver = {solver!r}",
            "one with an error estimate",
            "Or give steps for equal steps.",
        )
    return method
