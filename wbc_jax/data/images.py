"""Reads, checks, encodes and decodes images and masks.

Records hold encoded images and masks. Only this module turns bytes into pixels and back.
"""

import contextlib
import dataclasses
import io
import logging as python_logging
import threading
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError

from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CYTOPLASM, IGNORE, NUCLEUS

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header alone, before any pixel is decoded."""
MAX_FILE_BYTES = 2**30
"""Larger files are refused after this many bytes have been read."""
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM")
"""Formats (Pillow's names) that `read_image` and `read_image_file` open."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings of files that the search of a folder takes for images."""
MASK_VALUES = (BACKGROUND, CYTOPLASM, NUCLEUS, IGNORE)

_PIECE = 2**20
_EXIF_ORIENTATION = 0x0112
_KINDS = {
    "P": "a palette, whose entries may be classes or colours",
    "RGB": "three different channels",
    "RGBA": "an alpha channel",
    "LA": "an alpha channel",
    "I;16": "16-bit samples",
    "I;16B": "16-bit samples",
    "I": "32-bit samples",
    "F": "floating-point samples",
}


def encode_png(array: np.ndarray) -> bytes:
    """Encodes pixels as PNG. One OpenCV version always gives the same bytes for the same pixels.

    Args:
        array: uint8 `[H, W, 3]` RGB, or `[H, W]` or `[H, W, 1]`.

    Returns:
        The PNG file.

    Raises:
        DataError: the array has another dtype or shape, or no pixels.
    """
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    plausible = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)
    if array.dtype != np.uint8 or not plausible or array.size == 0:
        raise DataError(
            f"cannot encode an array of {array.dtype} {list(array.shape)} as PNG: allowed is uint8 "
            "[H, W, 3], [H, W] or [H, W, 1] with at least one pixel"
        )
    if array.ndim == 3:
        array = cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_RGB2BGR)
    ok, encoded = cv2.imencode(".png", np.ascontiguousarray(array))
    if not ok:
        raise DataError(f"OpenCV could not encode an array of shape {list(array.shape)} as PNG")
    return encoded.tobytes()


def decode_image(data: bytes) -> np.ndarray:
    """Decodes a stored image.

    Args:
        data: PNG or JPEG file, as in a record's `image`.

    Returns:
        uint8 `[H, W, 3]` RGB. EXIF orientation is ignored: `read_image_file` has applied it.

    Raises:
        DataError: the bytes cannot be decoded.
    """
    return _imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a stored mask.

    Args:
        data: 8-bit gray PNG file, as in a record's `mask`.

    Returns:
        uint8 `[H, W]`.

    Raises:
        DataError: the bytes cannot be decoded, or are not one 8-bit channel.
    """
    mask = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise DataError(
            f"the mask decodes to {mask.dtype} {list(mask.shape)}: allowed is one 8-bit channel; "
            "encode masks with images.encode_png"
        )
    return mask


def read_image(path: epath.PathLike) -> np.ndarray:
    """Reads an image file of any supported format.

    Gray is repeated on the three channels, alpha is dropped, 16-bit samples keep their high byte,
    and an EXIF orientation is applied.

    Args:
        path: the file, local or remote.

    Returns:
        uint8 `[H, W, 3]` RGB.

    Raises:
        DataError: the file is missing, empty, not an image, truncated, beyond `MAX_FILE_BYTES` or
            `MAX_PIXELS`, has several pages, or has samples that 8-bit RGB cannot hold.
    """
    # Pillow decodes here and OpenCV decodes records. Pillow alone reports a truncated file (OpenCV
    # fills the rest with gray), and their pixels are the same, since both bundle libjpeg-turbo:
    # with Pillow 13.0 and OpenCV 5.0 on 1,972 real files, on all JPEG subsamplings, and on all 881
    # damaged JPEGs that Pillow accepts. Decoding with both took 2.4 times as long.
    with _decoding(path), _open(path) as (_, image):
        return _to_rgb(path, _upright(image))


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image file's pixels, and what a reader of results must know of the file.

    Attributes:
        pixels: uint8 `[H, W, 3]` RGB.
        flags: what was unusual, such as `decoder_warning` or `scaled_12_bit`.
        um_per_px: micrometers per pixel that the file states, or None.
        um_per_px_source: where the file states it, such as `ome` or `tiff_resolution`; empty
            without a size.
        notes: sentences for the log, each with the file's name.
    """

    pixels: np.ndarray
    flags: tuple[str, ...] = ()
    um_per_px: float | None = None
    um_per_px_source: str = ""
    notes: tuple[str, ...] = ()


def read_with_metadata(path: epath.PathLike) -> ImageFile:
    """Reads an image file of any supported format, with what the file says of its pixels.

    Args:
        path: the file, local or remote.

    Returns:
        The pixels, flags, the pixel size and notes.

    Raises:
        DataError: as `read_image`.
    """
    return ImageFile(read_image(path))


def read_image_file(path: epath.PathLike) -> tuple[bytes, int, int]:
    """Reads an image file as the bytes that a record stores, and checks that it decodes in full.

    8-bit RGB PNG and JPEG files are passed through byte for byte. All others are converted as by
    `read_image` and encoded as PNG.

    Args:
        path: the file, local or remote.

    Returns:
        The bytes to store, and the image's height and width in pixels.

    Raises:
        DataError: as `read_image`.
    """
    with _decoding(path), _open(path) as (data, image):
        if _passes_through(data, image):
            # Pillow has found no truncation; OpenCV, which decodes records, must cope as well.
            with contextlib.suppress(DataError):
                if decode_image(data).shape[:2] == (image.height, image.width):
                    return data, image.height, image.width
        pixels = _to_rgb(path, _upright(image))
    return encode_png(pixels), pixels.shape[0], pixels.shape[1]


def read_mask_file(path: epath.PathLike) -> np.ndarray:
    """Reads the values of a mask file as they are stored, whatever they mean.

    Args:
        path: an 8-bit gray file, or a color file whose three channels are equal. JPEG is refused,
            because its compression changes values.

    Returns:
        uint8 `[H, W]`.

    Raises:
        DataError: as `read_image`; or the mask is a JPEG, or has a palette, 16 bits or colors.
    """
    with _decoding(path), _open(path) as (_, image):
        if image.format in ("JPEG", "MPO"):
            raise DataError(
                f"{path}: the mask is a JPEG, whose compression changes values at every edge: "
                "save masks as 8-bit grey PNG"
            )
        if image.mode in ("L", "1"):
            return np.array(image.convert("L"))
        if image.mode == "RGB":
            pixels = np.array(image)
            if (pixels == pixels[..., :1]).all():
                return pixels[..., 0].copy()
        raise DataError(
            f"{path}: the mask has {_KINDS.get(image.mode, f'mode {image.mode}')}: allowed is one "
            "8-bit grey channel; save the mask as 8-bit grey PNG"
        )


def check_mask(mask: np.ndarray, where: str = "mask") -> None:
    """Checks that a mask is uint8 `[H, W]` in the vocabulary 0, 1, 2, 255.

    Raises:
        DataError: it has another dtype, shape or other values (listed with their pixel counts).
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise DataError(
            f"{where}: the mask is {mask.dtype} {list(mask.shape)}: allowed is uint8 [H, W]"
        )
    unknown = unknown_values(mask, MASK_VALUES)
    if unknown:
        raise DataError(
            f"{where}: mask values {describe_values(unknown)} are unknown: allowed are 0 "
            "background, 1 cytoplasm, 2 nucleus, 255 ignore; map the file's values to these"
        )


def unknown_values(array: np.ndarray, known: tuple[int, ...]) -> dict[int, int]:
    """Returns the values of a uint8 array that are not in `known`, with their pixel counts."""
    counts = np.bincount(array.ravel(), minlength=256)
    return {int(v): int(counts[v]) for v in np.flatnonzero(counts) if v not in known}


def describe_values(counts: dict[int, int]) -> str:
    """Formats `{7: 217, 9: 22}` as `7 (217 pixels), 9 (22 pixels)`; names at most ten values."""
    shown = [f"{v} ({n} pixel{'s' * (n != 1)})" for v, n in list(counts.items())[:10]]
    return ", ".join(shown) + (f" and {len(counts) - 10} more" if len(counts) > 10 else "")


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # zero bytes, or a size beyond OpenCV's own limit
        pixels = None
    if pixels is None:
        raise DataError(
            f"{len(data)} bytes could not be decoded as an image: allowed is PNG or JPEG; build "
            "the data set again if they come from a record"
        )
    return pixels


class _Quiet:
    """Context in which Pillow neither warns about a file nor logs the errors that it raises.

    Like `warnings.catch_warnings`, but safe with threads: the first thread to enter sets the
    filter, and the last one to leave restores the previous one.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._logger = python_logging.getLogger("PIL")

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._level = self._logger.level
                self._logger.setLevel(python_logging.CRITICAL)
            self._inside += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__()
                self._logger.setLevel(self._level)


_quiet = _Quiet()


@contextlib.contextmanager
def _decoding(path: epath.PathLike) -> Iterator[None]:
    """Reports whatever Pillow raises inside as a damaged file."""
    try:
        with _quiet:
            yield
    except DataError:
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error ...
        raise DataError(f"{path}: is truncated or damaged ({error}): fetch it again") from error


def _read_at_most(file: BinaryIO, size: int) -> bytes:
    """Returns the first `size` bytes. `file.read(size)` would allocate that much for any file."""
    pieces, left = [], size
    while left and (piece := file.read(min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def _open(path: epath.PathLike) -> Iterator[tuple[bytes, Image.Image]]:
    """Yields the file's bytes and its image, fully decoded by Pillow, which reports truncation."""
    try:
        with epath.Path(path).open("rb") as file:
            data = _read_at_most(file, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}): check that it exists and may be read"
        ) from error
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes): fetch it again")
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: is larger than {MAX_FILE_BYTES:,} bytes, which is all that is allowed; cut "
            "the image into parts"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: {error}: allowed are {MAX_PIXELS:,} pixels; cut the image into parts"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path}: is not an image that can be read (first bytes {data[:8]!r}): allowed are "
            f"{', '.join(IMAGE_FORMATS)}; fetch or convert the file again"
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        raise DataError(f"{path}: has a damaged header ({error}): fetch it again") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{path}: has {image.width} x {image.height} pixels: allowed are {MAX_PIXELS:,}; "
                "cut the image into parts"
            )
        pages = getattr(image, "n_frames", 1)
        # MPO, the JPEG of some cameras, holds previews behind its first image.
        if pages > 1 and image.format != "MPO":
            raise DataError(f"{path}: holds {pages} pages: allowed is one; save one page a file")
        image.load()
        yield data, image


def _passes_through(data: bytes, image: Image.Image) -> bool:
    """Returns whether a record may store the file as it is: an upright 8-bit RGB PNG or JPEG."""
    if image.mode != "RGB" or _is_turned(image):
        return False
    if image.format == "PNG":
        # Bytes 24 and 25 of the file are bit depth and color type 2 (RGB): Pillow shows 16-bit RGB
        # as RGB too. A transparent color would decode to four channels.
        return data[24:26] == b"\x08\x02" and "transparency" not in image.info
    return image.format in ("JPEG", "MPO")


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _is_turned(image) else image


def _to_rgb(path: epath.PathLike, image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise DataError(
            f"{path}: has {_KINDS[image.mode]}, whose range is not known: allowed are 8-bit and "
            "16-bit samples; convert it to 8-bit RGB"
        )
    try:
        if image.mode == "LA":
            image = image.convert("L")
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise DataError(
            f"{path}: colours of mode {image.mode} cannot be converted ({error}): convert the file "
            "to 8-bit RGB"
        ) from error


def describe_size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels (width x height)"


def check_image(image: np.ndarray) -> None:
    """Checks that an image is uint8 `[H, W, 3]` with at least one pixel.

    Raises:
        ValueError: it is not; says what it is.
    """
    good = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
    if not good or image.shape[-1] != 3 or not image.size:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise ValueError(
            f"an image is {what}; it must be uint8 [H, W, 3], RGB. wbc_jax.read_image(path) reads "
            "any image file so."
        )
