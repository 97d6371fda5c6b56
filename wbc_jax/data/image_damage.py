"""Finds damage in the middle of image files, which decoders pass over.

PNG needs nothing: Pillow refuses a PNG whose checksum is wrong. WebP, JPEG 2000, AVIF and TIFF with
LZW or PackBits carry no checksum, and their decoders report nothing.
"""

import zlib
from collections.abc import Iterator

import simplejpeg
from PIL import Image

_JPEG, _DEFLATE = (7,), (8, 32946)
"""TIFF compressions."""
_HARMLESS = "JFIF revision"
_STRIPS = ((324, 325), (273, 279))
"""TIFF tags: offsets and byte counts of tiles, and of strips."""


def decoder_warnings(data: bytes, image: Image.Image) -> list[str]:
    """Returns what decoders say of pixels that they could not read right; mostly nothing.

    Args:
        data: the file.
        image: the same, decoded by Pillow.
    """
    if image.format in ("JPEG", "MPO"):
        streams, check = [data], _jpeg_warning
    elif image.format == "TIFF" and image.tag_v2.get(259) in _JPEG:
        tables = image.tag_v2.get(347, b"")[:-2]  # all but their end marker
        streams = [tables + s[2:] if tables else s for s in _strips(data, image)]
        check = _jpeg_warning
    elif image.format == "TIFF" and image.tag_v2.get(259) in _DEFLATE:
        streams, check = _strips(data, image), _deflate_warning
    else:
        return []
    return list(dict.fromkeys(text for stream in streams if (text := check(stream))))


def _strips(data: bytes, image: Image.Image) -> Iterator[bytes]:
    for offsets, counts in _STRIPS:
        if offsets in image.tag_v2 and counts in image.tag_v2:
            for start, length in zip(image.tag_v2[offsets], image.tag_v2[counts], strict=False):
                yield data[start : start + length]
            return


def _jpeg_warning(data: bytes) -> str:
    """Returns libjpeg's first warning. An eighth of the size is enough: all bits are read."""
    options = {"colorspace": "GRAY", "min_height": 1, "min_width": 1, "min_factor": 8}
    try:
        simplejpeg.decode_jpeg(data, strict=True, **options)
    except ValueError as warning:
        try:
            simplejpeg.decode_jpeg(data, strict=False, **options)
        except ValueError:  # a kind that simplejpeg does not decode at all
            return ""
        return "" if _HARMLESS in str(warning) else str(warning)
    return ""


def _deflate_warning(data: bytes) -> str:
    """Checks the checksum, which libtiff does not reach."""
    try:
        zlib.decompress(data)
    except zlib.error as error:
        return str(error)
    return ""
