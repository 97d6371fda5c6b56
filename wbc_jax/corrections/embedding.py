"""The classifier's features of the cells of a folder whose types a person said.

Images are analyzed again as `wbc_jax.predict` does it, and the cells found in them are matched with
those of the results by their boxes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from wbc_jax.corrections import pictures
from wbc_jax.corrections.cells import LEAST_IOU, Cell, iou
from wbc_jax.data import crops, duplicates
from wbc_jax.data.keys import RecordKey
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import folder_statistics
from wbc_jax.inference.abstention import Outputs

DATASET = "corrected"
"""Data set of the corrected cells in the list of images that a model has seen."""
_TOGETHER = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Embedded:
    """What is known of some cells.

    Attributes:
        places: int `[M]`, which of the cells that were asked for.
        outputs: for these; None if there are none. Their embeddings are followed by the features.
        keys: their identities.
        notes: a line for each cell or image that had to be left out.
    """

    places: np.ndarray
    outputs: Outputs | None
    keys: list[RecordKey]
    notes: list[str]


def embed(
    wanted: Sequence[Cell],
    models: fields.Models,
    images: pictures.Pictures,
    find: str = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> Embedded:
    """Computes the outputs for cells.

    Args:
        wanted: cells of a folder of results.
        models: a segmenter, as in the prediction, and the classifier, `with_features`.
        images: of the folder.
        find: as in the prediction.
        on_progress: called with the number of images that were just done.
    """
    # The rule knows no features, and nothing is moved by a folder's statistics.
    models = dataclasses.replace(models, rule=None, folder=folder_statistics.Folder())
    by_file: dict[str, list[int]] = {}
    for place, cell in enumerate(wanted):
        by_file.setdefault(cell.file, []).append(place)
    places, outputs, keys, notes = [], [], [], []
    files = []
    for file, own in by_file.items():
        found = images.image(wanted[own[0]])
        if found.problem:
            left = f"{len(own)} corrected cell{'' if len(own) == 1 else 's'}"
            notes.append(f"{found.problem} Its {left} are left out.")
        else:
            files.append((file, own, found.pixels))
    for start in range(0, len(files), _TOGETHER):
        part = files[start : start + _TOGETHER]
        analyzed = fields.analyze([pixels for *_, pixels in part], models, find)
        for (file, own, pixels), field in zip(part, analyzed):
            for place in own:
                cell = wanted[place]
                overlaps = [iou(cell.box, one.box) for one in field.cells]
                best = int(np.argmax(overlaps)) if overlaps else 0
                if not overlaps or overlaps[best] < LEAST_IOU or field.outputs is None:
                    notes.append(
                        f"{file}, cell {cell.cell} is not found again in its image, so it is left "
                        "out: name the --model and --find of the prediction."
                    )
                    continue
                places.append(place)
                outputs.append(field.outputs.take(slice(best, best + 1)))
                keys.append(identity(cell, pixels, field.one_cell))
        if on_progress:
            on_progress(len(part))
    return Embedded(np.array(places, np.int64), Outputs.joined(outputs), keys, notes)


def identity(cell: Cell, pixels: np.ndarray, one_cell: bool) -> RecordKey:
    """Returns the identity of a corrected cell.

    Args:
        cell: the cell.
        pixels: uint8 `[H, W, 3]`, its image.
        one_cell: the image shows this cell alone.
    """
    shown = pixels if one_cell else crops.cut(pixels, cell.box)
    hashes = (duplicates.perceptual_hash(shown), duplicates.cell_hash(shown))
    name = os.path.basename(cell.file)  # no paths of this machine
    return RecordKey(DATASET, f"{name}:{cell.cell}", name, *(h.tobytes() for h in hashes))
