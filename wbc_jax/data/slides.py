"""Whole slides: files of billions of pixels, read part by part.

| files | library |
|---|---|
| Aperio SVS, tiled and pyramidal TIFF, OME-TIFF | tifffile, which decodes the tiles of a part |
| OME-Zarr 0.4 and 0.5 | zarr |
| Hamamatsu NDPI, 3DHISTECH MRXS, Leica SCN, Ventana BIF and others | OpenSlide |

All three and the decoders are the extra `slides`. Where tifffile and OpenSlide read the same file,
tifffile takes a sixth of the processor time (docs/slides.md).

Coordinates are pixels of the finest level. Where OpenSlide states the bounds of what was scanned,
they begin there, as in QuPath.
"""

from __future__ import annotations

import importlib.util
import logging
import os

import tifffile
from etils import epath

from wbc_jax.data import tiff_slides
from wbc_jax.data.image_opening import MAX_PIXELS, TIFF_STARTS
from wbc_jax.data.slide import Slide, is_zarr
from wbc_jax.errors import DataError

# Of a damaged file, the error says enough.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

OPENSLIDE_SUFFIXES = (".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
SUFFIXES = (".svs", *OPENSLIDE_SUFFIXES)
"""Endings of slides alone. TIFF and Zarr are told from other images by their content."""
ZARR = ".zarr"
MAX_UM_PER_PX = 1.0
"""A slide's finest level is at least so fine: a red cell is then 7.5 pixels wide."""


def is_slide(path: epath.PathLike) -> bool:
    """Returns whether a file or folder is a slide, which is read part by part, not an image.

    A slide has the ending of one, is a Zarr, or is a TIFF with a pyramid or of more than
    `MAX_PIXELS` pixels.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return is_zarr(path)
    if path.lower().endswith(SUFFIXES):
        return True
    if not os.path.isfile(path):  # reading a pipe would wait
        return False
    try:
        with open(path, "rb") as file:
            if file.read(4) not in TIFF_STARTS:
                return False
        with tifffile.TiffFile(path) as tif:
            levels = tiff_slides.pages(tif)
            return len(levels) > 1 or tif.is_svs or tiff_slides.pixels(levels[0]) > MAX_PIXELS
    except Exception:  # whoever opens it as an image says what is wrong with it
        return False


def open_slide(path: epath.PathLike) -> Slide:
    """Opens a slide.

    Raises:
        DataError: it is damaged, no slide, or of a kind that is not read: fluorescence, a stack of
            focal planes, 16-bit samples, gray, or too coarse for cells.
        OSError: it cannot be opened.
    """
    path = os.fspath(path)
    missing = [
        name
        for name, module in (
            ("openslide-python", "openslide"), ("imagecodecs", "imagecodecs"), ("zarr", "zarr"),
        )
        if importlib.util.find_spec(module) is None
    ]  # fmt: skip
    if missing:
        raise DataError(
            f"{path}: is a slide, which the extra slides reads ({', '.join(missing)} missing): pip "
            "install 'wbc_jax[slides]'"
        )
    if os.path.isdir(path):
        from wbc_jax.data import zarr_slides

        found: Slide = zarr_slides.ZarrSlide(path)
    else:
        with open(path, "rb") as file:
            start = file.read(4)
        if not start:
            raise DataError(f"{path}: is empty: copy it again")
        if path.lower().endswith(OPENSLIDE_SUFFIXES):
            from wbc_jax.data import openslide_slides

            found = openslide_slides.OpenSlideSlide(path)
        elif start in TIFF_STARTS:
            found = tiff_slides.TiffSlide(path)
        else:
            raise DataError(
                f"{path}: is named as a slide, but is none (first bytes {start!r}); if it is the "
                "picture of the glass or its label that a scanner saves beside the slide, give the "
                "slide itself"
            )
    um = found.um_per_px
    if um is not None and um > MAX_UM_PER_PX:
        found.close()
        raise DataError(
            f"{path}: a pixel is {um:.3g} um wide: allowed are up to {MAX_UM_PER_PX:g}, as cells "
            "cannot be told otherwise; this may be an overview of the slide"
        )
    return found
