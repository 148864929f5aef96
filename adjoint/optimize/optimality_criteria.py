"""Optimality criteria: topology optimization's fixed-point update, for one volume constraint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from adjoint.inputs import refuse, require_shape
from adjoint.tracing import loops

# The first bracket of the multiplier, 0 to 1e9, is that of the published code: with its coarse
# tolerance, the midpoints that the bisection visits decide the fifth digit of the result. It is
# widened when it is too small.
_UPPER_MULTIPLIER = 1e9


class OCState(NamedTuple):
    """Where an `OC` run stands.

    Attributes
    ----------
    x
        The design, every entry in [0, 1].
    change
        Largest change of an entry in the last step; infinite before the first.
    multiplier
        The Lagrange multiplier λ of the volume constraint in the last step: the gain in the
        objective per unit of volume. Zero before the first step; close to zero when the constraint
        was not active.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> state = adjoint.OC().init(jnp.array([0.5, 0.5]))
    >>> float(state.change), float(state.multiplier)
    (inf, 0.0)
    """

    x: Float[Array, "..."]
    change: Float[Array, ""]
    multiplier: Float[Array, ""]


@dataclass(frozen=True)
class OC:
    """x_e <- clip(x_e B_e^η), B_e = (-dc/dx_e) / (λ dV/dx_e), λ such that the volume fits.

    The volume is V = sum_e (dV/dx_e) x_e. Minimizes c(x) subject to V(x) <= V_max and 0 <= x <= 1,
    where no derivative of c is positive and V is linear with positive coefficients. Where a
    derivative of c is positive, it counts as zero: material that does harm is removed.

    Parameters
    ----------
    move
        Largest change of one entry in one step, in (0, 1].
    damping
        η, in (0, 1]; 1/2 is exact for a statically determinate structure.
    bisection_tolerance
        The multiplier is bisected until its bracket [λ1, λ2] has λ2 - λ1 <= tolerance (λ1 + λ2).
        The published 1e-3 leaves the volume within 1e-3 of its limit, sometimes above it. With
        1e-12 the constraint holds to rounding, and the iterates differ: by 1e-4 in the final
        compliance of the published example (216.79 for 216.81). `minimize` takes 1e-13 at most.

    Raises
    ------
    ValueError
        When a parameter is outside its range.

    Examples
    --------
    Minimize 1/x_1 + 4/x_2 subject to x_1 + x_2 <= 0.9; the solution has x_2 = 2 x_1.

    >>> import jax, jax.numpy as jnp, adjoint
    >>> method = OC(bisection_tolerance=1e-6)
    >>> state = method.init(jnp.array([0.45, 0.45]))
    >>> for _ in range(10):
    ...     derivative = jax.grad(lambda x: 1 / x[0] + 4 / x[1])(state.x)
    ...     state = method.step(state, derivative, jnp.ones(2), 0.9)
    >>> [round(float(v), 3) for v in state.x]
    [0.3, 0.6]

    The same by `minimize`, which stops where the conditions of optimality hold:

    >>> f = lambda x: 1 / x[0] + 4 / x[1]
    >>> volume = lambda x: jnp.sum(x) - 0.9
    >>> solution = adjoint.minimize(
    ...     f, jnp.array([0.45, 0.45]), OC(), bounds=(1e-3, 1.0), inequality=volume
    ... )
    >>> solution.status, [round(float(v), 3) for v in adjoint.require(solution)]
    (Status.SUCCESS, [0.3, 0.6])

    References
    ----------
    M. P. Bendsoe, O. Sigmund, Topology Optimization: Theory, Methods and Applications, Springer
    (2003), section 1.2.1. E. Andreassen, A. Clausen, M. Schevenels, B. S. Lazarov, O. Sigmund,
    Efficient topology optimization in MATLAB using 88 lines of code, Struct. Multidisc. Optim. 43
    (2011) 1-16, equations (3) and (4).
    """

    move: float = 0.2
    damping: float = 0.5
    bisection_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("move", "damping"):
            if not 0 < getattr(self, name) <= 1:
                refuse(
                    "OC",
                    f"{name} = {getattr(self, name)}",
                    "a number above 0 and up to 1",
                    f"Use the default {name}.",
                )
        if not 0 < self.bisection_tolerance < 1:
            refuse(
                "OC",
                f"bisection_tolerance = {self.bisection_tolerance}",
                "a number between 0 and 1",
                "Use 1e-3 to follow the published code, 1e-12 for a volume exact to rounding.",
            )

    def init(self, x: Float[Array, "..."]) -> OCState:
        """The state before the first step, at the design `x`."""
        # With a dtype, so that a weakly typed x does not make `step` compile a second time.
        x = jnp.asarray(x, jnp.asarray(x).dtype)
        return OCState(x, jnp.asarray(jnp.inf, x.dtype), jnp.zeros((), x.dtype))

    def step(
        self,
        state: OCState,
        objective_derivative: Float[Array, "..."],
        volume_derivative: Float[Array, "..."],
        volume_limit: Float[Array, ""] | float,
    ) -> OCState:
        """One update of the design; pure, so it can be compiled.

        Parameters
        ----------
        state
            From `init` or the last `step`.
        objective_derivative
            dc/dx at ``state.x``, of its shape.
        volume_derivative
            dV/dx, positive, of the same shape. A linear volume needs nothing else: behind a density
            filter x~ = W x, the volume sum(x~) is sum(x dV/dx) with dV/dx = W' 1, so the filter is
            not called in the bisection.
        volume_limit
            V_max, in the unit of ``sum(volume_derivative * x)``.

        Returns
        -------
        state
            The new design. A NaN in a derivative is a NaN in the design; it is not repaired.
        """
        for name, given in (
            ("objective_derivative", objective_derivative),
            ("volume_derivative", volume_derivative),
        ):
            require_shape(
                "OC.step",
                name,
                given.shape,
                f"{state.x.shape}, as x",
                given.shape == state.x.shape,
                "Give one per entry.",
            )
        x = state.x
        box = (jnp.maximum(x - self.move, 0.0), jnp.minimum(x + self.move, 1.0))
        x_new, multiplier = self.update(
            x, objective_derivative, volume_derivative, volume_limit, box
        )
        return OCState(x_new, jnp.max(jnp.abs(x_new - x)), multiplier)

    def update(
        self,
        x: Float[Array, "..."],
        objective_derivative: Float[Array, "..."],
        volume_derivative: Float[Array, "..."],
        volume_limit: Float[Array, ""] | float,
        box: tuple[Float[Array, "..."], Float[Array, "..."]],
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        """The next design, within a box, and its multiplier; the other arguments as of `step`."""
        lower, upper = box
        proposed = x * (jnp.maximum(-objective_derivative, 0.0) / volume_derivative) ** self.damping

        def update(multiplier: Array) -> Array:
            return jnp.clip(proposed * multiplier**-self.damping, lower, upper)

        def too_much(multiplier: Array) -> Array:
            return jnp.sum(volume_derivative * update(multiplier)) > volume_limit

        multiplier = _bisect(too_much, self.bisection_tolerance, x.dtype)
        return update(multiplier), multiplier


def _bisect(too_much: Callable[[Array], Array], tolerance: float, dtype: DTypeLike) -> Array:
    """The multiplier above which the volume fits: the last midpoint of a bisection.

    That is how the published code has it.
    """
    limits = jnp.finfo(dtype)
    # Far below and far above any multiplier: reached when no multiplier, or every one, lets the
    # volume fit.
    smallest = np.sqrt(limits.tiny)
    largest = np.sqrt(limits.max)
    # A bracket of neighboring floating-point numbers cannot shrink.
    tolerance = max(tolerance, 4 * float(limits.eps))

    upper = loops.while_loop(
        lambda upper: too_much(upper) & (upper < largest),
        lambda upper: 2 * upper,
        jnp.asarray(_UPPER_MULTIPLIER, dtype),
    )

    def unfinished(bracket: tuple[Array, Array, Array]) -> Array:
        lower, upper, _ = bracket
        return (upper - lower > tolerance * (lower + upper)) & (upper > smallest)

    def halve(bracket: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        lower, upper, _ = bracket
        middle = (lower + upper) / 2
        over = too_much(middle)
        return jnp.where(over, middle, lower), jnp.where(over, upper, middle), middle

    _, _, middle = loops.while_loop(unfinished, halve, (jnp.zeros((), dtype), upper, upper))
    return middle
