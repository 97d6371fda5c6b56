"""Reads what image files state of their pixels: the size in micrometers, the bits of a sample."""

import dataclasses
import math
import re
import struct
import xml.etree.ElementTree
from collections.abc import Callable

from etils import epath
from PIL import Image

PLAUSIBLE_UM_PER_PX = (0.02, 1.0)
"""Sizes that a blood smear can have, micrometers. Cameras' pixels of 2 to 10 um behind objectives
of 10x to 100x give 0.02 to 1.0; a red cell of 7.5 um is then 375 to 7.5 pixels wide. The printing
resolutions that most programs write, 72 to 1,200 dpi, are 353 to 21 um."""
ANISOTROPY = 0.03
"""Sizes in x and y that differ by more are not used: the cells would be of another shape."""

_UM = {
    **{"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6},
    **{"micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "millimeter": 1e3},
    **{"nanometer": 1e-3, "inch": 25_400.0, "in": 25_400.0, "Å": 1e-4},
}
_DENSITY = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "BMP": "bmp", "JPEG2000": "jpeg2000"}
_PNG_START = 8
_MAX_XML = 2**22


@dataclasses.dataclass(frozen=True)
class PixelSize:
    """Micrometers per pixel, where the file states them, and a sentence on what was not used."""

    um: float | None
    source: str
    note: str


def pixel_size(path: epath.PathLike, image: Image.Image) -> PixelSize:
    """Returns the size of a pixel that a file states, if a blood smear can have it.

    Args:
        path: the file's name, for the note.
        image: the file, opened by Pillow.

    Returns:
        The mean of x and y, and its source: `ome`, `aperio`, `imagej`, `tiff_resolution`, `png`,
        `jpeg`, `bmp` or `jpeg2000`. None and "" if there is none.
    """
    notes = []
    for source, (read, meant) in _readers(image).items():
        try:
            sizes = read(image)
        except Exception:  # damaged metadata do not cost the pixels
            sizes = None
        if sizes is None or not all(math.isfinite(s) and s > 0 for s in sizes):
            continue
        x, y = sizes
        low, high = PLAUSIBLE_UM_PER_PX
        if not (low <= x <= high and low <= y <= high):
            if meant:
                notes.append(
                    f"{path}: its pixel size of {x:.4g} x {y:.4g} um ({source}) was not used: "
                    f"plausible for a blood smear are {low} to {high} um"
                )
        elif abs(x - y) > ANISOTROPY * min(x, y):
            notes.append(
                f"{path}: its pixel size of {x:.4g} x {y:.4g} um ({source}) was not used: x and y "
                f"differ by more than {ANISOTROPY:.0%}"
            )
        else:
            return PixelSize((x + y) / 2, source, "")
    return PixelSize(None, "", notes[0] if notes else "")


def png_chunk(data: bytes, kind: bytes) -> bytes:
    """Returns the body of a PNG's first chunk of this kind before its pixels, or nothing."""
    start = _PNG_START
    while start + 8 <= len(data) and data[start + 4 : start + 8] != b"IDAT":
        (length,) = struct.unpack_from(">I", data, start)
        if data[start + 4 : start + 8] == kind:
            return data[start + 8 : start + 8 + length]
        start += length + 12
    return b""


def png_fits(data: bytes) -> bool:
    """Returns whether a PNG's chunks lie within the file; OpenCV sets aside what they claim."""
    start, kind = _PNG_START, b""
    while start + 8 <= len(data) and kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, start)
        kind = data[start + 4 : start + 8]
        start += length + 12
    return start <= len(data)


def tiff_bits(image: Image.Image) -> tuple[int | None, str]:
    """Returns the bits of a 16-bit TIFF's samples that it states, or None, and where."""
    try:
        pixels = _ome_pixels(image)
        if pixels is not None and (bits := int(pixels.get("SignificantBits", 0))) in range(1, 17):
            return bits, "OME SignificantBits says so"
    except Exception:  # damaged metadata do not cost the pixels
        pass
    for tag, name in ((341, "SMaxSampleValue"), (281, "MaxSampleValue")):
        try:
            value = image.tag_v2.get(tag)
            value = int(max(value) if isinstance(value, tuple) else value)
        except Exception:
            continue
        if 0 < value < 2**16:
            return next(n for n in (8, 10, 12, 14, 16) if value < 2**n), f"the tag {name} says so"
    return None, ""


def _readers(
    image: Image.Image,
) -> dict[str, tuple[Callable[[Image.Image], tuple[float, float] | None], bool]]:
    """Returns source -> (reader of x and y in um, whether only microscopes write it)."""
    if image.format == "TIFF":
        return {
            "ome": (_ome, True),
            "aperio": (_aperio, True),
            "imagej": (_imagej, True),
            "tiff_resolution": (_tiff_resolution, False),
        }
    return {_DENSITY[image.format]: (_density, False)} if image.format in _DENSITY else {}


def _description(image: Image.Image) -> str:
    text = image.tag_v2.get(270, "")
    text = text if isinstance(text, str) else ""
    try:
        return text.encode("latin-1").decode("utf-8")  # Pillow reads every byte as Latin-1
    except UnicodeError:
        return text


def um_of_unit(text: str) -> float | None:
    """Returns the micrometers of a unit of length, such as `mm`; None if it is unknown."""
    return _UM.get(text.strip().replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u"))


def _ome_pixels(image: Image.Image) -> xml.etree.ElementTree.Element | None:
    text = _description(image)
    # A document type could define entities that expand without end.
    if "<OME" not in text or "<!" in text.replace("<!--", "") or len(text) > _MAX_XML:
        return None
    return xml.etree.ElementTree.fromstring(text.encode()).find(".//{*}Pixels")


def _ome(image: Image.Image) -> tuple[float, float] | None:
    pixels = _ome_pixels(image)
    if pixels is None or not pixels.get("PhysicalSizeX"):
        return None
    sizes = []
    for axis in "XY":
        # Without a size in y pixels are square.
        axis = axis if pixels.get(f"PhysicalSize{axis}") else "X"
        unit = um_of_unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        if unit is None:  # `pixel`, `reference frame`
            return None
        sizes.append(float(pixels.get(f"PhysicalSize{axis}")) * unit)
    return sizes[0], sizes[1]


def _aperio(image: Image.Image) -> tuple[float, float] | None:
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", _description(image))
    return (float(found[1]), float(found[1])) if found else None


def _imagej(image: Image.Image) -> tuple[float, float] | None:
    text = _description(image)
    found = re.search(r"^unit=(.+)$", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    unit = um_of_unit(found[1]) if found else None
    return _per_pixel(image, unit) if unit else None


def _tiff_resolution(image: Image.Image) -> tuple[float, float] | None:
    unit = {2: 25_400.0, 3: 10_000.0}.get(image.tag_v2.get(296, 2))
    return _per_pixel(image, unit) if unit else None


def _per_pixel(image: Image.Image, unit: float) -> tuple[float, float] | None:
    x, y = image.tag_v2.get(282), image.tag_v2.get(283)
    return (unit / float(x), unit / float(y)) if x and y else None


def _density(image: Image.Image) -> tuple[float, float] | None:
    x, y = image.info.get("dpi", (0, 0))
    return (25_400 / float(x), 25_400 / float(y)) if x and y else None
