"""Results of `wbc_jax.predict` in the formats of other programs: ImageJ and spreadsheets."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.fields import polygons
from wbc_jax.labels import CELL_COLOR, CYTOPLASM, NUCLEUS, NUCLEUS_COLOR

_KINDS = {
    "cell": ((CYTOPLASM, NUCLEUS), CELL_COLOR),
    "nucleus": ((NUCLEUS,), NUCLEUS_COLOR),
    "cytoplasm": ((CYTOPLASM,), (213, 94, 0)),
}
"""ROIs of a cell: values of the mask, and color."""
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
"""Steps of the path of a composite ROI, as Java's `PathIterator` numbers them."""
_DOS_EPOCH = (1980, 1, 1, 0, 0, 0)
UNITS = {
    **dict.fromkeys(("width", "height", "top", "left", "bottom", "right"), "px"),
    **dict.fromkeys(("region_top", "region_left"), "px"),
    **{"um_per_px": "µm/px", "percent": "%", "low": "%", "high": "%"},
    **{"looked_at_mm2": "mm²"},
}
"""Units of columns whose name does not say them."""
_ENDINGS = {"_px": "px", "_um2": "µm²"}
_NAMES = {
    "um_per_px": "size of a pixel", "um_per_px_source": "source of the size of a pixel",
    "nc_ratio": "N/C", "nucleus_share": "N/(N+C)", "percent": "share",
    "low": "share, 95 % interval, lower end", "high": "share, 95 % interval, upper end",
    "looked_at_mm2": "area looked at", "looked_at": "regions looked at",
}  # fmt: skip
_AREAS = ("nucleus_", "cytoplasm_")
_MAX_WIDTH = 40


def imagej_rois(mask: np.ndarray, labels: np.ndarray, types: Mapping[int, str]) -> bytes:
    """Returns the zip of ROIs that ImageJ's ROI manager opens.

    Each cell has up to three ROIs: `12 cell lymphocyte`, `12 nucleus`, `12 cytoplasm` (without the
    nucleus). Corners are whole pixels, so an ROI has exactly the area of its region in the mask. A
    region with holes or of several pieces is one composite ROI.

    Args:
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus.
        labels: uint16 `[H, W]`, the number of the cell that a pixel belongs to.
        types: a cell's type, by its number.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for number in sorted(types):
            ys, xs = np.nonzero(labels == number)
            if not len(ys):
                continue
            top, left = int(ys.min()), int(xs.min())
            place = np.s_[top : ys.max() + 1, left : xs.max() + 1]
            for kind, (values, color) in _KINDS.items():
                region = (labels[place] == number) & np.isin(mask[place], values)
                rings = [ring for polygon in polygons.polygons(region) for ring in polygon]
                if not rings:
                    continue
                moved = [[(x + left, y + top) for x, y in ring] for ring in rings]
                name = f"{number} {kind}" + f" {types[number]}" * (kind == "cell")
                about = zipfile.ZipInfo(f"{number:05} {kind}.roi", _DOS_EPOCH)
                file.writestr(about, _roi(moved, name.strip(), color))
    return out.getvalue()


def _roi(rings: Sequence[Sequence[tuple[int, int]]], name: str, color: tuple[int, ...]) -> bytes:
    """Returns one ROI: a polygon, or a composite of several rings."""
    import roifile

    roi = roifile.ImagejRoi.frompoints(np.array(rings[0], np.int32), name=name)
    roi.stroke_color = bytes((255, *color))
    roi.roitype = roifile.ROI_TYPE.POLYGON
    # Corners lie on the edges of pixels, so the last one is the end of the bounds.
    corners = np.concatenate([np.array(ring) for ring in rings])
    roi.left, roi.top, roi.right, roi.bottom = map(int, (*corners.min(0), *corners.max(0)))
    if len(rings) > 1:
        path: list[float] = []
        for ring in rings:
            for step, (x, y) in enumerate(ring):
                path += [_LINE if step else _MOVE, x, y]
            path.append(_CLOSE)
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.n_coordinates, roi.integer_coordinates = 0, None
        roi.multi_coordinates = np.array(path, np.float32)
        roi.shape_roi_size = len(path)
    return roi.tobytes()


def heading(column: str) -> str:
    """Returns a column's name for people, with its unit: `nucleus area (µm²)`."""
    unit, name = UNITS.get(column, ""), _NAMES.get(column, "")
    for ending, own in _ENDINGS.items():
        if not name and column.endswith(ending):
            unit, name = own, column.removesuffix(ending)
            name += " area" * column.startswith(_AREAS)
    name = name or column
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def spreadsheet(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Returns an XLSX workbook with a sheet for each table, its units in the header row.

    Numbers are numbers, texts are texts (never formulas), and what has no value is an empty cell.

    Args:
        tables: rows by the sheet's name, with the columns' names as keys.
    """
    import openpyxl
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in tables.items():
        sheet = book.create_sheet(title)
        columns = list(rows[0]) if rows else []
        for x, column in enumerate(columns, 1):
            head = sheet.cell(1, x, heading(column))
            head.font, head.alignment = Font(bold=True), Alignment(wrap_text=True, vertical="top")
            longest = max((len(str(row[column] or "")) for row in rows), default=0)
            width = min(_MAX_WIDTH, max(10, longest + 1))
            sheet.column_dimensions[get_column_letter(x)].width = width
        for y, row in enumerate(rows, 2):
            for x, column in enumerate(columns, 1):
                _write(sheet.cell(y, x), row[column])
        sheet.freeze_panes = "A2"
        sheet.auto_filter.ref = sheet.dimensions
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _write(cell: Any, value: Any) -> None:
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return
    if isinstance(value, str):
        value = ILLEGAL_CHARACTERS_RE.sub("\ufffd", value)
    cell.value = value
    if isinstance(value, str):
        cell.data_type = "s"  # what begins with = is no formula
