"""<J v, w> = <v, J' w>: is a reverse rule the transpose of its forward rule; and are claims about a
matrix true?

The pairing is the plain sum of products, without conjugation, since that is what JAX transposes
with. For complex arrays its real part is compared: a map that is linear over the reals only (a
conjugation) has a transpose in that sense, and for a map that is linear over the complex numbers
random complex w make it the full identity.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from adjoint.inputs import describe, refuse

SAMPLES = 3


@dataclass(frozen=True)
class DotProductResult:
    """What `dot_product_test` or `symmetry_test` found; ``str`` gives a table.

    Attributes
    ----------
    passed
        Whether all identities hold to `rtol`.
    relative_error
        The largest relative mismatch of any of them; NaN when a product is not finite.
    rtol
        The mismatch that was let pass.
    claim
        What was tested, in words.
    pairs
        <J v, w> and <v, J' w> for each random v and w.
    mismatches
        Relative mismatch of each pair.
    nonlinearity
        Relative violation of J(a v + b v') = a J v + b J v', the larger of J and J'.
    """

    passed: bool
    relative_error: float
    rtol: float
    claim: str
    pairs: tuple[tuple[float, float], ...]
    mismatches: tuple[float, ...]
    nonlinearity: float

    def __str__(self) -> str:
        lines = [
            f"{self.claim}: {'passed' if self.passed else 'FAILED'}, relative error "
            f"{self.relative_error:.1e}, "
            f"tolerance {self.rtol:.1e}",
            "sample        <J v, w>       <v, J' w>   relative mismatch",
        ]
        for i, ((left, right), mismatch) in enumerate(
            zip(self.pairs, self.mismatches, strict=True), start=1
        ):
            lines.append(f"{i:>6} {left:>15.8e} {right:>15.8e}   {mismatch:.1e}")
        lines.append(f"linearity                                  {self.nonlinearity:.1e}")
        return "\n".join(lines)


@dataclass(frozen=True)
class DefinitenessResult:
    """What `definiteness_test` found; ``str`` gives a sentence.

    Attributes
    ----------
    passed
        Whether no vector with <v, A v> < 0 was found.
    smallest_quotient, largest_quotient
        The extreme Rayleigh quotients <v, A v> / <v, v> met.
    rtol
        Rounding that was let pass, relative to the largest quotient.
    vectors
        How many vectors were tried.
    """

    passed: bool
    smallest_quotient: float
    largest_quotient: float
    rtol: float
    vectors: int

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return (
            f"<v, A v> > 0: {verdict}, quotients <v, A v> / <v, v> from "
            f"{self.smallest_quotient:.3e} "
            f"to {self.largest_quotient:.3e} over {self.vectors} vectors"
        )


def dot_product_test(
    jvp: Callable[[PyTree], PyTree],
    vjp: Callable[[PyTree], PyTree],
    v: PyTree,
    w: PyTree,
    *,
    rtol: float | None = None,
    seed: int = 0,
) -> DotProductResult:
    """<J v, w> = <v, J' w> for random v and w, and J and J' linear.

    Parameters
    ----------
    jvp
        v -> J v, for example ``lambda v: jax.jvp(f, (p,), (v,))[1]``.
    vjp
        w -> J' w, for example ``lambda w: jax.vjp(f, p)[1](w)[0]``.
    v, w
        An example tangent and cotangent: pytrees of real or complex arrays. Only their structure,
        shapes and dtypes are used; the vectors are random.
    rtol
        Relative mismatch that is let pass. By default 4 eps^(2/3), 1.5e-10 in float64 and 1e-4 in
        float32, and more beyond 1e4 entries, with the square root of their number.
    seed
        Of the random vectors.

    Returns
    -------
    result
        A `DotProductResult`: ``.passed``, ``.relative_error``, and a table as ``str(result)``.

    Raises
    ------
    ValueError, TypeError
        When J v does not look like w, or J' w like v.

    Notes
    -----
    The test says that J' is the transpose of J. Whether J is the derivative of anything,
    `verify_gradient` says.

    Source: Claerbout, Earth Soundings Analysis, 1992, sec. 5.1.1 ("dot-product test").

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> A = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> adjoint.dot_product_test(
    ...     lambda v: A @ v, lambda w: A.T @ w, jnp.zeros(2), jnp.zeros(2)
    ... ).passed
    True
    >>> adjoint.dot_product_test(
    ...     lambda v: A @ v, lambda w: A @ w, jnp.zeros(2), jnp.zeros(2)
    ... ).passed
    False
    """
    return _test_pairs(
        "adjoint.dot_product_test", "<J v, w> = <v, J' w>", jvp, vjp, v, w, rtol, seed
    )


def symmetry_test(
    matvec: Callable[[PyTree], PyTree],
    example: int | PyTree,
    *,
    rtol: float | None = None,
    seed: int = 0,
) -> DotProductResult:
    """<A v, w> = <v, A w> for random v and w: is the claim symmetric=True true?

    Parameters
    ----------
    matvec
        v -> A v.
    example
        The size n, or an array or pytree that looks like v. A complex A is symmetric when A equals
        its plain transpose; a Hermitian one is not.
    rtol, seed
        As in `dot_product_test`.

    Returns
    -------
    result
        A `DotProductResult`: ``.passed``, ``.relative_error``, and a table as ``str(result)``.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> adjoint.symmetry_test(lambda v: jnp.array([[2.0, 1.0], [1.0, 3.0]]) @ v, 2).passed
    True
    >>> adjoint.symmetry_test(lambda v: jnp.array([[2.0, 1.0], [0.9, 3.0]]) @ v, 2).passed
    False
    """
    v = _example("adjoint.symmetry_test", example)
    return _test_pairs(
        "adjoint.symmetry_test", "<A v, w> = <v, A w>", matvec, matvec, v, v, rtol, seed
    )


def definiteness_test(
    matvec: Callable[[PyTree], PyTree], example: int | PyTree, *, seed: int = 0
) -> DefinitenessResult:
    """<v, A v> > 0 for random v and for v driven towards the smallest eigenvalue: is
    positive_definite=True plausible?

    Parameters
    ----------
    matvec
        v -> A v, symmetric (Hermitian when complex).
    example
        The size n, or an array or pytree that looks like v.
    seed
        Of the random vectors.

    Returns
    -------
    result
        A `DefinitenessResult`: ``.passed`` and the extreme quotients.

    Notes
    -----
    A vector with <v, A v> < 0 disproves the claim; finding none does not prove it. Each random
    vector is followed by power steps with (largest quotient) I - A, which find a negative
    eigenvalue that is not tiny against the largest. A singular semidefinite matrix passes, since
    rounding cannot tell it from a definite one.

    **Cost**: 3 x 24 products.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> adjoint.definiteness_test(lambda v: jnp.array([2.0, 0.5, 1.0]) * v, 3).passed
    True
    >>> adjoint.definiteness_test(lambda v: jnp.array([2.0, -0.1, 1.0]) * v, 3).passed
    False
    """
    where = "adjoint.definiteness_test"
    template = _example(where, example)
    draw = _drawer(where, "example", template)
    generator = np.random.default_rng(seed)
    epsilon = _epsilon(template)
    quotients: list[float] = []
    bound = 0.0
    for _ in range(SAMPLES):
        v = draw(generator)
        for _ in range(24):
            product = _product(where, "A v", matvec, v, template)
            size = math.sqrt(_pair(_conjugate(v), v))
            quotients.append(_pair(_conjugate(v), product) / size**2)
            # |A v| / |v| reaches the largest |eigenvalue| from below; doubled, it keeps (bound I -
            # A) positive.
            bound = max(bound, 2 * math.sqrt(_pair(_conjugate(product), product)) / size)
            v = _combine(bound / size, v, -1 / size, product)
            if not math.isfinite(quotients[-1]) or _pair(_conjugate(v), v) == 0:
                break
    rtol = 100 * epsilon
    smallest, largest = float(np.min(quotients)), float(np.max(quotients))
    passed = math.isfinite(smallest) and largest > 0 and smallest >= -rtol * bound
    return DefinitenessResult(passed, smallest, largest, rtol, len(quotients))


def _test_pairs(
    where: str,
    claim: str,
    forward: Callable[[PyTree], PyTree],
    reverse: Callable[[PyTree], PyTree],
    v: PyTree,
    w: PyTree,
    rtol: float | None,
    seed: int,
) -> DotProductResult:
    draw_v, draw_w = _drawer(where, "v", v), _drawer(where, "w", w)
    generator = np.random.default_rng(seed)
    pairs, mismatches, nonlinearities = [], [], []
    for _ in range(SAMPLES):
        v_random, w_random = draw_v(generator), draw_w(generator)
        pushed = _product(where, "J v", forward, v_random, w)
        pulled = _product(where, "J' w", reverse, w_random, v)
        left, right = _pair(pushed, w_random), _pair(v_random, pulled)
        # A sum of products of random signs has this root mean square: the size of the pairing that
        # does not depend on an accidental cancellation.
        scale = max(abs(left), abs(right), _spread(pushed, w_random), _spread(v_random, pulled))
        pairs.append((left, right))
        mismatches.append(_ratio(abs(left - right), scale))
        nonlinearities.append(_nonlinearity(forward, draw_v, generator, v_random, pushed))
        nonlinearities.append(_nonlinearity(reverse, draw_w, generator, w_random, pulled))
    allowed = _default_tolerance(v, w) if rtol is None else rtol
    nonlinearity = float(np.max(nonlinearities))
    relative_error = float(np.max([*mismatches, nonlinearity]))
    passed = relative_error <= allowed
    return DotProductResult(
        passed, relative_error, allowed, claim, tuple(pairs), tuple(mismatches), nonlinearity
    )


def _default_tolerance(v: PyTree, w: PyTree) -> float:
    entries = max(sum(int(np.size(x)) for x in jax.tree.leaves(tree)) for tree in (v, w))
    return 4 * max(_epsilon(v), _epsilon(w)) ** (2 / 3) * max(1.0, math.sqrt(entries) / 100)


def _nonlinearity(
    function: Callable[[PyTree], PyTree],
    draw: Callable[[np.random.Generator], PyTree],
    generator: np.random.Generator,
    first: PyTree,
    image: PyTree,
) -> float:
    """|F(a x + b y) - a F(x) - b F(y)| relative to its terms; a and b far from 1, so that |x| or x
    + c is caught.
    """
    second = draw(generator)
    a, b = 0.7, -1.9
    expected = _combine(a, image, b, function(second))
    difference = _combine(1.0, function(_combine(a, first, b, second)), -1.0, expected)
    scale = math.sqrt(max(_pair(_conjugate(image), image), _pair(_conjugate(expected), expected)))
    return _ratio(math.sqrt(_pair(_conjugate(difference), difference)), scale)


def _ratio(error: float, scale: float) -> float:
    if not (math.isfinite(error) and math.isfinite(scale)):
        return math.nan
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)


def _example(where: str, example: int | PyTree) -> PyTree:
    if isinstance(example, int) and not isinstance(example, bool):
        if example < 1:
            refuse(where, f"n = {example}", "a size of at least 1", "Pass the number of unknowns.")
        return jnp.zeros(example)
    return example


def _drawer(where: str, name: str, template: PyTree) -> Callable[[np.random.Generator], PyTree]:
    """A function that draws standard normal numbers that look like the template."""
    leaves, structure = jax.tree.flatten(template)
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            remedy = "Pass an example of the tangents, which are floating-point or complex."
            refuse(
                where,
                f"{name} with {describe(leaf)}",
                "floating-point or complex arrays",
                remedy,
                TypeError,
            )
    if sum(int(np.size(leaf)) for leaf in leaves) == 0:
        refuse(
            where, f"{name} without numbers", "at least one array", f"Pass an example of {name}."
        )

    def draw(generator: np.random.Generator) -> PyTree:
        drawn = []
        for leaf in leaves:
            dtype = jnp.result_type(leaf)
            numbers = generator.normal(size=np.shape(leaf))
            if jnp.issubdtype(dtype, jnp.complexfloating):
                numbers = numbers + 1j * generator.normal(size=np.shape(leaf))
            drawn.append(jnp.asarray(numbers, dtype))
        return jax.tree.unflatten(structure, drawn)

    return draw


def _product(
    where: str, name: str, function: Callable[[PyTree], PyTree], x: PyTree, like: PyTree
) -> PyTree:
    """function(x), after checking that it looks like `like`."""
    product = function(x)
    given, expected = jax.tree.structure(product), jax.tree.structure(like)
    if given != expected:
        refuse(
            where,
            f"{name} of structure {given}",
            f"structure {expected}",
            "Pass examples that match the maps.",
        )
    for a, b in zip(jax.tree.leaves(product), jax.tree.leaves(like), strict=True):
        if np.shape(a) != np.shape(b):
            remedy = "Pass examples v and w that match the maps."
            refuse(where, f"{name} of shape {np.shape(a)}", f"shape {np.shape(b)}", remedy)
        if np.iscomplexobj(a) != np.iscomplexobj(b):
            remedy = "A real input has a real cotangent."
            refuse(
                where, f"{name} as {describe(a)}", f"numbers like {describe(b)}", remedy, TypeError
            )
    return product


def _wide(x: Any) -> np.ndarray:
    # Summed in double precision, so that the pairing itself adds no error to single-precision maps.
    return np.asarray(x).astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _pair(x: PyTree, y: PyTree) -> float:
    """Re sum x y."""
    leaves = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return float(sum(np.sum(_wide(a) * _wide(b)).real for a, b in leaves))


def _spread(x: PyTree, y: PyTree) -> float:
    leaves = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return math.sqrt(sum(float(np.sum(np.abs(_wide(a) * _wide(b)) ** 2)) for a, b in leaves))


def _conjugate(x: PyTree) -> PyTree:
    return jax.tree.map(lambda a: np.conj(_wide(a)), x)


def _combine(a: float, x: PyTree, b: float, y: PyTree) -> PyTree:
    """a x + b y in the dtypes of x."""
    return jax.tree.map(
        lambda s, t: jnp.asarray(a * _wide(s) + b * _wide(t), jnp.result_type(s)), x, y
    )


def _epsilon(tree: PyTree) -> float:
    return max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in jax.tree.leaves(tree))
