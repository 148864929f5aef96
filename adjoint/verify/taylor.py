"""The two-sided Taylor remainder test.

    R_k(h) = f(p + h v) - sum_{j<=k} h^j / j! D^j f(p)[v, ..., v]

A remainder of order h^(k+1) is the usual proof of a derivative, and a weak one: for k = 1 the
curvature term h^2 of a nonlinear f hides a gradient that is wrong by a part in a thousand, and an
exact linear f has no remainder but noise. Both signs of h separate the terms: the odd part of the
remainder holds the odd derivatives alone, the even part the even ones. So the part that has the
parity of k is (error of D^k f) h^k / k! + c h^(k+2) + ..., and the first coefficient is fitted,
with its uncertainty from the noise of f and from the misfit. The rates are reported; the
coefficient decides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import refuse, takes_jax_functions
from adjoint.verify.differences import DEVIATIONS, central_differences, noise_at, noise_level
from adjoint.verify.line import (
    Direction,
    Leaf,
    Line,
    Objective,
    default_tolerance,
    random_directions,
    read_gradient,
)
from adjoint.verify.remainder import leading_coefficient, observed_rate, odd_and_even_parts

# Steps over four decades (2^13): wide enough for a slope between truncation, which falls with the
# step, and rounding, which grows.
HALVINGS = 14


@dataclass(frozen=True)
class TaylorOrder:
    """What the test found at one order.

    Attributes
    ----------
    order
        k.
    derivative
        D^k f(p)[v, ..., v] as claimed.
    mismatch
        The measured minus the claimed derivative.
    uncertainty
        Bound on the error of `mismatch`, from noise and misfit.
    rate
        Observed order of R_k(h), largest of both sides; k + 1 when all derivatives up to k are
        right. NaN when the remainder is all noise, as it is for a polynomial of degree k.
    deciding_rate
        Observed order of the part of R_k with the parity of k: k + 2 when right, falling to k when
        wrong.
    relative_error
        |mismatch| relative to the derivative; 0 where the derivative is zero within the noise.
    verdict
        'right', 'zero within the noise', 'wrong' or 'not resolvable'.
    """

    order: int
    derivative: float
    mismatch: float
    uncertainty: float
    rate: float
    deciding_rate: float
    relative_error: float
    verdict: str

    @property
    def passed(self) -> bool:
        """Whether this order's derivative is right, or zero within the noise."""
        return self.verdict in ("right", "zero within the noise")


@dataclass(frozen=True)
class TaylorResult:
    """What `taylor_test` found; ``str`` gives a table.

    Attributes
    ----------
    passed
        Whether the derivatives of all orders asked for are right.
    rates
        Observed order of R_1, ..., R_order; 2, 3, 4 when right, NaN for a remainder that is all
        noise.
    relative_error
        The largest relative error of a derivative.
    rtol
        The relative error that was let pass.
    direction
        The direction's name.
    orders
        A `TaylorOrder` for each order.
    steps
        The steps h, in units of the direction.
    remainders
        R_order(h) and R_order(-h) for each step.
    noise
        Standard deviation of the noise of f, in units of f.
    """

    passed: bool
    rates: tuple[float, ...]
    relative_error: float
    rtol: float
    direction: str
    orders: tuple[TaylorOrder, ...]
    steps: tuple[float, ...]
    remainders: tuple[tuple[float, float], ...]
    noise: float

    def __str__(self) -> str:
        head = (
            f"Taylor test {'passed' if self.passed else 'FAILED'}: relative error "
            f"{self.relative_error:.1e}"
        )
        lines = [
            f"{head}, tolerance {self.rtol:.0e}, along {self.direction}",
            "order    derivative      mismatch +- uncertainty   rate (right)  deciding rate "
            "(right)  verdict",
        ]
        for o in self.orders:
            lines.append(
                f"{o.order:>5} {o.derivative:>13.6e} {o.mismatch:>13.2e} +- {o.uncertainty:<10.1e} "
                f"{_rate_text(o.rate):>6} ({o.order + 1})  {_rate_text(o.deciding_rate):>13} "
                f"({o.order + 2})       {o.verdict}"
            )
        lines.append(
            f"step h      R_{len(self.orders)}(+h)      R_{len(self.orders)}(-h)    (noise "
            f"{self.noise:.1e})"
        )
        lines += [
            f"{h:.2e}  {a:>12.3e}  {b:>12.3e}"
            for h, (a, b) in zip(self.steps, self.remainders, strict=True)
        ]
        return "\n".join(lines)


def _rate_text(rate: float) -> str:
    return "noise" if math.isnan(rate) else f"{rate:.2f}"


@takes_jax_functions("taylor_test")
def taylor_test(
    f: Callable[[PyTree], Float[Array, ""]],
    p: PyTree,
    *,
    direction: PyTree | None = None,
    gradient: Callable[[PyTree], PyTree] | None = None,
    order: int = 1,
    rtol: float | None = None,
    seed: int = 0,
) -> TaylorResult:
    """R_k(h) = f(p + h v) - sum_{j<=k} h^j / j! D^j f(p)[v, ..., v] = O(h^(k+1)), tested.

    It is tested from both sides, for k = 1 to order.

    Parameters
    ----------
    f
        Function of a pytree that returns one real number.
    p
        Point: a pytree of real floating-point arrays.
    direction
        v, like p. By default random, in units of p's own magnitudes. Steps h are relative: the
        direction is scaled to the magnitude of p first.
    gradient
        The gradient to test, p -> pytree like p. By default `jax.grad` of f. For orders 2 and 3 its
        derivatives are taken in reverse mode, so it must then be traceable by JAX.
    order
        1, 2 or 3: the highest derivative to test. Lower ones are tested as well.
    rtol
        Relative error of a derivative that is let pass. By default 1e-5 in float64 and 1e-3 in
        float32.
    seed
        Of the random direction.

    Returns
    -------
    result
        A `TaylorResult`: ``.passed``, ``.rates``, ``.relative_error``, and a table as
        ``str(result)``.

    Raises
    ------
    ValueError, TypeError
        When p holds no real floating-point numbers, f(p) is no real scalar, or v or the gradient
        does not look like p.

    Notes
    -----
    An order fails when its derivative is wrong, and also when the noise of f leaves it undecided
    ('not resolvable').

    **Cost**: about 50 evaluations of f and one derivative of each order. Source of the one-sided
    test: Farrell, Ham, Funke, Rognes, SIAM J. Sci. Comput. 35, 2013, sec. 4.1.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> adjoint.taylor_test(lambda p: jnp.sum(jnp.exp(p)), jnp.array([0.3, 1.2])).passed
    True
    >>> wrong = lambda p: 1.01 * jnp.exp(p)
    >>> adjoint.taylor_test(
    ...     lambda p: jnp.sum(jnp.exp(p)), jnp.array([0.3, 1.2]), gradient=wrong
    ... ).passed
    False
    """
    where = "adjoint.taylor_test"
    if order not in (1, 2, 3):
        refuse(
            where, f"order={order!r}", "1, 2 or 3", "Higher derivatives drown in the rounding of f."
        )
    objective = Objective(where, f, p, compile_it=gradient is None or _holds_jax_arrays(p))
    line = Line(objective, _direction(where, objective.leaves, direction, p, seed))
    claimed_gradient = jax.grad(f) if gradient is None else gradient
    first = read_gradient(where, claimed_gradient(p), objective.leaves, p)
    spread = line.direction.spread(first)
    derivatives = [
        line.direction.pair(first),
        *_higher_derivatives(where, claimed_gradient, p, line, order),
    ]
    rtol = default_tolerance(line.epsilon) if rtol is None else rtol
    noise = noise_level(line)
    steps = _halved_steps(line, central_differences(line, noise, rtol).largest_step)
    orders = tuple(
        _test_order(line, steps, noise, derivatives[:k], spread, rtol) for k in range(1, order + 1)
    )
    remainders = tuple(
        (line(h) - _series(line, derivatives, h), line(-h) - _series(line, derivatives, -h))
        for h in steps
    )
    return TaylorResult(
        passed=math.isfinite(line.value) and all(o.passed for o in orders),
        rates=tuple(o.rate for o in orders),
        relative_error=max(
            (o.relative_error for o in orders), key=lambda e: math.inf if math.isnan(e) else e
        ),
        rtol=rtol,
        direction=line.direction.name,
        orders=orders,
        steps=tuple(float(h) for h in steps),
        remainders=remainders,
        noise=noise,
    )


def _holds_jax_arrays(p: PyTree) -> bool:
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(p))


def _direction(
    where: str, leaves: list[Leaf], direction: PyTree | None, p: PyTree, seed: int
) -> Direction:
    if direction is None:
        return random_directions(
            leaves, [i for i, leaf in enumerate(leaves) if leaf.numbers.size], 1, seed
        )[0]
    vectors = read_gradient(
        where.replace("taylor_test", "taylor_test, direction"), direction, leaves, p
    )
    ratios = [
        np.max(np.abs(leaf.numbers), initial=0.0) / np.max(np.abs(v))
        for leaf, v in zip(leaves, vectors, strict=True)
        if np.any(v) and np.any(leaf.numbers)
    ]
    if not all(np.all(np.isfinite(v)) for v in vectors) or not any(np.any(v) for v in vectors):
        refuse(
            where,
            "a direction that is zero or not finite",
            "a finite vector other than zero",
            "Leave direction out.",
        )
    scale = (
        min(ratios) if ratios else 1.0 / max(float(np.max(np.abs(v))) for v in vectors if v.size)
    )
    return Direction(
        "the given direction",
        None,
        False,
        {i: scale * v for i, v in enumerate(vectors) if np.any(v)},
    )


def _higher_derivatives(
    where: str, gradient: Callable[[PyTree], PyTree], p: PyTree, line: Line, order: int
) -> list[float]:
    """D^2 f[v, v] and D^3 f[v, v, v], reverse over reverse, which every rule supports."""
    structure = jax.tree.structure(p)
    tangent = jax.tree.unflatten(structure, line.direction.tangent(line.objective.leaves))

    def along(function: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
        def product(q: PyTree) -> PyTree:
            return sum(
                jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), function(q), tangent))
            )

        return product

    found = []
    slope = along(gradient)
    for _ in range(2, order + 1):
        try:
            higher = jax.grad(slope)
            found.append(
                line.direction.pair(read_gradient(where, higher(p), line.objective.leaves, p))
            )
        except jax.errors.JAXTypeError as error:
            refuse(
                where,
                f"order={order} with a gradient that JAX cannot trace ({type(error).__name__})",
                "a traceable gradient",
                "Use order=1, or write the gradient with jax.numpy.",
            )
        slope = along(higher)
    return found


def _halved_steps(line: Line, largest: float) -> np.ndarray:
    # The best steps of the differences lie in the middle of the curve: some above for the rate,
    # more below for the noise.
    steps = 4 * (largest if math.isfinite(largest) else 0.125) * 2.0 ** -np.arange(HALVINGS)
    return np.array([h for h in steps if math.isfinite(line(h)) and math.isfinite(line(-h))])


def _series(line: Line, derivatives: list[float], h: float) -> float:
    return line.value + sum(
        d * h**j / math.factorial(j) for j, d in enumerate(derivatives, start=1)
    )


def _test_order(
    line: Line,
    steps: np.ndarray,
    noise: float,
    derivatives: list[float],
    spread: float,
    rtol: float,
) -> TaylorOrder:
    order = len(derivatives)
    derivative = derivatives[-1]
    noises = np.array([noise_at(line, h, noise) for h in steps])
    parts = np.stack(odd_and_even_parts(line, steps))
    for j, d in enumerate(derivatives, start=1):
        parts[(j + 1) % 2] -= d * steps**j / math.factorial(j)
    # phi(h) and phi(-h) share in the odd part, phi(0) enters the even part in full.
    part_noises = noises * (math.sqrt(0.5) if order % 2 else math.sqrt(1.5))
    own = parts[(order + 1) % 2]
    fit = leading_coefficient(steps, own, part_noises, order)
    rate = observed_rate(steps, np.abs(parts).sum(axis=0), 2 * noises)
    deciding_rate = observed_rate(steps, np.abs(own), part_noises)
    if fit is None or not math.isfinite(derivative):
        return TaylorOrder(
            order, derivative, math.nan, math.inf, rate, deciding_rate, math.nan, "not resolvable"
        )
    factorial = math.factorial(order)
    mismatch = factorial * fit.coefficient
    uncertainty = factorial * fit.uncertainty
    scale = max(abs(derivative), abs(derivative + mismatch), spread if order == 1 else 0.0)
    relative = abs(mismatch) / scale if scale > 0 else 0.0
    unseen = np.all(
        np.abs(own) + abs(derivative) * steps**order / factorial <= DEVIATIONS * part_noises
    )
    if abs(mismatch) > rtol * scale + uncertainty:
        verdict = "wrong"
    elif uncertainty <= 3 * rtol * scale:
        verdict = "right"
    elif unseen:
        verdict = "zero within the noise"
        relative = 0.0
    else:
        verdict = "not resolvable"
    return TaylorOrder(
        order, derivative, mismatch, uncertainty, rate, deciding_rate, relative, verdict
    )
