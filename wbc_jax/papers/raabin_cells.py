"""Paper A's own data, measured by our masks: the crops of Raabin-WBC's folder `Train`.

The masks are those of `wbc_jax.predict --find=no` with the shipped segmenter. They are measured
once; the counts are kept in a file beside the runs.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from wbc_jax import metrics
from wbc_jax.config import Data
from wbc_jax.data import sources
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import weights
from wbc_jax.labels import CELL_TYPES
from wbc_jax.metrics.nc_ratio import from_areas
from wbc_jax.papers import plans, ratios
from wbc_jax.utils import atomic
from wbc_jax.utils.progress import Progress

DATASET = "raabin_wbc/crops"
SPLIT = "train_"
"""How the ids of the crops in `Train` begin."""
FILE = "raabin_wbc_cells.json"
_TOGETHER = 64
"""Crops that are decoded and predicted together."""


@dataclasses.dataclass(frozen=True, slots=True)
class RaabinCell:
    """A crop's cell, measured by our mask in the crop's own pixels.

    Attributes:
        id: of the record.
        type: one of `labels.CELL_TYPES`.
        nucleus_px, cytoplasm_px: areas; 0 where the mask has none.
        mean_nucleus, mean_cytoplasm: gray levels, the mean of the whole crop with everything but
            the region set to 0, as paper A's (`metrics.region_means`).
    """

    id: str
    type: str
    nucleus_px: int
    cytoplasm_px: int
    mean_nucleus: float
    mean_cytoplasm: float

    @property
    def nc_ratio(self) -> float:
        """Nucleus / cytoplasm: +inf without cytoplasm, NaN without nucleus."""
        return float(from_areas([self.nucleus_px], [self.cytoplasm_px]).nc_ratio[0])

    @property
    def mean_ratio(self) -> float:
        """The ratio of the means: +inf without cytoplasm, NaN without nucleus."""
        if not self.nucleus_px:
            return math.nan
        return self.mean_nucleus / self.mean_cytoplasm if self.mean_cytoplasm else math.inf

    @property
    def verdict(self) -> str:
        """The verdict of paper A's ranges, see `ratios.verdict`."""
        return ratios.verdict(self.type, self.nc_ratio)


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """The measured cells.

    Attributes:
        cells: in the order of their ids.
        reason: explains why there are none; '' if there are.
    """

    cells: Sequence[RaabinCell]
    reason: str = ""

    def of_type(self, kind: str) -> list[RaabinCell]:
        """Returns the cells of a type."""
        return [cell for cell in self.cells if cell.type == kind]


def chosen(cells: Iterable[RaabinCell], count: int = 10) -> list[RaabinCell]:
    """Returns the cells whose ids have the smallest SHA-256: a choice by no property of a cell."""
    return sorted(cells, key=lambda cell: hashlib.sha256(cell.id.encode()).hexdigest())[:count]


def read_or_measure(
    folder: epath.Path, data: Data, load_models: Callable[[], fields.Models] | None = None
) -> Measured:
    """Returns the cells of paper A's types, from the file in a folder or measured now.

    They are measured anew if the file is of other weights, other records or another version of this
    package. That takes minutes for 1,674 cells on two cores.

    Args:
        folder: holds the file `FILE`, which is written if it is missing or of something else.
        data: where the records are; they are written if only the authors' files are there.
        load_models: returns a segmenter; by default the shipped one.

    Returns:
        The cells; none, with the reason, where the data set is not there.
    """
    if reason := plans.why_unavailable(DATASET, data):
        return Measured([], f"{DATASET} is not there: {reason}")
    source = sources.load(DATASET, data)
    path, made_from = folder / FILE, _made_from(source, data)
    if (stored := _read(path, made_from)) is not None:
        return Measured(stored)
    wanted = {CELL_TYPES.index(kind): kind for kind in ratios.TYPES.values()}
    places = sorted(
        (
            i
            for i, (name, label) in enumerate(zip(source.ids, source.labels))
            if name.startswith(SPLIT) and int(label) in wanted
        ),
        key=source.ids.__getitem__,
    )
    print(f"Measuring {len(places):,} cells of {DATASET} by our masks ({path}):", flush=True)
    models = load_models() if load_models else fields.load_models([fields.SEGMENTER])
    found: list[RaabinCell] = []
    progress = Progress("cell", len(places), "cells")
    for start in range(0, len(places), _TOGETHER):
        part = places[start : start + _TOGETHER]
        images = [source.image(i) for i in part]
        masks = [field.mask for field in fields.analyze(images, models, find="no")]
        for i, image, mask in zip(part, images, masks):
            found.append(_measure(source.ids[i], wanted[int(source.labels[i])], image, mask))
        progress.update(len(found), len(part))
    progress.close()
    described = [dataclasses.asdict(cell) for cell in found]
    atomic.write_json(path, {"made_from": made_from, "cells": described})
    return Measured(found)


def _measure(name: str, kind: str, image: np.ndarray, mask: np.ndarray) -> RaabinCell:
    areas = metrics.nc_ratio(mask[None])
    means = metrics.region_means(image[None], mask[None])
    return RaabinCell(
        name,
        kind,
        int(areas.nucleus_px[0]),
        int(areas.cytoplasm_px[0]),
        float(means.nucleus_image_mean[0]),
        float(means.cytoplasm_image_mean[0]),
    )


def _made_from(source: sources.Source, data: Data) -> dict[str, str]:
    """Returns what the cells depend on, by name."""
    shipped = weights.find(fields.SEGMENTER)
    records = json.dumps([source.ids, source.labels.tolist()])
    return {
        "wbc_jax": importlib.metadata.version("wbc_jax"),
        "segmenter": hashlib.sha256(shipped.read_bytes()).hexdigest() if shipped else "",
        "data set": f"{DATASET} {sources.builder(DATASET, data).version}",
        "records": hashlib.sha256(records.encode()).hexdigest(),
    }


def _read(path: epath.Path, made_from: dict[str, Any]) -> list[RaabinCell] | None:
    """Returns the cells of a file; None if it is missing, damaged or of something else."""
    try:
        stored = json.loads(path.read_text())
        if stored["made_from"] == made_from:
            return [RaabinCell(**cell) for cell in stored["cells"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
