"""Prints the mean IoU of segmenters on the validation split of the real cells.

    python tools/validate_segmenters.py MODEL... [--manual_dir=../shared/data] [--zoom=0.7]
        [--split=train]

MODEL is a run's folder, a file of weights or the name of shipped weights. The split is that of
configs/release_segmenter.py; pixels of all images of a source are pooled. Each model is scored in
several variants: as it is; with test-time flips; with flips and --zoom, averaged with a second pass
over the cell enlarged to that share of the image; and with flips, keeping the middle cell only.
docs/experiments.md has the results.
"""

import argparse
import dataclasses

import cv2
import numpy as np

from wbc_jax import metrics
from wbc_jax.configs import release_segmenter
from wbc_jax.data import crops, isolation, pipeline
from wbc_jax.inference import model as inference

SIDE, BATCH, CLASSES = 256, 16, 3


def real_cells(manual_dir: str, split: str) -> tuple[tuple[str, ...], pipeline.Examples]:
    """Returns the real sources of configs/release_segmenter.py, and one split of their records."""
    data = release_segmenter.get_config().data
    names = tuple(name for name in data.datasets if name != "wbc_synthetic")
    data = dataclasses.replace(
        data, manual_dir=manual_dir, datasets=names, mixture="natural", weights=()
    )
    return names, pipeline.load_splits(data, SIDE)[split]


def logits(model: inference.Model, images: list[np.ndarray]) -> np.ndarray:
    """Returns float32 logits `[N, 256, 256, 3]`.

    The last batch is padded, so that only one shape is compiled.
    """
    found = []
    for start in range(0, len(images), BATCH):
        batch = [model.fit(image) for image in images[start : start + BATCH]]
        padded = batch + batch[-1:] * (BATCH - len(batch))
        found += list(np.asarray(model.logits(np.stack(padded))))[: len(batch)]
    return np.stack([cv2.resize(one, (SIDE, SIDE)) for one in found])


def zoomed_logits(
    model: inference.Model, images: list[np.ndarray], first: np.ndarray, span: float
) -> np.ndarray:
    """Returns the mean of the first logits and the logits of the enlarged cell.

    Args:
        model: segmenter.
        images: uint8 `[H, W, 3]` each.
        first: logits of the whole images, float32 `[N, 256, 256, 3]`.
        span: share of the enlarged image that the cell spans.
    """
    boxes, views = [], []
    for image, one in zip(images, first):
        mask = one.argmax(-1)
        height, width = image.shape[:2]
        box = crops.bounding_box(mask > 0) or (0, 0, SIDE, SIDE)
        side = min(SIDE, int(max(box[2] - box[0], box[3] - box[1]) / span))
        middles = ((start + end - 1 - side) // 2 for start, end in zip(box[:2], box[2:]))
        top, left = (int(np.clip(middle, 0, SIDE - side)) for middle in middles)
        boxes.append(np.s_[top : top + side, left : left + side])
        y = [round(edge * height / SIDE) for edge in (top, top + side)]
        x = [round(edge * width / SIDE) for edge in (left, left + side)]
        views.append(np.ascontiguousarray(image[y[0] : y[1], x[0] : x[1]]))
    both = first.copy()
    for one, box, near in zip(both, boxes, logits(model, views)):
        side = one[box].shape[0]
        one[box] = (one[box] + cv2.resize(near, (side, side), interpolation=cv2.INTER_AREA)) / 2
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="runs, files of weights or names")
    parser.add_argument("--manual_dir", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--split", default="validation", choices=("train", "validation"))
    parser.add_argument("--zoom", type=float, default=0.0, help="share the enlarged cell spans")
    options = parser.parse_args()
    names, found = real_cells(options.manual_dir, options.split)
    images = [source.image(i) for source, i in found.entries]
    truth = np.stack([found[i]["mask"] for i in range(len(found))])
    datasets = np.array(found.datasets)
    print(f"{'':40}" + "".join(f"{name.split('/')[-1]:>14}" for name in names))
    for name in options.models:
        model = inference.load(name)
        flipped = model.with_flips(True)
        variants = {"": logits(model.with_flips(False), images)}
        variants[" flips"] = logits(flipped, images)
        if options.zoom:
            near = zoomed_logits(flipped, images, variants[" flips"], options.zoom)
            variants[f" flips, zoom {options.zoom:g}"] = near
        masks = {name: scores.argmax(-1).astype(np.uint8) for name, scores in variants.items()}
        alone = [isolation.keep_middle_cell(mask) for mask in masks[" flips"]]
        masks[" flips, middle cell"] = np.stack(alone)
        for variant, predicted in masks.items():
            confusions = np.asarray(metrics.confusion_matrices(truth, predicted, CLASSES))
            values = [float(metrics.mean_iou(confusions[datasets == n].sum(0))) for n in names]
            shown = f"{name.rstrip('/').split('/')[-1]}{variant}"
            print(f"{shown:40}" + "".join(f"{value:>14.4f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
