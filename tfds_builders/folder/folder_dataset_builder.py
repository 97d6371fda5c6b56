"""The user's own images: a folder with images, and masks and cell types where there are any."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_ONLY
from wbc_jax.tfds_builders.folder import cell_types, layout, masks, pairing

ADVICE = {
    "masks": "Segmentation needs a folder 'masks' beside 'images', with a mask of each image; "
    f"expected in the folder that config.data.manual_dir names is:{layout.LAYOUT}",
    "types": "Classification needs cell types, from folders below 'images' or from "
    f"{layout.LABELS}; expected in the folder that config.data.manual_dir names is:{layout.LAYOUT}",
}
"""What to do where no record has what a task needs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image(building.Item):
    """An image, and the classes of the mask values (`masks.read_mask_values`)."""

    values: np.ndarray | None


class Builder(building.Builder):
    """Builder of folder; see `building.Builder`.

    Give it `config=folder_config(manual_dir)`, so that the records of each folder lie in a
    directory of their own. Without it, all folders share one, and `download_and_prepare` raises
    rather than return another folder's records.

    The metadata also hold `folder` and `fingerprint`: the files that the records were made of.

    Raises (while building):
        DataError: `manual_dir` does not hold such a folder, files are bad, or the existing records
            were made of another folder or of other files.
    """

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First release.",
        "1.1.0": "Images without a mask, and masks that disagree on their values, are errors.",
        "1.2.0": "A mask of a whole cell with pixels to ignore is an error.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"place your files in manual_dir:{layout.LAYOUT}"
    counted = (
        "folder",
        "fingerprint",
        "images_without_mask",
        "cell_only_masks",
        "unlabelled_images",
        "left_out_files",
    )

    def download_and_prepare(self, *, download_config=None, **kwargs) -> None:
        """Does what TFDS does; raises if the existing records were made of other files."""
        manual_dir = getattr(download_config, "manual_dir", None)
        if self.is_prepared() and manual_dir:
            check_same_folder(self, manual_dir)
        super().download_and_prepare(download_config=download_config, **kwargs)

    def locate(self, dl_manager: tfds.download.DownloadManager) -> epath.Path:
        return layout.find_folder(building.manual_path(dl_manager))

    def find(self, folder: epath.Path, notes: building.Notes) -> list[Image]:
        self.info.metadata["folder"] = os.fspath(folder)
        self.info.metadata["fingerprint"] = layout.fingerprint(folder)
        root, bad_before = folder / "images", len(notes.bad.files)
        found = layout.find_files(root, layout.SUFFIXES, notes.bad)
        if not found and len(notes.bad.files) == bad_before:
            raise DataError(
                f"{root}: holds no image: allowed are files that end in "
                f"{', '.join(layout.SUFFIXES)} (in either case); expected is:{layout.LAYOUT}"
            )
        images = {id: paths[0] for id, paths in found.items() if len(paths) == 1}
        table = folder / layout.LABELS
        entries = cell_types.read_labels(table, found, root) if table.exists() else None
        types = cell_types.folder_types(images, root, entries)
        values, may_lack = masks.read_mask_values(folder / layout.MASK_VALUES)
        mask_files = pairing.find_masks(folder, found, notes.bad, may_lack)
        lacks = {id for id in images if mask_files and id not in mask_files and not may_lack}
        if values is None:
            alike = masks.check_alike(mask_files, folder, notes.bad)
            lacks |= mask_files.keys() - alike.keys()
            mask_files = alike
        items = []
        for id, path in images.items():
            if id in lacks:  # it, or its mask, is a bad file
                continue
            entry = (entries or {}).get(id, cell_types.Entry())
            listed = entry.label >= 0
            items.append(
                Image(
                    id=id,
                    path=path,
                    mask=mask_files.get(id),
                    label=entry.label if listed else types.get(id, entry.label),
                    group=entry.group or None,
                    label_source=layout.LABELS if listed else "class folder",
                    um_per_px=entry.um_per_px,
                    values=values,
                )
            )
        return items

    def read(self, item: Image, notes: building.Notes) -> Iterator[building.Record]:
        for record in super().read(item, notes):
            yield record | {"subtype": CELL_ONLY if notes.counts["cell_only_masks"] else ""}

    def read_mask(self, item: Image, notes: building.Notes) -> np.ndarray:
        mask, cell_only = masks.read_mask(item.mask, item.values)
        pairing.check_turned(item.path, item.mask, mask.shape)
        notes.counts["cell_only_masks"] += cell_only
        return mask

    def finish(self, folder: epath.Path, notes: building.Notes) -> None:
        notes.bad.finish(f"folder {folder}")


# TFDS knows a data set only by its name, its config and `data_dir`, so records of different folders
# could be confused. These two functions prevent it.


def folder_config(manual_dir: epath.PathLike) -> tfds.core.BuilderConfig:
    """Returns the config with which the `Builder` reads a folder.

    TFDS writes the records of each config to a directory of its own. This config's name consists
    of the folder's name and a hash of its whole path: `folder/my_cells-1f0c5a9be2d4/1.0.0`.

    Args:
        manual_dir: TFDS's `manual_dir`: the folder itself or the one that holds it as `folder`.

    Returns:
        The config; its name is the same however the path of the folder is spelled.
    """
    path = layout.resolved(manual_dir)
    name = re.sub(r"[^a-z0-9]+", "_", path.name.lower()).strip("_") or "folder"
    digest = hashlib.sha256(os.fspath(path).encode("utf-8", "surrogateescape")).hexdigest()
    return tfds.core.BuilderConfig(
        name=f"{name[:32]}-{digest[:12]}", description=f"Images in {os.fspath(path)!a}."
    )


def check_same_folder(builder: tfds.core.DatasetBuilder, manual_dir: epath.PathLike) -> None:
    """Checks that a builder's records were made of the present files of a folder.

    Args:
        builder: its records are already written.
        manual_dir: TFDS's `manual_dir`.

    Raises:
        DataError: they were made of another folder, or the folder's files have changed since
            (names, sizes, or the text of `labels.csv` and `mask_values.json`).
    """
    folder = layout.find_folder(epath.Path(manual_dir))
    made_of = builder.info.metadata["folder"]
    if made_of != os.fspath(folder):
        raise DataError(
            f"{folder}: the records in {builder.data_path} were made of another folder, "
            f"{made_of}: choose another data_dir, or hand config=folder_config(manual_dir) to the "
            "builder, which gives each folder a directory of its own"
        )
    if builder.info.metadata["fingerprint"] != layout.fingerprint(folder):
        raise DataError(
            f"{folder}: its files have changed since the records in {builder.data_path} were "
            "written: delete that directory, or choose another data_dir"
        )
