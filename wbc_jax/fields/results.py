"""Tables of analyzed fields: `cells.csv`, `cells.parquet` and `differential.csv`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wbc_jax import metrics
from wbc_jax.fields.cells import CELL_COLUMNS, Cell, Field
from wbc_jax.labels import ALL, CELL_TYPES, REVIEW
from wbc_jax.utils.output_folder import OutputFolder

TABLES = ("cells.csv", "cells.parquet", "differential.csv")
REGION_COLUMNS = ("region_top", "region_left")
"""Where the mask and the overlay of a slide's region lie on the slide; tables of version 0.1 lack
them."""
COLUMNS = (
    *("file", "mask", "overlay", "width", "height"),
    *CELL_COLUMNS,
    *("um_per_px", "um_per_px_source"),
    *REGION_COLUMNS,
)
DIFFERENTIAL_COLUMNS = ("type", "cells", "percent", "low", "high")
_ARROW_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
_COLUMN_TYPES = {field.name: field.type.split()[0] for field in dataclasses.fields(Cell)} | {
    **{"width": "int", "height": "int", "um_per_px": "float"},
    **dict.fromkeys(REGION_COLUMNS, "int"),
    **dict.fromkeys(("file", "mask", "overlay", "um_per_px_source"), "str"),
}
SCHEMA = pa.schema([(name, _ARROW_TYPES[_COLUMN_TYPES[name]]) for name in COLUMNS])


def field_rows(field: Field, **image: Any) -> list[dict[str, Any]]:
    """Returns one row per cell with `COLUMNS` as keys; a flagged row if there is no cell.

    Args:
        field: the analyzed image.
        image: the columns that describe the image: `file`, `width`, `height` and, if there are
            masks, `mask` and `overlay`.
    """
    image |= {"um_per_px": field.um_per_px, "um_per_px_source": field.um_per_px_source}
    cells = [cell.row() for cell in field.cells] or [{"flag": "no_cell"}]
    return [{column: (image | cell).get(column) for column in COLUMNS} for cell in cells]


def write(
    folder: OutputFolder,
    rows: Sequence[Mapping[str, Any]],
    counts: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the tables.

    Args:
        folder: the folder of the results.
        rows: from `field_rows`, all images together.
        counts: from `differential`; if empty, there are no types and no `differential.csv`.

    Raises:
        OSError: a file cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
    folder.write_csv("cells.csv", rows, COLUMNS)
    folder.write({"cells.parquet": sink.getvalue().to_pybytes()})
    if counts:
        folder.write_csv("differential.csv", counts, DIFFERENTIAL_COLUMNS)


def differential(
    rows: Sequence[Mapping[str, Any]], types: Sequence[str] = CELL_TYPES
) -> list[dict[str, Any]]:
    """Counts cells by type.

    Args:
        rows: rows with `cell` and `type`; those without a cell are not counted.
        types: the types to count, in the table's order.

    Returns:
        One row per type, with `DIFFERENTIAL_COLUMNS`: its percentage of the typed cells, with the
        95 % Wilson interval. Then `for review`, as a percentage of all cells, and `all`.
    """
    return count_types(collections.Counter(row["type"] for row in rows if row["cell"]), types)


def count_types(
    counts: Mapping[str, int], types: Sequence[str] = CELL_TYPES
) -> list[dict[str, Any]]:
    """Returns the rows of `differential`.

    Args:
        counts: number of cells by `type`.
        types: as in `differential`.
    """
    counts = collections.Counter(counts)
    typed = sum(counts[name] for name in types)
    total = sum(counts.values())
    lines = [(name, counts[name], typed) for name in types]
    lines += [(REVIEW, counts[REVIEW], total), (ALL, total, total)]
    found = []
    for name, count, base in lines:
        share = metrics.proportion(count, base)
        low, high = share["interval"]
        percentages = (100 * share["value"], 100 * low, 100 * high)
        found.append(dict(zip(DIFFERENTIAL_COLUMNS, (name, count, *percentages))))
    return found
