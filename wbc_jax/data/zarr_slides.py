"""Slides in OME-Zarr, 0.4 and 0.5."""

from __future__ import annotations

from typing import Any

import numpy as np

from wbc_jax.data import image_metadata
from wbc_jax.data.slide import Box, Damaged, Level, Slide, check_axes, check_samples
from wbc_jax.errors import DataError


class ZarrSlide(Slide):
    kind = "OME-Zarr"

    def __init__(self, path: str):
        import zarr

        self.path = path
        try:
            group = zarr.open_group(path, mode="r")
            about = dict(group.attrs)
            about = about.get("ome", about)
            image = about["multiscales"][0]
            self._arrays = [group[dataset["path"]] for dataset in image["datasets"]]
            names = [a["name"] if isinstance(a, dict) else a for a in image["axes"]]
            self._axes = "".join(names)
            self._open(image)
        except DataError:
            raise
        except Exception as error:  # damaged metadata raise many kinds
            raise DataError(
                f"{path}: is a Zarr, but no image of OME-Zarr ({type(error).__name__}: {error}): "
                "give the folder whose attributes hold `multiscales`"
            ) from error

    def _open(self, image: dict[str, Any]) -> None:
        first = self._arrays[0]
        check_axes(self.path, self._axes, first.shape)
        channels = first.shape[self._axes.index("c")] if "c" in self._axes else 1
        check_samples(self.path, channels, channels == 3, first.dtype)
        y, x = self._axes.index("y"), self._axes.index("x")
        self.levels = [
            Level((a.shape[y], a.shape[x]), (a.chunks[y], a.chunks[x])) for a in self._arrays
        ]
        scales = [
            step["scale"]
            for step in image["datasets"][0].get("coordinateTransformations", ())
            if step.get("type") == "scale"
        ]
        units = [a.get("unit") for a in image["axes"] if isinstance(a, dict)]
        if scales and len(units) == len(self._axes):
            unit = image_metadata.um_of_unit(units[x] or "")
            if unit and abs(scales[0][y] / scales[0][x] - 1) <= image_metadata.ANISOTROPY:
                self.um_per_px = float(scales[0][y] + scales[0][x]) / 2 * unit
                self.um_per_px_source = "ome"

    def _read(self, box: Box, level: int) -> np.ndarray:
        try:
            return self._read_part(box, level)
        except Exception as error:  # decoders raise many kinds
            raise self._damaged(error, box, level) from error

    def _read_part(self, box: Box, level: int) -> np.ndarray:
        places = {"y": slice(box[0], box[2]), "x": slice(box[1], box[3]), "c": slice(0, 3)}
        found = np.asarray(self._arrays[level][tuple(places.get(axis, 0) for axis in self._axes)])
        order = [axis for axis in self._axes if axis in places]
        return np.ascontiguousarray(found.transpose([order.index(axis) for axis in "yxc"]))

    def _damaged(self, error: Exception, box: Box, level: int) -> Damaged:
        """Finds the chunk that an error is about."""
        (high, wide), (height, width) = self.levels[level].tile, self.levels[level].size
        for y in range(box[0] // high * high, box[2], high):
            for x in range(box[1] // wide * wide, box[3], wide):
                chunk = (y, x, min(y + high, height), min(x + wide, width))
                try:
                    self._read_part(chunk, level)
                except Exception as own:  # decoders raise many kinds
                    return Damaged(own, chunk)
        return Damaged(error, box)

    def close(self) -> None:
        pass
