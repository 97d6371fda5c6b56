"""Masks of the user's images, and `mask_values.json`, which says what their values mean."""

import json
import os
import re

import numpy as np
from etils import epath

from wbc_jax.data import reading
from wbc_jax.data.images import (
    MASK_VALUES,
    check_mask,
    describe_values,
    read_mask_file,
    unknown_values,
)
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CYTOPLASM, IGNORE, NUCLEUS
from wbc_jax.tfds_builders.folder.layout import MASK_VALUES as MASK_VALUES_FILE

CELL = 254
"""Stands for `cell` until a mask is converted."""
CLASSES = {
    "background": BACKGROUND,
    "cytoplasm": CYTOPLASM,
    "nucleus": NUCLEUS,
    "ignore": IGNORE,
    "cell": CELL,
}
"""The names that `mask_values.json` may use."""

VALUES_EXAMPLE = '{"0": "background", "128": "cytoplasm", "255": "nucleus"}'
AS_THEY_ARE = '{"0": "background", "1": "cytoplasm", "2": "nucleus", "255": "ignore"}'
WHOLE_CELLS = '{"0": "background", "1": "cell"}'


def read_mask_values(path: epath.PathLike) -> tuple[np.ndarray | None, bool]:
    """Reads `mask_values.json`.

    Args:
        path: JSON such as `{"0": "background", "128": "cytoplasm", "255": "nucleus"}`; the other
            classes are `ignore`, and `cell` for masks of whole cells without their nucleus. Several
            values may mean one class. `"missing": "allowed"`, alone or beside values, says that
            some images have no mask.

    Returns:
        int16 `[256]`: the class of each value, -1 for values without one; None if the file does
        not say, so that masks must hold 0, 1, 2, 255. And whether masks may be missing.

    Raises:
        DataError: not such a JSON file.
    """
    path = epath.Path(path)
    if not path.exists():
        return None, False
    try:
        pairs = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError
        raise DataError(
            f"{path}: is no JSON text ({error}): allowed is such as {VALUES_EXAMPLE}"
        ) from error
    table = np.full(256, -1, np.int16)
    wrong, may_lack = [], False
    for value, name in pairs if isinstance(pairs, _Pairs) else ():
        if (value, name) == ("missing", "allowed") and not may_lack:
            may_lack = True
            continue
        known = isinstance(name, str) and name in CLASSES
        number = int(value) if re.fullmatch(r"[0-9]{1,3}", value) else -1
        if not known or not 0 <= number <= 255 or table[number] >= 0:
            wrong.append(f"{value!r}: {name!r}")
        else:
            table[number] = CLASSES[name]
    if wrong or not pairs or not isinstance(pairs, _Pairs):
        raise DataError(
            f"{path}: {', '.join(wrong[:20]) or 'what it holds'} is not known: allowed are values "
            f"from 0 to 255, each once, as {', '.join(CLASSES)}, such as {VALUES_EXAMPLE}, and "
            '"missing": "allowed"'
        )
    return table if (table >= 0).any() else None, may_lack


def check_alike(
    masks: dict[str, epath.Path], folder: epath.Path, bad: reading.BadFiles
) -> dict[str, epath.Path]:
    """Checks that masks whose values nobody has explained mean the same in all files.

    A value means what it means in the other masks. 255 is "ignore", so that a nucleus drawn as 255
    would vanish without a word; and 1 is cytoplasm, so that a whole cell drawn as 1 would be a cell
    without a nucleus.

    Args:
        masks: by id; there is no `mask_values.json` that explains their values.
        folder: holds the folder `masks`, for messages.
        bad: collects masks without a nucleus, where others have one.

    Returns:
        The masks without these.

    Raises:
        DataError: no mask has a nucleus, or none has cytoplasm: names the values and the remedies.
    """
    found = dict(zip(masks, reading.each(_values, list(masks.values()))))
    # Others have values that are not known; reading them says so.
    plain = {id: values for id, values in found.items() if values and values <= set(MASK_VALUES)}
    if not plain:
        return masks
    everything, values_file = set().union(*plain.values()), folder / MASK_VALUES_FILE
    if not everything & {CYTOPLASM, NUCLEUS}:
        raise DataError(
            f"{folder / 'masks'}: no mask holds cytoplasm (1) or nucleus (2), only "
            f"{_listed(everything)}, and 255 means ignore: write {values_file} to say what the "
            f"values mean, such as {VALUES_EXAMPLE}"
        )
    if NUCLEUS not in everything:
        raise DataError(
            f"{folder / 'masks'}: no mask holds a nucleus (2), only {_listed(everything)}. If 1 is "
            f"the whole cell, write {WHOLE_CELLS} into {values_file}; if it is cytoplasm and the "
            f"nuclei are not drawn, {AS_THEY_ARE}"
        )
    if CYTOPLASM not in everything:
        raise DataError(
            f"{folder / 'masks'}: no mask holds cytoplasm (1), only {_listed(everything)}. If the "
            f"cells have none, write {AS_THEY_ARE} into {values_file}; otherwise map the values, "
            f"such as {VALUES_EXAMPLE}"
        )
    odd = [id for id, values in plain.items() if NUCLEUS not in values]
    usual = next(id for id, values in plain.items() if NUCLEUS in values)
    for id in odd:
        bad.add(
            masks[id],
            f"holds {_listed(plain[id])}, without nucleus (2), and {len(plain) - len(odd)} other "
            f"masks have one, such as {masks[usual]} with {_listed(plain[usual])}: redraw it, or "
            f"write {values_file} to say what the values mean; {AS_THEY_ARE} takes all as they are",
        )
    return {id: path for id, path in masks.items() if id not in odd}


def _values(path: epath.Path) -> set[int]:
    try:
        return set(np.unique(read_mask_file(path)).tolist())
    except DataError:  # reported when the mask is read
        return set()


def _listed(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def read_mask(path: epath.PathLike, values: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Reads a mask and converts it to the project's classes.

    Args:
        path: 8-bit gray PNG.
        values: from `read_mask_values`.

    Returns:
        uint8 `[H, W]` of 0, 1, 2, 255; and whether it marks a whole cell without its nucleus, whose
        pixels are 255.

    Raises:
        DataError: an unreadable file, values without a class, or a mask of a whole cell with
            pixels to ignore.
    """
    gray = read_mask_file(path)
    if values is None:
        try:
            check_mask(gray, os.fspath(path))
        except DataError as error:
            raise DataError(
                f"{error}, or write {MASK_VALUES_FILE} beside the folder masks, such as "
                f"{VALUES_EXAMPLE}"
            ) from error
        return gray, False
    known = tuple(int(value) for value in np.flatnonzero(values >= 0))
    if unknown := unknown_values(gray, known):
        raise DataError(
            f"{path}: mask values {describe_values(unknown)} are unknown: allowed by "
            f"{MASK_VALUES_FILE} are {', '.join(map(str, known))}; add the others or redraw the "
            "mask"
        )
    mask = values.astype(np.uint8)[gray]
    cell = mask == CELL
    cell_only = bool(cell.any()) and not np.isin(mask, (CYTOPLASM, NUCLEUS)).any()
    # The cell becomes 255 as well, from which pixels to ignore could not be told.
    if cell_only and (mask == IGNORE).any():
        raise DataError(
            f"{path}: marks {int((mask == IGNORE).sum())} pixels as ignore beside a cell without "
            "its nucleus: allowed are background and cell; draw these pixels as one or the other"
        )
    return np.where(cell, np.uint8(IGNORE), mask), cell_only


class _Pairs(list):
    """The pairs of a JSON object; a dict would hide keys that occur twice."""
