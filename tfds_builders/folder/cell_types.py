"""Cell types of the user's images: from `labels.csv` and from class folders."""

import dataclasses
import math
import unicodedata

from etils import epath

from wbc_jax.data import tables
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, UNKNOWN_LABEL
from wbc_jax.tfds_builders.folder import layout
from wbc_jax.tfds_builders.folder.layout import LABELS

_TYPES = ", ".join(CELL_TYPES)
_COLUMNS = ("name", "label", "group", "um_per_px")
_REQUIRED = _COLUMNS[:2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of `labels.csv`."""

    label: int = UNKNOWN_LABEL
    group: str = ""
    um_per_px: float = math.nan


def read_labels(
    path: epath.PathLike, images: dict[str, list[epath.Path]], root: epath.PathLike
) -> dict[str, Entry]:
    """Reads `labels.csv`.

    Args:
        path: CSV with a header. `name`: an image's path below `images`, with or without suffix.
            `label`: one of `labels.CELL_TYPES` in either case; empty or `unknown` if unknown.
            Optional: `group` or `groups`, and `um_per_px`; both may be empty.
        images: by id.
        root: the folder `images`.

    Returns:
        The lines by image id. Images that are not listed are missing.

    Raises:
        DataError: another header, or wrong lines; lists up to 20.
    """
    first, *rows = tables.read(path)
    columns = ["group" if cell.lower() == "groups" else cell.lower() for cell in first.cells]
    missing = [column for column in _REQUIRED if column not in columns]
    if missing or len(set(columns)) < len(columns) or not set(columns) <= set(_COLUMNS):
        raise DataError(
            f"{path}: the header is {first.text!r}"
            + (f", without {' and '.join(map(repr, missing))}" if missing else "")
            + ": allowed are the columns name and label, and group and um_per_px if you like, each "
            "once and in any order"
        )
    ids = {id: id for id in images}
    ids |= {layout.relative(file, root): id for id, files in images.items() for file in files}
    entries, wrong = {}, []
    for row in rows:
        if len(row.cells) != len(columns):
            wrong.append(f"{row} has {len(row.cells)} cells, not {len(columns)}")
            continue
        cells = dict(zip(columns, row.cells))
        name = unicodedata.normalize("NFC", cells["name"])
        id = ids.get(name) or ids.get(name.replace("\\", "/"))
        problems = []
        if id is None:
            suffixes = ", ".join(layout.SUFFIXES)
            problems.append(f"there is no image {name!r} ({suffixes}) in {root}")
        elif id in entries:
            problems.append("names the image again")
        label, problem = _label(cells["label"])
        if problem:
            problems.append(problem)
        um_per_px = _positive(cells.get("um_per_px", ""))
        if um_per_px is None:
            problems.append("um_per_px is no number above zero")
        if problems:
            wrong.append(f"{row}: {'; '.join(problems)}")
        else:
            entries[id] = Entry(label=label, group=cells.get("group", ""), um_per_px=um_per_px)
    tables.check(
        path,
        wrong,
        "an image's path below images, with or without suffix, once, and one of "
        f"{_TYPES} (or nothing if unknown); mend them",
    )
    return entries


def folder_types(
    images: dict[str, epath.Path], root: epath.Path, entries: dict[str, Entry] | None
) -> dict[str, int]:
    """Reads the cell types off the class folders: the first folder of an id, in either case.

    Args:
        images: by id.
        root: the folder `images`, for messages.
        entries: from `read_labels`; None if there is no `labels.csv`. With one, folders other than
            class folders are allowed, such as one for each patient.

    Returns:
        Id to index into `labels.CELL_TYPES`, for the images in class folders.

    Raises:
        DataError: a folder is no cell type (and there is no `labels.csv`), or contradicts
            `labels.csv`; lists up to 20.
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


def _label(text: str) -> tuple[int, str]:
    """Returns the index of a cell type's name, and what is wrong with the name (empty: nothing)."""
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
    """Returns the number; NaN for an empty text, None if it is no number above zero."""
    if not text:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
