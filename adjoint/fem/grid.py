"""Structured grids of rectangles and bricks: nodes, elements, coordinates, boundaries. NumPy only.

Everything here is static: it is computed once, before any tracing, and never depends on a
parameter.

Numbering, in two dimensions (elements in brackets), for ``Grid((3, 2))``::

    2 ------- 5 ------- 8 ------ 11            top
    |   [1]   |   [3]   |   [5]   |       left     right      y
    1 ------- 4 ------- 7 ------ 10          bottom           |
    |   [0]   |   [2]   |   [4]   |                           +-- x
    0 ------- 3 ------- 6 ------- 9

The last axis runs fastest, so a field of one value per element is an array of shape
``grid.elements``, whose entry ``[i, j]`` belongs to the i-th element from the left and the j-th
from the bottom, and ``ravel()`` puts it in the order of the element numbers. Nodes likewise. In
three dimensions the axes are x (left, right), y (bottom, top) and z (back, front). The nodes of one
element, in its own order::

    3 --- 2        7 --- 6
    |     |        |     |
    0 --- 1        4 --- 5
     back           front (three dimensions only)
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

_CORNERS = np.array(
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]
)
_SIDES = (("left", "right"), ("bottom", "top"), ("back", "front"))


def element_corners(dimension: int) -> Int[np.ndarray, "corners dimension"]:
    """The corners of the unit square or cube in the order of an element's nodes.

    They go counterclockwise, back before front.

    Examples
    --------
    >>> element_corners(2).tolist()
    [[0, 0], [1, 0], [1, 1], [0, 1]]
    """
    return _CORNERS[: 2**dimension, :dimension]


@dataclass(frozen=True)
class Grid:
    """A rectangle or a box of equal elements.

    Parameters
    ----------
    elements
        Number of elements along x, y (and z).
    element_size
        Edge lengths of one element along the same axes, in the user's unit of length; 1 when left
        out.

    Raises
    ------
    ValueError
        When there are not two or three axes, a number of elements is below 1, or an edge length is
        not positive.

    Examples
    --------
    >>> grid = Grid((3, 2))
    >>> grid.boundary("left").tolist()
    [0, 1, 2]
    >>> grid.connectivity[1].tolist()
    [1, 4, 5, 2]
    """

    elements: tuple[int, ...]
    element_size: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.elements) not in (2, 3) or min(self.elements) < 1:
            raise ValueError(
                f"Grid: got elements = {self.elements}, expected two or three numbers of at least "
                "1. "
                "Give the number of elements along x, y (and z)."
            )
        if not self.element_size:
            object.__setattr__(self, "element_size", (1.0,) * len(self.elements))
        if len(self.element_size) != len(self.elements) or not all(
            0 < size < np.inf for size in self.element_size
        ):
            raise ValueError(
                f"Grid: got element_size = {self.element_size}, expected {len(self.elements)} "
                "positive lengths, "
                f"one for each axis of elements = {self.elements}. Leave it out for elements of "
                "size 1."
            )

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.elements)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Number of nodes along each axis."""
        return tuple(count + 1 for count in self.elements)

    @property
    def element_count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.elements))

    @property
    def node_count(self) -> int:
        """Number of nodes."""
        return int(np.prod(self.nodes))

    @cached_property
    def node_numbers(self) -> Int[np.ndarray, "..."]:
        """Node numbers, of shape `nodes`: ``node_numbers[0, -1]`` is the node at the top left."""
        return np.arange(self.node_count).reshape(self.nodes)

    @cached_property
    def element_numbers(self) -> Int[np.ndarray, "..."]:
        """The element numbers as an array of shape `elements`."""
        return np.arange(self.element_count).reshape(self.elements)

    @cached_property
    def coordinates(self) -> Float[np.ndarray, "node dimension"]:
        """Position of each node; the first node is the origin."""
        index = np.stack(np.unravel_index(np.arange(self.node_count), self.nodes), axis=-1)
        return index * np.asarray(self.element_size)

    @cached_property
    def connectivity(self) -> Int[np.ndarray, "element corners"]:
        """The nodes of each element, in the order of `element_corners`."""
        first = np.stack(np.unravel_index(np.arange(self.element_count), self.elements), axis=-1)
        index = first[:, None, :] + element_corners(self.dimension)
        return self.node_numbers[tuple(np.moveaxis(index, -1, 0))]

    @cached_property
    def degrees_of_freedom(self) -> Int[np.ndarray, "element dof"]:
        """The degrees of freedom of each element: node ``n`` owns ``dimension * n + component``."""
        dofs = self.dimension * self.connectivity[:, :, None] + np.arange(self.dimension)
        return dofs.reshape(self.element_count, -1)

    def boundary(self, side: str) -> Int[np.ndarray, " node"]:
        """The nodes on one side.

        Parameters
        ----------
        side
            ``"left"``, ``"right"``, ``"bottom"``, ``"top"``, and in three dimensions ``"back"``,
            ``"front"``.
        """
        axis, end = self._axis_and_end(side)
        return self.node_numbers.take(end, axis=axis).ravel()

    def boundary_faces(self, side: str) -> Int[np.ndarray, "face corners"]:
        """The nodes of each element edge (in two dimensions) or face (in three) on one side.

        They are in the order of `element_corners` in one dimension less, the face's axes being
        those of the grid without the normal one: along an edge, or around a face.
        """
        axis, end = self._axis_and_end(side)
        corners = element_corners(self.dimension)
        of_face = np.insert(element_corners(self.dimension - 1), axis, -end, axis=1)
        local = [int(np.flatnonzero((corners == corner).all(axis=1))[0]) for corner in of_face]
        return self.connectivity[self.element_numbers.take(end, axis=axis).ravel()][:, local]

    def _axis_and_end(self, side: str) -> tuple[int, int]:
        """Axis normal to a side, and 0 for its lower or -1 for its upper end."""
        for axis, names in enumerate(_SIDES[: self.dimension]):
            if side in names:
                return axis, -names.index(side)
        known = ", ".join(name for names in _SIDES[: self.dimension] for name in names)
        raise ValueError(
            f"Grid: got the side {side!r}, expected one of {known} in {self.dimension} dimensions."
        )
