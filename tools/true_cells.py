"""Measures the true masks of a data set, as a table like that of `wbc_jax.predict`.

    python tools/true_cells.py all_idb --by=subtype --out=runs/truth [--manual_dir=../shared/data]

Writes under --out `cells.csv`, a row a record with a mask, with the columns of `predict` and the
record's texts (`id`, `subtype`, ...); `masks/ID.png`; and `images/GROUP/ID.png`, a folder for each
value of the column --by. So that both kinds of masks can stand side by side (docs/cohort.md):

    python -m wbc_jax.predict runs/truth/images/blast --find=no --out=runs/ours/blast
    python -m wbc_jax.predict runs/truth/images/normal --find=no --out=runs/ours/normal
    python -m wbc_jax.cohort runs/ours/normal runs/ours/blast --truth=runs/truth --out=runs/cohort
    python -m wbc_jax.cohort runs/truth --by=subtype --reference=normal --out=runs/cohort_truth

Pixels of unknown class, such as those of a neighbor, are taken as background.
"""

import argparse
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from wbc_jax import cli
from wbc_jax.config import Data
from wbc_jax.data import preparing, sources
from wbc_jax.data.images import decode_image, decode_mask, encode_png
from wbc_jax.errors import DataError, InputError
from wbc_jax.fields import cells, results
from wbc_jax.labels import BACKGROUND, IGNORE, UNKNOWN_TYPE, type_name
from wbc_jax.utils.output_folder import OutputFolder

ONE_FOLDER = "all"
"""Folder of the images without --by."""


def file_name(text: str) -> str:
    """Returns a text as the name of a file or folder; empty becomes `unknown`."""
    return re.sub(r"[^\w.-]", "_", text).lstrip(".") or UNKNOWN_TYPE


def measured(
    source: sources.Source, folder: str, by: str = ""
) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Measures the records that have a mask.

    Args:
        source: the records.
        folder: where the files will lie.
        by: the text that names the folder of an image.

    Yields:
        A row of `cells.csv`, and the contents of its files by path relative to the folder.

    Raises:
        InputError: the records have no such text.
    """
    for i in np.flatnonzero(source.has_mask):
        record = source.encoded[int(i)]
        texts = {
            key: value.decode()
            for key, value in record.items()
            if isinstance(value, bytes) and key not in ("image", "mask")
        }
        if by and by not in texts:
            raise InputError(
                f"--by is {by!r}; records of {source.name} have the texts {', '.join(texts)}."
            )
        image, mask = decode_image(record["image"]), decode_mask(record["mask"])
        known = np.where(mask == IGNORE, BACKGROUND, mask).astype(np.uint8)
        labels = (known != BACKGROUND).astype(np.uint16)
        size = float(source.um_per_px[i])
        scale = None if math.isnan(size) else size
        height, width = mask.shape
        cell = cells.measure_cell(1, None, (0, 0, height, width), known, labels, scale)
        del cell["mask"]
        name = file_name(texts["id"])
        group = file_name(texts[by]) if by else ONE_FOLDER
        files = {
            f"images/{group}/{name}.png": encode_png(image),
            f"masks/{name}.png": encode_png(known),
        }
        picture, drawn = files
        type_ = type_name(int(source.labels[i]))
        row = dict.fromkeys(results.COLUMNS) | texts | cell
        row |= {"file": os.path.join(folder, picture), "mask": drawn}
        row |= {"width": width, "height": height, "um_per_px": scale}
        row |= {"type": "" if type_ == UNKNOWN_TYPE else type_}
        row["um_per_px_source"] = "unknown" if scale is None else "given"
        yield row, files


def write(source: sources.Source, out: str, by: str = "") -> int:
    """Writes the table, the masks and the images; returns the number of rows.

    Raises:
        DataError: no record has a mask, or two ids give one file name.
        InputError: the records lack the text `by`, or `out` holds a file of a person.
        OSError: `out` cannot be written.
    """
    rows, paths = [], set[str]()
    with OutputFolder(out) as folder:
        folder.refuse_foreign(["cells.csv"])
        for row, files in measured(source, os.path.abspath(folder.path), by):
            if not paths.isdisjoint(files):
                raise DataError(
                    f"{source.name}: two records would both be written to {row['file']}"
                )
            paths.update(files)
            folder.refuse_foreign(files)
            folder.write(files)
            rows.append(row)
        if not rows:
            raise DataError(f"{source.name}: none of its {len(source)} records has a mask.")
        columns = dict.fromkeys((*results.COLUMNS, *(key for row in rows for key in row)))
        folder.write_csv("cells.csv", rows, list(columns))
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="data set, such as all_idb")
    parser.add_argument("--out", required=True, help="folder for the table, masks and images")
    parser.add_argument("--by", default="", help="text of the records that names a group's folder")
    parser.add_argument("--manual_dir", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--data_dir", default=Data().data_dir, help="folder of the records")
    given = parser.parse_args()
    with cli.reported_errors():
        data = Data(manual_dir=given.manual_dir, data_dir=given.data_dir)
        if not preparing.is_prepared(given.name, data):
            preparing.prepare(given.name, data)
        source = sources.load(given.name, data)
        number = write(source, given.out, given.by)
        print(f"{number} of {len(source)} records have a mask: {given.out}/cells.csv")


if __name__ == "__main__":
    main()
