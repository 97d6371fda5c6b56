"""Draws docs/unet_synthetic.png and docs/example_cell.png from a finished run.

    python tools/make_pictures.py runs/unet

The cells are drawn ones of the embedded data set: the repository holds no image of a third party.
"""

import pathlib
import sys

import numpy as np

import wbc_jax
from wbc_jax.data import pipeline
from wbc_jax.data.images import encode_png
from wbc_jax.data.resize import resize_image, resize_mask
from wbc_jax.report import overlays
from wbc_jax.utils import atomic

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
TILE_PX = 144
CELLS = 10


def main(run: str) -> None:
    """Writes both pictures; `run` is the --workdir of a segmentation run."""
    model = wbc_jax.load(run)
    test = pipeline.load_splits(model.config.data, mask_size=model.config.data.image_size)["test"]
    # The first two cells of each type, by id: not chosen by their scores.
    chosen = []
    for label in range(5):
        chosen += np.flatnonzero(test.labels == label)[: CELLS // 5].tolist()
    entries = [test.entries[i] for i in chosen]
    images = [source.image(i) for source, i in entries]
    truths = [source.mask(i) for source, i in entries]
    predicted = [p.mask for p in model.predict(images)]

    def tile(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        image = resize_image(image, TILE_PX, TILE_PX)
        if mask is None:
            return image
        return overlays.overlay(image, resize_mask(mask, TILE_PX, TILE_PX), width_px=2)

    tiles = [tile(image) for image in images]
    tiles += [tile(image, mask) for image, mask in zip(images, truths)]
    tiles += [tile(image, mask) for image, mask in zip(images, predicted)]
    sheet = overlays.contact_sheet(tiles, columns=CELLS)
    atomic.write_bytes(DOCS / "unet_synthetic.png", encode_png(sheet))
    atomic.write_bytes(DOCS / "example_cell.png", encode_png(images[-1]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
