"""Between JAX and NumPy functions: pytrees as flat arrays, and `vmap` lane by lane.

The functions are the user's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from adjoint.inputs import refuse
from adjoint.tracing.host_call import make_host_call


@dataclass(frozen=True)
class HostStructure:
    """A pytree of arrays without its numbers."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, tree: PyTree) -> "HostStructure":
        leaves, treedef = jax.tree.flatten(tree)
        return cls(
            treedef,
            tuple(jnp.shape(leaf) for leaf in leaves),
            tuple(jnp.result_type(leaf) for leaf in leaves),
        )

    @property
    def is_inexact(self) -> tuple[bool, ...]:
        """Of each leaf, whether it has a derivative."""
        return tuple(jnp.issubdtype(dtype, jnp.inexact) for dtype in self.dtypes)

    @property
    def flat(self) -> jax.ShapeDtypeStruct:
        """All numbers as one vector, in the widest dtype of the leaves."""
        return jax.ShapeDtypeStruct((sum(map(_size, self.shapes)),), np.result_type(*self.dtypes))

    def unravel(self, flat: Any) -> Any:
        """The pytree of a vector, NumPy's or JAX's."""
        leaves = []
        start = 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            end = start + _size(shape)
            leaves.append(flat[start:end].reshape(shape).astype(dtype))
            start = end
        return self.unflatten(leaves)

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        return jax.tree.unflatten(self.treedef, leaves)

    def leaves_of(self, tree: PyTree, where: str, what: str, model: str) -> list[np.ndarray]:
        """The arrays that a user's function returned, refused unless structured like `model`."""
        leaves, treedef = jax.tree.flatten(tree)
        arrays = [np.asarray(leaf) for leaf in leaves]
        shapes = tuple(array.shape for array in arrays)
        if treedef != self.treedef:
            given = f"{treedef} with shapes {shapes}"
            expected = f"{self.treedef} with shapes {self.shapes}"
        elif shapes != self.shapes:
            given = f"shapes {shapes}"
            expected = f"shapes {self.shapes}"
        else:
            given = f"dtypes {[str(a.dtype) for a in arrays]}"
            expected = f"{[str(dtype) for dtype in self.dtypes]}"
        if (
            treedef != self.treedef
            or shapes != self.shapes
            or not all(map(_fits, arrays, self.dtypes))
        ):
            refuse(
                where,
                f"{what} with {given}",
                f"{expected}, like {model}",
                f"Return arrays like {model}.",
            )
        return arrays

    def ravel(self, tree: PyTree, where: str, what: str, model: str) -> np.ndarray:
        """What a user's function returned as one vector."""
        return np.concatenate([leaf.ravel() for leaf in self.leaves_of(tree, where, what, model)])


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _fits(array: np.ndarray, dtype: DTypeLike) -> bool:
    # No complex numbers for real ones, no text. What comes in the place of integers, which have no
    # derivative, is not used.
    return not np.issubdtype(dtype, np.inexact) or np.can_cast(array.dtype, dtype, "same_kind")


def make_lane_call(
    function: Callable[..., Sequence[np.ndarray]],
    results: tuple[jax.ShapeDtypeStruct, ...],
    ranks: Sequence[int],
) -> Callable[..., tuple[Array, ...]]:
    """A JAX-callable for a NumPy-only `function(*arrays)` of one lane.

    Its results and arguments look as told. Make it once: a new one is a new program to JAX. See
    `map_lanes`.
    """
    call = make_host_call(lambda *arrays: map_lanes(function, results, ranks, arrays))
    return lambda *arrays: call(results, *arrays)


def map_lanes(
    function: Callable[..., Sequence[np.ndarray]],
    results: Sequence[jax.ShapeDtypeStruct],
    ranks: Sequence[int],
    arrays: Sequence[np.ndarray],
) -> tuple[np.ndarray, ...]:
    """`function` of each lane of a `vmap` by itself.

    Leading axes of size 1 are shared. An `ArithmeticError` becomes NaN. `ranks` are those of the
    arrays within a lane, which the function gets as copies of its own.
    """
    outer = [a.shape[: a.ndim - rank] for a, rank in zip(arrays, ranks, strict=True)]
    lanes = np.broadcast_shapes(*outer)
    found = tuple(np.empty((*lanes, *result.shape), result.dtype) for result in results)
    for lane in np.ndindex(lanes):
        own = [
            np.array(
                a[
                    tuple(
                        0 if size == 1 else k
                        for k, size in zip(lane[len(lane) - len(axes) :], axes, strict=True)
                    )
                ]
            )
            for a, axes in zip(arrays, outer, strict=True)
        ]
        try:
            parts: Sequence[Any] = function(*own)
        except ArithmeticError:
            parts = [np.nan] * len(found)
        for place, part in zip(found, parts, strict=True):
            place[lane] = part
    return found
