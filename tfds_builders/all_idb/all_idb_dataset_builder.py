"""ALL-IDB2 (Donida Labati et al. 2011), with masks by Banik et al. 2020."""

import collections
import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import banik_masks, building, isolation, reading
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, IGNORE

PAGE = "https://scotti.di.unimi.it/all/"
FOLDERS = ("all_idb", "ALL-IDB", "ALL_IDB")
IMAGES, MASKS = "ALL_IDB2/img", "Ground Truth/ALL-IDB2"

DIAGNOSES = {"1": "blast", "0": "normal"}
"""Diagnosis by the last digit of a name."""

ADVICE = {
    "types": "ALL-IDB2 tells lymphoblasts from normal cells (the records' field diagnosis) and "
    "names no cell types: use it with config.task=segmentation"
}
"""What to do where a task lacks something (`sources.advice`)."""

_NAME = re.compile(r"(?P<number>Im\d+)_(?P<digit>\d+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell(building.Item):
    """An image; `diagnosis` is `blast` or `normal`, as its authors say."""

    diagnosis: str


class Builder(building.Builder):
    """Builder of all_idb; see `building.Builder`.

    Counts: `blasts` and `normal_cells`; `platelets` (those of `platelets.csv`);
    `images_with_other_cells` and `other_cells_pixels`, marked cells beside the middle one, which
    become ignore; `quantised_pixels` and `quantised_images` (`banik_masks.read`);
    `images_without_mask` (records without one), `masks_without_image`.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        tfds.core.BuilderConfig(name="all", description="All images, as they were published."),
        tfds.core.BuilderConfig(
            name="white_cells",
            description="Without the images of platelets among the normal cells.",
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"ask its authors for it at {PAGE} and place ALL-IDB2's images in {building.MANUAL_DIR}/"
        f"{FOLDERS[0]}/{IMAGES} and the masks of Banik et al. 2020 in {building.MANUAL_DIR}/"
        f"{FOLDERS[0]}/{MASKS}"
    )
    page = PAGE
    folders = FOLDERS
    entries = (IMAGES, MASKS)
    texts = ("diagnosis",)
    counted = (
        *("blasts", "normal_cells", "platelets"),
        *("images_with_other_cells", "other_cells_pixels"),
        *("quantised_pixels", "quantised_images", "images_without_mask", "masks_without_image"),
        *("excluded_records", "left_out_files"),
    )

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        images = _named(folder / IMAGES, ".tif", notes)
        masks = _named(folder / MASKS, ".png", notes)
        digits = collections.defaultdict(list)
        for number, digit in images:
            digits[number].append(digit)
        unmatched = []
        for (number, digit), path in masks.items():
            if (number, digit) in images:
                continue
            if number in digits:
                notes.bad.add(
                    path,
                    f"says that the cell is {DIAGNOSES[digit]}, and the image {number}_"
                    f"{digits[number][0]}.tif that it is {DIAGNOSES[digits[number][0]]}: allowed "
                    "is one diagnosis a cell; rename the file that is wrong",
                )
            else:
                unmatched.append(path)
        if not images.keys() & masks.keys():
            raise DataError(
                f"{folder}: {len(images)} images in {IMAGES!r} and {len(masks)} masks in {MASKS!r} "
                "have no name in common: allowed are Im001_1.tif and Im001_1.png; unpack both there"
            )
        if unmatched:
            logging.warning("%d masks have no image, such as %s", len(unmatched), unmatched[0])
        notes.counts["masks_without_image"] = len(unmatched)
        items, platelets = [], building.read_exclusions(self.pkg_dir_path, "platelets.csv")
        for (number, digit), path in images.items():
            is_platelet = f"{number}_{digit}" in platelets
            notes.counts["platelets"] += is_platelet
            if is_platelet and self.builder_config.name == "white_cells":
                continue
            if len(digits[number]) > 1:
                notes.bad.add(path, f"cell {number} is there with both diagnoses: remove one image")
                continue
            items.append(
                Cell(
                    id=path.stem,
                    path=path,
                    mask=masks.get((number, digit)),
                    subtype="platelet" if is_platelet else DIAGNOSES[digit],
                    diagnosis=DIAGNOSES[digit],
                )
            )
        return items

    def read(self, item: Cell, notes: building.Notes) -> Iterator[building.Record]:
        for record in super().read(item, notes):
            notes.counts["blasts"] += item.diagnosis == "blast"
            notes.counts["normal_cells"] += item.diagnosis == "normal"
            yield record | {"diagnosis": item.diagnosis}

    def read_mask(self, item: building.Item, notes: building.Notes) -> np.ndarray:
        mask = banik_masks.read(item.mask, notes.counts)
        own = isolation.keep_middle_cell(mask) != BACKGROUND
        if not own.any():
            raise DataError(
                f"{item.mask}: the mask is empty: allowed is one with a cell; fetch it again, or "
                "remove it to keep the image without a mask"
            )
        mask = banik_masks.ignore_others(mask, own)
        others = int((mask == IGNORE).sum())
        notes.counts["images_with_other_cells"] += others > 0
        notes.counts["other_cells_pixels"] += others
        return mask


def _named(
    folder: epath.Path, suffix: str, notes: building.Notes
) -> dict[tuple[str, str], epath.Path]:
    """Returns a folder's files by (`Im001`, diagnosis digit); other names are bad files."""
    found = {}
    for stem, path in reading.files_by_stem(folder, suffix).items():
        match = _NAME.fullmatch(stem)
        if match and match["digit"] in DIAGNOSES:
            found[match["number"], match["digit"]] = path
        elif match:
            notes.bad.add(
                path,
                f"the diagnosis in the name is {match['digit']}: allowed are 1 (lymphoblast) and 0 "
                "(normal cell); rename or remove the file",
            )
        else:
            notes.bad.add(
                path, "the name is not Im, a number, _ and the diagnosis, as the authors' names are"
            )
    return found
