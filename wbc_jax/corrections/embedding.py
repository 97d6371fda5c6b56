"""The classifier's features of the cells of a folder whose types a person said.

Images are analyzed again as `wbc_jax.predict` does it, and the cells found in them are matched with
those of the results by their boxes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
from etils import epath

from wbc_jax.corrections import pictures
from wbc_jax.corrections.cells import LEAST_IOU, Cell, Results, iou
from wbc_jax.corrections.typed import Typed
from wbc_jax.data import crops, duplicates
from wbc_jax.data.keys import RecordKey
from wbc_jax.errors import InputError
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import folder_statistics
from wbc_jax.inference.abstention import Outputs
from wbc_jax.inference.adapting import Labeled
from wbc_jax.report import html
from wbc_jax.utils.progress import Progress

DATASET = "corrected"
"""Data set of the corrected cells in the list of images that a model has seen."""
_TOGETHER = 8
_SHOWN = 10


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
    places, outputs, keys, lost, notes = [], [], [], [], []
    for part, bad in images.batches(wanted, _TOGETHER):
        for why, count in bad:
            lost.append(f"{why} Its {html.plural(count, 'corrected cell')} are left out.")
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
    return Embedded(np.array(places, np.int64), Outputs.joined(outputs), keys, lost + notes)


def label(
    said: Sequence[tuple[Results, Typed]],
    models: fields.Models,
    types: Sequence[str],
    images: epath.PathLike | None = None,
    find: str = "auto",
) -> tuple[Labeled, list[RecordKey], np.ndarray, list[str]]:
    """Computes the features of the corrected cells of folders, with a progress line.

    Args:
        said: results, and the types that people said.
        models: a segmenter, as in the prediction, and the classifier.
        types: of the model that is to be; cells of other types are left out.
        images: folder of the images, where they have moved.
        find: as in the prediction.

    Returns:
        The cells, their identities, the probabilities of their types in the results, float64
        `[N, K]`, and a line for each cell or image that had to be left out.

    Raises:
        InputError: no cell is found again.
    """
    size = models.classifier.embedding_size
    models = dataclasses.replace(models, classifier=models.classifier.with_features())
    parts, labels, groups, keys, before, notes = [], [], [], [], [], []
    progress = Progress("image", sum(len({cell.file for cell in one.cells}) for _, one in said))
    done = 0

    def show(count: int) -> None:
        nonlocal done
        done += count
        progress.update(done, count)

    for results, one in said:
        places = [i for i, name in enumerate(one.types) if name in types]
        shown = pictures.Pictures(results, images)
        own = embed([one.cells[i] for i in places], models, shown, find, show)
        notes += own.notes
        if own.outputs is None:
            continue
        parts.append(own.outputs)
        keys += own.keys
        for place, logits in zip((places[i] for i in own.places), own.outputs.logits):
            cell = one.cells[place]
            labels.append(types.index(one.types[place]))
            groups.append(cell.file)
            before.append(_before(cell.row, types, logits))
    progress.close()
    outputs = Outputs.joined(parts)
    if outputs is None:
        lines = "".join(f"\n  {note}" for note in notes[:_SHOWN])
        raise InputError(
            "none of the corrected cells is found again in its image: name the --model, --find and "
            f"--images of the prediction.{lines}"
        )
    features = outputs.embeddings[:, size:]
    outputs = Outputs(outputs.logits, np.ascontiguousarray(outputs.embeddings[:, :size]))
    labeled = Labeled(features, outputs, np.array(labels, np.int64), np.array(groups))
    return labeled, keys, np.stack(before), notes


def _before(row: Mapping[str, Any], types: Sequence[str], logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities `[K]` of a cell's types by its row of the results, which has only
    the highest; by the logits of the classifier, if the results have no types."""
    guess, highest = row["best_guess"], row["probability"] or 0.0
    if guess not in types:
        found = np.zeros(len(types))
        found[: len(logits)] = scipy.special.softmax(logits)
        return found
    found = np.full(len(types), (1 - highest) / (len(types) - 1))
    found[types.index(guess)] = max(highest, 1 / len(types) + 1e-6)
    return found


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
