"""What stands among the stats of a solution beside single numbers: texts, and tables of steps."""

from collections.abc import Iterable
from typing import Any, Self

import jax


@jax.tree_util.register_pytree_node_class
class StaticText(str):
    """A text among the stats: static in a pytree."""

    def tree_flatten(self) -> tuple[tuple[()], str]:
        return (), str(self)

    @classmethod
    def tree_unflatten(cls, text: str, _: Iterable[object]) -> Self:
        return cls(text)


@jax.tree_util.register_pytree_node_class
class HistoryTable(dict[str, Any]):
    """A table among the stats: one array per column, one row per step."""

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], columns: Iterable[object]) -> Self:
        return cls(zip(names, columns, strict=True))

    def __repr__(self) -> str:
        return f"HistoryTable({', '.join(self)}; {len(next(iter(self.values()), ()))} rows)"
