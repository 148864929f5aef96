"""VTK files: parsed as XML and decoded by hand, against fields that know their own coordinates."""

import base64
import itertools
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from adjoint.run.vtk import image_data

TYPES = {"Float64": "f8", "Float32": "f4", "Int64": "i8", "Int32": "i4", "UInt8": "u1"}


def parse(content):
    """The grid and the arrays of a .vti file, by (section, name), in VTK's order."""
    file = ElementTree.fromstring(content)
    assert (file.tag, file.get("type"), file.get("header_type")) == (
        "VTKFile",
        "ImageData",
        "UInt64",
    )
    order = {"LittleEndian": "<", "BigEndian": ">"}[file.get("byte_order")]
    arrays = {}
    for section in ("PointData", "CellData"):
        for array in file.iterfind(f"ImageData/Piece/{section}/DataArray"):
            assert array.get("format") == "binary"
            data = base64.b64decode(array.text)
            size = int(np.frombuffer(data[:8], order + "u8")[0])
            assert size == len(data) - 8
            values = np.frombuffer(data[8:], order + TYPES[array.get("type")])
            arrays[section, array.get("Name")] = values.reshape(
                -1, int(array.get("NumberOfComponents"))
            )
    return file.find("ImageData"), arrays


@pytest.mark.parametrize(
    ("cells", "spacing"), [((3, 2), (1.0, 0.5)), ((3, 2, 4), (1.0, 0.5, 0.25))]
)
def test_points_and_cells_are_where_the_grid_puts_them(cells, spacing):
    corners = np.moveaxis(np.indices([n + 1 for n in cells]), 0, -1) * np.array(spacing)
    centers = (np.moveaxis(np.indices(cells), 0, -1) + 0.5) * np.array(spacing)
    content = image_data(
        cells, cell_data={"center": centers}, point_data={"position": corners}, spacing=spacing
    )
    image, arrays = parse(content)
    # The standard: x counts fastest, then y, then z; positions are origin + index * spacing.
    numbers = [int(n) for n in image.get("WholeExtent").split()]
    assert numbers[::2] == [0, 0, 0]
    last = numbers[1::2]
    edges = [float(h) for h in image.get("Spacing").split()]
    points = [
        (i * edges[0], j * edges[1], k * edges[2])
        for k, j, i in itertools.product(*(range(n + 1) for n in reversed(last)))
    ]
    np.testing.assert_array_equal(arrays["PointData", "position"], points)
    middle = 0.0 if len(cells) == 2 else 0.5 * edges[2]
    midpoints = [
        ((i + 0.5) * edges[0], (j + 0.5) * edges[1], k * edges[2] + middle)
        for k, j, i in itertools.product(*(range(max(n, 1)) for n in reversed(last)))
    ]
    np.testing.assert_array_equal(arrays["CellData", "center"], midpoints)
    assert image.find("Piece").get("Extent") == image.get("WholeExtent")
    assert image.get("Origin") == "0.0 0.0 0.0"


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int32", "uint8"])
def test_values_come_back_bit_by_bit_in_their_type(kind):
    values = (np.random.default_rng(2).standard_normal((5, 4)) * 50 + 100).astype(kind)
    _, arrays = parse(image_data((5, 4), cell_data={"x": values}, point_data={}, spacing=(1, 1)))
    assert arrays["CellData", "x"].dtype == values.dtype
    np.testing.assert_array_equal(arrays["CellData", "x"][:, 0], values.T.ravel())


def test_scalars_and_vectors_are_named_for_the_viewer():
    content = image_data(
        (2, 1),
        cell_data={"density & <more>": np.ones((2, 1))},
        point_data={"displacement": np.ones((3, 2, 2)), "temperature": np.ones((3, 2))},
        spacing=(1, 1),
    )
    image, arrays = parse(content)
    assert dict(image.find("Piece/CellData").items()) == {"Scalars": "density & <more>"}
    assert dict(image.find("Piece/PointData").items()) == {
        "Scalars": "temperature",
        "Vectors": "displacement",
    }
    np.testing.assert_array_equal(
        arrays["PointData", "displacement"], np.tile([1.0, 1.0, 0.0], (6, 1))
    )


def test_the_byte_order_is_the_machines():
    content = image_data((1, 1), cell_data={}, point_data={}, spacing=(1, 1))
    assert f'byte_order="{sys.byteorder.capitalize()}Endian"'.encode() in content


@pytest.mark.parametrize(
    ("cell_data", "point_data", "message"),
    [
        ({"x": np.ones((3, 3))}, {}, r"CellData 'x' has the shape \(3, 3\), expected \(3, 2\)"),
        ({}, {"u": np.ones((3, 2))}, r"PointData 'u' has the shape \(3, 2\), expected \(4, 3\)"),
        ({"x": np.ones((3, 2, 2, 2))}, {}, "CellData 'x'"),
        ({"x": np.ones((3, 2), complex)}, {}, "complex128"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(cell_data, point_data, message):
    with pytest.raises(ValueError, match=message):
        image_data((3, 2), cell_data=cell_data, point_data=point_data, spacing=(1, 1))


@pytest.mark.parametrize(
    ("cells", "spacing"), [((3,), (1,)), ((3, 0), (1, 1)), ((3, 2), (1, 1, 1))]
)
def test_a_grid_that_is_none_is_refused(cells, spacing):
    with pytest.raises(ValueError, match="numbers of cells"):
        image_data(cells, cell_data={}, point_data={}, spacing=spacing)
