"""What a method of optimization meets: points, answers, a box and an inner product.

It may move in the box, and measures by the inner product. Methods are pure: `init` makes a state
from a point, and `step` makes the next state from an evaluation. All vectors are flat.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.inner_products import Euclidean, InnerProduct
from adjoint.norm import norm as euclidean_norm
from adjoint.norm import power_of_two
from adjoint.optimize.state import Evaluation, Iterate, Query, State


class Measure(NamedTuple):
    """How far an iterate is from being a solution.

    Attributes
    ----------
    stationarity
        Dual norm of the projected derivative, of the Lagrangian when there are constraints; in
        units of f per unit of x.
    violation
        Largest violation of a constraint, in its unit.
    merit
        What the method decreases: f, or f with constraints added in.
    derivative
        The projected derivative whose dual norm (but for slack constraints) is `stationarity`.
    scale
        Dual norm of what the constraints add to f', multipliers . c'; zero without any. Where they
        cancel, stationarity is small against this, whatever f' was at the start.
    """

    stationarity: Float[Array, ""]
    violation: Float[Array, ""]
    merit: Float[Array, ""]
    derivative: Float[Array, " n"]
    scale: Float[Array, ""]


def unconstrained_measure(at: Iterate, domain: "Domain") -> Measure:
    """Dual norm of the projected derivative; there are no constraints."""
    projected = domain.projected_derivative(at.x, at.derivative)
    none = jnp.zeros_like(at.value)
    return Measure(domain.dual_norm(projected), none, at.value, projected, none)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Domain:
    """Where x may be and how it is measured.

    Attributes
    ----------
    lower, upper
        Bounds of every entry of x, or both None.
    noise
        The uncertainty of f, absolute, beyond rounding.
    inner_product
        Measures steps and derivatives.
    unravel
        Makes the user's structure, which inner products work on, from a flat vector.
    equalities
        So many of the constraints, the first ones, are equations; the others are c <= 0.
    unit
        Of each entry, or None for 1; with `Euclidean` only.
    """

    lower: Float[Array, " n"] | None
    upper: Float[Array, " n"] | None
    noise: Float[Array, ""]
    inner_product: InnerProduct
    unravel: Callable[[Array], PyTree] = field(metadata={"static": True})
    equalities: int = field(default=0, metadata={"static": True})
    unit: Float[Array, " n"] | None = None

    @property
    def bounded(self) -> bool:
        return self.lower is not None

    def in_units(self, unit: Float[Array, " n"]) -> "Domain":
        """Measured in these units of the entries, unless the user has said how to measure."""
        return replace(self, unit=unit) if isinstance(self.inner_product, Euclidean) else self

    def in_sizes(self, reach: Float[Array, " n"]) -> "Domain":
        """Measured in sizes that the entries have reached, unless the user said how to measure.

        An entry that has always been zero has upper - lower for its unit where that is finite,
        which no other entry decides; else the largest size.
        """
        largest = jnp.max(reach, initial=0.0)
        unit = jnp.full_like(reach, jnp.where(largest > 0, largest, 1))
        if self.lower is not None and self.upper is not None:
            span = self.upper - self.lower
            unit = jnp.where(jnp.isfinite(span) & (span > 0), span, unit)
        return self.in_units(jnp.where(reach > 0, reach, unit))

    def gradient(self, derivative: Float[Array, " n"]) -> Float[Array, " n"]:
        """The vector that represents a derivative."""
        if isinstance(self.inner_product, Euclidean):
            return derivative if self.unit is None else self.unit * (self.unit * derivative)
        return ravel_pytree(self.inner_product.gradient(self.unravel(derivative)))[0]

    def derivative(self, gradient: Float[Array, " n"]) -> Float[Array, " n"]:
        """The derivative that a vector represents."""
        if isinstance(self.inner_product, Euclidean):
            return gradient if self.unit is None else gradient / self.unit / self.unit
        return ravel_pytree(self.inner_product.derivative(self.unravel(gradient)))[0]

    def norm(self, v: Float[Array, " n"]) -> Float[Array, ""]:
        if isinstance(self.inner_product, Euclidean):
            return euclidean_norm(v if self.unit is None else v / self.unit)
        size = power_of_two(jnp.max(jnp.abs(v), initial=0))
        return size * jnp.sqrt(jnp.maximum(v / size @ self.derivative(v / size), 0))

    def dual_norm(self, derivative: Float[Array, " n"]) -> Float[Array, ""]:
        if isinstance(self.inner_product, Euclidean):
            return euclidean_norm(derivative if self.unit is None else self.unit * derivative)
        size = power_of_two(jnp.max(jnp.abs(derivative), initial=0))
        scaled = derivative / size
        return size * jnp.sqrt(jnp.maximum(scaled @ self.gradient(scaled), 0))

    def matrix(self, dtype: DTypeLike, n: int) -> Float[Array, "n n"]:
        """M of <u, v> = u' M v."""
        return jax.vmap(self.derivative)(jnp.eye(n, dtype=dtype))

    def inverse_matrix(self, dtype: DTypeLike, n: int) -> Float[Array, "n n"]:
        """M^-1, which makes gradients of derivatives."""
        return jax.vmap(self.gradient)(jnp.eye(n, dtype=dtype))

    def project(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """The nearest point within the bounds."""
        return jnp.clip(x, self.lower, self.upper) if self.bounded else x

    def free(self, x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Bool[Array, " n"]:
        """The entries that are not held at a bound by the derivative."""
        if self.lower is None or self.upper is None:
            return jnp.ones(x.shape, bool)
        return ~(((x <= self.lower) & (derivative > 0)) | ((x >= self.upper) & (derivative < 0)))

    def projected_derivative(
        self, x: Float[Array, " n"], derivative: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """The derivative, cut where a bound is nearer than the step along it.

        It is zero where x is stationary in the box.
        """
        if not self.bounded:
            return derivative
        size = self.dual_norm(derivative)
        limits = jnp.finfo(x.dtype)
        # Of what is next to the smallest number no quotient is right.
        size = jnp.where(size > float(limits.tiny) / float(limits.eps), size, 1)
        # The length of a step of 1 in one entry, on average; of a step of its unit, where it has
        # one.
        if self.unit is not None:
            step = self.unit * (self.unit * derivative / size)
            return (x - self.project(x - step)) / self.unit * size / self.unit
        unit = self.norm(jnp.ones_like(x)) / jnp.sqrt(x.size)
        step = derivative / (size * unit)
        return (x - self.project(x - step)) * (size * unit)

    def longest(self, x: Float[Array, " n"], direction: Float[Array, " n"]) -> Float[Array, ""]:
        """The largest t for which x + t direction is within the bounds."""
        if self.lower is None or self.upper is None:
            return jnp.asarray(jnp.inf, x.dtype)
        to_bound = jnp.where(
            direction > 0, self.upper - x, jnp.where(direction < 0, self.lower - x, jnp.inf)
        )
        return jnp.min(
            jnp.where(direction == 0, jnp.inf, to_bound / jnp.where(direction == 0, 1, direction))
        )

    def rounding(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """What differences of f below are not believed: its noise, or a few last-place units."""
        return jnp.maximum(self.noise, 4 * jnp.finfo(value.dtype).eps * jnp.abs(value))


class Method(Protocol):
    """What every method has; frozen, so that it can be a static argument of compiled functions.

    Attributes
    ----------
    queries
        The kinds of queries that it ever makes.
    handles
        Of "bounds", "equality" and "inequality", those that it can honor.
    patience
        How many times as many steps without a gain as `Stopping` says end a run: 1 for methods
        whose steps go downhill.
    rates_have_units
        Whether steps are multiples of f' by the numbers that the user has given, so that they
        change with the unit of f.
    """

    @property
    def queries(self) -> tuple[Query, ...]: ...
    @property
    def handles(self) -> tuple[str, ...]: ...
    @property
    def patience(self) -> int: ...
    @property
    def rates_have_units(self) -> bool: ...
    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State: ...
    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State: ...
    def restart(self, state: State, domain: Domain) -> State: ...
    def measure(self, state: State, domain: Domain) -> Measure: ...
