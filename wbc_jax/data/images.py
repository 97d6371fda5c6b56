"""Image and mask files: reading, checking, encoding and decoding. Every pixel passes here.

Records hold encoded images and masks; only the codecs below read and write their pixels.
"""

import contextlib
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
"""Of larger image files no more than this is read before they are refused."""


_PIECE = 2**20


IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM")
"""Formats (Pillow's names) that `read_image_file` opens."""


MASK_VALUES = (
    BACKGROUND,
    CYTOPLASM,
    NUCLEUS,
    IGNORE,
)


def encode_png(array: np.ndarray) -> bytes:
    """Encodes pixels as PNG; the same pixels always give the same bytes on one OpenCV version.

    Args:
        array: uint8 `[H, W, 3]` RGB, or `[H, W]` or `[H, W, 1]`.

    Returns:
        The PNG file.

    Raises:
        DataError: another dtype or shape, or no pixels.
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
        uint8 `[H, W, 3]` RGB. EXIF orientation is not applied: `read_image_file` has done it.

    Raises:
        DataError: the bytes cannot be decoded.
    """
    return _imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a stored mask.

    Args:
        data: grey 8-bit PNG file, as in a record's `mask`.

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


def read_image_file(path: epath.PathLike) -> tuple[bytes, int, int]:
    """Reads an image file into the bytes that a record stores, checking that it decodes in full.

    8-bit RGB PNG and JPEG files pass through byte for byte. The rest (BMP, TIFF, WebP, PPM, grey,
    palette, CMYK, alpha, 16-bit, or turned by an EXIF tag) becomes 8-bit RGB PNG: grey is repeated
    on the three channels, alpha is dropped, 16-bit samples keep their high byte, and the EXIF turn
    is carried out.

    Args:
        path: the file, local or remote.

    Returns:
        The bytes to store, and the image's height and width in pixels.

    Raises:
        DataError: the file is missing, empty, no image, truncated, beyond `MAX_FILE_BYTES` or
            `MAX_PIXELS`, of several pages, or of a kind of sample that 8-bit RGB cannot hold.
    """
    with _decoding(path), _open(path) as (data, image):
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
        if _passes_through(data, image) and not turned:
            # Pillow has found no truncation; OpenCV, which decodes records, must cope as well.
            with contextlib.suppress(DataError):
                if decode_image(data).shape[:2] == (image.height, image.width):
                    return data, image.height, image.width
        pixels = _to_rgb(path, ImageOps.exif_transpose(image) if turned else image)
    return encode_png(pixels), pixels.shape[0], pixels.shape[1]


def read_mask_file(path: epath.PathLike) -> np.ndarray:
    """Reads a mask file's own values, whatever they mean.

    Args:
        path: an 8-bit grey file, or a colour one whose three channels are equal. JPEG is refused:
            its compression invents values.

    Returns:
        uint8 `[H, W]`.

    Raises:
        DataError: as `read_image_file`; a JPEG, palette, 16-bit or coloured mask.
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
        DataError: another dtype or shape, or other values (listed with their pixel counts).
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
    """Values of a uint8 array that are not among the `known` ones, with their pixel counts."""
    counts = np.bincount(array.ravel(), minlength=256)
    return {int(v): int(counts[v]) for v in np.flatnonzero(counts) if v not in known}


def describe_values(counts: dict[int, int]) -> str:
    """`{7: 217, 9: 22}` as `7 (217 pixels), 9 (22 pixels)`, up to ten of them."""
    shown = [f"{v} ({n} pixel{'s' * (n != 1)})" for v, n in list(counts.items())[:10]]
    return ", ".join(shown) + (f" and {len(counts) - 10} more" if len(counts) > 10 else "")


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
    """Within it, Pillow neither warns of oddities in a file nor logs what it raises as well.

    As `warnings.catch_warnings`, but for several threads: the first one in sets the filter, and the
    last one out puts back what was there.
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
    """Tells of whatever Pillow raises inside as a damaged file."""
    try:
        with _quiet:
            yield
    except DataError:
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error ...
        raise DataError(f"{path}: is truncated or damaged ({error}): fetch it again") from error


def _read_at_most(file: BinaryIO, size: int) -> bytes:
    """The first `size` bytes. `file.read(size)` would take that much memory for any file."""
    pieces, left = [], size
    while left and (piece := file.read(min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def _open(path: epath.PathLike) -> Iterator[tuple[bytes, Image.Image]]:
    """The file's bytes and its image, all pixels decoded by Pillow, which reports truncation."""
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
        # MPO, the JPEG of some cameras, holds previews of its first image.
        if pages > 1 and image.format != "MPO":
            raise DataError(f"{path}: holds {pages} pages: allowed is one; save one page a file")
        image.load()
        yield data, image


def _passes_through(data: bytes, image: Image.Image) -> bool:
    """Whether the file is an 8-bit RGB PNG or JPEG, as a record may store it."""
    if image.mode != "RGB":
        return False
    if image.format == "PNG":
        # Bytes 24 and 25 of the file: bit depth and colour type 2 (RGB); Pillow shows 16-bit RGB
        # as RGB too. A transparent colour would decode to four channels.
        return data[24:26] == b"\x08\x02" and "transparency" not in image.info
    return image.format in ("JPEG", "MPO")


def _to_rgb(path: epath.PathLike, image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise DataError(
            f"{path}: has {_KINDS[image.mode]}, whose range is not known: allowed are 8-bit and "
            "16-bit samples; convert it to 8-bit RGB"
        )
    try:
        if image.mode == "LA":
            image = image.convert("L")
        return np.array(image.convert("RGB"))
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


def read_image(path: epath.PathLike) -> np.ndarray:
    """Returns an image file's pixels, uint8 `[H, W, 3]` RGB (see `read_image_file`).

    Raises:
        DataError: the file cannot be used; says why.
    """
    return decode_image(read_image_file(path)[0])
