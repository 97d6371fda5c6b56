"""Raabin-WBC's cropped cells (Kouzehkanan et al. 2022), from the authors or by way of Kaggle."""

import collections
import dataclasses

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.raabin_gt.raabin_gt_dataset_builder import frame

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

SPLITS = {"train": "Train", "test_a": "Test-A", "test_b": "Test-B"}
"""Folder by split; case, hyphens, underscores and spaces in its name do not matter."""


@dataclasses.dataclass(kw_only=True)
class RaabinWbcConfig(tfds.core.BuilderConfig):
    """A packaging of the set.

    Attributes:
        page: where it is handed out.
        folders: names that its folder may have.
    """

    page: str = ""
    folders: tuple[str, ...] = ()


class Builder(building.Builder):
    """Builder of raabin_wbc; see `building.Builder`.

    The splits are the authors': `train`, `test_a`, `test_b`, those whose folder is there. The
    counts are over all splits; `frames_in_several_splits` counts frames with cells in more than
    one.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        RaabinWbcConfig(
            name="crops",
            description="The authors' Train, TestA and TestB.",
            page="https://raabindata.com/free-data/",
            folders=("raabin_wbc", "Raabin-WBC", "RaabinWBC"),
        ),
        RaabinWbcConfig(
            name="kaggle",
            description="Kaggle's repackaging: Train, Test-A and Test-B.",
            page="https://www.kaggle.com/datasets/masoudnickparvar/white-blood-cells-dataset",
            folders=("white-blood-cells-dataset", "raabin_wbc_kaggle"),
        ),
    ]
    counted = ("frames_in_several_splits", "excluded_records", "left_out_files")

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        return (
            f"fetch it at {self.page} and unpack it so that the folder "
            f"{building.MANUAL_DIR}/{self.folders[0]} holds {', '.join(SPLITS.values())}, each "
            "with one folder a cell type"
        )

    @property
    def page(self) -> str:
        return self.builder_config.page

    @property
    def folders(self) -> tuple[str, ...]:
        return self.builder_config.folders

    def locate(self, dl_manager: tfds.download.DownloadManager) -> epath.Path:
        manual_dir = building.manual_path(dl_manager)
        for name in (*self.folders, "") if manual_dir else ():
            folder = manual_dir / name if name else manual_dir
            if not folder.is_dir():
                continue
            if split_folders(folder):
                return folder
            if name:
                raise DataError(
                    f"{folder}: holds none of {', '.join(SPLITS.values())}: unpack the folders of "
                    f"{self.page} there, unchanged"
                )
        raise DataError(self.not_found(dl_manager))

    def splits(self, folder: epath.Path) -> dict[str, epath.Path]:
        found = split_folders(folder)
        if missing := [name for split, name in SPLITS.items() if split not in found]:
            logging.warning("%s: there is no %s", folder, " and no ".join(missing))
        places = collections.Counter(
            name
            for part in found.values()
            for name in {frame(path.stem) for _, path in find_images(part)}
        )
        repeated = sum(count > 1 for count in places.values())
        self.info.metadata["frames_in_several_splits"] = repeated
        return found

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        split = _split(folder)
        items = [
            building.Item(
                id=f"{split}_{path.stem}",
                path=path,
                label=CELL_TYPES.index(cell_type),
                group=frame(path.stem),
            )
            for cell_type, path in find_images(folder)
        ]
        return building.without_repeats(items, "type", notes)


def split_folders(folder: epath.Path) -> dict[str, epath.Path]:
    """Finds the splits' folders: `Train`, `Test-A` or `TestA`, `Test-B` or `TestB`, in any case.

    Returns:
        Folder by split, in the order of `SPLITS`.

    Raises:
        DataError: two folders of one split.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        split = _split(path)
        if split is None or not path.is_dir():
            continue
        if split in found:
            raise DataError(
                f"{folder}: holds both {found[split].name!r} and {path.name!r}: allowed is one "
                f"folder of the split {SPLITS[split]}; remove one of them"
            )
        found[split] = path
    return {split: found[split] for split in SPLITS if split in found}


def find_images(folder: epath.Path) -> list[tuple[str, epath.Path]]:
    """Lists (cell type, path) of every image of a split, sorted by type and name.

    Hidden files and files without an image suffix are skipped. A split need not have all types.

    Raises:
        DataError: a folder that is no cell type, or no image at all.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name[0] in "._":
            continue
        if path.name.lower() not in CELL_TYPES:
            raise DataError(
                f"{path}: {path.name!r} is no cell type: allowed are "
                f"{', '.join(CELL_TYPES)} (in any case); rename or remove the folder"
            )
        found += [
            (path.name.lower(), file)
            for file in path.iterdir()
            if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")
        ]
    if not found:
        raise DataError(
            f"{folder}: holds no image: allowed are {', '.join(SUFFIXES)} files in folders named "
            f"by cell type ({', '.join(CELL_TYPES)}); unpack the authors' images there"
        )
    return sorted(found, key=lambda entry: (entry[0], entry[1].name))


def _split(folder: epath.Path) -> str | None:
    names = {_plain(name): split for split, name in SPLITS.items()}
    return names.get(_plain(folder.name))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
