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
array of p by itself, in its own units. Where an end of time or a factor of f varies and the output
is conserved or stationary, lam is orthogonal to f: the products cancel at each step, and nothing
but errors and rounding is left of them, which has no digits. So a step counts for no less than

    FLOOR kappa |Phi_k' (w lam)|

with fixed weights w of mixed signs, one for each component of lam, for which nothing cancels. (By
the sizes of lam as a whole it could not be told what has cancelled from what counts for little: a
force on a component that is a small share of the output.)

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
import numpy as np
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
    # |slope| / h, the part of N(lam) that is the cotangent of the slope.
    of_slope: Float[Array, ""]
    varying: list[Array]

    @classmethod
    def at_end(cls, y1_bar: Array, varying: list[Array]) -> "Sizes":
        zero = jnp.zeros((), y1_bar.dtype)
        return cls(jnp.ones_like(zero), _norm(y1_bar), zero, zero, zero, [zero for _ in varying])

    def with_datum(self, lam: Array, datum: Array) -> "Sizes":
        """With the cotangents of data inside a step added to lam at its end."""
        before, after = (_norm(y) + self.of_slope for y in (lam, lam + datum))
        whole = self.kappa * before + _norm(datum)
        largest = jnp.maximum(self.largest, whole)
        kappa = _share(jnp.maximum(whole, FLOOR * largest), after)
        return self._replace(kappa=jnp.where(after > 0, kappa, 1), largest=largest)

    def with_error(self, lam: Array, error: Array, datum: Array, y: Array) -> "Sizes":
        """With the error of a step that ends at y, where lam is the adjoint, with data."""
        lam, error, datum, y = (jnp.abs(jax.lax.stop_gradient(v)) for v in (lam, error, datum, y))
        return self._replace(
            missed=self.missed + (lam + datum) @ error,
            whole=self.whole + datum @ y,
        )

    def after_step(
        self,
        h: Array,
        slope: Array,
        contributions: list[Array],
        weighted: list[Array],
        varying: list[Array],
    ) -> "Sizes":
        """With what the step adds to the gradient by p, and what it would add to that of w lam."""
        totals = []
        for total, new, other, v in zip(
            self.varying, contributions, weighted, varying, strict=True
        ):
            unit = unit_of(v)
            size = jnp.maximum(_norm(new * unit), FLOOR * _norm(other * unit))
            totals.append(total + self.kappa * size.astype(total.dtype))
        return self._replace(of_slope=_norm(slope) / h, varying=totals)


def of_solution(sizes: Sizes) -> Float[Array, ""]:
    """What the solution is wrong by, as a share of it; 0 where it is nothing."""
    return jnp.where(sizes.whole > 0, _share(sizes.missed, sizes.whole), 0)


def shares(
    sizes: Sizes,
    y0: tuple[Array, Array, Array],
    varying: list[tuple[Array, Array, Array]],
) -> tuple[Float[Array, ""], list[Array]]:
    """eps as a share of the gradient by y0 and by each array of p, from (number, gradient, eps)."""
    number, gradient, eps = y0
    of_y0 = _share(_norm(eps * unit_of(number)), sizes.kappa * _norm(gradient * unit_of(number)))
    of_p = [
        _share(
            _norm(eps * unit_of(v)).astype(total.dtype),
            total + _norm(gradient * unit_of(v)).astype(total.dtype),
        )
        for (v, gradient, eps), total in zip(varying, sizes.varying, strict=True)
    ]
    return of_y0, of_p


def weights_of(y: Array) -> Float[Array, " n"]:
    """Numbers between 1/2 and 1 with mixed signs, without a pattern that a system could have.

    Their signs alternate, so that there are both; the rest is a golden-ratio sequence.
    """
    i = np.arange(y.size)
    return jnp.asarray((-1.0) ** i * (1 + i * (5**0.5 - 1) / 2 % 1) / 2, y.dtype)


def _norm(v: Array) -> Float[Array, ""]:
    """The largest number, which has no derivative here: one operation, in a loop of small ones."""
    return jnp.max(jnp.abs(jax.lax.stop_gradient(v)), initial=0)


def _share(part: Array, whole: Array) -> Array:
    """part / whole; 0 of nothing is 0."""
    return jnp.where(part == 0, 0, part / jnp.where((whole > 0) | (part > 0), whole, 1))
