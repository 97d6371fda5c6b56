"""wbc_jax.data.image_metadata: the size of a pixel that a file states, if a smear can have it."""

import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from wbc_jax.data.images import read_with_metadata

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)


def tiff(path, **options):
    tifffile.imwrite(path, PIXELS, photometric="rgb", **options)


def pillow(path, **options):
    Image.fromarray(PIXELS).save(path, **options)


def ome(path, **metadata):
    tiff(path, ome=True, metadata={"axes": "YXS", **metadata})


def imagej(path, unit, per_unit):
    tiff(path, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})


def described(path, text, **options):
    tiff(path, description=text, metadata=None, **options)


SVS = "Aperio Image Library v11.2.1\n46000x32914 [0,100 46000x32814]|AppMag = 40|MPP = 0.2520|L = 2"
OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    "<Image><Pixels {}/></Image></OME>"
)

# Name: (file, how it is written, micrometers, source).
SIZES = {
    "OME": ("a.ome.tif", lambda p: ome(p, PhysicalSizeX=0.1, PhysicalSizeY=0.1), 0.1, "ome"),
    "OME, nm": (
        "a.tif",
        lambda p: ome(
            p,
            PhysicalSizeX=80.0,
            PhysicalSizeXUnit="nm",
            PhysicalSizeY=80.0,
            PhysicalSizeYUnit="nm",
        ),
        0.08,
        "ome",
    ),
    "OME, µm": (
        "a.tif",
        lambda p: ome(
            p,
            PhysicalSizeX=0.25,
            PhysicalSizeXUnit="µm",
            PhysicalSizeY=0.25,
            PhysicalSizeYUnit="µm",
        ),
        0.25,
        "ome",
    ),
    "OME, x alone": (
        "a.tif",
        lambda p: described(p, OME.format('PhysicalSizeX="0.11"')),
        0.11,
        "ome",
    ),
    "OME before the resolution": (
        "a.tif",
        lambda p: described(
            p,
            OME.format('PhysicalSizeX="0.11"'),
            resolution=(50_000, 50_000),
            resolutionunit="CENTIMETER",
        ),
        0.11,
        "ome",
    ),
    "Aperio": ("a.tif", lambda p: described(p, SVS), 0.252, "aperio"),
    "ImageJ, micron": ("a.tif", lambda p: imagej(p, "micron", 10), 0.1, "imagej"),
    "ImageJ, um": ("a.tif", lambda p: imagej(p, "um", 4), 0.25, "imagej"),
    "ImageJ, escaped µm": ("a.tif", lambda p: imagej(p, "\\u00B5m", 8), 0.125, "imagej"),
    "ImageJ, mm": ("a.tif", lambda p: imagej(p, "mm", 5000), 0.2, "imagej"),
    "ImageJ, nm": ("a.tif", lambda p: imagej(p, "nm", 0.01), 0.1, "imagej"),
    "TIFF, cm": (
        "a.tif",
        lambda p: tiff(p, resolution=(80_000, 80_000), resolutionunit="CENTIMETER"),
        0.125,
        "tiff_resolution",
    ),
    "TIFF, inch": (
        "a.tif",
        lambda p: tiff(p, resolution=(254_000, 254_000), resolutionunit="INCH"),
        0.1,
        "tiff_resolution",
    ),
    "x and y nearly equal": (
        "a.tif",
        lambda p: tiff(p, resolution=(100_000, 98_000), resolutionunit="CENTIMETER"),
        (0.1 + 10 / 98) / 2,
        "tiff_resolution",
    ),
    "PNG": ("a.png", lambda p: pillow(p, dpi=(127_000, 127_000)), 0.2, "png"),
    "BMP": ("a.bmp", lambda p: pillow(p, dpi=(127_000, 127_000)), 0.2, "bmp"),
    "JPEG": ("a.jpg", lambda p: pillow(p, dpi=(50_800, 50_800)), 0.5, "jpeg"),
}


@pytest.mark.parametrize("kind", SIZES)
def test_the_size_that_a_file_states(tmp_path, kind):
    name, write, expected, source = SIZES[kind]
    write(tmp_path / name)
    found = read_with_metadata(tmp_path / name)
    assert found.um_per_px == pytest.approx(expected, rel=1e-4)
    assert (found.um_per_px_source, found.flags, found.notes) == (source, (), ())


NONE = {
    "no resolution": ("a.png", pillow),
    **{
        f"{dpi} dpi, {name}": (name, lambda p, dpi=dpi: pillow(p, dpi=(dpi, dpi)))
        for dpi in (72, 96, 300, 1200)
        for name in ("a.tif", "a.png", "a.jpg", "a.bmp")
    },
    "TIFF without a unit": (
        "a.tif",
        lambda p: tiff(p, resolution=(10, 10), resolutionunit="NONE"),
    ),
    "ImageJ without a unit": (
        "a.tif",
        lambda p: tiff(p, imagej=True, resolution=(10, 10)),
    ),
    "ImageJ, pixel": ("a.tif", lambda p: imagej(p, "pixel", 10)),
    "OME, reference frame": (
        "a.tif",
        lambda p: described(
            p, OME.format('PhysicalSizeX="0.1" PhysicalSizeXUnit="reference frame"')
        ),
    ),
    "OME, no number": ("a.tif", lambda p: described(p, OME.format('PhysicalSizeX="x"'))),
    "OME, nan": ("a.tif", lambda p: described(p, OME.format('PhysicalSizeX="nan"'))),
    "OME, negative": ("a.tif", lambda p: described(p, OME.format('PhysicalSizeX="-0.1"'))),
    "OME, cut": ("a.tif", lambda p: described(p, OME.format('PhysicalSizeX="0.1"')[:-9])),
    "resolution 0": ("a.tif", lambda p: tiff(p, resolution=(0, 0), resolutionunit="INCH")),
}


@pytest.mark.parametrize("kind", NONE)
def test_files_that_state_no_size(tmp_path, kind):
    name, write = NONE[kind]
    write(tmp_path / name)
    found = read_with_metadata(tmp_path / name)
    assert (found.um_per_px, found.um_per_px_source, found.notes) == (None, "", ())


NOT_USED = {
    "the camera's own pixels": (
        lambda p: ome(p, PhysicalSizeX=6.5, PhysicalSizeY=6.5),
        r"6\.5 x 6\.5 um \(ome\) was not used: plausible for a blood smear are 0\.02 to 1\.0 um",
    ),
    "too small": (lambda p: imagej(p, "um", 100), r"0\.01 x 0\.01 um \(imagej\)"),
    "x and y differ": (
        lambda p: tiff(p, resolution=(100_000, 50_000), resolutionunit="CENTIMETER"),
        r"0\.1 x 0\.2 um \(tiff_resolution\) was not used: x and y differ by more than 3%",
    ),
}


@pytest.mark.parametrize("kind", NOT_USED)
def test_a_size_that_is_not_used_is_said(tmp_path, kind):
    write, reason = NOT_USED[kind]
    path = tmp_path / "a.tif"
    write(path)
    found = read_with_metadata(path)
    assert (found.um_per_px, found.um_per_px_source) == (None, "")
    (note,) = found.notes
    assert note.startswith(f"{path}: its pixel size of ")
    assert re.search(reason, note)


def test_entities_of_a_description_are_not_expanded(tmp_path):
    text = '<!DOCTYPE OME [<!ENTITY a "0.1">]>' + OME.format('PhysicalSizeX="&a;"')
    described(tmp_path / "a.tif", text)
    assert read_with_metadata(tmp_path / "a.tif").um_per_px is None


def test_the_size_beside_16_bits(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        PIXELS.astype(np.uint16) << 4,
        photometric="rgb",
        ome=True,
        metadata={"axes": "YXS", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1},
    )
    found = read_with_metadata(tmp_path / "a.tif")
    assert found.um_per_px == 0.1 and found.flags == ("scaled_12_bit",)
    assert np.array_equal(found.pixels, PIXELS)
