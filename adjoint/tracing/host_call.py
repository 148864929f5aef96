"""Calls from compiled code to NumPy on the host, and the count of solves that they keep.

`jax.experimental.buffer_callback` writes into the result's memory and, on JAX 0.10.2, cannot
deadlock when several programs are in flight on one core, which `pure_callback` can, since that
moves its arguments with `device_put`. Off the CPU, where buffers live on the device,
`pure_callback` is the one that works.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, PyTree

from adjoint.tracing import loops

HostFunction = Callable[..., tuple[np.ndarray, ...]]
Kind = Literal["factorizations", "solves", "transpose_solves"]


def make_host_call(function: HostFunction) -> Callable[..., tuple[Array, ...]]:
    """A JAX-callable for a NumPy-only `function(*arrays) -> tuple of arrays`.

    The returned callable takes the result shapes first. Make it once per solver object: a new
    callback is a new program to JAX. Batched by `vmap`, the function is called once, with leading
    axes of size 1 on what is not batched. `function` must not raise and must not call JAX.
    """

    def into_buffers(_context: Any, out: tuple[Any, ...], *arrays: PyTree) -> None:
        for buffer, result in zip(out, function(*map(np.asarray, arrays)), strict=True):
            np.asarray(buffer)[...] = result

    def on_host(*arrays: PyTree) -> tuple[np.ndarray, ...]:
        return function(*map(np.asarray, arrays))

    def call(result_shapes: tuple[jax.ShapeDtypeStruct, ...], *arrays: Array) -> tuple[Array, ...]:
        through_buffers = buffer_callback(into_buffers, result_shapes, vmap_method="expand_dims")

        def through_transfer(*arrays: Array) -> tuple[Array, ...]:
            return jax.pure_callback(on_host, result_shapes, *arrays, vmap_method="expand_dims")

        results = jax.lax.platform_dependent(*arrays, cpu=through_buffers, default=through_transfer)
        # Inside `shard_map` JAX takes what comes from the host for the same on all devices.
        return loops.vary_over(tuple(results), loops.axes_of(arrays))

    return call


@dataclass
class SolveCount:
    """How many factorizations and solves were done while `count_solves` was active.

    Attributes
    ----------
    factorizations
        Matrices factorized. The few solves inside a factorization that estimate its condition are
        part of it.
    solves, transpose_solves
        Right-hand sides solved for with A, and with A'.
    """

    _numbers: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("factorizations", "solves", "transpose_solves"), 0)
    )

    @property
    def factorizations(self) -> int:
        return self._read("factorizations")

    @property
    def solves(self) -> int:
        return self._read("solves")

    @property
    def transpose_solves(self) -> int:
        return self._read("transpose_solves")

    def _read(self, kind: Kind) -> int:
        # JAX returns before the work is done; what is still in flight belongs to the count.
        jax.block_until_ready(jax.live_arrays())
        return self._numbers[kind]

    def __repr__(self) -> str:
        return (
            f"SolveCount(factorizations={self.factorizations}, solves={self.solves}, "
            f"transpose_solves={self.transpose_solves})"
        )


_lock = threading.Lock()
_active: list[SolveCount] = []
_traced_without_ticks = False
_traced_with_ticks = False


@contextmanager
def count_solves() -> Iterator[SolveCount]:
    """Count the factorizations and solves of the `with` block, of every solver, in every thread.

    Solvers on the host are counted as they run. Solvers compiled by JAX (dense, iterative) get
    counting callbacks while the block is active, for which JAX's compiled functions are dropped and
    compiled again on entering and leaving: this is for tests and studies, not for production runs.
    Functions compiled ahead of time (`.lower().compile()`) are not counted.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> A, b = jnp.array([[2.0, 1.0], [0.0, 4.0]]), jnp.ones(2)
    >>> with adjoint.count_solves() as count:
    ...     g, A_bar = jax.value_and_grad(lambda A: adjoint.linear_solve(A, b).value.sum())(A)
    >>> count
    SolveCount(factorizations=1, solves=1, transpose_solves=1)
    """
    global _traced_without_ticks, _traced_with_ticks
    count = SolveCount()
    if _traced_without_ticks:
        jax.clear_caches()
        _traced_without_ticks = False
    with _lock:
        _active.append(count)
    try:
        yield count
    finally:
        jax.block_until_ready(jax.live_arrays())
        with _lock:
            _active.remove(count)
        if _traced_with_ticks and not _active:
            jax.clear_caches()
            _traced_with_ticks = False


def record(kind: Kind, number: int) -> None:
    """Add to every active count; called on the host."""
    with _lock:
        for count in _active:
            count._numbers[kind] += number


def _make_tick(kind: Kind) -> Callable[..., tuple[Array, ...]]:
    def count(x: np.ndarray) -> tuple[np.ndarray, ...]:
        record(kind, x.size)
        return (x,)

    return make_host_call(count)


_ticks = {kind: _make_tick(kind) for kind in ("factorizations", "solves", "transpose_solves")}


def count_event(kind: Kind, x: Array, number: int = 1) -> Array:
    """Pass x on, and count one event (per lane of a `vmap`) when computed, if anybody counts."""
    global _traced_without_ticks, _traced_with_ticks
    if not _active:
        _traced_without_ticks = True
        return x
    _traced_with_ticks = True
    ones = jnp.full((number,), 0.0, x.real.dtype) + x.real.ravel()[0]
    (passed,) = _ticks[kind]((jax.ShapeDtypeStruct(ones.shape, ones.dtype),), ones)
    return x.at[(0,) * x.ndim].add((passed[0] - ones[0]).astype(x.dtype))
