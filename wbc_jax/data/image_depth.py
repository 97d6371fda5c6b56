"""Brings 16-bit samples to 8 bits by the range that a camera really used.

Cameras of 10, 12 or 14 bits store their values in 16-bit files, mostly as they are (0 ... 4095). Of
a value of n bits, the highest 8 are kept. So an 8-bit image v and its copies v << (n - 8) and
v * (2**n - 1) / 255, rounded or cut, give the same pixels, exactly.
"""

import dataclasses
import io
import re

import cv2
import numpy as np
from etils import epath
from PIL import Image

from wbc_jax.data import image_metadata, image_opening
from wbc_jax.errors import DataError

_DEPTHS = (8, 10, 12, 14, 16)
_SIZ = b"\xff\x4f\xff\x51"
"""JPEG 2000: start of the codestream and of its header."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of a file's samples: 0 to `2**bits - 1`, and where that is known from."""

    bits: int
    source: str


def to_rgb(path: epath.PathLike, data: bytes, image: Image.Image) -> tuple[np.ndarray, Range]:
    """Converts a decoded file to 8-bit RGB.

    Args:
        path: the file's name, for messages.
        data: the file.
        image: the same, decoded by Pillow, which cuts 16-bit colors to their high byte.

    Returns:
        uint8 `[H, W, 3]`, not yet turned by EXIF, and the range of the file's samples.

    Raises:
        DataError: the samples are floating-point or of 32 bits, or cannot be converted.
    """
    samples = _samples(path, data, image)
    if samples is not None:
        found = sample_range(int(samples.max()), *_stated(data, image))
        # In place: 100 million pixels of 16 bits take 600 MB.
        pixels = np.right_shift(samples, found.bits - 8, out=samples).astype(np.uint8, order="C")
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels, found
    if image.mode in ("I", "F"):
        raise image_opening.unknown_range(
            path, "32-bit samples" if image.mode == "I" else "floating-point samples"
        )
    try:
        if image.mode == "LA":
            image = image.convert("L")
        return np.array(image if image.mode == "RGB" else image.convert("RGB")), Range(8, "")
    except ValueError as error:
        raise DataError(
            f"{path}: colours of mode {image.mode} cannot be converted ({error}): convert the file "
            "to 8-bit RGB"
        ) from error


def sample_range(largest: int, stated: int | None, source: str) -> Range:
    """Returns the range of 16-bit samples.

    Args:
        largest: the largest sample.
        stated: bits of a sample that the file states, or None.
        source: where it states them.

    Returns:
        The stated range, unless a sample exceeds it; else the least of 8, 10, 12, 14 and 16 bits
        that holds the largest sample.
    """
    if stated is not None and stated <= 16 and largest < 2**stated:
        return Range(max(8, stated), source)
    bits = next(n for n in _DEPTHS if largest < 2**n)
    return Range(bits, f"the largest is {largest}")


def _samples(path: epath.PathLike, data: bytes, image: Image.Image) -> np.ndarray | None:
    """Returns uint16 `[H, W]` or `[H, W, 3]` of a file with more than 8 bits a sample, or None."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.array(image).astype(np.uint16, copy=False)
    if not is_deep(data, image):
        return None
    if image.format == "TIFF" and image.tag_v2.get(284) == 2:
        pixels = _planes(path, data)
    elif image.format == "PNG" and not image_metadata.png_fits(data):
        pixels = None
    else:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        pixels = pixels[..., 2::-1] if pixels is not None and pixels.ndim == 3 else pixels
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape != (*image.size[::-1], 3):
        if image.format == "JPEG2000":  # Pillow cuts by the file's own depth
            return None
        raise DataError(
            f"{path}: its 16-bit samples could not be decoded: convert the file to 8-bit RGB PNG"
        )
    return pixels


def is_deep(data: bytes, image: Image.Image) -> bool:
    """Returns whether Pillow has cut a color file's samples of more than 8 bits."""
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX"):
        return False
    if image.format == "PNG":
        return data[12:16] == b"IHDR" and data[24] == 16
    if image.format == "TIFF":
        return min(image.tag_v2.get(258, (8,))) == 16 and image.tag_v2.get(262) == 2
    if image.format == "JPEG2000":
        return (_codestream_bits(data) or 8) > 8
    return image.format == "PPM" and (_netpbm_largest(data) + 1) in (2**10, 2**12, 2**14, 2**16)


def _planes(path: epath.PathLike, data: bytes) -> np.ndarray | None:
    """Decodes a TIFF whose colors lie in planes one after the other, which OpenCV mistakes."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return np.moveaxis(file.pages[0].asarray(), 0, -1)[..., :3]
    except ValueError as error:  # a compression that needs imagecodecs
        raise DataError(
            f"{path}: its 16-bit samples lie in planes that could not be decoded ({error}): save "
            "it as 8-bit RGB PNG"
        ) from error


def _stated(data: bytes, image: Image.Image) -> tuple[int | None, str]:
    """Returns the bits of a sample that the file states, and where."""
    if image.format == "PNG":
        # https://www.w3.org/TR/png-3/#11sBIT: as the file was before it was scaled to 16 bits.
        # Cameras also write it without scaling; then no sample exceeds it.
        bits = image_metadata.png_chunk(data, b"sBIT")
        return (max(bits), "the chunk sBIT says so") if bits else (None, "")
    if image.format == "JPEG2000":
        bits = _codestream_bits(data)
        return (bits, "its header says so") if bits and bits < 16 else (None, "")
    if image.format == "PPM":
        largest = _netpbm_largest(data)
        return (largest.bit_length(), "its header says so") if largest < 2**16 - 1 else (None, "")
    if image.format == "TIFF":
        return image_metadata.tiff_bits(image)
    return None, ""


def _codestream_bits(data: bytes) -> int | None:
    start = data.find(_SIZ)
    size = data[start + 42 : start + 43]
    return (size[0] & 0x7F) + 1 if start >= 0 and size else None


def _netpbm_largest(data: bytes) -> int:
    """Returns the largest possible sample of a PPM or PGM file; 0 if its header is of no use."""
    words = re.sub(rb"#[^\n]*", b"", data[:1000]).split(maxsplit=4)
    useful = len(words) > 3 and words[0] in (b"P5", b"P6") and words[3].isdigit()
    return int(words[3]) if useful else 0
