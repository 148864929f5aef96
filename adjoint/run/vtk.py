"""Fields on a regular grid as a VTK file (XML ImageData, ``.vti``) for ParaView and PyVista.

Source: The VTK User's Guide, "VTK XML file formats"
(https://docs.vtk.org/en/latest/vtk_file_formats/vtkxml_file_format.html).
"""

import base64
import sys
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Shaped

_TYPES = {
    "float64": "Float64",
    "float32": "Float32",
    "int64": "Int64",
    "int32": "Int32",
    "uint8": "UInt8",
}


def image_data(
    cells: Sequence[int],
    *,
    cell_data: Mapping[str, Shaped[np.ndarray, "..."]],
    point_data: Mapping[str, Shaped[np.ndarray, "..."]],
    spacing: Sequence[float],
) -> bytes:
    """Fields on a regular grid of cells as the content of a ``.vti`` file.

    The first corner is the origin.

    Parameters
    ----------
    cells
        The number of cells along x, y and, in three dimensions, z.
    cell_data, point_data
        Fields by name, indexed like coordinates. A scalar has the shape ``cells`` of the cells or
        ``cells + 1`` of the points; a field of k components has the same with k behind it. Two
        components become a vector in the plane, with a zero third one, since VTK's vectors have
        three.
    spacing
        The edge lengths of a cell, as many as there are axes.

    Returns
    -------
    content
        XML with base64 data in the byte order of this machine, which the file names.

    Raises
    ------
    ValueError
        When a shape or a type does not fit.

    Examples
    --------
    >>> content = image_data(
    ...     (2, 1), cell_data={"density": np.array([[0.5], [1.0]])}, point_data={}, spacing=(1, 1)
    ... )
    >>> b'WholeExtent="0 2 0 1 0 0"' in content
    True
    """
    if len(cells) not in (2, 3) or min(cells) < 1 or len(spacing) != len(cells):
        raise ValueError(
            f"expected 2 or 3 numbers of cells and as many edge lengths, got {cells} and {spacing}"
        )
    plane = 3 - len(cells)
    extent = " ".join(f"0 {n}" for n in (*cells, *[0] * plane))
    lengths = " ".join(repr(float(v)) for v in (*spacing, *[1.0] * plane))
    lines = [
        '<?xml version="1.0"?>',
        f'<VTKFile type="ImageData" version="1.0" byte_order="{_byte_order()}" '
        'header_type="UInt64">',
        f'<ImageData WholeExtent="{extent}" Origin="0.0 0.0 0.0" Spacing="{lengths}">',
        f'<Piece Extent="{extent}">',
        *_section("PointData", point_data, tuple(n + 1 for n in cells)),
        *_section("CellData", cell_data, tuple(cells)),
        "</Piece>",
        "</ImageData>",
        "</VTKFile>",
    ]
    return ("\n".join(lines) + "\n").encode()


def _section(tag: str, fields: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[str]:
    arrays = {
        name: _in_vtk_order(f"{tag} {name!r}", values, shape) for name, values in fields.items()
    }
    # ParaView colors by the scalars and warps by the vectors that are named here.
    scalars = next((name for name, values in arrays.items() if values.shape[1] == 1), None)
    vectors = next((name for name, values in arrays.items() if values.shape[1] == 3), None)
    active = f" Scalars={quoteattr(scalars)}" if scalars else ""
    active += f" Vectors={quoteattr(vectors)}" if vectors else ""
    return [
        f"<{tag}{active}>",
        *(_data_array(name, values) for name, values in arrays.items()),
        f"</{tag}>",
    ]


def _in_vtk_order(
    what: str, values: np.ndarray, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "n components"]:
    values = np.asarray(values)
    axes = len(shape)
    if values.shape[:axes] != shape or values.ndim > axes + 1:
        raise ValueError(
            f"{what} has the shape {values.shape}, expected {shape} or {shape} and a number of "
            "components"
        )
    if values.dtype.name not in _TYPES:
        raise ValueError(f"{what} has the type {values.dtype}, expected one of {', '.join(_TYPES)}")
    values = values.reshape(*shape, -1)
    # VTK counts x fastest, then y, then z.
    rows = values.transpose(*reversed(range(axes)), axes).reshape(-1, values.shape[-1])
    return np.pad(rows, ((0, 0), (0, 1))) if rows.shape[1] == 2 else rows


def _data_array(name: str, values: np.ndarray) -> str:
    payload = np.ascontiguousarray(values).tobytes()
    header = np.uint64(len(payload)).tobytes()
    kind = _TYPES[values.dtype.name]
    text = base64.b64encode(header + payload).decode()
    return (
        f'<DataArray type="{kind}" Name={quoteattr(name)} '
        f'NumberOfComponents="{values.shape[1]}" format="binary">'
        f"{text}</DataArray>"
    )


def _byte_order() -> str:
    return "LittleEndian" if sys.byteorder == "little" else "BigEndian"
