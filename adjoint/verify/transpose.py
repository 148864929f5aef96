"""<J v, w> = <v, J' w>: is a reverse rule its forward rule's transpose; is a claimed matrix so?

The pairing is the plain sum of products, without conjugation, since that is what JAX transposes
with. For complex arrays its real part is compared: a map that is linear over the reals only (a
conjugation) has a transpose in that sense, and for a map that is linear over the complex numbers
random complex w make it the full identity.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from adjoint.inputs import refuse
from adjoint.verify.pairing import combine, conjugate, drawer, epsilon, pair, product, spread

# A wrong product is seen with probability one along a normal random vector; three guard against a
# difference that happens to be below the tolerance.
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
    """<v, A v> > 0 for random v and v driven to the smallest eigenvalue.

    Is positive_definite=True plausible?

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
    draw = drawer(where, "example", template)
    generator = np.random.default_rng(seed)
    quotients: list[float] = []
    bound = 0.0
    for _ in range(SAMPLES):
        v = draw(generator)
        for _ in range(24):
            image = product(where, "A v", matvec, v, template)
            size = math.sqrt(pair(conjugate(v), v))
            quotients.append(pair(conjugate(v), image) / size**2)
            # |A v| / |v| reaches the largest |eigenvalue| from below; doubled, it keeps (bound I -
            # A) positive.
            bound = max(bound, 2 * math.sqrt(pair(conjugate(image), image)) / size)
            v = combine(bound / size, v, -1 / size, image)
            if not math.isfinite(quotients[-1]) or pair(conjugate(v), v) == 0:
                break
    rtol = 100 * epsilon(template)
    smallest = float(np.min(quotients))
    largest = float(np.max(quotients))
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
    draw_v = drawer(where, "v", v)
    draw_w = drawer(where, "w", w)
    generator = np.random.default_rng(seed)
    pairs = []
    mismatches = []
    nonlinearities = []
    for _ in range(SAMPLES):
        v_random = draw_v(generator)
        w_random = draw_w(generator)
        pushed = product(where, "J v", forward, v_random, w)
        pulled = product(where, "J' w", reverse, w_random, v)
        left = pair(pushed, w_random)
        right = pair(v_random, pulled)
        # A sum of products of random signs has this root mean square: the size of the pairing that
        # does not depend on an accidental cancellation.
        scale = max(abs(left), abs(right), spread(pushed, w_random), spread(v_random, pulled))
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
    return 4 * max(epsilon(v), epsilon(w)) ** (2 / 3) * max(1.0, math.sqrt(entries) / 100)


def _nonlinearity(
    function: Callable[[PyTree], PyTree],
    draw: Callable[[np.random.Generator], PyTree],
    generator: np.random.Generator,
    first: PyTree,
    image: PyTree,
) -> float:
    """|F(a x + b y) - a F(x) - b F(y)| relative to its terms.

    a and b are far from 1, so that |x| or x + c is caught.
    """
    second = draw(generator)
    a = 0.7
    b = -1.9
    expected = combine(a, image, b, function(second))
    difference = combine(1.0, function(combine(a, first, b, second)), -1.0, expected)
    scale = math.sqrt(max(pair(conjugate(image), image), pair(conjugate(expected), expected)))
    return _ratio(math.sqrt(pair(conjugate(difference), difference)), scale)


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
