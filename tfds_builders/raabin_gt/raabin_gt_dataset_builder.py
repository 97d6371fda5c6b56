"""Raabin-WBC's nucleus and cytoplasm ground truth (Kouzehkanan et al. 2022)."""

import re
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, reading, tables
from wbc_jax.data.images import describe_values, read_mask_file, unknown_values
from wbc_jax.errors import DataError
from wbc_jax.labels import (
    BACKGROUND,
    CELL_ONLY,
    CELL_TYPES,
    CYTOPLASM,
    IGNORE,
    NUCLEUS,
    UNKNOWN_LABEL,
)

PAGE = "https://raabindata.com/free-data/"
FOLDER = "raabin_gt"

VALUES = {0: BACKGROUND, 120: NUCLEUS, 255: CYTOPLASM}
"""Classes by the authors' mask values. In a mask without 120, 255 is the whole cell instead."""

# slide_frame_cell (95-8-17-3_225_1) and date_time_cell (20190526_165423_0).
_NAME = re.compile(r"(?P<frame>\d+(?:-\d+)+_\d+|\d{8}_\d{6})_\d+")


class Builder(building.Builder):
    """Builder of raabin_gt; see `building.Builder`. A web form hands the set out: no download."""

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        tfds.core.BuilderConfig(name="default", description="All images with a mask.")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"it is handed out by a web form only; ask for the nucleus and cytoplasm ground truth at "
        f"{PAGE} and place the images in {building.MANUAL_DIR}/{FOLDER}/images, the masks in "
        f"{building.MANUAL_DIR}/{FOLDER}/masks and the labels in "
        f"{building.MANUAL_DIR}/{FOLDER}/labels.csv"
    )
    page = PAGE
    folders = (FOLDER,)
    entries = ("images", "masks", "labels.csv")
    counted = (
        "cell_only_masks",
        "unlabelled_images",
        "labels_without_image",
        "excluded_records",
        "left_out_files",
    )

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        labels = read_labels(folder / "labels.csv")
        images, masks = reading.pair_files(
            folder / "images", ".jpg", folder / "masks", ".png", notes.bad
        )
        notes.counts["labels_without_image"] = len(labels.keys() - images.keys())
        items = []
        for stem, path in images.items():
            label, label_source = labels.get(stem, (UNKNOWN_LABEL, ""))
            items.append(
                building.Item(
                    id=stem,
                    path=path,
                    mask=masks[stem],
                    label=label,
                    group=frame(stem),
                    label_source=label_source,
                )
            )
        return items

    def read(self, item: building.Item, notes: building.Notes) -> Iterator[building.Record]:
        for record in super().read(item, notes):
            yield record | {"subtype": CELL_ONLY if notes.counts["cell_only_masks"] else ""}

    def read_mask(self, item: building.Item, notes: building.Notes) -> np.ndarray:
        mask, cell_only = read_mask(item.mask)
        notes.counts["cell_only_masks"] += cell_only
        return mask


def frame(name: str) -> str:
    """Returns the frame that a cell was cut from: `95-8-17-3_225` for `95-8-17-3_225_1`.

    A name that is neither slide_frame_cell nor date_time_cell is a frame of its own.
    """
    match = _NAME.fullmatch(name)
    return match["frame"] if match else name


def read_mask(path: epath.PathLike) -> tuple[np.ndarray, bool]:
    """Reads one of the authors' masks.

    Args:
        path: gray PNG: 120 nucleus, 255 cytoplasm, 0 background.

    Returns:
        The mask, uint8 `[H, W]`, and whether it is cell-only. A mask without a nucleus (all
        basophils) marks the whole cell with 255; the nucleus is somewhere inside, so these pixels
        become ignore.

    Raises:
        DataError: an unreadable file, or other values.
    """
    gray = read_mask_file(path)
    if unknown := unknown_values(gray, tuple(VALUES)):
        raise DataError(
            f"{path}: mask values {describe_values(unknown)} are unknown: allowed are 0 "
            "background, 120 nucleus, 255 cytoplasm; redraw or fetch the mask again"
        )
    cell_only = not (gray == 120).any()
    table = np.zeros(256, np.uint8)
    for value, code in VALUES.items():
        table[value] = code
    if cell_only:
        table[255] = IGNORE
    return table[gray], cell_only


def read_labels(path: epath.PathLike) -> dict[str, tuple[int, str]]:
    """Reads `labels.csv`.

    Args:
        path: CSV with the header `name,label,label_source`; an empty label is unknown.

    Returns:
        Name to index into `labels.CELL_TYPES` (or -1) and the label's source.

    Raises:
        DataError: no such file, another header, or wrong rows; lists up to 20.
    """
    labels, wrong = {}, []
    for row in tables.read(path, ("name", "label", "label_source")):
        if len(row.cells) != 3 or row.cells[1] not in ("", *CELL_TYPES):
            wrong.append(str(row))
            continue
        name, cell_type, label_source = row.cells
        label = CELL_TYPES.index(cell_type) if cell_type else UNKNOWN_LABEL
        entry = (label, label_source if cell_type else "")
        if labels.setdefault(name, entry)[0] != label:
            wrong.append(f"{row} contradicts an earlier line")
    tables.check(
        path,
        wrong,
        f"a name, one of {', '.join(CELL_TYPES)} (or nothing), and a source; mend them",
    )
    return labels
