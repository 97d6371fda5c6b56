"""Kaggle's labels of frames, and the boxes around their cells."""

from xml.etree import ElementTree

from etils import epath

from wbc_jax.data import tables
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, UNKNOWN_LABEL

MAX_OVERHANG = 2
"""Pixels that a box may reach out of its frame; it is then cut off at the edge, and counted."""

TYPES = {name.upper(): index for index, name in enumerate(CELL_TYPES)}
"""Labels by the authors' categories."""

SIDES = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[int, int, int, int]
"""`(y0, x0, y1, x1)` in pixels: the cell is `image[y0:y1, x0:x1]`."""


def read_labels(path: epath.PathLike) -> dict[int, tuple[str, ...]]:
    """Reads `labels.csv`.

    Args:
        path: CSV with the header `,Image,Category`: an empty cell, a number, and none, one or
            several cell types, separated by commas.

    Returns:
        Image number to all types of its category (names of `labels.CELL_TYPES`).

    Raises:
        DataError: no such file, another header, or wrong rows; lists up to 20.
    """
    labels, wrong = {}, []
    for row in tables.read(path, ("", "Image", "Category")):
        cells = row.cells
        names = [name.strip() for name in cells[-1].split(",")] if cells[-1] else []
        if len(cells) != 3 or not cells[1].isdecimal() or any(name not in TYPES for name in names):
            wrong.append(str(row))
            continue
        types = tuple(name.lower() for name in names)
        if labels.setdefault(int(cells[1]), types) != types:
            wrong.append(f"{row} contradicts an earlier line")
    tables.check(
        path,
        wrong,
        f"an image number and cell types of {', '.join(TYPES)} (none, one, or several in quotes); "
        "mend them or fetch the file again",
    )
    return labels


def read_boxes(path: epath.PathLike, height: int, width: int) -> tuple[list[Box], int]:
    """Reads the boxes around white cells from a Pascal VOC file.

    Args:
        path: XML file; its boxes count pixels from 1 and include their last row and column.
        height, width: the image's size in pixels.

    Returns:
        The boxes in the file's order, and how many of them reached out of the image and were cut
        off at its edge.

    Raises:
        DataError: no such file, no XML, an image size other than given, or a white cell's box that
            is incomplete, empty, or reaches more than `MAX_OVERHANG` pixels out of the image.
    """
    try:
        root = ElementTree.fromstring(epath.Path(path).read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read as XML ({error}): fetch the file again") from error
    size = tuple((root.findtext(f"size/{side}") or "").strip() for side in ("width", "height"))
    if size != (str(width), str(height)):
        raise DataError(
            f"{path}: says that the image is {size[0]} x {size[1]} pixels (width x height), but it "
            f"is {width} x {height}: allowed is one size for both; the boxes would be elsewhere, "
            "fetch both files again"
        )
    boxes, clipped = [], 0
    for item in root.iter("object"):
        if (item.findtext("name") or "").strip() != "WBC":
            continue
        texts = [(item.findtext(f"bndbox/{side}") or "").strip() for side in SIDES]
        try:
            x0, y0, x1, y1 = map(int, texts)
        except ValueError as error:
            raise DataError(
                f"{path}: the box of a white cell is {_shown(texts)}: allowed are whole numbers; "
                "mend it or fetch the file again"
            ) from error
        x0, y0 = x0 - 1, y0 - 1
        inside = (max(y0, 0), max(x0, 0), min(y1, height), min(x1, width))
        overhang = max(-x0, -y0, x1 - width, y1 - height)
        if overhang > MAX_OVERHANG or inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise DataError(
                f"{path}: the box of a white cell is {_shown(texts)} in an image of {width} x "
                f"{height} pixels: allowed is a box that is not empty and lies in the image, or up "
                f"to {MAX_OVERHANG} pixels out of it; mend it or fetch the file again"
            )
        clipped += overhang > 0
        boxes.append(inside)
    return boxes, clipped


def label(types: tuple[str, ...], boxes: int) -> tuple[int, str]:
    """Returns the label and subtype of a frame's cells.

    Args:
        types: from `read_labels`.
        boxes: the number of white cells.
    """
    if boxes > 1 or (len(types) > 1 and len(set(types)) == 1):
        # The files do not say which box is which type, or which of the cells was boxed.
        return UNKNOWN_LABEL, "several_cells"
    if len(types) > 1:
        return UNKNOWN_LABEL, "several_types"
    if not types or not boxes:
        return UNKNOWN_LABEL, ""
    return CELL_TYPES.index(types[0]), ""


def _shown(texts: list[str]) -> str:
    return ", ".join(f"{side} {text or 'missing'}" for side, text in zip(SIDES, texts))
