"""WBCAtt (Tsutsui et al. 2023): what pathologists say of the cells of PBC, in eleven attributes."""

import dataclasses
import pathlib
from collections.abc import Mapping

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, tables
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES

PAGE = "https://github.com/apple2373/wbcatt"
FOLDER = "wbcatt"
FILES = {split: f"pbc_attr_v1_{split}.csv" for split in ("train", "val", "test")}
"""Table by split; the splits are WBCAtt's own."""

WORDS = {
    "cell_size": ("big", "small"),
    "cell_shape": ("irregular", "round"),
    "nucleus_shape": (
        "irregular",
        "segmented-bilobed",
        "segmented-multilobed",
        "unsegmented-band",
        "unsegmented-indented",
        "unsegmented-round",
    ),
    "nuclear_cytoplasmic_ratio": ("high", "low"),
    "chromatin_density": ("densely", "loosely"),
    "cytoplasm_vacuole": ("no", "yes"),
    "cytoplasm_texture": ("clear", "frosted"),
    "cytoplasm_colour": ("blue", "light blue", "purple blue"),
    "granule_type": ("coarse", "nil", "round", "small"),
    "granule_colour": ("nil", "pink", "purple", "red"),
    "granularity": ("no", "yes"),
}
"""The words of each attribute, spelled as in the tables."""

HEADER = ("img_name", "label", *WORDS, "path")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What WBCAtt says of one image.

    Attributes:
        split: of WBCAtt: `train`, `val` or `test`; empty where it does not have the image.
        cell_type: one of `labels.CELL_TYPES`; empty where it does not have the image.
        words: a word for each attribute of `WORDS`; empty where WBCAtt does not have the image.
    """

    split: str = ""
    cell_type: str = ""
    words: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict.fromkeys(WORDS, ""))


NOTHING = Described()


def features() -> dict[str, tfds.features.FeatureConnector]:
    """Returns the features that a record has for this: `attributes` and `attributes_split`."""
    f = tfds.features
    return {
        "attributes": f.FeaturesDict({name: f.Text() for name in WORDS}),
        "attributes_split": f.Text(),
    }


def find_folder(images: epath.Path) -> epath.Path | None:
    """Returns the folder `wbcatt` in or beside the folder of the images; None if there is none."""
    places = (images / FOLDER, images.parent / FOLDER)
    return next((place for place in places if place.is_dir()), None)


def read(
    folder: epath.Path, types: Mapping[str, str], notes: building.Notes
) -> dict[str, Described]:
    """Reads what WBCAtt says of the images that are there.

    Args:
        folder: the folder with the tables.
        types: the class of each image, by its name without suffix. Rows without an image are
            counted, because a part of PBC may be built.
        notes: receives `images_with_attributes` and `attributes_without_image`.

    Returns:
        What is said of each image that is there, by its name without suffix.

    Raises:
        DataError: as in `read_tables`.
    """
    found = read_tables(folder, types)
    kept = {name: described for name, described in found.items() if name in types}
    notes.counts["images_with_attributes"] += len(kept)
    notes.counts["attributes_without_image"] += len(found) - len(kept)
    return kept


def read_tables(
    folder: epath.PathLike, types: Mapping[str, str] | None = None
) -> dict[str, Described]:
    """Reads WBCAtt's tables. A table that is not there is left out with a warning.

    Args:
        folder: the folder with the tables.
        types: the class of each image that is known, by its name without suffix.

    Returns:
        What is said of each image, by its name without suffix.

    Raises:
        DataError: there is none of the tables, or one has another header or wrong rows: an
            unknown word, another type than its image has, an image for the second time.
    """
    folder = epath.Path(folder)
    paths = {split: folder / name for split, name in FILES.items() if (folder / name).exists()}
    if not paths:
        raise DataError(
            f"{folder}: holds none of {', '.join(FILES.values())}: unpack the tables of {PAGE} "
            "there, or remove the folder to build without attributes"
        )
    if missing := [name for split, name in FILES.items() if split not in paths]:
        logging.warning("%s: there is no %s", folder, " and no ".join(missing))
    found: dict[str, Described] = {}
    places: dict[str, str] = {}
    for split, path in paths.items():
        wrong = []
        for row in tables.read(path, HEADER):
            if reason := _wrong(row, types or {}):
                wrong.append(f"{row}: {reason}")
                continue
            name = _stem(row.cells[0])
            if name in places:
                wrong.append(f"{row}: {name} stands in {places[name]}, too")
                continue
            places[name] = f"{path.name} line {row.line}"
            found[name] = Described(
                split=split,
                cell_type=row.cells[1].lower(),
                words=dict(zip(WORDS, row.cells[2:-1])),
            )
        tables.check(path, wrong, "an image, once, with its type and known words; mend the lines")
    return found


def _wrong(row: tables.Row, types: Mapping[str, str]) -> str:
    """Returns what is wrong with a row; empty if nothing is."""
    if len(row.cells) != len(HEADER):
        return f"{len(row.cells)} cells, not {len(HEADER)}"
    name, cell_type = _stem(row.cells[0]), row.cells[1].lower()
    if not name:
        return "img_name is empty"
    if cell_type not in CELL_TYPES:
        return f"label {row.cells[1]!r} is none of {', '.join(CELL_TYPES)}"
    if types.get(name, cell_type) != cell_type:
        return f"label {row.cells[1]!r}, but the image lies in the folder {types[name]!r}"
    for attribute, word in zip(WORDS, row.cells[2:-1]):
        if word not in WORDS[attribute]:
            return f"{attribute} {word!r} is none of {', '.join(WORDS[attribute])}"
    return ""


def _stem(name: str) -> str:
    return pathlib.PurePosixPath(name).stem
