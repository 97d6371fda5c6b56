"""Reads, checks, encodes and decodes images and masks.

Records hold encoded images and masks. Only this module, with `image_opening` and `image_depth`,
turns bytes into pixels and back.
"""

import contextlib
import dataclasses

import cv2
import numpy as np
from etils import epath
from PIL import Image, ImageOps

from wbc_jax.data import image_damage, image_depth, image_metadata
from wbc_jax.data.image_opening import MAX_PIXELS as MAX_PIXELS
from wbc_jax.data.image_opening import SUFFIXES as SUFFIXES
from wbc_jax.data.image_opening import decoding, opened
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CYTOPLASM, IGNORE, NUCLEUS

MASK_VALUES = (BACKGROUND, CYTOPLASM, NUCLEUS, IGNORE)
PLAIN_SPREAD = 16
"""Images whose gray values differ by less are plain, not gray pictures."""

_EXIF_ORIENTATION = 0x0112
_LOSSY = ("JPEG", "MPO", "HEIF", "AVIF")
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
_GRAY_MODES = ("1", "L", "LA", "La")


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

    Gray is repeated on the three channels, alpha is dropped, 16-bit samples are brought to 8 bits
    by their real range (`image_depth`), and an EXIF orientation is applied.

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
    with decoding(path), opened(path) as (data, image):
        return _to_rgb(path, data, image)[0]


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image file's pixels, and what a reader of results must know of the file.

    Attributes:
        pixels: uint8 `[H, W, 3]` RGB.
        flags: what was unusual. `decoder_warning`: pixels are damaged. `scaled_12_bit` (or another
            number): 16-bit samples hold values of so many bits, and were scaled by these.
        um_per_px: micrometers per pixel that the file states, if a blood smear can have them
            (`image_metadata.pixel_size`); else None.
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
    """Reads an image for analysis: in color, with what the file says of its pixels.

    Args:
        path: the file, local or remote.

    Returns:
        The pixels as by `read_image`, flags, the pixel size and notes.

    Raises:
        DataError: as `read_image`; or the image is gray: one channel, or three that are equal
            everywhere and not plain (`PLAIN_SPREAD`).
    """
    flags, notes = [], []
    with decoding(path), opened(path) as (data, image):
        if _is_gray(image):
            raise _without_color(path, "one channel")
        pixels, found = _to_rgb(path, data, image)
        plain = int(pixels.max()) - int(pixels.min()) < PLAIN_SPREAD
        if not plain and _are_equal_channels(pixels):
            raise _without_color(path, "three channels that are equal")
        damage = image_damage.decoder_warnings(data, image)
        size = image_metadata.pixel_size(path, image)
    if damage:
        flags.append("decoder_warning")
        notes.append(
            f"{path}: the decoder warns of damaged pixels ({'; '.join(damage)}): fetch the file "
            "again, and do not rely on its results"
        )
    if found.bits != 16 and found.source:
        flags.append(f"scaled_{found.bits}_bit")
        notes.append(
            f"{path}: its 16-bit samples were read as values of {found.bits} bits (0 to "
            f"{2**found.bits - 1}), as {found.source}"
        )
    if size.note:
        notes.append(size.note)
    return ImageFile(pixels, tuple(flags), size.um, size.source, tuple(notes))


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
    with decoding(path), opened(path) as (data, image):
        if _passes_through(data, image):
            # Pillow has found no truncation; OpenCV, which decodes records, must cope as well.
            with contextlib.suppress(DataError):
                if decode_image(data).shape[:2] == (image.height, image.width):
                    return data, image.height, image.width
        pixels = _to_rgb(path, data, image)[0]
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
    with decoding(path), opened(path) as (data, image):
        if image.format in _LOSSY:
            raise DataError(
                f"{path}: the mask is a {image.format}, whose compression changes values at every "
                "edge: save masks as 8-bit grey PNG"
            )
        if image.mode in ("L", "1"):
            return np.array(image.convert("L"))
        deep = image_depth.is_deep(data, image)
        if image.mode == "RGB" and not deep:
            pixels = np.array(image)
            if (pixels == pixels[..., :1]).all():
                return pixels[..., 0].copy()
        kind = "I;16" if deep else image.mode
        raise DataError(
            f"{path}: the mask has {_KINDS.get(kind, f'mode {kind}')}: allowed is one "
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


def _passes_through(data: bytes, image: Image.Image) -> bool:
    """Returns whether a record may store the file as it is: an upright 8-bit RGB PNG or JPEG."""
    if image.mode != "RGB" or _orientation(image) != 1:
        return False
    if image.format == "PNG":
        # Bytes 24 and 25 of the file are bit depth and color type 2 (RGB): Pillow shows 16-bit RGB
        # as RGB too. A transparent color would decode to four channels.
        return data[24:26] == b"\x08\x02" and "transparency" not in image.info
    return image.format in ("JPEG", "MPO")


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's number of the turn that makes the image upright: 2 to 8, or 1 for none."""
    try:
        number = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # what is no EXIF at all says nothing of the pixels
        return 1
    return number if number in range(2, 9) else 1


def _to_rgb(
    path: epath.PathLike, data: bytes, image: Image.Image
) -> tuple[np.ndarray, image_depth.Range]:
    """Returns uint8 `[H, W, 3]`, upright, and the range of the file's samples."""
    pixels, found = image_depth.to_rgb(path, data, image)
    if (number := _orientation(image)) != 1:
        turned = Image.fromarray(pixels)
        turned.getexif()[_EXIF_ORIENTATION] = number
        pixels = np.array(ImageOps.exif_transpose(turned))
    return pixels, found


def _is_gray(image: Image.Image) -> bool:
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF")
    return deep or image.mode in _GRAY_MODES


def _without_color(path: epath.PathLike, what: str) -> DataError:
    return DataError(
        f"{path}: is grey ({what}): colour is needed, as cells are found by the colour of their "
        "nuclei; take the image in colour"
    )


def _are_equal_channels(pixels: np.ndarray) -> bool:
    # A few rows settle it for nearly every image.
    for part in (pixels[::16], pixels):
        if not all(np.array_equal(part[..., 0], part[..., channel]) for channel in (1, 2)):
            return False
    return True


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
