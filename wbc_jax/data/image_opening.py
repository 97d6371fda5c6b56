"""Opens image files: which formats, how large, and why a file is refused."""

import contextlib
import functools
import importlib.util
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import cv2
from etils import epath
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from wbc_jax.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header alone, before any pixel is decoded."""
MAX_FILE_BYTES = 2**30
"""Larger files are refused after this many bytes have been read."""

_HEIF = importlib.util.find_spec("pillow_heif") is not None
_AVIF = bool(features.check("avif"))  # Pillow's wheels have it from 11.3 on
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000") + ("AVIF",) * _AVIF
"""Formats (Pillow's names) that are opened; with the extra `heif` also HEIF."""
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
    *((".avif",) * _AVIF),
    *((".heic", ".heif", ".hif") if _HEIF else ()),
)
"""Endings, in small letters, of the files that can be decoded with what is installed."""

_PIECE = 2**20
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_AVIF_BRANDS = {b"avif", b"avis"}
_STARTS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_SAMPLE_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_STRIPS = ((273, 279), (324, 325))
"""TIFF tags: offsets and byte counts of strips, and of tiles."""


def unknown_range(path: epath.PathLike, samples: str) -> DataError:
    """Returns the error about samples, such as `floating-point samples`, without a fixed range."""
    return DataError(
        f"{path}: has {samples}, whose range is not known: allowed are 8-bit and 16-bit samples; "
        "convert it to 8-bit RGB"
    )


_SILENT = 0
_opencv_log = getattr(cv2.utils, "logging", cv2)  # the latter up to OpenCV 4


class _Quiet:
    """Context in which Pillow and OpenCV neither warn about a file nor log the errors they raise.

    Like `warnings.catch_warnings`, but safe with threads: the first thread to enter sets the
    filter, and the last one to leave restores the previous one.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._logger = logging.getLogger("PIL")

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._level = self._logger.level
                self._logger.setLevel(logging.CRITICAL)
                self._opencv_level = _opencv_log.getLogLevel()
                _opencv_log.setLogLevel(_SILENT)
            self._inside += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__()
                self._logger.setLevel(self._level)
                _opencv_log.setLogLevel(self._opencv_level)


_quiet = _Quiet()


@contextlib.contextmanager
def decoding(path: epath.PathLike) -> Iterator[None]:
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
def opened(path: epath.PathLike) -> Iterator[tuple[bytes, Image.Image]]:
    """Yields the file's bytes and its image, fully decoded by Pillow, which reports truncation.

    Raises:
        DataError: the file is missing, empty, too large, of an unknown kind or has several pages.
            Errors of decoding are Pillow's own: use it inside `decoding`.
    """
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
    heif = bool(_brands(data) & _HEIF_BRANDS)
    if heif:
        _register_heif(path)
    try:
        image = Image.open(io.BytesIO(data), formats=("HEIF",) if heif else FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: {error}: allowed are {MAX_PIXELS:,} pixels; cut the image into parts"
        ) from error
    except UnidentifiedImageError as error:
        raise _unidentified(path, data) from error
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


def _brands(data: bytes) -> set[bytes]:
    """Returns the kinds that a file of the family of HEIF and AVIF says that it is of."""
    if data[4:8] != b"ftyp":
        return set()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return {box[i : i + 4] for i in range(0, len(box), 4)}


def _register_heif(path: epath.PathLike) -> None:
    if not _HEIF:
        raise DataError(
            f"{path}: is HEIF, the format of iPhones, which the extra heif reads: pip install "
            "'wbc_jax[heif]', or convert the file to PNG"
        )
    _register_heif_once()


@functools.cache
def _register_heif_once() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _unidentified(path: epath.PathLike, data: bytes) -> DataError:
    if data[:4] in TIFF_STARTS:
        return _unidentified_tiff(path, data)
    kind = next((kind for start, kind in _STARTS.items() if data.startswith(start)), "")
    if _brands(data) & _AVIF_BRANDS:
        if "AVIF" not in FORMATS:
            return DataError(
                f"{path}: is AVIF, which the installed Pillow cannot read: pip install --upgrade "
                "'pillow>=11.3', or convert the file to PNG"
            )
        kind = "AVIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    if kind:
        return DataError(
            f"{path}: begins as {kind} but cannot be read: it is truncated or damaged, or of a "
            "rare kind, such as JPEG with 12 bits; fetch it again, or convert it to 8-bit RGB PNG"
        )
    return DataError(
        f"{path}: is not an image that can be read (first bytes {data[:8]!r}): allowed are "
        f"{', '.join(FORMATS)}; fetch or convert the file again"
    )


def _unidentified_tiff(path: epath.PathLike, data: bytes) -> DataError:
    """Returns the error about a TIFF that Pillow does not know: damaged, or of a rare kind."""
    file = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(
            file.read(16 if data[2:4].strip(b"\0") == b"+" else 8)
        )
        file.seek(tags.next)
        tags.load(file)
        bits, formats = tags.get(258, (1,)), tags.get(339, (1,))
        ends = [
            offset + count
            for offsets, counts in _STRIPS
            for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
        ]
        whole = all(tag in tags for tag in (256, 257, 262)) and 0 < max(ends) <= len(data)
    except Exception:  # damaged tags raise many kinds
        whole = False
    if not whole:
        return DataError(
            f"{path}: is a TIFF that is truncated or damaged ({len(data):,} bytes do not hold its "
            "tags and pixels): fetch it again"
        )
    kind = _SAMPLE_FORMATS.get(formats[0], "unsigned")
    if kind != "unsigned" or max(bits) > 16:
        return unknown_range(path, f"{kind} samples of {max(bits)} bits")
    return DataError(
        f"{path}: is a TIFF of a kind that cannot be decoded ({len(bits)} samples of "
        f"{max(bits)} bits a pixel, photometric interpretation {tags.get(262)}, compression "
        f"{tags.get(259, 1)}): convert it to 8-bit RGB PNG or TIFF"
    )
