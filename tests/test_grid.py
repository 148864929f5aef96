"""Structured grids: the docstring's numbering, and the geometry that all numberings satisfy."""

import numpy as np
import pytest

from adjoint.fem.grid import Grid, element_corners

GRIDS = [Grid((3, 2)), Grid((2, 5), (0.5, 2.0)), Grid((2, 3, 4)), Grid((3, 1, 2), (2.0, 0.25, 1.5))]


def test_numbering_is_that_of_the_picture():
    grid = Grid((3, 2))
    assert grid.node_numbers.T[::-1].tolist() == [[2, 5, 8, 11], [1, 4, 7, 10], [0, 3, 6, 9]]
    assert grid.element_numbers.T[::-1].tolist() == [[1, 3, 5], [0, 2, 4]]
    assert grid.connectivity[0].tolist() == [0, 3, 4, 1]
    assert grid.connectivity[5].tolist() == [7, 10, 11, 8]
    assert grid.degrees_of_freedom[0].tolist() == [0, 1, 6, 7, 8, 9, 2, 3]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_element_is_a_box_of_the_given_size_at_its_place(grid):
    assert grid.connectivity.shape == (grid.element_count, 2**grid.dimension)
    corners = grid.coordinates[grid.connectivity]
    place = np.stack(np.meshgrid(*(np.arange(n) for n in grid.elements), indexing="ij"), axis=-1)
    lower = place.reshape(-1, grid.dimension) * grid.element_size
    expected = lower[:, None, :] + element_corners(grid.dimension) * np.array(grid.element_size)
    np.testing.assert_allclose(corners, expected, rtol=0, atol=1e-14)
    assert grid.coordinates[grid.node_numbers[(-1,) * grid.dimension]] == pytest.approx(
        np.multiply(grid.elements, grid.element_size)
    )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sides_hold_the_nodes_at_their_coordinate(grid):
    sides = [("left", "right"), ("bottom", "top"), ("back", "front")][: grid.dimension]
    for axis, (low, high) in enumerate(sides):
        length = grid.elements[axis] * grid.element_size[axis]
        for side, coordinate in ((low, 0.0), (high, length)):
            at = np.flatnonzero(np.isclose(grid.coordinates[:, axis], coordinate))
            np.testing.assert_array_equal(grid.boundary(side), at)
            assert set(grid.boundary_faces(side).ravel()) == set(at)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_nodes_of_a_face_go_around_it(grid):
    for axis, side in enumerate(["left", "bottom", "back"][: grid.dimension]):
        corners = grid.coordinates[grid.boundary_faces(side)]
        others = [a for a in range(grid.dimension) if a != axis]
        steps = (corners - corners[:, :1])[..., others] / np.array(grid.element_size)[others]
        expected = np.broadcast_to(element_corners(grid.dimension - 1), steps.shape)
        np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3,),), "two or three"),
        (((3, 0),), "at least 1"),
        (((3, 2), (1.0,)), "2 positive lengths"),
        (((3, 2), (1.0, -1.0)), "positive"),
        (((3, 2), (1.0, float("nan"))), "positive"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


def test_an_unknown_side_gets_the_list_of_known_ones():
    with pytest.raises(ValueError, match="left, right, bottom, top in 2"):
        Grid((2, 2)).boundary("front")
