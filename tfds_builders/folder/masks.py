"""Masks of the user's images, and `mask_values.json`, which says what their values mean."""

import json
import os
import re

import numpy as np
from etils import epath

from wbc_jax.data.images import check_mask, describe_values, read_mask_file, unknown_values
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CYTOPLASM, IGNORE, NUCLEUS
from wbc_jax.tfds_builders.folder.layout import MASK_VALUES

CLASSES = {
    "background": BACKGROUND,
    "cytoplasm": CYTOPLASM,
    "nucleus": NUCLEUS,
    "ignore": IGNORE,
}
"""The names that `mask_values.json` may use."""

VALUES_EXAMPLE = '{"0": "background", "128": "cytoplasm", "255": "nucleus"}'


def read_mask_values(path: epath.PathLike) -> np.ndarray | None:
    """Reads `mask_values.json`.

    Args:
        path: JSON such as `{"0": "background", "128": "cytoplasm", "255": "nucleus"}`; `ignore` is
            the fourth class. Several values may mean one class.

    Returns:
        int16 `[256]`: the class of each value, -1 for values without one. None if there is no
        file; masks must then hold 0, 1, 2, 255.

    Raises:
        DataError: not such a JSON file.
    """
    path = epath.Path(path)
    if not path.exists():
        return None
    try:
        pairs = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError
        raise DataError(
            f"{path}: is no JSON text ({error}): allowed is such as {VALUES_EXAMPLE}"
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
            f"from 0 to 255, each once, as {', '.join(CLASSES)}, such as {VALUES_EXAMPLE}"
        )
    return table


def read_mask(path: epath.PathLike, values: np.ndarray | None) -> np.ndarray:
    """Reads a mask and converts it to the project's classes.

    Args:
        path: 8-bit gray PNG.
        values: from `read_mask_values`.

    Returns:
        uint8 `[H, W]` of 0, 1, 2, 255.

    Raises:
        DataError: an unreadable file, or values without a class.
    """
    gray = read_mask_file(path)
    if values is None:
        try:
            check_mask(gray, os.fspath(path))
        except DataError as error:
            raise DataError(
                f"{error}, or write {MASK_VALUES} beside the folder masks, such as {VALUES_EXAMPLE}"
            ) from error
        return gray
    known = tuple(int(value) for value in np.flatnonzero(values >= 0))
    if unknown := unknown_values(gray, known):
        raise DataError(
            f"{path}: mask values {describe_values(unknown)} are unknown: allowed by "
            f"{MASK_VALUES} are {', '.join(map(str, known))}; add the others or redraw the mask"
        )
    return values.astype(np.uint8)[gray]


class _Pairs(list):
    """The pairs of a JSON object; a dict would hide keys that occur twice."""
