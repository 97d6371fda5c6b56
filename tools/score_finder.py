"""Scores the finder of `wbc_jax.detect` on single cells (docs/detection.md has the results).

    python tools/score_finder.py [--manual_dir=../shared/data] [--cells=60]

Takes training cells of configs/release_segmenter.py, at most --cells of each source, at random. A
cell counts as found if a detected nucleus and the true one have an intersection over union (IoU)
above 0.5. Prints the share of cells found and the mean of the best IoU of each cell.
"""

import argparse

import numpy as np

import validate_segmenters
from wbc_jax.data.resize import resize_mask
from wbc_jax.fields import finder
from wbc_jax.labels import NUCLEUS


def best_overlap(image: np.ndarray, truth: np.ndarray) -> float:
    """Returns the largest IoU of a detected nucleus and the true one (bool `[H, W]`)."""
    overlaps = [0.0]
    for cell in finder.find_cells(image):
        nucleus = np.zeros(truth.shape, bool)
        nucleus[cell.top : cell.bottom, cell.left : cell.right] = cell.nucleus
        overlaps.append(float((nucleus & truth).sum() / (nucleus | truth).sum()))
    return max(overlaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manual_dir", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--cells", type=int, default=60, help="most cells of each source")
    options = parser.parse_args()
    names, train = validate_segmenters.real_cells(options.manual_dir, "train")
    datasets, rng = np.array(train.datasets), np.random.default_rng(0)
    for name in names:
        overlaps = []
        for i in rng.permutation(np.flatnonzero(datasets == name))[: options.cells]:
            source, index = train.entries[i]
            image = source.image(index)
            mask = resize_mask(train[int(i)]["mask"], *image.shape[:2])
            overlaps.append(best_overlap(image, mask == NUCLEUS))
        found = float(np.mean(np.array(overlaps) > 0.5))
        mean = float(np.mean(overlaps))
        print(f"{name:32}{len(overlaps):>4} cells  found {found:.2f}  mean IoU {mean:.3f}")


if __name__ == "__main__":
    main()
