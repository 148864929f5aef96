"""Where a method of optimization stands, what it asks, and what it is told.

A state says what it wants to know next, by `query` and `point`; whoever runs the method asks the
objective and hands the evaluation to the method's `step`. So the objective may be anything, a step
costs one evaluation, and a state is all there is to save. All vectors are flat.
"""

import enum
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, PyTree

T = TypeVar("T")


class Query(enum.IntEnum):
    """What a state wants to know at its `point`."""

    VALUE = 0  # f and f', and with constraints c and c'
    HESSIAN = 1  # f'', and with constraints that of the Lagrangian
    PRODUCT = 2  # f'' times `direction`


class Evaluation(NamedTuple):
    """What the objective and the constraints are at a point; None for what a method never asks.

    Attributes
    ----------
    value, derivative
        f(x) and f'(x).
    constraints, jacobian
        c(x), equations first, and c'(x) of shape (m, n).
    hessian, product
        f''(x), or with constraints (f + weights . c)''(x), and f''(x) v.
    """

    value: Float[Array, ""]
    derivative: Float[Array, " n"]
    constraints: Float[Array, " m"] | None = None
    jacobian: Float[Array, "m n"] | None = None
    hessian: Float[Array, "n n"] | None = None
    product: Float[Array, " n"] | None = None


class Iterate(NamedTuple):
    """A point with its evaluation, accepted by a method."""

    x: Float[Array, " n"]
    value: Float[Array, ""]
    derivative: Float[Array, " n"]


class Constraints(NamedTuple):
    """Constraints and their derivatives at an iterate."""

    value: Float[Array, " m"]
    jacobian: Float[Array, "m n"]


class Multipliers(NamedTuple):
    """What a method for constraints knows about them at its iterate.

    Attributes
    ----------
    constraints
        Those of `at`.
    values
        The multipliers; those of inequalities are not negative.
    weights
        The largest multipliers so far, doubled: the price of violations in the merit of the run.
    """

    constraints: Constraints
    values: Float[Array, " m"]
    weights: Float[Array, " m"]


class Prediction(NamedTuple):
    """What second derivatives say at an iterate.

    Attributes
    ----------
    decrease
        What a step gains, by the model of f without a trust region; infinite where f'' is
        indefinite, or not known yet.
    newton_share
        The largest share of an entry by which Newton's step changes it; infinite where that is not
        known, or where rounding hides an eigenvalue.
    """

    decrease: Float[Array, ""]
    newton_share: Float[Array, ""]


class State(NamedTuple):
    """Where a method stands: what all methods tell, and the memory of its own.

    Attributes
    ----------
    query, point, vector
        What it wants to know next, and where; `vector` is v of f'' v, for products only.
    at
        The latest accepted iterate; `iterations` counts them, from 0 for the start.
    started
        Whether the first evaluation has come.
    failed
        Whether the method knows no way on. When the derivative turns out to be right,
        `Method.restart` may find another way, else it leaves the state failed.
    direction
        Where it tries to go from `at`, or has tried last.
    contradicted_by
        How far values were from what slopes say where it failed last: noise, if f' is right. Zero
        of methods that do not compare them.
    prediction
        Of methods of second derivatives, else None.
    multipliers
        Of methods for constraints, else None.
    memory
        What the method itself knows; only it may look inside.
    """

    query: Int32[Array, ""]
    point: Float[Array, " n"]
    at: Iterate
    iterations: Int32[Array, ""]
    started: Bool[Array, ""]
    failed: Bool[Array, ""]
    direction: Float[Array, " n"]
    contradicted_by: Float[Array, ""]
    memory: PyTree
    vector: Float[Array, " n"] | None = None
    prediction: Prediction | None = None
    multipliers: Multipliers | None = None


def begin(x: Float[Array, " n"], memory: PyTree) -> State:
    """The state that asks for f at the start first."""
    no = jnp.zeros((), bool)
    nothing = jnp.zeros_like(x)
    return State(
        query=jnp.zeros((), jnp.int32),
        point=x,
        at=Iterate(x, jnp.asarray(jnp.inf, x.dtype), nothing),
        iterations=jnp.zeros((), jnp.int32),
        started=no,
        failed=no,
        direction=nothing,
        contradicted_by=jnp.zeros((), x.dtype),
        memory=memory,
    )


def choose(condition: Bool[Array, ""], a: T, b: T) -> T:
    """The first of two of one structure where the condition holds, else the second."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
