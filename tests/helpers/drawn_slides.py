"""Drawn smears with known cells, written as slides of several formats."""

import contextlib
import dataclasses
import struct

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from skimage import measure

from helpers import drawn_fields
from wbc_jax.fields import smear as smear_lib
from wbc_jax.fields.cells import Cell, Field, measure_cell
from wbc_jax.report import slide_choice

UM_PER_PX = 0.1875
"""With red cells of 40 pixels, 7.5 micrometers."""
JPEG = {"compression": "jpeg", "compressionargs": {"level": 95}}


@dataclasses.dataclass(frozen=True)
class Smear:
    """A drawn smear: uint8 `[H, W, 3]`, and its leukocytes as (y, x, nucleus, cell) in pixels.

    From left to right: glass, a feathered edge with few red cells, the thin part, and a thick part
    in which red cells lie on each other. `parts` are the columns at which a part begins; `thin` are
    the leukocytes of the thin part.
    """

    image: np.ndarray
    cells: list[tuple[int, int, int, int]]
    parts: tuple[int, int, int]

    @property
    def thin(self):
        return [cell for cell in self.cells if self.parts[1] <= cell[1] < self.parts[2]]


def smear(seed=0, height=800, width=2000, leukocytes=24, parts=(400, 800, 1600)):
    """Draws a smear in flat colors with a little noise."""
    rng = np.random.default_rng(seed)
    absorb = np.log(np.array(drawn_fields.LIGHT) / np.array(drawn_fields.RED)).astype(np.float32)
    layers = np.zeros((height + 48, width + 48), np.float32)  # with a margin of 24 pixels
    red_cell = cv2.circle(
        np.zeros((48, 48), np.float32), (24, 24), drawn_fields.RED_PX // 2, 1, -1, cv2.LINE_AA
    )
    cells = []
    while len(cells) < leukocytes:
        y, x = int(rng.integers(50, height - 50)), int(rng.integers(parts[1] + 50, width - 50))
        if all(np.hypot(y - cy, x - cx) > 110 for cy, cx, _, _ in cells):
            cells.append((y, x, int(rng.integers(21, 25)), int(rng.integers(32, 40))))
    known = np.array(cells or [(-999, -999, 0, 0)])
    for left, right, step in (
        (parts[0], parts[1], 200), (parts[1], parts[2], 56), (parts[2], width, 22),
    ):  # fmt: skip
        ys, xs = np.mgrid[
            30 : height - 3 : step, left + 30 : max(right - 3, left + 30) : step
        ].reshape(2, -1)
        ys, xs = (v + rng.integers(-3, 4, v.size) for v in (ys, xs))
        far = np.hypot(ys[:, None] - known[:, 0], xs[:, None] - known[:, 1]) > known[:, 3] + 24
        for y, x in zip(ys[far.all(1)], xs[far.all(1)]):
            layers[y : y + 48, x : x + 48] += red_cell
    layers = layers[24:-24, 24:-24, None]
    image = np.array(drawn_fields.LIGHT, np.float32) * np.exp(-layers * absorb)
    image = image.round().astype(np.uint8)
    for color, which in ((drawn_fields.CYTOPLASM, 3), (drawn_fields.NUCLEUS, 2)):
        for cell in cells:
            cv2.circle(image, cell[1::-1], cell[which], color, -1, cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    noise = rng.integers(-1, 2, image.shape, np.int8)
    return Smear(np.clip(image + noise.astype(np.int16), 0, 255).astype(np.uint8), cells, parts)


@contextlib.contextmanager
def small_regions(core):
    """Divides drawn smears into regions of `core` pixels, and measures red cells at few places."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slide_choice, "CORE_PX", core)
        patch.setattr(slide_choice, "_MARGIN_UM", 12)  # 64 pixels: more than a cell's radius
        patch.setattr(smear_lib, "_PROBES", 6)
        yield


def analyze(images, models, find, um_per_px=None, pixel_sizes=None, *_):
    """Stands in for `fields.analyze`: each blob in a leukocyte's colors is a cell."""
    assert find == "yes"
    found = []
    for image, size in zip(images, pixel_sizes or [None] * len(images)):
        mask = models.segmenter.predict([image])[0].mask
        bodies = measure.label(mask > 0, connectivity=2)
        labels, cells = np.zeros(mask.shape, np.uint16), []
        for body in measure.regionprops(bodies):
            nucleus = (mask == 2) & (bodies == body.label)
            if nucleus.sum() < 200:
                continue
            labels[bodies == body.label] = len(cells) + 1
            about = measure_cell(len(cells) + 1, None, body.bbox, mask, labels, size and size[0])
            label = "lymphocyte" if len(cells) % 2 else "neutrophil"
            typed = {"type": label, "best_guess": label, "probability": 0.9}
            cells.append(Cell(**about, **typed))
        mask[labels == 0] = 0
        um, source = size or (None, "unknown")
        found.append(Field(cells, mask, labels, um, source, False))
    return found


def pyramid(image, levels=3):
    """Returns an image and its reductions to a half, a quarter and so on."""
    found = [image]
    for _ in range(levels - 1):
        found.append(cv2.resize(found[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return found


def write(path, image, um_per_px=UM_PER_PX, levels=3, tile=256, **options):
    """Writes a slide whose format follows from the file's ending; JPEG unless `options` say."""
    path, found = str(path), pyramid(image, levels)
    ways = {
        ".svs": _svs, ".ndpi": _ndpi, ".ome.tif": _ome_tiff, ".zarr": _ome_zarr, ".tif": _tiff,
    }  # fmt: skip
    way = next(way for ending, way in ways.items() if path.endswith(ending))
    way(path, found, um_per_px, tile, JPEG | options)
    return path


def _tiled(tile, options):
    return {"photometric": "rgb", "tile": (tile, tile), **options}


def _svs(path, found, um_per_px, tile, options):
    height, width = found[0].shape[:2]
    text = (
        f"Aperio Image Library v12.0.0\r\n{width}x{height} [0,0 {width}x{height}] ({tile}x{tile})"
    )
    scale = f" JPEG/RGB Q=95|AppMag = 40|MPP = {um_per_px}" if um_per_px else " JPEG/RGB Q=95"
    with tifffile.TiffWriter(path) as tif:
        tif.write(found[0], description=text + scale, metadata=None, **_tiled(tile, options))
        thumbnail = cv2.resize(found[0], (width // 16, height // 16))
        tif.write(thumbnail, description=text, metadata=None, photometric="rgb", compression="jpeg")
        for level in found[1:]:
            tif.write(level, description=text, metadata=None, **_tiled(tile, options))
        macro = np.full((120, 320, 3), 240, np.uint8)
        tif.write(
            macro, description="Aperio Image Library v12.0.0\r\nmacro 320x120", metadata=None,
            subfiletype=9, photometric="rgb", compression="jpeg",
        )  # fmt: skip


def _ndpi(path, found, um_per_px, tile, options):
    """Writes a TIFF with offsets of 64 bits, a JPEG for each level, and Hamamatsu's own tags."""
    file = bytearray(b"II*\0" + struct.pack("<Q", 0))
    link = 4
    planes = options.get("planes", 1)
    for n, level in enumerate(found * planes):
        jpeg = cv2.imencode(".jpg", level[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        start, (height, width) = len(file), level.shape[:2]
        file += jpeg
        per_cm = len(file)
        n, plane = n % len(found), n // len(found)
        file += struct.pack("<II", round(1e7 / (um_per_px * 2**n)) if um_per_px else 0, 1000)
        maker = len(file)
        file += b"Hamamatsu\0"
        tags = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6),
            (271, 2, 10, maker), (273, 4, 1, start), (277, 3, 1, 3), (278, 4, 1, height),
            (279, 4, 1, len(jpeg)), (282, 5, 1, per_cm), (283, 5, 1, per_cm), (296, 3, 1, 3),
            (65420, 4, 1, 1), (65421, 11, 1, struct.unpack("<I", struct.pack("<f", 40 / 2**n))[0]),
            (65424, 9, 1, plane),
        ]  # fmt: skip
        struct.pack_into("<Q", file, link, len(file))
        file += struct.pack("<H", len(tags))
        for tag in tags:
            file += struct.pack("<HHII", *tag)
        link = len(file)
        file += bytes(8 + 4 * len(tags))  # the next level, and the high halves of the values
    with open(path, "wb") as out:
        out.write(file)


def _tiff(path, found, um_per_px, tile, options):
    with tifffile.TiffWriter(path) as tif:
        for n, level in enumerate(found):
            scale = {}
            if um_per_px:
                scale = {"resolution": (10_000 / (um_per_px * 2**n),) * 2, "resolutionunit": 3}
            tif.write(
                level, subfiletype=int(n > 0), metadata=None, **scale, **_tiled(tile, options)
            )


def _ome_tiff(path, found, um_per_px, tile, options):
    about = {"axes": "YXS"}
    if um_per_px:
        about |= {"PhysicalSizeX": um_per_px, "PhysicalSizeY": um_per_px}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(found[0], subifds=len(found) - 1, metadata=about, **_tiled(tile, options))
        for level in found[1:]:
            tif.write(level, subfiletype=1, **_tiled(tile, options))


def _ome_zarr(path, found, um_per_px, tile, options):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    unit = {"unit": "micrometer"} if um_per_px else {}
    datasets = []
    for n, level in enumerate(found):
        data = np.ascontiguousarray(np.moveaxis(level, -1, 0))[None, :, None]
        chunks = (1, 3, 1, min(tile, level.shape[0]), min(tile, level.shape[1]))
        group.create_array(str(n), data=data, chunks=chunks)
        scale = [1, 1, 1, *[(um_per_px or 1) * 2**n] * 2]
        transform = {"type": "scale", "scale": scale}
        datasets.append({"path": str(n), "coordinateTransformations": [transform]})
    axes = [{"name": name} | (unit if name in "yx" else {}) for name in "tczyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
