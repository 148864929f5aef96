"""phi(t) = f(p + t v): the function on trial along a line, evaluated as its user evaluates it.

All that the oracles see of f passes through here: real (or, for the complex step, complex)
evaluations at points that are rounded once to the dtypes of p. Directions are measured in units of
the parameters themselves, so that t is a relative step and no oracle depends on the units of p.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from adjoint.inputs import describe, refuse


@dataclass(frozen=True)
class Leaf:
    """One array of the parameters: key path, what the user passed, and its numbers in float64."""

    name: str
    original: Any
    numbers: np.ndarray
    dtype: np.dtype

    @property
    def epsilon(self) -> float:
        return float(jnp.finfo(self.dtype).eps)

    def rebuild(self, numbers: np.ndarray) -> Any:
        """`numbers` in the dtype and container of the original; complex numbers stay complex."""
        dtype = np.result_type(self.dtype, np.complex64) if np.iscomplexobj(numbers) else self.dtype
        array = np.asarray(numbers, dtype)
        if isinstance(self.original, jax.Array):
            return jnp.asarray(array)
        return array if isinstance(self.original, np.ndarray) else array[()]


def read_parameters(where: str, p: PyTree) -> tuple[list[Leaf], Any]:
    """The leaves of p and its structure, after the checks that need no computing."""
    paths, structure = jax.tree_util.tree_flatten_with_path(p)
    leaves = [_read_leaf(where, "p" + jax.tree_util.keystr(path), x) for path, x in paths]
    if sum(leaf.numbers.size for leaf in leaves) == 0:
        refuse(
            where,
            "p without numbers",
            "at least one floating-point array",
            "Pass the parameters of f as p.",
        )
    return leaves, structure


def _read_leaf(where: str, name: str, x: object) -> Leaf:
    remedy = "Keep what f does not differentiate out of p, for example in a closure."
    if isinstance(x, jax.core.Tracer):
        refuse(where, f"{name} traced", "numbers", "Call it outside jit, vmap and grad.", TypeError)
    if not isinstance(x, jax.Array | np.ndarray | np.generic | float | int | complex):
        refuse(
            where,
            f"{name} = {describe(x)}",
            "an array of real floating-point numbers",
            remedy,
            TypeError,
        )
    dtype = x.dtype if isinstance(x, jax.Array | np.ndarray | np.generic) else np.asarray(x).dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        refuse(
            where,
            f"{name} = {describe(x)}",
            "real numbers",
            "Pass real and imaginary part as two arrays.",
            TypeError,
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        refuse(where, f"{name} = {describe(x)}", "floating-point numbers", remedy, TypeError)
    return Leaf(name, x, np.asarray(x).astype(np.float64), dtype)


class Objective:
    """f with its point p and value f(p), compiled where it can be.

    Attributes
    ----------
    value
        f(p).
    compiled
        Whether f is evaluated through `jax.jit`. What jit refuses (Python branches on values, plain
        NumPy) is called as it is; an error of f itself appears in that plain call and is not
        caught.
    complaint
        The first error that f raised at a stepped point, in words. Such a point counts as outside
        the domain of f.
    """

    def __init__(self, where: str, f: Callable[[PyTree], Any], p: PyTree, compile_it: bool):
        self.leaves, self._structure = read_parameters(where, p)
        self._function = f
        self._call = f
        self.compiled = False
        self.complaint: str | None = None
        value = None
        if compile_it:
            jitted = jax.jit(lambda q: f(q))
            try:
                value = jitted(p)
                self._call = jitted
                self.compiled = True
            except Exception:
                # Not hidden: either the plain call below raises it again, or f works for its user
                # and only jit does not.
                value = None
        if value is None:
            value = f(p)
        self.dtype = _real_scalar_dtype(where, value)
        self.value = float(np.asarray(value))

    @property
    def epsilon(self) -> float:
        """eps of the value's dtype."""
        return float(jnp.finfo(self.dtype).eps)

    def point(self, numbers: dict[int, np.ndarray]) -> PyTree:
        """p with some of its leaves replaced."""
        leaves = [
            leaf.rebuild(numbers[i]) if i in numbers else leaf.original
            for i, leaf in enumerate(self.leaves)
        ]
        return jax.tree.unflatten(self._structure, leaves)

    def at(self, numbers: dict[int, np.ndarray]) -> float:
        """f at a stepped point; NaN where f cannot be evaluated."""
        try:
            with np.errstate(all="ignore"):
                return float(np.asarray(self._call(self.point(numbers))))
        except (ArithmeticError, ValueError, RuntimeError) as error:
            self.complaint = (
                self.complaint
                or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            return float("nan")

    def complex_at(self, numbers: dict[int, np.ndarray]) -> complex:
        """f at a complex point; raises as f does, and TypeError if f drops the imaginary part."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            value = np.asarray(self._call(self.point(numbers)))
        if value.shape != () or not np.iscomplexobj(value):
            raise TypeError("f returns a real number for complex parameters")
        return complex(value)


def _real_scalar_dtype(where: str, value: PyTree) -> np.dtype:
    if not isinstance(value, jax.Array | np.ndarray | np.generic | float | int | complex):
        refuse(
            where,
            f"f(p) = {describe(value)}",
            "one real number",
            "Let f return the scalar alone, without extras.",
            TypeError,
        )
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.shape != ():
        remedy = "Reduce it to a scalar, for example with jnp.sum or an index."
        refuse(where, f"f(p) of shape {array.shape}", "a scalar of shape ()", remedy)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        remedy = (
            "Judge the real and the imaginary part one by one."
            if np.iscomplexobj(array)
            else "Let f return a float."
        )
        refuse(
            where,
            f"f(p) of dtype {array.dtype}",
            "one real floating-point number",
            remedy,
            TypeError,
        )
    return array.dtype


@dataclass(frozen=True)
class Direction:
    """A direction v: per moved leaf (by index) an array in the units of that leaf.

    Attributes
    ----------
    name
        For the reader: a key path with an index, or 'random 2 in p['b']'.
    leaf
        The index of the leaf that it judges, or None when it moves several.
    is_coordinate
        Whether exactly one number moves.
    """

    name: str
    leaf: int | None
    is_coordinate: bool
    vectors: dict[int, np.ndarray]

    def pair(self, gradient: list[np.ndarray]) -> float:
        """<gradient, v>, summed in float64."""
        return float(sum(np.vdot(gradient[i], v) for i, v in self.vectors.items()))

    def spread(self, gradient: list[np.ndarray]) -> float:
        """The root mean square of <gradient, v> over v's random signs: the size to expect of it."""
        return float(
            np.linalg.norm([np.linalg.norm(gradient[i] * v) for i, v in self.vectors.items()])
        )

    def tangent(self, leaves: list[Leaf]) -> list[Array]:
        """v as arrays like the leaves, zero where v does not move them."""
        return [
            leaf.rebuild(self.vectors.get(i, np.zeros_like(leaf.numbers)))
            for i, leaf in enumerate(leaves)
        ]


class Line:
    """phi(t) = f(p + t v) with a memory.

    Attributes
    ----------
    smallest_step, largest_step
        The t worth trying: from 256 roundings of p to some 1e9 times p. Where everything that moves
        is zero, p has no rounding and gives no scale, and the range covers any scale in use.
    """

    def __init__(self, objective: Objective, direction: Direction):
        self.objective = objective
        self.direction = direction
        self.value = objective.value
        leaves = [objective.leaves[i] for i in direction.vectors]
        self.epsilon = max([objective.epsilon, *(leaf.epsilon for leaf in leaves)])
        self.starts_at_zero = not any(
            np.any(objective.leaves[i].numbers[v != 0]) for i, v in direction.vectors.items()
        )
        octaves = 100 if self.epsilon < 1e-12 else 60
        self.smallest_step = 2.0**-octaves if self.starts_at_zero else 256 * self.epsilon
        self.largest_step = 2.0**octaves if self.starts_at_zero else 2.0**30
        self._memory: dict[float, float] = {0.0: objective.value}

    def __call__(self, t: float) -> float:
        if t not in self._memory:
            self._memory[t] = self.objective.at(self._numbers(t))
        return self._memory[t]

    def steps(self) -> set[float]:
        """The t > 0 at which phi(t) and phi(-t) are known."""
        return {t for t in self._memory if t > 0 and -t in self._memory}

    def complex_value(self, t: complex) -> complex:
        """phi at a complex step."""
        return self.objective.complex_at(self._numbers(t))

    def _numbers(self, t: complex) -> dict[int, np.ndarray]:
        with np.errstate(all="ignore"):
            return {
                i: self.objective.leaves[i].numbers + t * v
                for i, v in self.direction.vectors.items()
            }


def coordinate_directions(leaves: list[Leaf]) -> Iterator[Direction]:
    """Every coordinate, each in units of its own magnitude.

    Where that is zero, the unit is its leaf's typical magnitude.
    """
    for i, leaf in enumerate(leaves):
        scales = _own_magnitudes(leaf.numbers)
        for index in np.ndindex(leaf.numbers.shape):
            v = np.zeros_like(leaf.numbers)
            v[index] = scales[index]
            name = leaf.name + (f"[{', '.join(map(str, index))}]" if index else "")
            yield Direction(name, i, True, {i: v})


def random_directions(
    leaves: list[Leaf], moved: list[int], count: int, seed: int
) -> list[Direction]:
    """`count` seeded directions that move the leaves `moved`: random signs times random sizes.

    Signs alone would cancel an error that two components share with opposite signs (a swap) in half
    of all directions; sizes drawn from [0.5, 1.5) do not. The even ones weigh each component by its
    own magnitude, which suits leaves that mix units; the odd ones weigh a leaf's components alike,
    which shows errors next to small parameters.
    """
    generator = np.random.default_rng([seed, *moved])
    sole = moved[0] if len(moved) == 1 else None
    place = leaves[sole].name if sole is not None else "p, all leaves"
    found = []
    for k in range(count):
        vectors = {}
        for i in moved:
            numbers = leaves[i].numbers
            scales = _own_magnitudes(numbers) if k % 2 == 0 else _common_magnitude(numbers)
            signs = generator.choice([-1.0, 1.0], numbers.shape)
            vectors[i] = scales * signs * generator.uniform(0.5, 1.5, numbers.shape)
        found.append(Direction(f"{place}, random {k + 1}", sole, False, vectors))
    return found


def _own_magnitudes(numbers: np.ndarray) -> np.ndarray:
    magnitudes = np.abs(numbers)
    nonzero = magnitudes[magnitudes > 0]
    return np.where(magnitudes > 0, magnitudes, np.median(nonzero) if nonzero.size else 1.0)


def _common_magnitude(numbers: np.ndarray) -> np.ndarray:
    largest = float(np.max(np.abs(numbers), initial=0.0))
    # Scaled before squaring, so that magnitudes near the ends of the floating-point range neither
    # overflow nor vanish.
    typical = largest * float(np.sqrt(np.mean((numbers / largest) ** 2))) if largest > 0 else 1.0
    return np.full_like(numbers, typical)


def default_tolerance(epsilon: float) -> float:
    """The relative error of a gradient that is let pass: 1e-5 in float64, 1e-3 in float32.

    Loose enough for a gradient through an iterative solve, tight enough that an error of 1e-4 (1e-2
    in float32) is seen even where the differences use up three tolerances themselves.
    """
    if epsilon < 1e-12:
        return 1e-5
    return 1e-3 if epsilon < 1e-6 else 5e-2


def read_gradient(where: str, gradient: PyTree, leaves: list[Leaf], p: PyTree) -> list[np.ndarray]:
    """The gradient's leaves in float64, after checking that it looks like p."""
    given = jax.tree.structure(gradient)
    expected = jax.tree.structure(p)
    if given != expected:
        remedy = "Return one array per leaf of p, in the same containers."
        refuse(where, f"a gradient of structure {given}", f"the structure of p, {expected}", remedy)
    arrays = jax.tree.leaves(gradient)
    for leaf, array in zip(leaves, arrays, strict=True):
        if np.shape(array) != leaf.numbers.shape:
            shape = f"shape {leaf.numbers.shape}, that of {leaf.name}"
            refuse(
                where,
                f"a gradient of shape {np.shape(array)}",
                shape,
                "Return df/dp entry by entry.",
            )
        if np.iscomplexobj(array):
            refuse(
                where,
                f"a complex gradient for {leaf.name}",
                "real numbers",
                "Take its real part.",
                TypeError,
            )
    return [np.asarray(array).astype(np.float64) for array in arrays]
