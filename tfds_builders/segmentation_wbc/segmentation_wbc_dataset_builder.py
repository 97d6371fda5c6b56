"""segmentation_WBC (Zheng et al. 2018): Dataset 1 (JTSC) and Dataset 2 (CellaVision)."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import archives, building, reading, tables
from wbc_jax.data.images import read_mask_file
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CELL_TYPES, CYTOPLASM, NUCLEUS, UNKNOWN_LABEL

URL = "https://github.com/zxaoyou/segmentation_WBC/archive/refs/heads/master.zip"
"""Downloaded if `manual_dir` lacks the set. Not yet tried with the real address."""

FOLDERS = ("segmentation_WBC", "segmentation_WBC-master")

TYPES = {1: "neutrophil", 2: "lymphocyte", 3: "monocyte", 4: "eosinophil", 5: "basophil"}
"""Cell types by the authors' numbers (their README)."""

GRAYS = {0: BACKGROUND, 128: CYTOPLASM, 255: NUCLEUS}
"""Classes by the authors' mask values."""

MAX_STRAY_FRACTION = 0.01
"""Masks with a larger share of other grays are errors: they are smoothed, or follow another
convention. The real strays are few (at most 0.2% of a mask) but up to 45 from the nearest value."""


@dataclasses.dataclass(kw_only=True)
class SegmentationWbcConfig(tfds.core.BuilderConfig):
    """Selects one of the two data sets by the authors' `number`."""

    number: int = 0

    @property
    def images(self) -> str:
        return f"Dataset {self.number}"

    @property
    def labels(self) -> str:
        return f"Class Labels of Dataset {self.number}.csv"


class Builder(building.Builder):
    """Builder of segmentation_wbc; see `building.Builder`.

    Downloads the set if `manual_dir` lacks it. `quantised_pixels` and `quantised_images` count the
    stray grays that were moved to the nearest of 0, 128 and 255.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        SegmentationWbcConfig(
            name="jtsc", number=1, description="Dataset 1: Jiangxi Tecom, about 120 x 120 pixels."
        ),
        SegmentationWbcConfig(
            name="cellavision", number=2, description="Dataset 2: CellaVision, 300 x 300 pixels."
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download {URL} and unpack it so that the folder {building.MANUAL_DIR}/{FOLDERS[0]} holds "
        "'Dataset 1' and 'Class Labels of Dataset 1.csv' (config cellavision: 2 instead of 1)"
    )
    page = "https://github.com/zxaoyou/segmentation_WBC"
    folders = FOLDERS
    counted = (
        "quantised_pixels",
        "quantised_images",
        "unlabelled_images",
        "labels_without_image",
        "excluded_records",
        "left_out_files",
    )

    @property
    def entries(self) -> tuple[str, ...]:
        return (self.builder_config.images, self.builder_config.labels)

    @property
    def source(self) -> str:
        return self.builder_config.name

    def locate(self, dl_manager: tfds.download.DownloadManager) -> epath.Path:
        folder = building.manual_folder(dl_manager, self.folders, self.entries)
        if folder is not None:
            return folder
        if not building.may_download():
            raise DataError(self.not_found(dl_manager))
        try:
            archive = epath.Path(dl_manager.download(URL))
            root = archives.unzip(archive, archive.parent / f"{archive.name}.unzipped")
        except DataError:
            raise
        except Exception as error:  # requests, urllib3 and TFDS each have their own
            failed = f" and could not be downloaded ({error})"
            raise DataError(self.not_found(dl_manager, failed)) from error
        folder = root / FOLDERS[1]
        if missing := [entry for entry in self.entries if not (folder / entry).exists()]:
            raise DataError(
                f"{archive}: lacks {', '.join(map(repr, missing))} below {FOLDERS[1]!r}: its "
                f"authors may have changed it. {self.not_found(dl_manager)}"
            )
        return folder

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        labels = read_labels(folder / self.builder_config.labels)
        pictures = folder / self.builder_config.images
        images, masks = reading.pair_files(pictures, ".bmp", pictures, ".png", notes.bad)
        named = [stem for stem in images if stem.isdecimal()]
        for stem, path in images.items():
            if stem not in named:
                notes.bad.add(path, "the name is not a number, as the authors' names are (001.bmp)")
        notes.counts["labels_without_image"] = len(labels.keys() - set(map(int, named)))
        return [
            building.Item(
                id=f"{self.source}_{stem}",
                path=images[stem],
                mask=masks[stem],
                label=labels.get(int(stem), UNKNOWN_LABEL),
            )
            for stem in named
        ]

    def read_mask(self, item: building.Item, notes: building.Notes) -> np.ndarray:
        mask, moved = read_mask(item.mask)
        notes.counts["quantised_pixels"] += moved
        notes.counts["quantised_images"] += moved > 0
        return mask


def read_mask(path: epath.PathLike) -> tuple[np.ndarray, int]:
    """Reads one of the authors' masks.

    Args:
        path: gray PNG: 255 nucleus, 128 cytoplasm, 0 background, and a few stray grays.

    Returns:
        The mask, uint8 `[H, W]` of 0, 1, 2; and the number of stray pixels, which were moved to the
        nearest of the three values.

    Raises:
        DataError: an unreadable file, or stray grays in more than 1% of the pixels.
    """
    return reading.nearest_classes(path, read_mask_file(path), GRAYS, MAX_STRAY_FRACTION)


def read_labels(path: epath.PathLike) -> dict[int, int]:
    """Reads one of the authors' label files, by the position of columns, because headers differ.

    Args:
        path: CSV with a header (`image ID,class label` or `image ID,class`) and rows `number,1-5`.

    Returns:
        Image number to index into `labels.CELL_TYPES`.

    Raises:
        DataError: no such file, or other rows; lists up to 20.
    """
    labels, wrong = {}, []
    for row in tables.read(path):
        cells = row.cells
        if row.line == 1 and not cells[0].isdecimal():
            continue
        if len(cells) < 2 or not cells[0].isdecimal() or cells[1] not in map(str, TYPES):
            wrong.append(str(row))
            continue
        label = CELL_TYPES.index(TYPES[int(cells[1])])
        if labels.setdefault(int(cells[0]), label) != label:
            wrong.append(f"{row} contradicts an earlier line")
    tables.check(
        path,
        wrong,
        "an image number and a class from 1 to 5; mend them or fetch the file again",
    )
    return labels
