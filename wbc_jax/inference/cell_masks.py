"""Masks by which images are cut to their cell, predicted once and kept beside the records."""

import functools
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from etils import epath

from wbc_jax.config import Data
from wbc_jax.data import sources
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights
from wbc_jax.utils import atomic
from wbc_jax.utils.progress import Progress

SIDE = 128
"""Height and width of the masks, px."""
_BATCH = 16


def prepare(data: Data, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Predicts the masks of data sets with the segmenter of `data.isolate`, unless they are kept.

    The file `wbc_jax_masks_<digest>.npz` beside the records holds them; the digest is that of the
    segmenter's weights.

    Args:
        data: settings of the data. Without `isolate` there is nothing to do.
        names: data sets whose records are written; None: those of `data`.

    Returns:
        uint8 `[N, 128, 128]` of each data set; empty without `data.isolate`.

    Raises:
        WeightsError: `data.isolate` does not name weights.
        ConfigError: the weights are not a segmenter's.
        DataError: the records are missing.
        OSError: the masks cannot be written.
    """
    if not data.isolate:
        return {}
    file = weights.find_segmenter(data.isolate)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    segmenter = functools.cache(lambda: inference.load_segmenter(data.isolate))
    found = {}
    for name in data.datasets if names is None else names:
        source = sources.load(name, data)
        folder = epath.Path(sources.builder(name, data).data_dir)
        found[name] = _read_or_predict(source, folder / f"wbc_jax_masks_{digest}.npz", segmenter)
    return found


def _read_or_predict(
    source: sources.Source, path: epath.Path, segmenter: Callable[[], inference.Model]
) -> np.ndarray:
    """Returns uint8 `[N, 128, 128]`; predicts and writes them if the file is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if tuple(stored["ids"].tolist()) == source.ids:
                return stored["masks"]
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # predicted again
    model = segmenter()
    print(f"{source.name}: finding the cell in each of its {len(source)} images", flush=True)
    progress = Progress("image", len(source))
    masks = np.zeros((len(source), SIDE, SIDE), np.uint8)
    for start in range(0, len(source), _BATCH):
        places = range(start, min(start + _BATCH, len(source)))
        for i, found in zip(places, model.predict([source.image(i) for i in places], _BATCH)):
            size = (SIDE, SIDE)
            masks[i] = cv2.resize(found.mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        progress.update(places[-1] + 1, len(places))
    progress.close()
    out = io.BytesIO()
    np.savez_compressed(out, ids=np.array(source.ids), masks=masks)
    atomic.write_bytes(path, out.getvalue())
    return masks
