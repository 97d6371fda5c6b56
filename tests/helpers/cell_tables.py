"""Tables of cells as `wbc_jax.predict` writes them, made by hand."""

import csv
import pathlib

from wbc_jax.fields.results import COLUMNS


def row(name, nucleus=60, cytoplasm=40, **more):
    """A row of `cells.csv`; the file lies in a folder that is not there."""
    found = dict.fromkeys(COLUMNS, "") | {
        "file": f"/nowhere/{name}.png", "cell": 1, "width": 64, "height": 64,
        "top": 10, "left": 10, "bottom": 40, "right": 40, "nucleus_px": nucleus,
        "cytoplasm_px": cytoplasm, "lobes": 1, "nucleus_circularity": 0.9, "nucleus_solidity": 0.95,
        "nucleus_eccentricity": 0.5, "cell_circularity": 0.92, "cell_solidity": 0.97,
        "cell_eccentricity": 0.4, "um_per_px_source": "unknown",
    }  # fmt: skip
    return found | more


def write(path, rows, columns=None, start="", delimiter=","):
    """Writes rows to a table; `columns` beyond those of `cells.csv` come from the rows."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = columns or list(dict.fromkeys((*COLUMNS, *(key for row in rows for key in row))))
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.write(start)
        writer = csv.DictWriter(
            file, columns, extrasaction="ignore", delimiter=delimiter, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def cells(name, pairs, **more):
    """Rows of cells with these areas of nucleus and cytoplasm, one an image."""
    return [row(f"{name}{i}", n, c, **more) for i, (n, c) in enumerate(pairs)]
