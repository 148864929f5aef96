"""How wrong the gradient of a discrete solve is as that of the solution, from the steps.

Step k is x[k+1] = Phi_k(x[k], p), and e_k(x[k], p) its embedded error: Phi_k + e_k is a method of
lower order. Its gradient differs from that of Phi to first order by eps, which comes with the
adjoint lam by the same recurrence:

    lam[k] = Phi_k' lam[k+1]
    eps[k] = Phi_k' eps[k+1] + e_k' lam[k+1]       (transposed derivatives; the same for p)

(Becker and Rannacher, Acta Numerica 10, 2001, for errors weighted with an adjoint; Cao and Petzold,
SIAM J. Sci. Comput. 26, 2004, of ODEs.) A datum inside a step adds e_k' times its cotangent: the
interpolant is about as wrong as the step.

What eps is compared with must neither be zero where contributions cancel, as at the optimum of a
fit, nor count digits of what has decayed. So lam is followed with a factor kappa, by which it would
be larger if no two data had cancelled, and if it had kept at least a share FLOOR of its largest
size:

    kappa N(lam) = max(kappa N(lam before the datum) + |datum|, FLOOR max over time)

at each step, and a gradient by p is compared with the sum over steps of kappa |Phi_k' lam|, each
array of p by itself, in its own units. The terms of these products cancel where the output is
conserved or stationary and p is an end of time: nothing but errors and rounding is left of the
derivative, which has no digits. So those by t0 and t1 count for no less than the share FLOOR of
what their terms are in sum,

    sum over steps of kappa |lam[k+1]| . |y[k+1] - y[k]|

No gradient need be more right than the solution that it belongs to, and better steps would not
make it so: their tangents do not fit data that come from the solution as it is. By the same
estimate the solution is wrong by

    sum over steps of |lam[k+1]| . |e_k|,     beside     sum over data of |datum| . |y|

with absolute values, as an error of phase is invisible in a sum of squares, and not in its
gradient. Where y rests it is zero.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from adjoint.ode.tangent_control import FLOOR, unit_of

# Tangents of an oscillation grow with its phase, and so do their errors: these are 14 to 17 times
# those of the solution over 60 radians (`benchmarks.ode`, the long neural ODE). In units of the
# error of the solution.
ENOUGH_BESIDE_SOLUTION = 30.0
# Fewer digits of a gradient than this are none.
ENOUGH_DIGITS = 1.0


class Sizes(NamedTuple):
    """What eps is compared with, on the way back."""

    kappa: Float[Array, ""]
    largest: Float[Array, ""]
    # The error of the solution, and what it is compared with.
    missed: Float[Array, ""]
    whole: Float[Array, ""]
    # The sum of |lam| . |y[k+1] - y[k]|.
    moved: Float[Array, ""]
    # |slope| / h, the part of N(lam) that is the cotangent of the slope.
    of_slope: Float[Array, ""]
    varying: list[Array]

    @classmethod
    def at_end(cls, y1_bar: Array, varying: list[Array]) -> "Sizes":
        zero = jnp.zeros((), y1_bar.dtype)
        return cls(
            jnp.ones_like(zero), _norm(y1_bar), zero, zero, zero, zero, [zero for _ in varying]
        )

    def with_datum(self, lam: Array, datum: Array) -> "Sizes":
        """With the cotangents of data inside a step added to lam at its end."""
        before, after = (_norm(y) + self.of_slope for y in (lam, lam + datum))
        whole = self.kappa * before + _norm(datum)
        largest = jnp.maximum(self.largest, whole)
        kappa = _share(jnp.maximum(whole, FLOOR * largest), after)
        return self._replace(kappa=jnp.where(after > 0, kappa, 1), largest=largest)

    def with_error(
        self, lam: Array, error: Array, datum: Array, y: Array, change: Array
    ) -> "Sizes":
        """With the error of a step that changes y to this; lam is the adjoint there, with data."""
        lam, error, datum, y, change = (
            jnp.abs(jax.lax.stop_gradient(v)) for v in (lam, error, datum, y, change)
        )
        return self._replace(
            missed=self.missed + (lam + datum) @ error,
            whole=self.whole + datum @ y,
            moved=self.moved + self.kappa * ((lam + datum) @ change),
        )

    def after_step(
        self, h: Array, slope: Array, contributions: list[Array], varying: list[Array]
    ) -> "Sizes":
        """With what the step adds to the gradient by p."""
        totals = [
            total + self.kappa * _norm(new * unit_of(v)).astype(total.dtype)
            for total, new, v in zip(self.varying, contributions, varying, strict=True)
        ]
        return self._replace(of_slope=_norm(slope) / h, varying=totals)


def of_solution(sizes: Sizes) -> Float[Array, ""]:
    """What the solution is wrong by, as a share of it; 0 where it is nothing."""
    return jnp.where(sizes.whole > 0, _share(sizes.missed, sizes.whole), 0)


def shares(
    sizes: Sizes,
    y0: tuple[Array, Array, Array],
    varying: list[tuple[Array, Array, Array]],
    ends: int,
) -> tuple[Float[Array, ""], list[Array]]:
    """eps as a share of the gradient by y0 and by each array of p, from (number, gradient, eps).

    The last `ends` of the arrays are t0 and t1.
    """
    number, gradient, eps = y0
    of_y0 = _share(_norm(eps * unit_of(number)), sizes.kappa * _norm(gradient * unit_of(number)))
    of_p = []
    for k, ((v, gradient, eps), total) in enumerate(zip(varying, sizes.varying, strict=True)):
        unit = unit_of(v)
        least = FLOOR * sizes.moved if k >= len(varying) - ends else 0
        whole = total + (_norm(gradient * unit) + least).astype(total.dtype)
        of_p.append(_share(_norm(eps * unit).astype(total.dtype), whole))
    return of_y0, of_p


def _norm(v: Array) -> Float[Array, ""]:
    """The largest number, which has no derivative here: one operation, in a loop of small ones."""
    return jnp.max(jnp.abs(jax.lax.stop_gradient(v)), initial=0)


def _share(part: Array, whole: Array) -> Array:
    """part / whole; 0 of nothing is 0."""
    return jnp.where(part == 0, 0, part / jnp.where((whole > 0) | (part > 0), whole, 1))
