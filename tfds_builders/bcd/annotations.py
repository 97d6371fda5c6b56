"""BCD's tables: boxes around cells, images of one field of view, the user's cell types."""

import dataclasses
import math

from etils import epath

from wbc_jax.data import tables
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES

HEADER = ("image_id", "image", "xmin", "ymin", "xmax", "ymax", "label")
LABELS = ("rbc", "wbc")

MAX_EXCESS = 1.0
"""Pixels that a box may reach out of its frame; it is then clipped, and counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """One line of `annotations.csv`.

    Attributes:
        line: its number in the file.
        image: name of the image file.
        index: number of the box among the white cells of its image, from 0, in the file's order;
            -1 for red cells.
        edges: `(y0, x0, y1, x1)` as fractions of the frame's height and width.
    """

    line: int
    image: str
    index: int
    edges: tuple[float, float, float, float]

    @property
    def id(self) -> str:
        """The record's id of a white cell: `image-100_0` is the first of `image-100.png`."""
        return f"{epath.Path(self.image).stem}_{self.index}"


def read_annotations(path: epath.PathLike) -> tuple[list[Box], dict[int, tuple[str, str]]]:
    """Reads `annotations.csv`.

    Args:
        path: CSV with the header `image_id,image,xmin,ymin,xmax,ymax,label`, the edges as
            fractions of the image's width and height, and the label `rbc` or `wbc`.

    Returns:
        The boxes; and for each other line, by its number, what is wrong and the id of the white
        cell that it would have described (empty if it is none). Such lines count in the numbers of
        white cells, so that leaving them out does not rename the rest.

    Raises:
        DataError: no such file, or another header.
    """
    boxes, wrong, white = [], {}, {}
    for row in tables.read(path, HEADER):
        if len(row.cells) != len(HEADER) or not row.cells[1]:
            allowed = f"allowed are {len(HEADER)} cells: {','.join(HEADER)}"
            wrong[row.line] = (f"{row}: {allowed}", "")
            continue
        _, image, *edges, label = row.cells
        if label not in LABELS:
            allowed = f"the label is {label!r}: allowed are {', '.join(LABELS)}"
            wrong[row.line] = (f"{row}: {allowed}", "")
            continue
        index = -1
        if label == "wbc":
            index = white.get(image, 0)
            white[image] = index + 1
        try:
            x0, y0, x1, y1 = (float(edge) for edge in edges)
        except ValueError:
            x0 = y0 = x1 = y1 = math.nan
        box = Box(line=row.line, image=image, index=index, edges=(y0, x0, y1, x1))
        if all(map(math.isfinite, box.edges)) and x0 < x1 and y0 < y1:
            boxes.append(box)
        else:
            allowed = "allowed are numbers with xmin < xmax and ymin < ymax"
            wrong[row.line] = (f"{row}: {allowed}", box.id if index >= 0 else "")
    return boxes, wrong


def read_fields(path: epath.PathLike) -> dict[str, str]:
    """Reads `same_field.csv`: images that show the field of view of another, shifted.

    Args:
        path: CSV with the header `image,same_field_as`, names without suffix.

    Returns:
        Image to the image whose name is the group of both.
    """
    return dict(row.cells for row in tables.read(path, ("image", "same_field_as")))


def read_types(path: epath.PathLike, known: set[str]) -> dict[str, int]:
    """Reads the user's `types.csv`, if there is one.

    Args:
        path: CSV with the header `id,type`: a record's id and one of `labels.CELL_TYPES`.
        known: ids of all white cells.

    Returns:
        Record id to index into `labels.CELL_TYPES`; empty if there is no such file.

    Raises:
        DataError: another header, an unknown id or type, or a repeated id; lists up to 20 lines.
    """
    path = epath.Path(path)
    if not path.exists():
        return {}
    types, wrong = {}, []
    for row in tables.read(path, ("id", "type")):
        cells = row.cells
        if len(cells) != 2 or cells[1] not in CELL_TYPES:
            wrong.append(f"{row} has no known type")
        elif cells[0] not in known:
            wrong.append(f"{row} is no white cell of annotations.csv")
        elif cells[0] in types:
            wrong.append(f"{row} names the cell again")
        else:
            types[cells[0]] = CELL_TYPES.index(cells[1])
    tables.check(
        path,
        wrong,
        "a white cell's id, once (such as "
        f"{min(known, default='image-1_0')}: the image's name and the number of the white cell in "
        f"it, from 0), and one of {', '.join(CELL_TYPES)}; mend them",
    )
    return types


def pixel_box(
    edges: tuple[float, float, float, float], height: int, width: int
) -> tuple[tuple[int, int, int, int], bool]:
    """Converts a box to the whole pixels that it touches.

    Args:
        edges: `(y0, x0, y1, x1)` as fractions.
        height, width: the frame's size in pixels.

    Returns:
        `(y0, x0, y1, x1)` in pixels, clipped to the frame; and whether clipping changed it.

    Raises:
        DataError: the box reaches out of the frame by more than `MAX_EXCESS` pixels, or lies
            outside of it.
    """
    sizes = (height, width, height, width)
    exact = [edge * size for edge, size in zip(edges, sizes)]
    excess = max(-exact[0], -exact[1], exact[2] - height, exact[3] - width, 0.0)
    # Rounded first, because fractions of whole pixels are not exact.
    y0, x0 = (max(math.floor(round(edge, 6)), 0) for edge in exact[:2])
    y1, x1 = (min(math.ceil(round(edge, 6)), size) for edge, size in zip(exact[2:], sizes))
    if excess > MAX_EXCESS or y0 >= y1 or x0 >= x1:
        raise DataError(
            f"the box (ymin, xmin, ymax, xmax) = {edges} reaches {excess:.1f} pixels out of its "
            f"frame: allowed are fractions from 0 to 1, or {MAX_EXCESS:g} pixel beyond"
        )
    return (y0, x0, y1, x1), excess > 0
