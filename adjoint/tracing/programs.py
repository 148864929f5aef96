"""Solvers outside of `jax.jit`, compiled once, and found again.

They are found by what the functions of the user compute. At every call the functions of the user
are traced, in about a millisecond, so that what they read from globals, objects and closures is
seen as it is now, and a function made anew for each call finds the program of the last one. The
traces, compared as structures, are the key; all arrays that they closed over are arguments of the
program, so nothing is baked in, and what is being differentiated is differentiated.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import PyTree

from adjoint.tracing.quick_compile import is_small, quick_to_compile


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """What a program must know when traced, as a pytree without arrays.

    Two are the same if their values are equal.
    """

    value: Any


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Transient:
    """As `Static`, of what may change by the next call, or is not comparable.

    No program is kept for it.
    """

    value: Any


def as_static(value: object) -> Static | Transient:
    """Objects with values, frozen dataclasses of what can be compared, are static; others not."""
    try:
        hash(value)
    except TypeError:
        return Transient(value)
    is_frozen = getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
    return Static(value) if is_frozen else Transient(value)


class ProgramCache:
    """The most recently used compiled programs. Safe to use from several threads.

    Attributes
    ----------
    largest_number
        How many are kept. A program holds 1 to 5 MB (measured: `root` 2, constrained `argmin` 5),
        so 64 of them hold some 150 MB; a script works with a handful of problems at a time.
    """

    def __init__(self, largest_number: int = 64):
        self.largest_number = largest_number
        self._programs: OrderedDict[Hashable, Callable[..., PyTree]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._programs)

    def clear(self) -> None:
        """Forget every program; they are compiled again when they are needed."""
        with self._lock:
            self._programs.clear()

    def find_or_make(
        self, key: Hashable, make: Callable[[], Callable[..., PyTree]]
    ) -> Callable[..., PyTree]:
        """The program under this key, made by `make` if it is not held."""
        with self._lock:
            if key not in self._programs:
                self._programs[key] = make()
                while len(self._programs) > self.largest_number:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(key)
            return self._programs[key]


programs = ProgramCache()


def compiled(body: Callable[..., PyTree], *operands: PyTree) -> PyTree:
    """body(*operands) by one compiled program, found again when only the arrays differ.

    `body` is a function of a module; operands are pytrees of arrays and of `TracedFunction`, with
    all else that the body must know when it is traced as static parts.
    """
    if any(map(_is_transient, jax.tree.leaves(operands, is_leaf=_is_transient))):
        return body(*operands)
    leaves, structure = jax.tree.flatten(operands)
    # Options of the compiler are for programs that are no part of another one.
    is_alone = not any(isinstance(leaf, jax.core.Tracer) for leaf in (*leaves, jnp.zeros(())))
    key = (body, structure, tuple(map(jax.typeof, leaves)), is_alone)

    def make() -> Callable[..., PyTree]:
        options = quick_to_compile() if is_alone and is_small(operands) else None
        return jax.jit(
            lambda *leaves: body(*jax.tree.unflatten(structure, leaves)), compiler_options=options
        )

    return programs.find_or_make(key, make)(*leaves)


def _is_transient(node: object) -> bool:
    return isinstance(node, Transient)
