"""Names of output files."""

import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable

from wbc_jax.utils import atomic

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
