"""Kaggle's blood cells (paultimothymooney/blood-cells): BCCD frames, and augmented copies."""

import dataclasses
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, crops, reading, records
from wbc_jax.data.images import read_image
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.kaggle_blood_cells.annotations import (
    TYPES,
    label,
    read_boxes,
    read_labels,
)

PAGE = "https://www.kaggle.com/datasets/paultimothymooney/blood-cells"
FOLDERS = ("kaggle_blood_cells", "blood-cells")
TOPS = {"original": "dataset-master", "augmented": "dataset2-master"}
"""Folder by config; Kaggle's archive holds some twice, one inside the other."""
ENTRIES = {"original": ("JPEGImages", "Annotations", "labels.csv"), "augmented": ("images",)}
NEVER_TOGETHER = {"augmented": "original"}
"""A config whose records show the cells of another, though no file says which (see README)."""

PARTITIONS = {"TRAIN": "train", "TEST": "test", "TEST_SIMPLE": "test"}
"""Side of the authors' division by folder of the augmented copies."""

_FRAME = re.compile(r"BloodImage_\d{5}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame(building.Item):
    """A frame of BCCD.

    Attributes:
        boxes: the file with the boxes around its cells.
        types: the cell types of its category (`read_labels`).
    """

    boxes: epath.Path
    types: tuple[str, ...]


class Builder(building.Builder):
    """Builder of kaggle_blood_cells; see `building.Builder`.

    Counts of `original`: `frames_without_cell` (no box around a white cell, so no record),
    `frames_with_several_cells` and `frames_with_several_types` (label -1), `unlabelled_frames`,
    `labels_without_image`, `images_without_annotation`, `annotations_without_image`,
    `clipped_boxes`.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        tfds.core.BuilderConfig(
            name="original", description="A square around each boxed white cell of BCCD's frames."
        ),
        tfds.core.BuilderConfig(
            name="augmented", description="Kaggle's turned, sheared and mirrored copies of frames."
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download {PAGE} and unpack it so that {building.MANUAL_DIR}/{FOLDERS[0]}/"
        f"{TOPS['original']} (config original) or {building.MANUAL_DIR}/{FOLDERS[0]}/"
        f"{TOPS['augmented']} (config augmented) exists"
    )
    page = PAGE
    folders = FOLDERS

    @property
    def entries(self) -> tuple[str, ...]:
        return (TOPS[self.builder_config.name],)

    @property
    def counted(self) -> tuple[str, ...]:
        names = (
            *("frames_without_cell", "frames_with_several_cells", "frames_with_several_types"),
            *("unlabelled_frames", "labels_without_image", "images_without_annotation"),
            *("annotations_without_image", "clipped_boxes"),
        )
        return (*(names if self._original else ()), *super().counted)

    @property
    def _original(self) -> bool:
        return self.builder_config.name == "original"

    def locate(self, dl_manager: tfds.download.DownloadManager) -> epath.Path:
        [top] = self.entries
        folder = super().locate(dl_manager)
        inner = folder / top / top
        folder = inner if inner.is_dir() else folder / top
        building.check_entries(folder, ENTRIES[self.builder_config.name], "Kaggle's files")
        return folder

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        if self._original:
            return find_frames(folder, notes)
        return [
            building.Item(
                id=f"{partition.lower()}_{cell_type}_{path.stem.lstrip('_')}",
                path=path,
                label=CELL_TYPES.index(cell_type),
                group=f"augmented_{PARTITIONS[partition]}_{cell_type}",
                subtype=partition.lower(),
            )
            for partition, cell_type, path in find_copies(folder / "images")
        ]

    def read(self, item: building.Item, notes: building.Notes) -> Iterator[building.Record]:
        if not isinstance(item, Frame):
            yield from super().read(item, notes)
            return
        pixels = read_image(item.path)
        height, width = pixels.shape[:2]
        boxes, clipped = read_boxes(item.boxes, height, width)
        index, subtype = label(item.types, len(boxes))
        stem = item.path.stem
        for number, box in enumerate(boxes, 1):
            yield records.example(
                image=crops.cut(pixels, box),
                label=index,
                id=stem if len(boxes) == 1 else f"{stem}_{number}",
                group=stem,
                source=self.source,
                subtype=subtype,
                label_source="authors" if index >= 0 else "",
            )
        notes.counts["clipped_boxes"] += clipped
        notes.counts["frames_without_cell"] += not boxes
        notes.counts["frames_with_several_cells"] += subtype == "several_cells"
        notes.counts["frames_with_several_types"] += subtype == "several_types"
        notes.counts["unlabelled_frames"] += bool(boxes) and index < 0 and not subtype


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
