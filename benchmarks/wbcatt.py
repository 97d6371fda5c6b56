"""Compares what `predict` measures in cells of PBC with the words that WBCAtt has for them.

python -m wbc_jax.predict ../shared/data/pbc/PBC_dataset_normal_DIB/*/*.jpg --out=DIR
python benchmarks/wbcatt.py DIR [--attributes=../shared/data/pbc/wbcatt] [--resamples=1000]
    [--seed=0] [--out=FILE.json]

DIR, or a table `cells.csv`, is what `python -m wbc_jax.predict` wrote. Of an image with several
cells, the one nearest the middle counts: PBC's images show one cell in the middle.

Each row of the table asks whether a measure orders cells as a word does. The AUROC is the
probability that a cell with the word has a larger measure (or a smaller one, where the row says so)
than a cell with one of the other words: 1 is full agreement, 0.5 none. Intervals are 95 %
percentile bootstraps by cell. Words go with cell types (most cells with a high N/C ratio are
lymphocytes), so the same is asked within each type that has at least 20 cells on both sides.

`granule_contrast` and `cytoplasm_redness` are no columns of `cells.csv`: they are computed here
from the image and its mask. The second was chosen on 55 of PBC's cells, where the first did not
tell granulated cells from others. `granulocyte` says whether the best guess of the type has
granules, so it checks the classifier, which was trained on cells of PBC.
"""

import argparse
import collections
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from wbc_jax import metrics
from wbc_jax.data import reading, tables
from wbc_jax.data.images import read_image, read_mask_file
from wbc_jax.errors import DataError
from wbc_jax.labels import ALL, BACKGROUND, CELL_TYPES, CYTOPLASM
from wbc_jax.metrics import statistics
from wbc_jax.tfds_builders.pbc import attributes
from wbc_jax.utils import atomic

TABLE = "cells.csv"
BOX = ("top", "left", "bottom", "right")
COLUMNS = (
    "nc_ratio", "lobes", "nucleus_circularity", "nucleus_solidity", "cell_circularity",
    "cell_solidity",
)  # fmt: skip
AREAS = ("nucleus_px", "cytoplasm_px", "nucleus_um2", "cytoplasm_um2")
NEEDED = (*("file", "mask", "width", "height", "cell", *BOX, "best_guess", *AREAS, *COLUMNS),)
GRANULOCYTES = ("basophil", "eosinophil", "neutrophil")
MIN_CELLS = 20
"""Cells with a word and without it that a row for one type needs."""
SIGMA, EDGE, MIN_PX = 3.0, 2, 50
"""Of the cytoplasm, in pixels: width of the local mean, depth of the edge that is left out, and
smallest area. PBC's images have one magnification."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """Whether a measure orders cells as a word does.

    Attributes:
        attribute: of `attributes.WORDS`.
        words: cells with one of these are expected to have a larger measure, or a smaller one.
        measure: name of the measure.
        smaller: the measure is expected to be smaller.
        others: the words that they are compared with; empty: all others.
    """

    attribute: str
    words: tuple[str, ...]
    measure: str
    smaller: bool = False
    others: tuple[str, ...] = ()


SEGMENTED = ("segmented-bilobed", "segmented-multilobed")
MULTILOBED, ROUND = ("segmented-multilobed",), ("unsegmented-round",)
QUESTIONS = (
    Question("nuclear_cytoplasmic_ratio", ("high",), "nc_ratio"),
    Question("cell_size", ("big",), "cell_px"),
    Question("cell_size", ("big",), "cell_um2"),
    Question("cell_shape", ("irregular",), "cell_circularity", smaller=True),
    Question("cell_shape", ("irregular",), "cell_solidity", smaller=True),
    Question("nucleus_shape", SEGMENTED, "lobes"),
    Question("nucleus_shape", SEGMENTED, "nucleus_solidity", smaller=True),
    Question("nucleus_shape", SEGMENTED, "nucleus_circularity", smaller=True),
    Question("nucleus_shape", MULTILOBED, "lobes", others=("segmented-bilobed",)),
    Question("nucleus_shape", ROUND, "nucleus_circularity"),
    Question("granularity", ("yes",), "granule_contrast"),
    Question("granularity", ("yes",), "cytoplasm_redness"),
    Question("granularity", ("yes",), "granulocyte"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """A cell that WBCAtt describes: its measures (NaN where there is none), and the words."""

    measures: Mapping[str, float]
    described: attributes.Described


def read_cells(
    path: epath.PathLike, described: Mapping[str, attributes.Described]
) -> tuple[list[Cell], dict[str, int]]:
    """Reads a table of `predict` and joins it with the words, by the images' names.

    Args:
        path: the table, or its folder.
        described: from `attributes.read_tables`.

    Returns:
        The cells, and what was counted: `images`; those `without_words`, `without_cell` and with
        `several_cells`; cells `without_image`, whose image or mask is not where the table says.

    Raises:
        DataError: the table cannot be read or lacks columns, an image's name stands there in two
            folders, a number is none, or an image or its mask is damaged or of another size.
    """
    path = epath.Path(path)
    table = path / TABLE if path.is_dir() else path
    header, *lines = tables.read(table)
    if missing := [name for name in NEEDED if name not in header.cells]:
        raise DataError(
            f"{table}: lacks the columns {', '.join(missing)}: allowed is the {TABLE} that "
            "python -m wbc_jax.predict writes with a segmenter and a classifier"
        )
    images: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    wrong = []
    for line in lines:
        row = dict(zip(header.cells, line.cells))
        row["file"] = atomic.read_csv_text(row.get("file", ""))
        row["mask"] = atomic.read_csv_text(row.get("mask", ""))
        name = os.path.splitext(os.path.basename(row["file"]))[0]
        if len(line.cells) != len(header.cells):
            wrong.append(f"{line}: {len(line.cells)} cells, not {len(header.cells)}")
        elif images[name] and images[name][0]["file"] != row["file"]:
            wrong.append(f"{line}: {images[name][0]['file']} has the same name")
        else:
            images[name].append(row)
    tables.check(table, wrong, "one image of a name, and a cell for each column; mend the lines")
    counts = dict.fromkeys(
        ("images", "without_words", "without_cell", "several_cells", "without_image"), 0
    )
    counts["images"] = len(images)
    cells = []
    for name, rows in images.items():
        found = [row for row in rows if row["cell"]]
        counts["without_words"] += name not in described
        counts["without_cell"] += name in described and not found
        if name not in described or not found:
            continue
        counts["several_cells"] += len(found) > 1
        try:
            measures, seen = _measures(min(found, key=_from_middle), table.parent)
        except ValueError as error:
            raise DataError(f"{table}: the rows of {name} hold no number: {error}") from error
        counts["without_image"] += not seen
        cells.append(Cell(measures, described[name]))
    return cells, counts


def _from_middle(row: Mapping[str, str]) -> float:
    top, left, bottom, right, height, width = (float(row[c]) for c in (*BOX, "height", "width"))
    return math.hypot(top + bottom - height, left + right - width)


def _measures(row: Mapping[str, str], folder: epath.Path) -> tuple[dict[str, float], bool]:
    """Returns the measures of a row's cell, and whether its image and mask were found."""
    number = {name: float(row[name] or "nan") for name in (*AREAS, *COLUMNS)}
    measures = {name: number[name] for name in COLUMNS}
    measures["cell_px"] = number["nucleus_px"] + number["cytoplasm_px"]
    measures["cell_um2"] = number["nucleus_um2"] + number["cytoplasm_um2"]
    guess = row["best_guess"]
    measures["granulocyte"] = float(guess in GRANULOCYTES) if guess in CELL_TYPES else math.nan
    image, mask = epath.Path(row["file"]), folder / row["mask"]
    seen = bool(row["mask"]) and image.exists() and mask.exists()
    of_cytoplasm = (math.nan, math.nan)
    if seen:
        top, left, bottom, right = (int(row[name]) for name in BOX)
        pixels, classes = read_image(image), read_mask_file(mask)
        reading.check_same_size(mask, classes, pixels.shape[:2])
        inside = slice(top, bottom), slice(left, right)
        light = np.median(pixels[classes == BACKGROUND], axis=0)
        of_cytoplasm = (
            granule_contrast(pixels[inside], classes[inside]),
            redness(pixels[inside], classes[inside], light),
        )
    return measures | dict(zip(("granule_contrast", "cytoplasm_redness"), of_cytoplasm)), seen


def granule_contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Returns how much the cytoplasm's light differs from its local mean, in gray levels.

    It is the standard deviation of the green channel, which stains absorb most, minus its Gaussian
    mean over the cytoplasm near by. Pixels at the cytoplasm's edge are left out.

    Args:
        image: uint8 `[H, W, 3]`, RGB.
        mask: uint8 `[H, W]`: 1 cytoplasm.

    Returns:
        The contrast; NaN where fewer than `MIN_PX` pixels are left.
    """
    kept = _within(mask)
    if kept.sum() < MIN_PX:
        return math.nan
    weight, green = kept.astype(np.float64), image[..., 1].astype(np.float64)
    total, near = (cv2.GaussianBlur(part, (0, 0), SIGMA) for part in (green * weight, weight))
    return float((green[kept] - total[kept] / near[kept]).std())


def redness(image: np.ndarray, mask: np.ndarray, light: np.ndarray) -> float:
    """Returns how much more red than blue the cytoplasm lets through.

    Args:
        image: uint8 `[H, W, 3]`, RGB.
        mask: uint8 `[H, W]`: 1 cytoplasm. Pixels at its edge are left out.
        light: `[3]`, RGB outside the cells.

    Returns:
        The mean of red minus blue, each as a share of `light`; NaN where fewer than `MIN_PX` pixels
        are left, or there is no light.
    """
    kept = _within(mask)
    if kept.sum() < MIN_PX or not (light > 0).all():
        return math.nan
    red, _, blue = image[kept].mean(axis=0) / light
    return float(red - blue)


def _within(mask: np.ndarray) -> np.ndarray:
    """Returns bool `[H, W]`: cytoplasm that is more than `EDGE` pixels from anything else."""
    plus = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return cv2.erode((mask == CYTOPLASM).astype(np.uint8), plus, iterations=EDGE) > 0


def answer(
    question: Question, cells: Sequence[Cell], cell_type: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Returns a row of the table for cells of one type, or `all`."""
    others = question.others or tuple(
        word for word in attributes.WORDS[question.attribute] if word not in question.words
    )
    asked = [
        (cell.measures[question.measure], word in question.words)
        for cell in cells
        if (word := cell.described.words[question.attribute]) in (*question.words, *others)
        and cell_type in (ALL, cell.described.cell_type)
    ]
    values = np.array([value for value, _ in asked], np.float64)
    has = np.array([has for _, has in asked], bool)
    known = ~np.isnan(values)
    values, has = values[known], has[known]
    sides = values[has], values[~has]
    row = {
        "attribute": question.attribute,
        "words": question.words,
        "others": others,
        "measure": question.measure,
        "smaller": question.smaller,
        "type": cell_type,
        "cells": [len(side) for side in sides],
        "unmeasured": int(np.count_nonzero(~known)),
        "medians": [float(np.median(side)) if len(side) else math.nan for side in sides],
    }
    if not all(row["cells"]):
        return row | {"auroc": math.nan, "interval": [math.nan, math.nan]}

    def area(score, has) -> float:
        return metrics.auroc(has.astype(np.int64), np.stack([-score, score], 1))[1]

    score = -values if question.smaller else values
    ends = statistics.bootstrap_interval(area, score, has, resamples=resamples, seed=seed)
    return row | {"auroc": float(area(score, has)), "interval": [float(end) for end in ends]}


def answers(cells: Sequence[Cell], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Returns the rows of all questions: over all cells, then within each type that has enough."""
    rows = []
    for question in QUESTIONS:
        rows.append(answer(question, cells, ALL, resamples, seed))
        for cell_type in CELL_TYPES:
            few = answer(question, cells, cell_type, 0, seed)
            if min(few["cells"]) >= MIN_CELLS:
                rows.append(answer(question, cells, cell_type, resamples, seed))
    return rows


HEADER = (
    "| attribute | cells with … | measure | type | cells | AUROC | medians | unmeasured |\n"
    "|---|---|---|---|---|---|---|---|"
)


def line(row: Mapping[str, Any]) -> str:
    """Returns a row of the table in Markdown."""
    with_word, without = row["cells"]
    words = ", ".join(row["words"])
    if len(row["words"]) + len(row["others"]) < len(attributes.WORDS[row["attribute"]]):
        words += f" (against {', '.join(row['others'])})"
    low, high = row["interval"]
    return (
        f"| {row['attribute']} | {words} | {row['measure']}{' (smaller)' * row['smaller']} | "
        f"{row['type']} | {with_word:,} and {without:,} | "
        f"{row['auroc']:.3f} [{low:.3f}, {high:.3f}] | "
        f"{row['medians'][0]:.4g} and {row['medians'][1]:.4g} | {row['unmeasured']} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cells", metavar="DIR", help="results of wbc_jax.predict")
    parser.add_argument("--attributes", default="../shared/data/pbc/wbcatt", help="WBCAtt's tables")
    parser.add_argument("--resamples", type=int, default=statistics.RESAMPLES)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--out", help="JSON file for all figures")
    options = parser.parse_args(arguments)
    if options.resamples < 1:
        parser.error(f"--resamples is {options.resamples}; it must be at least 1")
    try:
        cells, counts = read_cells(options.cells, attributes.read_tables(options.attributes))
    except DataError as error:
        parser.error(str(error))
    if not cells:
        parser.error(f"{options.cells} holds no cell of an image in {options.attributes}")
    print(
        f"{len(cells):,} cells of {counts['images']:,} images: WBCAtt does not have "
        f"{counts['without_words']:,}; in {counts['without_cell']:,} no cell was found, in "
        f"{counts['several_cells']:,} several; the image or mask of {counts['without_image']:,} "
        f"cells is not there.\n\n{HEADER}"
    )
    rows = answers(cells, options.resamples, options.seed)
    for row in rows:
        print(line(row))
    if options.out:
        about = {"resamples": options.resamples, "seed": options.seed, "counts": counts}
        atomic.write_json(options.out, atomic.finite(about | {"cells": len(cells), "rows": rows}))


if __name__ == "__main__":
    main()
