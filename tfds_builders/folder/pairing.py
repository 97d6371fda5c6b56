"""Pairs the user's images and masks by their paths, and names files without a counterpart."""

import os
import re

from etils import epath
from PIL import Image

from wbc_jax.data import reading
from wbc_jax.errors import DataError
from wbc_jax.tfds_builders.folder import layout

MASKS = "masks"
_AFFIX = re.compile(r"(^|[-_. ])(mask|label|labels|seg|segmentation|gt|annotation)s?($|[-_. ])")
_ORIENTATION = 0x0112
_UPRIGHT = (0, 1)
_QUARTER_TURNED = 5
"""From this EXIF orientation on, width and height change places."""


def find_masks(
    folder: epath.Path,
    images: dict[str, list[epath.Path]],
    bad: reading.BadFiles,
    may_lack: bool,
) -> dict[str, epath.Path]:
    """Finds the mask of each image.

    Args:
        folder: holds `images`, and `masks` if there are any.
        images: by id, from `layout.find_files`.
        bad: collects masks without an image, images without a mask, and files that are no masks.
        may_lack: an image without a mask is not bad.

    Returns:
        Mask by id; empty if there is no folder `masks`.

    Raises:
        DataError: the folder `masks` holds no mask, or has another name (`Masks`, `mask`).
    """
    root = folder / MASKS
    if not root.is_dir():
        layout.check_spelling(folder, MASKS)
        return {}
    bad_before = len(bad.files)
    found = layout.find_files(root, (".png",), bad)
    if not found and len(bad.files) == bad_before:
        raise DataError(
            f"{root}: holds no mask: allowed are PNG files with their images' paths and names; put "
            f"the masks there, or remove the folder if there are none; expected is:{layout.LAYOUT}"
        )
    masks = {id: paths[0] for id, paths in found.items() if len(paths) == 1}
    # These have a file in `masks` that is bad for another reason.
    named = {os.path.splitext(path)[0] for path, _ in bad.files[bad_before:]}
    lacking = [id for id in images if id not in found and os.fspath(root / id) not in named]
    orphans = sorted(found.keys() - images.keys())
    meant = _similar(lacking, orphans)
    for id in orphans:
        if id in meant.values():
            (image,) = [one for one, mask in meant.items() if mask == id]
            hint = f"; if it is that of {images[image][0]}, rename it to {root / image}.png"
        else:
            hint = f": {folder / 'images' / id} with {', '.join(layout.SUFFIXES)} is missing"
        for path in found[id]:
            bad.add(path, f"has no image{hint}")
    if not may_lack:
        for id in lacking:
            hint = f"; {found[meant[id]][0]} is named differently" if id in meant else ""
            for path in images[id]:
                bad.add(
                    path,
                    f"has no mask: {root / id}.png is missing{hint}; if some images have none on "
                    f'purpose, write "missing": "allowed" into {folder / layout.MASK_VALUES}',
                )
    return {id: path for id, path in masks.items() if id in images}


def check_turned(image: epath.PathLike, mask: epath.PathLike, mask_size: tuple[int, int]) -> None:
    """Checks that a mask lies as its image, where a file's EXIF orientation turns the pixels.

    Images are turned when they are read. Whether a mask was drawn over the turned or the stored
    pixels shows in its size only where the image is turned by a quarter and not square.

    Args:
        image, mask: files.
        mask_size: (height, width) of the mask as stored.

    Raises:
        DataError: the mask has an orientation of its own, or lies as the stored pixels, or nothing
            tells how it lies.
    """
    (turned, stored), (own, _) = _orientation(image), _orientation(mask)
    if own not in _UPRIGHT:
        raise DataError(
            f"{mask}: has the EXIF orientation {own}, and masks are read as stored: turn its "
            "pixels and save it without the tag"
        )
    if turned in _UPRIGHT:
        return
    upright = stored[::-1] if turned >= _QUARTER_TURNED else stored
    if mask_size == upright != stored:
        return
    fits_both = mask_size == upright == stored
    if fits_both or mask_size == stored:
        how = "fits the image turned or not" if fits_both else "fits the pixels that are not turned"
        raise DataError(
            f"{mask}: its image {image} has the EXIF orientation {turned}, by which it is turned "
            f"when it is read, and the mask {how}: turn the image's pixels as the mask lies and "
            "save it without the tag"
        )


def _orientation(path: epath.PathLike) -> tuple[int, tuple[int, int]]:
    """Returns the EXIF orientation and (height, width) as stored; (1, (0, 0)) if unreadable."""
    try:
        with epath.Path(path).open("rb") as file, Image.open(file) as image:
            orientation, size = image.getexif().get(_ORIENTATION, 1), (image.height, image.width)
            # Pillow gives the size of a turned TIFF, and of no other file, as it is shown.
            shown = image.format == "TIFF" and orientation >= _QUARTER_TURNED
            return orientation, size[::-1] if shown else size
    except Exception:  # a damaged file, which reading its pixels reports
        return 1, (0, 0)


def _similar(images: list[str], masks: list[str]) -> dict[str, str]:
    """Returns the masks whose names differ from an image's in case or in a word such as `_mask`."""

    def by_core(ids: list[str]) -> dict[str, str]:
        cores: dict[str, list[str]] = {}
        for id in ids:
            above, _, name = id.casefold().rpartition("/")
            cores.setdefault(f"{above}/{_AFFIX.sub('', name)}", []).append(id)
        return {core: found[0] for core, found in cores.items() if len(found) == 1}

    known = by_core(masks)
    return {id: known[core] for core, id in by_core(images).items() if core in known}
