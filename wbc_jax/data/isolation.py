"""Images cut to their cell by a segmenter, with nothing of the slide around it.

What a classifier learns of one scanner and finds nowhere else is mostly around the cell: the colour
of the light, the magnification, neighbours. Here each cell is cut to its own box, so that it spans
the image whatever the magnification, in light that is made white, on a plain ground.
"""

import dataclasses
import functools
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from etils import epath
from scipy import ndimage
from skimage import segmentation

from wbc_jax.config import Data
from wbc_jax.data import crops, sources
from wbc_jax.data.images import decode_image, encode_png
from wbc_jax.errors import ConfigError, WeightsError
from wbc_jax.inference import weights as weights_lib
from wbc_jax.labels import BACKGROUND, CYTOPLASM, NUCLEUS
from wbc_jax.utils import atomic
from wbc_jax.utils.progress import Progress

if TYPE_CHECKING:
    from wbc_jax.inference import model as inference

MARGIN = 0.08
"""Part of the cell's longer side that is kept around it, as a segmenter may cut a rim off."""
GROUND = 235
"""Grey level of what is not the cell."""
WHITE = 245
"""Level to which each colour's brightest pixels are brought."""
NECK, OWN_NUCLEUS = 0.5, 0.2
"""A neighbour is parted from the cell where the mask is narrower than this part of its width, and
it has at least this part of the cell's nucleus. Chosen on validation images of JTSC, CellaVision
and Raabin, where 0.3 to 0.6 give the same."""
MASK_SIDE = 128
_BATCH = 16


def isolate(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cuts an image to its cell.

    Of several cells the one with the most nucleus counts, less what lies off the middle. Where the
    mask shows no cell, the whole image is kept, in white light.

    Args:
        image: uint8 `[H, W, 3]`.
        mask: uint8 `[h, w]` of any size: 0 background, 1 cytoplasm, 2 nucleus.

    Returns:
        uint8 `[s, t, 3]`, a square unless the cell is longer than the image's shorter side.
    """
    height, width = image.shape[:2]
    image = _white(image)
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    cell = _middle_cell(mask)
    if cell is None:
        return image
    box = crops.bounding_box(cell)
    reach = max(1, round(MARGIN * max(box[2] - box[0], box[3] - box[1])))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    kept = cv2.dilate(cell.astype(np.uint8), disc) > 0
    image = np.where(kept[..., None], image, np.uint8(GROUND))
    return crops.cut(image, box, MARGIN)


def keep_middle_cell(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of one cell: that with the most nucleus, less what lies off the middle.

    Args:
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus.

    Returns:
        Its like, with background where another cell was.
    """
    cell = _middle_cell(mask)
    return mask if cell is None else np.where(cell, mask, np.uint8(BACKGROUND))


def _white(image: np.ndarray) -> np.ndarray:
    """Scales each colour so that its brightest pixels, the unstained light, are `WHITE`."""
    light = np.percentile(image[::2, ::2].reshape(-1, 3), 97, axis=0)
    table = np.arange(256)[:, None] * (WHITE / np.maximum(light, 1))
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return np.stack([table[image[..., i], i] for i in range(3)], -1)


def _middle_cell(mask: np.ndarray) -> np.ndarray | None:
    """bool `[H, W]`: the part of the mask that is the image's cell, holes filled."""
    stained = ((mask == NUCLEUS) | (mask == CYTOPLASM)).astype(np.uint8)
    count, parts = cv2.connectedComponents(stained)
    if count < 2:
        return None
    best = _in_the_middle(mask, parts, count)
    outline, _ = cv2.findContours(
        (parts == best).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), outline, -1, 1, cv2.FILLED)
    # A neighbour that touches it is wide again beyond a neck, and has a nucleus of its own; what
    # has none is an arm of the cell.
    depth = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
    count, cores = cv2.connectedComponents((depth > NECK * depth.max()).astype(np.uint8))
    if count < 3:
        return filled > 0
    parts = segmentation.watershed(-depth, cores, mask=filled > 0)
    best = _in_the_middle(mask, parts, count)
    nucleus = np.bincount(parts[mask == NUCLEUS], minlength=count)
    others = nucleus >= np.maximum(OWN_NUCLEUS * nucleus[best], 1)
    others[[0, best]] = False
    return (filled > 0) & ~others[parts]


def _in_the_middle(mask: np.ndarray, parts: np.ndarray, count: int) -> int:
    """Which of the parts 1 to `count` - 1 has the most nucleus, less what it lies off the middle;
    cytoplasm counts a tenth."""
    index = np.arange(1, count)
    weight = np.where(mask == NUCLEUS, 1.0, 0.1)
    amounts = ndimage.sum_labels(weight, parts, index)
    middles = np.array(ndimage.center_of_mass(np.ones(mask.shape), parts, index))
    off = middles / mask.shape * 2 - 1
    return 1 + int((amounts * np.exp(-2 * (off**2).sum(1))).argmax())


class _Isolated(Sequence):
    """Records of a source with their images cut to the cell."""

    def __init__(self, encoded: Sequence[dict[str, Any]], masks: np.ndarray):
        self._encoded, self._masks = encoded, masks

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = dict(self._encoded[index])
        cut = isolate(decode_image(record["image"]), self._masks[index])
        return record | {"image": encode_png(cut)}


def isolated(sets: Sequence[sources.Source], data: Data) -> Sequence[sources.Source]:
    """Returns sources whose images are cut to their cell, as `data.isolate` says.

    The segmenter's masks, 128×128, are kept beside the records, so that it runs only once.

    Raises:
        WeightsError: `data.isolate` names no weights.
        ConfigError: they are not a segmenter's.
    """
    if not data.isolate:
        return sets
    digest = hashlib.sha256(weights_file(data).read_bytes()).hexdigest()[:12]
    model = functools.cache(lambda: segmenter(data))  # loaded if any masks are missing
    found = []
    for source in sets:
        folder = epath.Path(sources.builder(source.name, data).data_dir)
        masks = _masks(source, folder / f"wbc_jax_masks_{digest}.npz", model)
        found.append(dataclasses.replace(source, encoded=_Isolated(source.encoded, masks)))
    return found


def weights_file(data: Data) -> epath.Path:
    """Returns the file of the segmenter that `data.isolate` names.

    Raises:
        WeightsError: there is none.
    """
    file = weights_lib.find(data.isolate)
    if file is None or not file.exists():
        known = ", ".join(weights_lib.shipped()) or "none"
        raise WeightsError(
            f"config.data.isolate is {data.isolate!r}: no {weights_lib.SUFFIX} file and no shipped "
            f"weights (there are: {known})."
        )
    return file


def segmenter(data: Data) -> "inference.Model":
    """Returns the model that `data.isolate` names, without test-time flips: a box needs none.
    Which cell is the middle one, `isolate` says.

    Raises:
        WeightsError: as `weights_file`.
        ConfigError: it is no segmenter.
    """
    from wbc_jax.inference import model as inference

    model = inference.load(weights_file(data)).with_flips(False).with_middle_cell(False)
    if model.config.task != "segmentation":
        raise ConfigError(
            f"config.data.isolate is {data.isolate!r}, weights for {model.config.task}; it must "
            "name a segmenter's."
        )
    return model


def _masks(
    source: sources.Source, path: epath.Path, load: Callable[[], "inference.Model"]
) -> np.ndarray:
    """uint8 `[N, 128, 128]`, read from `path` or predicted and written there."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if tuple(stored["ids"].tolist()) == source.ids:
                return stored["masks"]
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # predicted again
    model = load()
    print(f"{source.name}: finding the cell in each of its {len(source)} images", flush=True)
    progress = Progress("image", len(source))
    masks = np.zeros((len(source), MASK_SIDE, MASK_SIDE), np.uint8)
    for start in range(0, len(source), _BATCH):
        places = range(start, min(start + _BATCH, len(source)))
        for i, found in zip(places, model.predict([source.image(i) for i in places], _BATCH)):
            side = (MASK_SIDE, MASK_SIDE)
            masks[i] = cv2.resize(found.mask, side, interpolation=cv2.INTER_NEAREST_EXACT)
        progress.update(places[-1] + 1, len(places))
    progress.close()
    out = io.BytesIO()
    np.savez_compressed(out, ids=np.array(source.ids), masks=masks)
    atomic.write_bytes(path, out.getvalue())
    return masks
