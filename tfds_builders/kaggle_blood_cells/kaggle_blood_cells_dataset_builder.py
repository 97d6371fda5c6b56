"""Kaggle's blood cells (paultimothymooney/blood-cells): BCCD frames, copies, masks."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import banik_masks, building, crops, reading, records
from wbc_jax.data.images import read_image, read_image_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.kaggle_blood_cells import marked_cells
from wbc_jax.tfds_builders.kaggle_blood_cells.annotations import (
    TYPES,
    label,
    read_boxes,
    read_labels,
)

PAGE = "https://www.kaggle.com/datasets/paultimothymooney/blood-cells"
FOLDERS = ("kaggle_blood_cells", "blood-cells")
FRAMES, COPIES, MASKS = "dataset-master", "dataset2-master", "Ground Truth/BCCD"
"""Folders of the frames, of their copies, and of their masks (Banik et al. 2020). Kaggle's archive
holds the first two twice, one inside the other."""
ENTRIES = {FRAMES: ("JPEGImages", "Annotations", "labels.csv"), COPIES: ("images",)}
MASKED = ("fields", "masks")
"""Configs with masks."""
NEVER_TOGETHER = {"augmented": ("original", *MASKED)}
"""A config whose records show the cells of others, though no file says which (see README)."""
ADVICE = {
    "masks": "kaggle_blood_cells/masks (crops of the same cells) and kaggle_blood_cells/fields have"
}
"""What to do where a task lacks something (`sources.advice`)."""

PARTITIONS = {"TRAIN": "train", "TEST": "test", "TEST_SIMPLE": "test"}
"""Side of the authors' division by folder of the augmented copies."""

_FRAME, _MASK = re.compile(r"BloodImage_\d{5}"), re.compile(r"BloodImage_Mask_\d{5}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame(building.Item):
    """A frame of BCCD.

    Attributes:
        boxes: the file with the boxes around its cells.
        types: the cell types of its category (`read_labels`).
    """

    boxes: epath.Path
    types: tuple[str, ...]

    def cell_id(self, number: int, boxes: int) -> str:
        """Returns the id of the cell in the `number`-th of `boxes` boxes, from 1."""
        return self.path.stem if boxes == 1 else f"{self.path.stem}_{number}"


class Builder(building.Builder):
    """Builder of kaggle_blood_cells; see `building.Builder`.

    Counts of all but `augmented`: `frames_without_cell` (no box around a white cell, so no record),
    `frames_with_several_cells` and `frames_with_several_types` (label -1), `unlabelled_frames`,
    `labels_without_image`, `images_without_annotation`, `annotations_without_image`,
    `clipped_boxes`. Of `fields` and `masks` also: `images_without_mask` (no record) and
    `masks_without_image`; `boxes_without_mask` (in `masks` no record) and `cells_without_box`
    (`marked_cells.find`); `quantised_pixels` and `quantised_images` (`banik_masks.read`).
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        tfds.core.BuilderConfig(
            name="original", description="A square around each boxed white cell of BCCD's frames."
        ),
        tfds.core.BuilderConfig(
            name="augmented", description="Kaggle's turned, sheared and mirrored copies of frames."
        ),
        tfds.core.BuilderConfig(
            name="fields", description="BCCD's frames with masks by Banik et al. 2020."
        ),
        tfds.core.BuilderConfig(
            name="masks", description="The crops of original with these masks, one a cell."
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download {PAGE} and unpack it so that {building.MANUAL_DIR}/{FOLDERS[0]}/"
        f"{FRAMES} (config original) or {building.MANUAL_DIR}/{FOLDERS[0]}/"
        f"{COPIES} (config augmented) exists; configs fields and masks also need the masks of "
        f"Banik et al. 2020 in {building.MANUAL_DIR}/{FOLDERS[0]}/{MASKS}"
    )
    page = PAGE
    folders = FOLDERS

    @property
    def entries(self) -> tuple[str, ...]:
        if self.builder_config.name in MASKED:
            return (FRAMES, MASKS)
        return (FRAMES if self._of_frames else COPIES,)

    @property
    def counted(self) -> tuple[str, ...]:
        names = ()
        if self._of_frames:
            names = (
                *("frames_without_cell", "frames_with_several_cells", "frames_with_several_types"),
                *("unlabelled_frames", "labels_without_image", "images_without_annotation"),
                *("annotations_without_image", "clipped_boxes"),
            )
        if self.builder_config.name in MASKED:
            names += (
                *("images_without_mask", "masks_without_image", "boxes_without_mask"),
                *("cells_without_box", "quantised_pixels", "quantised_images"),
            )
        return (*names, *super().counted)

    @property
    def texts(self) -> tuple[str, ...]:
        return ("cells",) if self.builder_config.name == "fields" else ()

    @property
    def _of_frames(self) -> bool:
        return self.builder_config.name != "augmented"

    def locate(self, dl_manager: tfds.download.DownloadManager) -> epath.Path:
        folder = super().locate(dl_manager)
        top = self.entries[0]
        building.check_entries(_unpacked(folder, top), ENTRIES[top], "Kaggle's files")
        return folder

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        if self.builder_config.name in MASKED:
            return find_masked(folder, notes)
        if self._of_frames:
            return find_frames(_unpacked(folder, FRAMES), notes)
        return [
            building.Item(
                id=f"{partition.lower()}_{cell_type}_{path.stem.lstrip('_')}",
                path=path,
                label=CELL_TYPES.index(cell_type),
                group=f"augmented_{PARTITIONS[partition]}_{cell_type}",
                subtype=partition.lower(),
            )
            for partition, cell_type, path in find_copies(_unpacked(folder, COPIES) / "images")
        ]

    def read(self, item: building.Item, notes: building.Notes) -> Iterator[building.Record]:
        if not isinstance(item, Frame):
            yield from super().read(item, notes)
            return
        pixels = read_image(item.path)
        height, width = pixels.shape[:2]
        boxes, clipped = read_boxes(item.boxes, height, width)
        mask, cells = None, [marked_cells.Cell(box, None, n) for n, box in enumerate(boxes, 1)]
        if item.mask is not None:
            mask = self.read_mask(item, notes)
            reading.check_same_size(item.mask, mask, (height, width))
            cells = marked_cells.find(mask, boxes)
            notes.counts["boxes_without_mask"] += sum(cell.region is None for cell in cells)
            notes.counts["cells_without_box"] += len(cells) - len(boxes)
        # The category is of the boxed cells, and where there is no box, of the marked ones.
        index, subtype = label(item.types, len(boxes) or len(cells))
        about = {
            "label": index,
            "group": item.path.stem,
            "source": self.source,
            "subtype": subtype,
            "label_source": "authors" if index >= 0 else "",
        }
        if self.builder_config.name == "fields":
            image = read_image_file(item.path)[0]
            record = records.example(image=image, mask=mask, id=item.path.stem, **about)
            yield record | {"cells": marked_cells.describe(cells, index)}
        else:
            yield from _crops(item, pixels, mask, cells, about)
        notes.counts["clipped_boxes"] += clipped
        notes.counts["frames_without_cell"] += not cells
        notes.counts["frames_with_several_cells"] += subtype == "several_cells"
        notes.counts["frames_with_several_types"] += subtype == "several_types"
        notes.counts["unlabelled_frames"] += bool(cells) and index < 0 and not subtype

    def read_mask(self, item: building.Item, notes: building.Notes) -> np.ndarray:
        return banik_masks.read(item.mask, notes.counts)


def _crops(
    item: Frame,
    pixels: np.ndarray,
    mask: np.ndarray | None,
    cells: Sequence[marked_cells.Cell],
    about: Mapping[str, Any],
) -> Iterator[building.Record]:
    """Yields a frame's crops, one a cell; where it has a mask, only the cells that are in it."""
    boxes, unboxed = sum(cell.number > 0 for cell in cells), 0
    for cell in cells:
        id = item.cell_id(cell.number, boxes)
        if not cell.number:
            unboxed += 1
            id = f"{item.path.stem}_unboxed_{unboxed}"
        own = None
        if mask is not None:
            if cell.region is None:
                continue
            own = crops.cut(banik_masks.ignore_others(mask, cell.region), cell.box)
        yield records.example(image=crops.cut(pixels, cell.box), mask=own, id=id, **about)


def _unpacked(folder: epath.Path, top: str) -> epath.Path:
    inner = folder / top / top
    return inner if inner.is_dir() else folder / top


def find_frames(folder: epath.Path, notes: building.Notes) -> list[Frame]:
    """Lists the frames that have an annotation, sorted by name.

    Raises:
        DataError: there is no image, or `labels.csv` is wrong.
    """
    categories = read_labels(folder / "labels.csv")
    images = reading.files_by_stem(folder / "JPEGImages", ".jpg")
    annotations = reading.files_by_stem(folder / "Annotations", ".xml")
    if not images:
        raise DataError(
            f"{folder / 'JPEGImages'}: holds no .jpg file: unpack Kaggle's images there"
        )
    numbers, frames = set(), []
    for stem, path in images.items():
        if not _FRAME.fullmatch(stem):
            notes.bad.add(path, "the name is not BloodImage_ and five digits, as Kaggle's are")
            continue
        number = int(stem.removeprefix("BloodImage_"))
        numbers.add(number)
        if stem in annotations:
            types = categories.get(number, ())
            frames.append(Frame(path=path, boxes=annotations[stem], types=types))
        else:
            notes.counts["images_without_annotation"] += 1
    notes.counts["labels_without_image"] = len(categories.keys() - numbers)
    notes.counts["annotations_without_image"] = len(annotations.keys() - images.keys())
    return frames


def find_masked(folder: epath.Path, notes: building.Notes) -> list[Frame]:
    """Lists the frames that have an annotation and a mask, sorted by name.

    Raises:
        DataError: as `find_frames`; or no mask is of a frame.
    """
    masks = {}
    for stem, path in reading.files_by_stem(folder / MASKS, ".png").items():
        if _MASK.fullmatch(stem):
            masks[stem.replace("_Mask_", "_")] = path
        else:
            notes.bad.add(path, "the name is not BloodImage_Mask_ and five digits, as masks' are")
    frames = _unpacked(folder, FRAMES)
    images = reading.files_by_stem(frames / "JPEGImages", ".jpg")
    found = find_frames(frames, notes)
    alone = [masks[stem] for stem in sorted(masks.keys() - images.keys())]
    if alone:
        logging.warning("%d masks have no image, such as %s", len(alone), alone[0])
    notes.counts["masks_without_image"] = len(alone)
    notes.counts["images_without_mask"] = sum(f.path.stem not in masks for f in found)
    found = [
        dataclasses.replace(frame, mask=masks[frame.path.stem])
        for frame in found
        if frame.path.stem in masks
    ]
    if not found:
        raise DataError(
            f"{folder / MASKS}: holds {len(masks)} masks, none of an image in "
            f"{frames / 'JPEGImages'}: allowed are BloodImage_Mask_00000.png of "
            "BloodImage_00000.jpg; unpack both there"
        )
    return found


def find_copies(folder: epath.Path) -> list[tuple[str, str, epath.Path]]:
    """Lists (partition such as `TRAIN`, cell type, path) of every augmented copy, sorted.

    Hidden files and folders, and files that are not `.jpeg` or `.jpg`, are skipped.

    Raises:
        DataError: a folder that is no partition or no cell type, or no image at all.
    """
    found = []
    for partition in _folders(folder, tuple(PARTITIONS)):
        for cell_type in _folders(partition, tuple(TYPES)):
            found += [
                (partition.name, cell_type.name.lower(), path)
                for path in sorted(cell_type.iterdir())
                if path.name.lower().endswith((".jpeg", ".jpg")) and path.name[0] != "."
            ]
    if not found:
        raise DataError(
            f"{folder}: holds no image: allowed are .jpeg files in {', '.join(PARTITIONS)}, in "
            f"folders named by cell type ({', '.join(TYPES)}); unpack Kaggle's images there"
        )
    return found


def _folders(folder: epath.Path, allowed: tuple[str, ...]) -> list[epath.Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    if unknown := [path.name for path in found if path.name not in allowed]:
        raise DataError(
            f"{folder}: {', '.join(map(repr, unknown))}: unknown: allowed are the folders "
            f"{', '.join(allowed)}; rename or remove the folder"
        )
    return found
