"""How many single cells the finder of fields finds, as docs/detection.md has it.

    python docs/nuclei_found.py [--manual_dir=../shared/data] [--cells=60]

Training cells of configs/release_segmenter.py, at most so many a source, drawn at random. A cell is
found if one of the nuclei that `wbc_jax.detect` finds overlaps with the true one by an intersection
over union above 0.5; beside that share stands the mean of the best intersection over union.
"""

import argparse

import numpy as np
import validate

from wbc_jax.data import pipeline
from wbc_jax.fields import finder
from wbc_jax.labels import NUCLEUS


def best_overlap(image: np.ndarray, truth: np.ndarray) -> float:
    """Returns the largest intersection over union of a found nucleus and the true one."""
    found = [0.0]
    for cell in finder.find_cells(image):
        nucleus = np.zeros(truth.shape, bool)
        nucleus[cell.top : cell.bottom, cell.left : cell.right] = cell.nucleus
        found.append(float((nucleus & truth).sum() / (nucleus | truth).sum()))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manual_dir", default="../shared/data")
    parser.add_argument("--cells", type=int, default=60)
    options = parser.parse_args()
    names, train = validate.real_cells(options.manual_dir, "train")
    datasets, rng = np.array(train.datasets), np.random.default_rng(0)
    for name in names:
        overlaps = []
        for i in rng.permutation(np.flatnonzero(datasets == name))[: options.cells]:
            source, index = train.entries[i]
            image = source.image(index)
            mask = pipeline.resize_mask(train[int(i)]["mask"], *image.shape[:2])
            overlaps.append(best_overlap(image, mask == NUCLEUS))
        found = float(np.mean(np.array(overlaps) > 0.5))
        mean = float(np.mean(overlaps))
        print(f"{name:32}{len(overlaps):>4} cells  found {found:.2f}  mean IoU {mean:.3f}")


if __name__ == "__main__":
    main()
