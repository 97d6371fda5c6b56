"""The image files that a command was given: named files, folders and globs."""

from __future__ import annotations

import collections
import dataclasses
import functools
import glob
import os
import re
from collections.abc import Iterator, Sequence

from etils import epath

from wbc_jax.errors import InputError
from wbc_jax.utils import atomic, output_folder

RESULT_FOLDERS = ("masks", "labels", "overlays", "geojson", "maps")
"""Folders that `wbc_jax.predict` writes; they hold no input, even if they are named."""
_HEIF = (".heic", ".heif", ".hif")
OWN, MASKS, MACOS, HIDDEN = (
    "written by wbc_jax", "masks beside images", "metadata of macOS", "hidden"
)  # fmt: skip
"""Reasons to pass a file over; the others are `ending .xyz`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a command.

    Attributes:
        paths: images, each once.
        passed_over: (path, reason) of each file that a folder or glob holds and that is no input.
    """

    paths: list[str]
    passed_over: list[tuple[str, str]]

    def describe(self) -> str:
        """Returns a line with the number of files passed over by reason; empty without any."""
        if not self.passed_over:
            return ""
        counts = collections.Counter(reason for _, reason in self.passed_over)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        return f"passed over {len(self.passed_over)} files: {reasons}"


def find_images(names: Sequence[str], slides: bool = False) -> Inputs:
    """Returns the images among files, folders (with their subfolders) and globs.

    A file that is named itself is always taken. Folders and globs give the files whose ending is
    that of an image format, but not the results of an earlier call, which its manifest lists; not
    `masks/` beside `images/`; and not the metadata that macOS leaves.

    Args:
        names: files, folders and globs.
        slides: take whole slides as well, the folders of Zarr among them.

    Raises:
        InputError: an input does not exist, or there is no image in any of them.
    """
    _written.cache_clear()
    _folder_reason.cache_clear()
    found: dict[str, None] = {}
    passed_over: dict[str, str] = {}
    for name in names:
        path = epath.Path(name).expanduser()
        if (not path.is_dir() and path.exists()) or (slides and _is_zarr(os.fspath(path))):
            found[os.fspath(path)] = None
            continue
        if path.is_dir():
            base = os.fspath(path)
            inside = _walk(base, slides)
        else:
            pattern = os.fspath(path)
            base = os.path.dirname(re.split(r"[*?\[]", pattern)[0])
            matches = sorted(glob.glob(pattern, recursive=True))
            inside = iter([m for m in matches if os.path.isfile(m) or (slides and _is_zarr(m))])
        chosen = {}
        for file in inside:
            reason = _reason(file, base, slides)
            if reason is None:
                chosen[file] = None
            else:
                passed_over[file] = reason
        if not chosen and not path.is_dir():
            raise InputError(f"{name}: no such file or folder, and no image matches it.")
        found |= chosen
    left = [(file, reason) for file, reason in passed_over.items() if file not in found]
    result = Inputs(list(found), left)
    if not found:
        why = f"; {result.describe()}" if left else ""
        raise InputError(
            f"no image in {', '.join(names)}; looked for files ending in "
            f"{', '.join(_suffixes())}{why}."
        )
    return result


def _walk(top: str, slides: bool) -> Iterator[str]:
    """Yields the files of a folder and its subfolders, and those that are a Zarr."""
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(set(folders) - {output_folder.STATE})
        if slides:
            zarrs = {name for name in folders if _is_zarr(os.path.join(folder, name))}
            yield from (os.path.join(folder, name) for name in sorted(zarrs))
            # What a Zarr or a MRXS holds belongs to the slide.
            mirax = {os.path.splitext(n)[0] for n in names if n.lower().endswith(".mrxs")}
            folders[:] = [name for name in folders if name not in zarrs | mirax]
        yield from (os.path.join(folder, name) for name in sorted(names))


def _is_zarr(folder: str) -> bool:
    if not os.path.isdir(folder):
        return False
    from wbc_jax.data import slide

    return slide.is_zarr(folder)


def _reason(path: str, base: str, slides: bool) -> str | None:
    """Returns the reason to pass a file over; None if it is an input.

    Args:
        path: the file, or the folder of a Zarr.
        base: the folder that was named, or that the glob begins with.
        slides: slides are inputs.
    """
    name = os.path.basename(path)
    path, base = os.path.abspath(path), os.path.abspath(base)
    folder = os.path.dirname(path)
    while folder != base and len(folder) > len(base):
        if reason := _folder_reason(folder):
            return reason
        folder = os.path.dirname(folder)
    if name.startswith("._"):
        return MACOS
    if name.startswith("."):
        return HIDDEN
    if _is_result(path, base):
        return OWN
    ending = os.path.splitext(name)[1].lower()
    if slides and (ending in _slide_suffixes() or os.path.isdir(path)):
        return None
    if ending not in _suffixes():
        if ending in _HEIF:
            return f"ending {ending} (pip install 'wbc_jax[heif]' reads it)"
        return f"ending {atomic.utf8(ending)}" if ending else "without an ending"
    return None


@functools.lru_cache(maxsize=4096)
def _folder_reason(folder: str) -> str | None:
    """Returns the reason to pass all files of a folder over; None if there is none."""
    parent, name = os.path.split(folder)
    if name == "__MACOSX":
        return MACOS
    if name == "masks" and os.path.isdir(os.path.join(parent, "images")):
        return MASKS
    tables = (os.path.join(parent, table) for table in ("cells.csv", "cells.parquet"))
    # Results of a version without a manifest.
    return OWN if name in RESULT_FOLDERS and all(map(os.path.isfile, tables)) else None


def _is_result(path: str, base: str) -> bool:
    """Returns whether a manifest of results lists a file.

    The crops of `wbc_jax.detect` may be inputs: they count as results only if a folder above them
    was named.
    """
    folder = os.path.dirname(path)
    while True:
        if files := _written(folder):
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            above = not base.startswith(folder.rstrip(os.sep) + os.sep)
            if relative in files and (above or relative.split("/")[0] in RESULT_FOLDERS):
                return True
        parent = os.path.dirname(folder)
        if parent == folder:
            return False
        folder = parent


@functools.lru_cache(maxsize=4096)
def _written(folder: str) -> frozenset[str]:
    return frozenset(output_folder.written(folder))


def _slide_suffixes() -> tuple[str, ...]:
    from wbc_jax.data import slides

    return slides.SUFFIXES


def _suffixes() -> tuple[str, ...]:
    from wbc_jax.data import images  # takes a second to import, for which `--help` need not wait

    return images.SUFFIXES
