"""The user's own images: a folder with images, and masks and cell types where there are any."""

import dataclasses
import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.data.images import (
    check_mask,
    describe_values,
    read_image_file,
    read_mask_file,
    unknown_values,
)
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CELL_TYPES, CYTOPLASM, IGNORE, NUCLEUS, UNKNOWN_LABEL

FOLDER = "folder"
SOURCE = "folder"
LABELS = "labels.csv"
MASK_VALUES = "mask_values.json"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
PASSED_OVER = ("thumbs.db", "desktop.ini")
"""Files that operating systems leave behind; hidden files are passed over as well."""

CLASSES = {
    "background": BACKGROUND,
    "cytoplasm": CYTOPLASM,
    "nucleus": NUCLEUS,
    "ignore": IGNORE,
}
"""The names that `mask_values.json` may use."""

LAYOUT = """
  images/             PNG, JPEG, BMP or TIFF, also in folders below; or by cell type:
  images/neutrophil/  (basophil, eosinophil, lymphocyte, monocyte, neutrophil)
  masks/              optional: masks of the same path and name, 8-bit grey PNG
  mask_values.json    optional: what the masks' values mean
  labels.csv          optional: name,label and, if you like, group and um_per_px"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What one line of `labels.csv` says."""

    label: int = UNKNOWN_LABEL
    group: str = ""
    um_per_px: float = math.nan


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of folder.

    Hand it `config=folder_config(manual_dir)`, so that the records of each folder lie in a
    directory of their own; without it, all folders share one, and `download_and_prepare` raises
    rather than return another folder's records.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. The
    metadata hold `folder` and `fingerprint` (what the records were made of), and counts:
    `images_without_mask`, `unlabelled_images`, `left_out_files`.

    Raises (while building):
        DataError: `manual_dir` does not hold such a folder, files are bad, or the records that are
            there were made of another folder or of other files.
    """

    # TFDS would guess both: below wbc_jax/, where this file lies only once installed from a wheel,
    # and by way of importlib_resources, which it does not install (4.9.10).
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads it on the class)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Place your files in manual_dir:{LAYOUT}"

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(), metadata=tfds.core.MetadataDict()
        )

    def download_and_prepare(self, *, download_config=None, **kwargs) -> None:
        """As TFDS's, and raises where the records that are there were made of other files."""
        manual_dir = getattr(download_config, "manual_dir", None)
        if self.is_prepared() and manual_dir:
            check_same_folder(self, manual_dir)
        super().download_and_prepare(download_config=download_config, **kwargs)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"train": self._generate_examples(find_folder(building.manual_path(dl_manager)))}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        bad = building.bad_files()
        already_bad = len(bad.files)
        prints = fingerprint(folder)
        found = find_files(folder / "images", SUFFIXES, bad)
        images = {id: paths[0] for id, paths in found.items() if len(paths) == 1}
        if not found and len(bad.files) == already_bad:
            raise DataError(
                f"{folder / 'images'}: holds no image: allowed are files that end in "
                f"{', '.join(SUFFIXES)} (in either case); expected is:{LAYOUT}"
            )
        table = folder / LABELS
        entries = read_labels(table, found, folder / "images") if table.exists() else None
        types = folder_types(images, folder / "images", entries)
        values = read_mask_values(folder / MASK_VALUES)
        masks = {}
        if (folder / "masks").is_dir():
            masks = find_files(folder / "masks", (".png",), bad)
            masks = {id: paths[0] for id, paths in masks.items() if len(paths) == 1}
        for id in sorted(masks.keys() - found.keys()):
            bad.add(masks[id], f"has no image: {folder / 'images' / id} with {', '.join(SUFFIXES)}")

        def read(id: str) -> tuple[dict[str, object], set[int]]:
            """The record, and the values of its mask."""
            image, height, width = read_image_file(images[id])
            mask = None
            if id in masks:
                mask = read_mask(masks[id], values)
                building.check_same_size(masks[id], mask, (height, width))
            entry = (entries or {}).get(id, Entry())
            label = entry.label if entry.label >= 0 else types.get(id, entry.label)
            told_by = LABELS if entry.label >= 0 else "class folder"
            record = records.example(
                image=image,
                mask=mask,
                label=label,
                id=id,
                group=entry.group or None,
                source=SOURCE,
                label_source=told_by if label >= 0 else "",
                um_per_px=entry.um_per_px,
            )
            return record, set() if mask is None else set(np.unique(mask).tolist())

        unlabelled = without_mask = 0
        seen = set()
        for record, present in building.each(read, list(images), images.get, bad):
            unlabelled += record["label"] < 0
            without_mask += not record["has_mask"]
            seen |= present
            yield record["id"], record
        bad.finish(f"folder {folder}")
        if values is None and seen in ({IGNORE}, {0, IGNORE}):
            raise DataError(
                f"{folder / 'masks'}: no mask holds cytoplasm (1) or nucleus (2), only 255 ignore "
                f"and perhaps 0 background: write {folder / MASK_VALUES} to say what the values "
                f"mean, such as {_VALUES_EXAMPLE}"
            )
        self.info.metadata.update(
            folder=os.fspath(folder),
            fingerprint=prints,
            images_without_mask=without_mask,
            unlabelled_images=unlabelled,
            left_out_files=len(bad.files) - already_bad,
        )
        for name, count in self.info.metadata.items():
            logging.info("folder: %s = %s", name, count)


# Records of different folders must not be taken for each other, though TFDS knows a data set only
# by its name, its config and `data_dir`.


def folder_config(manual_dir: epath.PathLike) -> tfds.core.BuilderConfig:
    """The config of the `Builder` that is to read a folder.

    TFDS writes the records of each config to a directory of its own. This config's name is made
    of the folder's name and of a hash of its whole path: `folder/my_cells-1f0c5a9be2d4/1.0.0`.

    Args:
        manual_dir: as handed to TFDS; the folder itself or the one that holds it as `folder`.

    Returns:
        The config; the same name for the same folder, however its path is spelled.
    """
    path = _resolved(manual_dir)
    name = re.sub(r"[^a-z0-9]+", "_", path.name.lower()).strip("_") or "folder"
    digest = hashlib.sha256(os.fspath(path).encode("utf-8", "surrogateescape")).hexdigest()
    return tfds.core.BuilderConfig(
        name=f"{name[:32]}-{digest[:12]}", description=f"Images in {os.fspath(path)!a}."
    )


def check_same_folder(builder: tfds.core.DatasetBuilder, manual_dir: epath.PathLike) -> None:
    """Checks that records that are already written were made of the files of a folder.

    Args:
        builder: whose records are written.
        manual_dir: as handed to TFDS.

    Raises:
        DataError: they were made of another folder, or the folder's files have changed since
            (names, sizes, or the text of `labels.csv` and `mask_values.json`).
    """
    folder = find_folder(epath.Path(manual_dir))
    made_of = builder.info.metadata["folder"]
    if made_of != os.fspath(folder):
        raise DataError(
            f"{folder}: the records in {builder.data_path} were made of another folder, "
            f"{made_of}: choose another data_dir, or hand config=folder_config(manual_dir) to the "
            "builder, which gives each folder a directory of its own"
        )
    if builder.info.metadata["fingerprint"] != fingerprint(folder):
        raise DataError(
            f"{folder}: its files have changed since the records in {builder.data_path} were "
            "written: delete that directory, or choose another data_dir"
        )


def fingerprint(folder: epath.PathLike) -> str:
    """A hash of the names and sizes of a folder's images and masks, and of its two text files."""
    folder = epath.Path(folder)
    lines = []
    for name in ("images", "masks"):
        if (folder / name).is_dir():
            for path in _walk(folder / name):
                size = path.stat().length if path.exists() else None  # a link to nowhere
                lines.append(f"{_relative(path, folder)} {size}")
    for name in (LABELS, MASK_VALUES):
        if (folder / name).exists():
            lines.append(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}")
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()


# Reading the folder.


def find_folder(manual_dir: epath.Path | None) -> epath.Path:
    """The folder that holds `images/`: `manual_dir/folder`, else `manual_dir` itself.

    Raises:
        DataError: neither does; shows the expected layout.
    """
    if manual_dir is not None:
        path = _resolved(manual_dir)
        for folder in (path / FOLDER, path):
            if (folder / "images").is_dir():
                return folder
    raise DataError(f"{manual_dir or '<manual_dir>'}: has no folder 'images': expected is:{LAYOUT}")


def find_files(
    root: epath.Path, suffixes: tuple[str, ...], bad: building.BadFiles
) -> dict[str, list[epath.Path]]:
    """Finds the images or masks below a folder.

    Args:
        root: `images` or `masks`.
        suffixes: that files may have, in either case. Hidden files and those of operating systems
            (`PASSED_OVER`) are passed over.
        bad: collector of other files, of names that are not UTF-8, and of files that would get the
            same id.

    Returns:
        Files by id, which is the path below `root` without its suffix, with `/`, in Unicode form
        NFC. Several files of one id are all to be left out, as nothing says which is meant.
    """
    found: dict[str, list[epath.Path]] = {}
    for path in _walk(root):
        name = _relative(path, root)
        stem, suffix = os.path.splitext(name)
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            bad.add(ascii(os.fspath(path)), "its name is not UTF-8: rename the file")
            continue
        if suffix.lower() not in suffixes:
            bad.add(path, f"is no such file as is read here: allowed are {', '.join(suffixes)}")
            continue
        found.setdefault(stem, []).append(path)
    for id, paths in found.items():
        for path in paths[1:]:
            bad.add(path, f"has the id {id!r}, as has {paths[0]}: allowed is one file; rename one")
    return dict(sorted(found.items()))


def folder_types(
    images: dict[str, epath.Path], root: epath.Path, entries: dict[str, Entry] | None
) -> dict[str, int]:
    """The cell types that class folders tell: the first folder of an id, in either case.

    Args:
        images: by id.
        root: the folder `images`, for messages.
        entries: what `labels.csv` says; None without one. With one, other folders than class
            folders are allowed, such as one for each patient.

    Returns:
        Id to index into `labels.CELL_TYPES`, for images in class folders.

    Raises:
        DataError: a folder that is no cell type (without `labels.csv`), or one that contradicts
            `labels.csv`; lists up to 20 of them.
    """
    types, unknown, wrong = {}, {}, []
    for id in images:
        first, slash, _ = id.partition("/")
        if not slash:
            continue
        if first.lower() in CELL_TYPES:
            types[id] = CELL_TYPES.index(first.lower())
            told = (entries or {}).get(id, Entry()).label
            if told not in (UNKNOWN_LABEL, types[id]):
                wrong.append(f"{id}: {LABELS} says {CELL_TYPES[told]}")
        else:
            unknown[first] = unknown.get(first, 0) + 1
    if unknown and entries is None:
        listed = [f"{root / name} ({number} images)" for name, number in sorted(unknown.items())]
        raise DataError(
            f"{len(unknown)} folders are no cell types: allowed are {_TYPES} (in either case), and "
            f"images of unknown type straight in {root}; or name the types in {LABELS}, after "
            "which folders may have any name (its header name,label alone will do):\n  "
            + "\n  ".join(listed[:20])
        )
    if wrong:
        raise DataError(
            f"{root}: the class folders of {len(wrong)} images contradict {LABELS}: mend either:"
            "\n  " + "\n  ".join(wrong[:20])
        )
    return types


def read_labels(
    path: epath.PathLike, images: dict[str, list[epath.Path]], root: epath.PathLike
) -> dict[str, Entry]:
    """Reads `labels.csv`.

    Args:
        path: CSV with a header. `name`: an image's path below `images`, with or without suffix.
            `label`: one of `labels.CELL_TYPES` in either case; empty or `unknown` if unknown.
            Optional: `group` (or `groups`; records of one group are never split apart) and
            `um_per_px`; both may be empty.
        images: by id.
        root: the folder `images`.

    Returns:
        What each image's line says, by id. Images that are not listed are left out.

    Raises:
        DataError: another header, or wrong lines; lists up to 20 of them.
    """
    (_, first), *rows = building.read_csv(path)
    header = [cell.strip().lower() for cell in first]
    columns = ["group" if cell == "groups" else cell for cell in header]
    optional = ("name", "label", "group", "um_per_px")
    missing = [cell for cell in optional[:2] if cell not in columns]
    if missing or len(set(columns)) < len(columns) or not set(columns) <= set(optional):
        raise DataError(
            f"{path}: the header is {','.join(first)!r}"
            + (f", without {' and '.join(map(repr, missing))}" if missing else "")
            + ": allowed are the columns name and label, and group and um_per_px if you like, each "
            "once and in any order"
        )
    ids = {id: id for id in images}
    ids.update({_relative(file, root): id for id, files in images.items() for file in files})
    entries, wrong = {}, []
    for line, row in rows:
        said = f"line {line}: {','.join(row)!r}"
        if len(row) != len(columns):
            wrong.append(f"{said} has {len(row)} cells, not {len(columns)}")
            continue
        cells = dict(zip(columns, (cell.strip() for cell in row)))
        name = unicodedata.normalize("NFC", cells["name"])
        id = ids.get(name) or ids.get(name.replace("\\", "/"))
        problems = []
        if id is None:
            problems.append(f"there is no image {name!r} ({', '.join(SUFFIXES)}) in {root}")
        elif id in entries:
            problems.append("names the image again")
        label, problem = _label(cells["label"])
        if problem:
            problems.append(problem)
        um_per_px = _positive(cells.get("um_per_px", ""))
        if um_per_px is None:
            problems.append("um_per_px is no number above zero")
        if problems:
            wrong.append(f"{said}: {'; '.join(problems)}")
        else:
            entries[id] = Entry(label=label, group=cells.get("group", ""), um_per_px=um_per_px)
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are wrong: allowed is an image's path below images, with "
            f"or without suffix, once, and one of {_TYPES} (or nothing if unknown); mend them:\n  "
            + "\n  ".join(wrong[:20])
        )
    return entries


def read_mask_values(path: epath.PathLike) -> np.ndarray | None:
    """Reads `mask_values.json`.

    Args:
        path: JSON such as `{"0": "background", "128": "cytoplasm", "255": "nucleus"}`; `ignore` is
            the fourth class. Several values may mean one class.

    Returns:
        int16 `[256]`: the class of each value, -1 where it has none; None if there is no file, and
        masks are to hold 0, 1, 2, 255.

    Raises:
        DataError: not such a JSON file.
    """
    path = epath.Path(path)
    if not path.exists():
        return None
    try:
        pairs = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except ValueError as error:  # of JSON and of UTF-8
        raise DataError(
            f"{path}: is no JSON text ({error}): allowed is such as {_VALUES_EXAMPLE}"
        ) from error
    table = np.full(256, -1, np.int16)
    wrong = []
    for value, name in pairs if isinstance(pairs, _Pairs) else ():
        known = isinstance(name, str) and name in CLASSES
        number = int(value) if re.fullmatch(r"[0-9]{1,3}", value) else -1
        if not known or not 0 <= number <= 255 or table[number] >= 0:
            wrong.append(f"{value!r}: {name!r}")
        else:
            table[number] = CLASSES[name]
    if wrong or not pairs or not isinstance(pairs, _Pairs):
        raise DataError(
            f"{path}: {', '.join(wrong[:20]) or 'what it holds'} is not known: allowed are values "
            f"from 0 to 255, each once, as {', '.join(CLASSES)}, such as {_VALUES_EXAMPLE}"
        )
    return table


def read_mask(path: epath.PathLike, values: np.ndarray | None) -> np.ndarray:
    """Reads a mask in the project's classes.

    Args:
        path: 8-bit grey PNG.
        values: from `read_mask_values`.

    Returns:
        uint8 `[H, W]` of 0, 1, 2, 255.

    Raises:
        DataError: an unreadable file, or values that have no meaning.
    """
    grey = read_mask_file(path)
    if values is None:
        try:
            check_mask(grey, os.fspath(path))
        except DataError as error:
            raise DataError(
                f"{error}, or write {MASK_VALUES} beside the folder masks, such as "
                f"{_VALUES_EXAMPLE}"
            ) from error
        return grey
    known = tuple(int(value) for value in np.flatnonzero(values >= 0))
    if unknown := unknown_values(grey, known):
        raise DataError(
            f"{path}: mask values {describe_values(unknown)} are unknown: allowed by "
            f"{MASK_VALUES} are {', '.join(map(str, known))}; add the others or redraw the mask"
        )
    return values.astype(np.uint8)[grey]


class _Pairs(list):
    """The pairs of a JSON object; a dict would hide keys that occur twice."""


_TYPES = ", ".join(CELL_TYPES)
_VALUES_EXAMPLE = '{"0": "background", "128": "cytoplasm", "255": "nucleus"}'


def _resolved(path: epath.PathLike) -> epath.Path:
    text = os.fspath(epath.Path(path).expanduser())
    return epath.Path(text if "://" in text else os.path.realpath(text))


def _relative(path: epath.Path, root: epath.PathLike) -> str:
    """The path below `root`, with `/`; NFC, as some systems take letters with accents apart."""
    return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def _walk(folder: epath.Path, above: tuple[str, ...] = ()) -> Iterator[epath.Path]:
    """All files below a folder in the order of their names, without links that lead upwards."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.name.lower() in PASSED_OVER:
            continue
        if path.is_dir():
            yield from _walk(path, (*above, real))
        else:
            yield path


def _label(text: str) -> tuple[int, str]:
    """Index of a cell type's name, and what is wrong with it, if anything."""
    lower = text.lower()
    if lower in CELL_TYPES:
        return CELL_TYPES.index(lower), ""
    if lower in ("", "unknown"):
        return UNKNOWN_LABEL, ""
    named = [type for type in CELL_TYPES if type in lower]
    if len(named) > 1:
        return UNKNOWN_LABEL, "two types in a cell: allowed is one, or none if unknown"
    return UNKNOWN_LABEL, f"the label {text!r} is not known"


def _positive(text: str) -> float | None:
    """The number; NaN for no text, None for anything but a number above zero."""
    if not text:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
