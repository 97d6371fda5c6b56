"""Fields in flat colors whose cells are known, and models that read these colors."""

import types

import cv2
import numpy as np

from wbc_jax import metrics
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import abstention
from wbc_jax.inference import model as inference
from wbc_jax.labels import CELL_TYPES

LIGHT, RED, NUCLEUS, CYTOPLASM = (236, 228, 220), (226, 172, 168), (104, 66, 168), (206, 196, 226)
RED_PX = 40


def plain_field(cells, height=360, width=480, platelets=()):
    """Draws a field in flat colors, with rows of red cells around the given cells.

    Args:
        cells: (y, x, radius of the nucleus, radius of the cell) in pixels.
        platelets: (y, x, radius).
    """
    image = np.full((height, width, 3), LIGHT, np.uint8)
    for y in range(30, height, 56):
        for x in range(30, width, 56):
            if all(np.hypot(y - cy, x - cx) > r + 24 for cy, cx, _, r in cells):
                cv2.circle(image, (x, y), RED_PX // 2, RED, -1, cv2.LINE_AA)
    for y, x, _, radius in cells:
        cv2.circle(image, (x, y), radius, CYTOPLASM, -1, cv2.LINE_AA)
    for y, x, radius, _ in cells:
        cv2.circle(image, (x, y), radius, NUCLEUS, -1, cv2.LINE_AA)
    for y, x, radius in platelets:
        cv2.circle(image, (x, y), radius, NUCLEUS, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def boxes_of(cells, height=360, width=480):
    """Returns the boxes (top, left, bottom, right) of cells, arguments as of `plain_field`."""
    return [
        (max(y - r, 0), max(x - r, 0), min(y + r + 1, height), min(x + r + 1, width))
        for y, x, _, r in cells
    ]


def disk(shape, y, x, radius):
    """Returns a disk as a mask, bool of the shape `[H, W]`."""
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(ys - y, xs - x) <= radius


class Thresholds:
    """A segmenter that knows the flat colors of `plain_field`."""

    config = types.SimpleNamespace(task="segmentation")
    weights = types.MappingProxyType({})

    def __init__(self, flips=True):
        self.flips = flips

    def with_flips(self, flips):
        return Thresholds(flips)

    def with_middle_cell(self, middle_cell):
        assert not middle_cell  # the finder says which cell is meant
        return self

    def predict(self, images):
        found = []
        for image in images:
            far = [np.abs(image.astype(int) - c).sum(-1) for c in (LIGHT, CYTOPLASM, NUCLEUS)]
            red = np.abs(image.astype(int) - (226, 172, 168)).sum(-1)
            mask = np.argmin([*far, red], 0).astype(np.uint8)
            mask[mask == 3] = 0
            nc = metrics.nc_ratio(mask[None])
            found.append(inference.Prediction(mask, nc_ratio=float(nc.nc_ratio[0])))
        return found


class Sizes:
    """A classifier that is sure that large images are monocytes, and unsure of small ones."""

    config = types.SimpleNamespace(task="classification")
    weights = types.MappingProxyType({})
    segmenter, adapted, types = None, False, CELL_TYPES

    def predict(self, images, masks=None):
        self.masks = masks

        def logits(image):
            sure = [0.0, 0, 0, 12, 0] if len(image) > 100 else [0.0, 0, 1, 0, 0]
            return np.array(sure, np.float32)

        return [inference._typed(logits(image)) for image in images]


MODELS = fields.Models(Thresholds(), Sizes(), abstention.Rule(1.0, 0.9, -5.0, 0.05, 100))
