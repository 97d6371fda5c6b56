"""Names of output files, and the table of a folder of results."""

import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable

from etils import epath

from wbc_jax.errors import InputError
from wbc_jax.utils import atomic

TABLE = "cells.parquet"

MOST_BYTES = 200
"""Longest stem of a result, in bytes of UTF-8. File systems allow names of 255; the rest is for the
ending, for a number, and for what `atomic.atomic_write` adds while it writes."""


def output_names(paths: Iterable[str]) -> list[str]:
    """Returns a different file-name stem for each path, even if two inputs have the same name.

    A stem is valid UTF-8 of at most `MOST_BYTES` bytes, unless it got a number because another
    path has the same. Where the input's name is longer, is no UTF-8 or has control characters, its
    stem ends in a digest of the name.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = _stem(os.path.basename(path))
        candidates = itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2)))
        name = next(c for c in candidates if _folded(c) not in taken)
        taken.add(_folded(name))
        names.append(name)
    return names


def cells_table(folder: epath.PathLike) -> epath.Path:
    """Returns the path of the table of cells that `wbc_jax.predict` wrote to a folder.

    Raises:
        InputError: there is none.
    """
    path = epath.Path(folder).expanduser() / TABLE
    if not path.exists():
        raise InputError(
            f"{folder} has no {TABLE}, so it is no folder of results: name the --out of "
            "`python -m wbc_jax.predict`, run with --format=csv."
        )
    return path


def _stem(name: str) -> str:
    """Returns the stem that the results of a file have."""
    stem = os.path.splitext(name)[0]
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f\ufffd]", "_", atomic.utf8(stem))
    if clean == stem and len(clean.encode()) <= MOST_BYTES:
        return stem
    end = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
    return clean.encode()[: MOST_BYTES - len(end)].decode("utf-8", "ignore") + end


def _folded(name: str) -> str:
    """Returns the form in which some file systems compare names: A is a, and an accent is one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
