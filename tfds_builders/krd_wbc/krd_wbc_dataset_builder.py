"""KRD-WBC (Taha, Alizadeh and Mohammad 2023): white blood cells with masks of the whole cell."""

import collections
import re

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, tables
from wbc_jax.data.images import read_image
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CELL_ONLY, CELL_TYPES, IGNORE, UNKNOWN_LABEL

PAGE = "https://data.mendeley.com/datasets/jzdj6h7gms"
FOLDERS = ("krd_wbc", "KRD-WBC dataset", "KRD-WBC")
LABELS = "class labels.csv"
HEADERS = (("image id", "categoriy"), ("image id", "category"))
"""Allowed headers in lower case; the first is the authors' spelling."""

HALF = 128
"""Gray value from which on a mask's pixel is cell: compression has blurred 0 and 255."""
MID_GREY = (64, 192)
"""Gray values from the first to below the second are counted: they are nearer to half than to
black or white."""
MAX_MID_GREY = 0.05
"""Masks with a larger share of such pixels are errors. The blurred edge of a cell drawn for the
tests, 512 pixels wide, has less than 0.01."""
MAX_SPREAD, MAX_COLORED = 32, 0.01
"""Masks are errors in which more than this share of pixels differ by more than `MAX_SPREAD`
between their color channels."""


class Builder(building.Builder):
    """Builder of krd_wbc; see `building.Builder`. All its masks are cell-only."""

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        tfds.core.BuilderConfig(name="default", description="All images with a mask.")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download {PAGE} and unpack it so that the folder {building.MANUAL_DIR}/{FOLDERS[0]} "
        f"holds Dataset/image, Dataset/mask and {LABELS!r}"
    )
    page = PAGE
    folders = FOLDERS
    entries = ("Dataset/image", "Dataset/mask", LABELS)
    counted = (
        "cell_only_masks",
        "mid_grey_pixels",
        "unlabelled_images",
        "labels_without_image",
        "excluded_records",
        "left_out_files",
    )

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        labels = read_labels(folder / LABELS)
        image_folder, mask_folder = folder / "Dataset" / "image", folder / "Dataset" / "mask"
        images = _numbered(image_folder, "image", notes)
        masks = _numbered(mask_folder, "mask", notes)
        if not images:
            raise DataError(
                f"{image_folder}: holds no file such as image1.jpg: unpack the authors' images "
                "there, unchanged"
            )
        for number in sorted(images.keys() - masks.keys()):
            for path in images[number]:
                notes.bad.add(path, f"has no mask: {mask_folder / f'mask{number}.jpg'}")
        for number in sorted(masks.keys() - images.keys()):
            for path in masks[number]:
                notes.bad.add(path, f"has no image: {image_folder / f'image{number}.jpg'}")
        notes.counts["labels_without_image"] = len(labels.keys() - images.keys())
        items = []
        for number in sorted(images.keys() & masks.keys()):
            if len(images[number]) + len(masks[number]) > 2:
                continue  # bad files
            (image,), (mask,) = images[number], masks[number]
            items.append(
                building.Item(
                    id=f"image{number}",
                    path=image,
                    mask=mask,
                    label=labels.get(number, UNKNOWN_LABEL),
                    subtype=CELL_ONLY,
                )
            )
        return items

    def read_mask(self, item: building.Item, notes: building.Notes) -> np.ndarray:
        mask, mid_grey = read_mask(item.mask)
        notes.counts.update(cell_only_masks=1, mid_grey_pixels=mid_grey)
        return mask


def _numbered(folder: epath.Path, word: str, notes: building.Notes) -> dict[int, list[epath.Path]]:
    """Returns the files `<word>N.jpg` by N; several of one N are bad files, as are other names."""
    found = collections.defaultdict(list)
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or not path.name.lower().endswith((".jpg", ".jpeg")):
            continue
        match = re.fullmatch(rf"{word}(\d+)\.jpe?g", path.name, re.IGNORECASE | re.ASCII)
        if match:
            found[int(match[1])].append(path)
        else:
            notes.bad.add(path, f"is named otherwise than {word}1.jpg, {word}2.jpg, ...: rename it")
    for number, paths in found.items():
        for path in paths if len(paths) > 1 else ():
            others = ", ".join(str(other) for other in paths if other != path)
            notes.bad.add(path, f"has the number {number} of {others}: allowed is one file a cell")
    return found


def read_mask(path: epath.PathLike) -> tuple[np.ndarray, int]:
    """Reads one of the authors' masks.

    Args:
        path: gray JPEG: white cell on black ground. Compression has changed the values, so that
            a pixel is cell from `HALF` on.

    Returns:
        The mask, uint8 `[H, W]` of 0 and 255 (ignore: the nucleus is somewhere inside), and the
        number of its pixels within `MID_GREY`.

    Raises:
        DataError: an unreadable file, or colors, too many pixels within `MID_GREY`, or no edge
            between cell and ground.
    """
    pixels = read_image(path).astype(np.int16)
    colored = (np.ptp(pixels, axis=-1) > MAX_SPREAD).mean()
    if colored > MAX_COLORED:
        raise DataError(
            f"{path}: {100 * colored:.1f} % of the mask's pixels have a color: allowed is a white "
            "cell on black ground; fetch the authors' mask again"
        )
    gray = pixels.mean(-1)
    mid_grey = int(((gray >= MID_GREY[0]) & (gray < MID_GREY[1])).sum())
    if mid_grey > MAX_MID_GREY * gray.size:
        raise DataError(
            f"{path}: {100 * mid_grey / gray.size:.1f} % of the mask's pixels are between "
            f"{MID_GREY[0]} and {MID_GREY[1]}, neither black nor white: allowed are "
            f"{100 * MAX_MID_GREY:.0f} %; fetch the authors' mask again or redraw it"
        )
    cell = gray >= HALF
    if cell.all() or not cell.any():
        raise DataError(
            f"{path}: the mask marks {'the whole image' if cell.any() else 'no cell'}: allowed is "
            "a white cell on black ground; redraw or fetch the mask again"
        )
    return np.where(cell, IGNORE, BACKGROUND).astype(np.uint8), mid_grey


def read_labels(path: epath.PathLike) -> dict[int, int]:
    """Reads `class labels.csv`.

    Args:
        path: CSV (commas or semicolons) with the header `Image ID,Categoriy` and names such as
            `Image1`; a type may be in either case and in the plural; an empty one is unknown.

    Returns:
        The image's number to its index into `labels.CELL_TYPES`, or -1.

    Raises:
        DataError: no such file, another header, or wrong rows; lists up to 20.
    """
    header, *rows = tables.read(path)
    if tuple(cell.lower() for cell in _filled(header.cells)) not in HEADERS:
        raise DataError(
            f"{path}: the header is {header.text!r}: allowed is 'Image ID,Categoriy'; fetch the "
            "file again"
        )
    labels, wrong = {}, []
    for row in rows:
        name, category = [*_filled(row.cells), ""][:2]
        match = re.fullmatch(r"image ?(\d+)(\.jpe?g)?", name, re.IGNORECASE | re.ASCII)
        cell_type = category.lower().removesuffix("s")
        if len(_filled(row.cells)) > 2 or not match or cell_type not in ("", *CELL_TYPES):
            wrong.append(str(row))
            continue
        label = CELL_TYPES.index(cell_type) if cell_type else UNKNOWN_LABEL
        if labels.setdefault(int(match[1]), label) != label:
            wrong.append(f"{row} contradicts an earlier line")
    tables.check(
        path,
        wrong,
        f"a name such as Image1, and one of {', '.join(CELL_TYPES)} (or nothing); mend them",
    )
    return labels


def _filled(cells: list[str]) -> list[str]:
    """Returns the cells without empty ones at the end, which spreadsheets add."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells
