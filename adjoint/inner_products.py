"""Inner products: what turns a derivative, which needs no metric, into a gradient, which does.

The derivative f'(x) is a linear form, one number per coordinate, in units of f per unit of x. The
gradient is the vector that represents it, <gradient, v> = f'(x) v for every v, and depends on the
inner product: steepest descent follows it, and steps and stopping tests are measured by it. In
coordinates <u, v> = u' M v, and the gradient is M^-1 f'(x) (the Riesz map).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import refuse
from adjoint.norm import power_of_two


class InnerProduct:
    """<u, v> = u' M v; what all inner products have in common."""

    def gradient(self, derivative: PyTree) -> PyTree:
        """M^-1 f'(x): the vector that represents a derivative, structured like it."""
        raise NotImplementedError

    def derivative(self, gradient: PyTree) -> PyTree:
        """M v: the linear form that a vector represents, the inverse of `gradient`."""
        raise NotImplementedError

    def inner(self, u: PyTree, v: PyTree) -> Float[Array, ""]:
        """<u, v>."""
        return _pair(u, self.derivative(v))

    def norm(self, v: PyTree) -> Float[Array, ""]:
        """sqrt(<v, v>)."""
        unit, v = _in_unit(v)
        return unit * jnp.sqrt(self.inner(v, v))

    def dual_norm(self, derivative: PyTree) -> Float[Array, ""]:
        """The largest f'(x) v over all v of norm 1, which is the norm of the gradient."""
        unit, derivative = _in_unit(derivative)
        return unit * jnp.sqrt(jnp.maximum(_pair(derivative, self.gradient(derivative)), 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Euclidean(InnerProduct):
    """<u, v> = sum u_i v_i: every coordinate counts the same, whatever its unit.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> float(adjoint.Euclidean().dual_norm(jnp.array([3.0, 4.0])))
    5.0
    """

    def gradient(self, derivative: PyTree) -> PyTree:
        return derivative

    def derivative(self, gradient: PyTree) -> PyTree:
        return gradient


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weighted(InnerProduct):
    """<u, v> = sum w_i u_i v_i, or u' W v: coordinates of different units made comparable.

    With w_i = 1/s_i^2, where s_i is a typical change of x_i in its unit, steepest descent does not
    depend on the units.

    Parameters
    ----------
    weights
        Positive numbers structured like x (a number stands for an array of it), in units of 1/x^2;
        or, for a vector x of shape (n,), a symmetric positive definite (n, n) matrix W.

    Raises
    ------
    ValueError
        For weights that are not positive.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> metric = adjoint.Weighted(jnp.array([1.0, 4.0]))
    >>> (
    ...     metric.gradient(jnp.array([1.0, 2.0])).tolist(),
    ...     metric.derivative(jnp.array([1.0, 0.5])).tolist(),
    ... )
    ([1.0, 0.5], [1.0, 2.0])
    """

    weights: PyTree

    def __post_init__(self) -> None:
        # Pytrees are rebuilt with tracers and placeholders, which have no entries to look at.
        for w in jax.tree.leaves(self.weights):
            concrete = isinstance(w, np.ndarray | jax.Array | float | int) and not isinstance(
                w, jax.core.Tracer
            )
            # A definite matrix may have negative entries, but not on its diagonal.
            if concrete and not np.all((np.diagonal(w) if np.ndim(w) == 2 else np.asarray(w)) > 0):
                refuse(
                    "Weighted",
                    "weights with an entry that is not positive",
                    "positive weights",
                    "Use 1/scale**2.",
                )

    def gradient(self, derivative: PyTree) -> PyTree:
        def leaf(w: Array, d: Array) -> Array:
            return jnp.linalg.solve(w, d) if _is_matrix(w, d) else d / w

        return jax.tree.map(leaf, self._like(derivative), derivative)

    def derivative(self, gradient: PyTree) -> PyTree:
        def leaf(w: Array, v: Array) -> Array:
            return w @ v if _is_matrix(w, v) else w * v

        return jax.tree.map(leaf, self._like(gradient), gradient)

    def _like(self, v: PyTree) -> PyTree:
        """The weights in the structure of v."""
        same = jax.tree.structure(self.weights) == jax.tree.structure(v)
        if not same and not (isinstance(self.weights, float | int) or np.shape(self.weights) == ()):
            given, expected = (str(jax.tree.structure(tree)) for tree in (self.weights, v))
            refuse(
                "Weighted",
                f"weights of structure {given}",
                f"that of x, {expected}",
                "Give one weight per entry of x.",
            )
        return self.weights if same else jax.tree.map(lambda _: self.weights, v)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sobolev(InnerProduct):
    """<u, v> = integral of u v + length^2 grad u . grad v, on uniform grids: smooth gradients.

    Derivatives with respect to a field on a grid scale with the volume of a cell, and steps along
    them are as rough as the grid allows. In this inner product steps are smooth on the scale of
    `length`, and their number does not grow with the grid.

    Parameters
    ----------
    length
        Wavelengths below about 2 pi length are damped; in the unit of `spacing`.
    spacing
        Distance h of grid points, the same in every direction.
    boundary
        "free": the entries of x are all there is (K = D'D with differences D of neighbors);
        "fixed": beyond the first and the last entries the field is zero, or prescribed.

    Notes
    -----
    M = h^d (1 + length^2 K), with K the second differences in each direction, is diagonal after a
    cosine (free) or sine (fixed) transform. **Cost**: two fast transforms. Source: J. W. Neuberger,
    Sobolev Gradients and Differential Equations, 2nd ed., Springer (2010).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> rough = adjoint.Sobolev(length=1.0, boundary="fixed").gradient(jnp.array([0.0, 1.0, 0.0]))
    >>> [round(float(v), 4) for v in rough]  # solves (1 + K) u = e_2, K = tridiag(-1, 2, -1)
    [0.1429, 0.4286, 0.1429]
    """

    length: Any
    spacing: Any = 1.0
    boundary: Literal["free", "fixed"] = field(default="free", metadata={"static": True})

    def __post_init__(self) -> None:
        if self.boundary not in ("free", "fixed"):
            refuse(
                "Sobolev",
                f"boundary = {self.boundary!r}",
                "'free' or 'fixed'",
                "See the parameters.",
            )

    def gradient(self, derivative: PyTree) -> PyTree:
        return jax.tree.map(lambda d: self._scaled(d, -1), derivative)

    def derivative(self, gradient: PyTree) -> PyTree:
        return jax.tree.map(lambda v: self._scaled(v, 1), gradient)

    def _scaled(self, v: Array, power: int) -> Array:
        """M^power v."""
        forward, back = _TRANSFORMS[self.boundary]
        spectrum = v
        stiffness = jnp.zeros((), v.dtype)
        for axis, n in enumerate(v.shape):
            spectrum = forward(spectrum, axis)
            waves = (
                np.arange(n) / (2 * n)
                if self.boundary == "free"
                else np.arange(1, n + 1) / (2 * (n + 1))
            )
            shape = [n if k == axis else 1 for k in range(v.ndim)]
            eigenvalues = (
                jnp.asarray(4 * np.sin(np.pi * waves) ** 2, v.dtype).reshape(shape)
                / self.spacing**2
            )
            stiffness = (
                jnp.expand_dims(stiffness, tuple(range(v.ndim - jnp.ndim(stiffness)))) + eigenvalues
            )
        spectrum = spectrum * (self.spacing**v.ndim * (1 + self.length**2 * stiffness)) ** power
        for axis in range(v.ndim):
            spectrum = back(spectrum, axis)
        return spectrum.astype(v.dtype)


def _sine_transform(v: Array, axis: int) -> Array:
    """The orthonormal sine transform of the first kind, its own inverse."""
    n = v.shape[axis]
    zero = jnp.zeros_like(jax.lax.slice_in_dim(v, 0, 1, axis=axis))
    odd = jnp.concatenate([zero, v, zero, -jnp.flip(v, axis)], axis)
    waves = -jnp.imag(jnp.fft.rfft(odd, axis=axis))
    return jax.lax.slice_in_dim(waves, 1, n + 1, axis=axis) / np.sqrt(2 * (n + 1))


_TRANSFORMS = {
    "free": (
        lambda v, axis: jax.scipy.fft.dct(v, axis=axis, norm="ortho"),
        lambda v, axis: jax.scipy.fft.idct(v, axis=axis, norm="ortho"),
    ),
    "fixed": (_sine_transform, _sine_transform),
}


def _is_matrix(w: ArrayLike, v: Array) -> bool:
    return np.ndim(w) == 2 and v.ndim == 1


def _in_unit(v: PyTree) -> tuple[Array, PyTree]:
    """A power of two near the largest entry, and v in this unit, whose squares have room."""
    sizes = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(v)]
    unit = power_of_two(jnp.max(jnp.stack(sizes)))
    return unit, jax.tree.map(lambda leaf: leaf / unit, v)


def _pair(u: PyTree, v: PyTree) -> Float[Array, ""]:
    terms = [jnp.sum(a * b) for a, b in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True)]
    return jnp.sum(jnp.stack(terms))
