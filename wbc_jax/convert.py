"""Results of predict for other programs: `python -m wbc_jax.convert DIR --to=imagej`.

DIR is the `--out` of `wbc_jax.predict`. `imagej` writes `rois/NAME.zip` for ImageJ's ROI manager,
with ROIs of the cell, its nucleus and its cytoplasm. `spreadsheet` writes `cells.xlsx`, with the
units in the header rows. QuPath opens `geojson/`, and napari `labels/`, as predict writes them.
"""

import argparse
import csv
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from wbc_jax import cli
from wbc_jax.errors import InputError

FORMATS = {"imagej": "roifile", "spreadsheet": "openpyxl"}
"""Formats, and the package that writes each."""
SPREADSHEET = "cells.xlsx"


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("convert", __doc__)
    parser.add_argument("results", metavar="DIR", help="the --out of python -m wbc_jax.predict")
    parser.add_argument(
        "--to",
        action="append",
        choices=tuple(FORMATS),
        help="format; may be given twice; by default both",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    given = _parser().parse_args(argv)
    with cli.reported_errors():
        for line in convert(given.results, given.to or list(FORMATS)):
            print(line, flush=True)


def convert(path: str, formats: Sequence[str]) -> list[str]:
    """Writes results in other formats into their own folder.

    Args:
        path: folder of results.
        formats: of `FORMATS`.

    Returns:
        A line for each format: what was written.

    Raises:
        InputError: the folder is not of predict, holds no masks for `imagej`, or holds a file of a
            person that would be replaced; or a package is missing.
        OSError: a file cannot be read or written.
    """
    import pyarrow.parquet as pq

    from wbc_jax.utils import outputs
    from wbc_jax.utils.output_folder import OutputFolder

    table = outputs.cells_table(path)
    for name in formats:
        if importlib.util.find_spec(FORMATS[name]) is None:
            raise InputError(
                f"--to={name} needs the package {FORMATS[name]}: pip install 'wbc_jax[convert]'."
            )
    rows = pq.read_table(table).to_pylist()
    with OutputFolder(path, flag="DIR") as folder:
        said = []
        if "imagej" in formats:
            said.append(_write_rois(folder, rows))
        if "spreadsheet" in formats:
            folder.refuse_foreign([SPREADSHEET])
            said.append(_write_spreadsheet(folder, rows))
    return said


def _write_rois(folder: Any, rows: Sequence[dict[str, Any]]) -> str:
    import cv2

    from wbc_jax.report import other_formats

    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        if row["mask"] and row["cell"]:
            cells.setdefault(row["mask"], {})[row["cell"]] = row["type"] or ""
    if not cells:
        raise InputError(
            f"{folder.path} holds no masks of cells, so there is nothing for --to=imagej: predict "
            "with a segmenter."
        )
    names = {mask: os.path.splitext(os.path.basename(mask))[0] for mask in cells}
    folder.refuse_foreign(f"rois/{name}.zip" for name in names.values())
    for mask, types in cells.items():
        pictures = []
        for kind in ("masks", "labels"):
            file = folder.path / kind / f"{names[mask]}.png"
            picture = cv2.imread(os.fspath(file), cv2.IMREAD_UNCHANGED)
            if picture is None:
                raise InputError(f"{file} is missing or damaged: predict again.")
            pictures.append(picture)
        folder.write({f"rois/{names[mask]}.zip": other_formats.imagej_rois(*pictures, types)})
    count = sum(map(len, cells.values()))
    return f"{count} cells in {len(cells)} files: {folder.path / 'rois'}"


def _write_spreadsheet(folder: Any, rows: Sequence[dict[str, Any]]) -> str:
    from wbc_jax.report import other_formats

    tables: dict[str, Sequence[dict[str, Any]]] = {"cells": rows}
    for name in ("differential", "slides"):
        file = os.path.join(folder.path, f"{name}.csv")
        if os.path.isfile(file):
            with open(file, encoding="utf-8", newline="") as lines:
                tables[name] = [
                    {key: _number(value) for key, value in row.items()}
                    for row in csv.DictReader(lines)
                ]
    folder.write({SPREADSHEET: other_formats.spreadsheet(tables)})
    return f"{len(rows)} rows: {folder.path / SPREADSHEET}"


def _number(text: str) -> Any:
    """Returns a cell of a CSV file as a number, if it is one."""
    from wbc_jax.utils import atomic

    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return atomic.read_csv_text(text)


if __name__ == "__main__":
    main()
