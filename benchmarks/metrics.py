"""Measures the segmentation metrics, and a loop over scipy, MONAI and torchmetrics.

python benchmarks/metrics.py [--images=256] [--size=360] [--rounds=5] [--out=FILE.json]

The input is a batch of drawn cells, 3 classes, with predictions whose outlines are off by some
pixels. Our metrics take NumPy masks, check them and return NumPy results; compilation is not
counted. The references get their input beforehand: MONAI one-hot masks, PyTorch tensors, on a GPU
where there is one. They run with the number of threads that suits them best, one or one a core;
with one where they loop over images in Python, which more threads only slow down. The results are
compared before any time is taken.

Ours and each reference are measured alternately. A ratio is the median over the rounds of the
reference's time / ours: by the clock, and by the time of all processor cores together, which other
programs disturb less (and which does not include a GPU). Targets: 10 for boundaries, 5 for
confusion matrices and the scores computed from them.

It prints a line a measurement, and one JSON object at the end.
"""

import argparse
import functools
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from monai import metrics as monai
from scipy import ndimage
from torchmetrics.functional import classification as torchmetrics

from wbc_jax import metrics
from wbc_jax.metrics import boundary
from wbc_jax.utils import atomic

CLASSES = 3
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def cells(images: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws uint8 masks `[N, S, S]` and predictions of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    masks = np.zeros((2, images, size, size), np.uint8)
    for i in range(images):
        centre, radius = size / 2 + rng.normal(0, size / 20, 2), size * rng.uniform(0.25, 0.4)
        share, angle = rng.uniform(0.5, 0.8), np.arctan2(y - centre[0], x - centre[1])
        waves = rng.normal(0, 0.03, 6)
        for mask in masks[:, i]:
            off = waves + rng.normal(0, 0.008, 6)
            outline = 1 + sum(w * np.cos((k + 2) * angle) for k, w in enumerate(off))
            distance = np.hypot(y - centre[0], x - centre[1]) / outline / radius
            mask[distance < 1] = 1
            mask[distance < share] = 2
    return masks[0], masks[1]


def boundary_points(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def scipy_distances(truth: np.ndarray, prediction: np.ndarray, label: int):
    true, predicted = boundary_points(truth == label), boundary_points(prediction == label)
    if not true.any() or not predicted.any():
        return None
    return (
        ndimage.distance_transform_edt(~predicted)[true],
        ndimage.distance_transform_edt(~true)[predicted],
    )


def scipy_bf(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Computes the BF score in the plain way, by a loop over images and classes."""
    tolerance = boundary.tolerance(*truth.shape[1:])
    scores = np.full((len(truth), CLASSES), np.nan)
    for i, label in np.ndindex(scores.shape):
        found = scipy_distances(truth[i], prediction[i], label)
        if found is not None:
            recall, precision = ((d < tolerance).mean() for d in found)
            both = recall + precision
            scores[i, label] = 2 * precision * recall / both if both else 0
    return scores


def scipy_surface(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Computes Hausdorff-95 and average distance `[N, C, 2]` by the same loop."""
    scores = np.full((len(truth), CLASSES, 2), np.nan)
    for i, label in np.ndindex(scores.shape[:2]):
        found = scipy_distances(truth[i], prediction[i], label)
        if found is not None:
            scores[i, label] = (
                max(np.percentile(d, 95) for d in found),
                np.concatenate(found).mean(),
            )
    return scores


def seconds(function: Callable[[], Any]) -> tuple[float, float]:
    """Returns the seconds by the clock, and of all processor cores together."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - clock, time.process_time() - processor


def best_threads(function: Callable[[], Any]) -> int:
    """Returns the faster number of PyTorch threads for a function, one or all; warms it up, too."""
    choices = sorted({1, os.cpu_count() or 1})
    times = []
    for threads in choices:
        torch.set_num_threads(threads)
        times.append(seconds(function)[0])
    return choices[int(np.argmin(times))]


def compare(
    name: str,
    target: float | None,
    rounds: int,
    ours: Callable,
    references: dict[str, Callable],
    torch_threads: int | None = None,
) -> list[dict[str, Any]]:
    """Measures one row a reference; without `torch_threads`, each gets its best number."""
    threads = {key: torch_threads or best_threads(call) for key, call in references.items()}
    ours()
    own: dict[str, list] = {reference: [] for reference in references}
    times: dict[str, list] = {reference: [] for reference in references}
    for _ in range(rounds):
        for reference, function in references.items():
            own[reference].append(seconds(ours))
            torch.set_num_threads(threads[reference])
            times[reference].append(seconds(function))
    rows = []
    for reference in references:
        mine, others = np.array(own[reference]), np.array(times[reference])
        ratio, processor_ratio = np.median(others / mine, axis=0)
        row = {
            "metric": name,
            "reference": reference,
            "reference_threads": threads[reference],
            "ours_ms": round(1e3 * float(np.median(mine[:, 0])), 1),
            "reference_ms": round(1e3 * float(np.median(others[:, 0])), 1),
            "ratio": round(float(ratio), 1),
            "processor_ratio": round(float(processor_ratio), 1),
            "target": target,
        }
        rows.append(row)
        goal = f"(target {target:g})" if target else ""
        print(
            f"{name:22} ours {row['ours_ms']:8.1f} ms   "
            f"{reference:38} {row['reference_ms']:9.1f} ms   {ratio:6.1f} x, "
            f"processor {processor_ratio:6.1f} x {goal}",
            flush=True,
        )
    return rows


def one_hot(mask: np.ndarray) -> torch.Tensor:
    eye = np.eye(CLASSES, dtype=np.uint8)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(eye[mask], -1, 1))).to(DEVICE)


def check(truth: np.ndarray, prediction: np.ndarray) -> None:
    """Compares the results on some images, before any time is taken."""
    truth, prediction = truth[:8], prediction[:8]
    np.testing.assert_allclose(
        metrics.bf_score(truth, prediction, CLASSES), scipy_bf(truth, prediction), atol=1e-6
    )
    found = metrics.surface_distances(truth, prediction, CLASSES)
    expected = scipy_surface(truth, prediction)
    np.testing.assert_allclose(found.hausdorff_95_px, expected[..., 0], rtol=1e-9)
    np.testing.assert_allclose(found.average_px, expected[..., 1], rtol=1e-9)
    true, predicted = (torch.from_numpy(m).long().to(DEVICE) for m in (truth, prediction))
    counts = metrics.confusion_matrix(truth, prediction, CLASSES)
    theirs = torchmetrics.multiclass_confusion_matrix(predicted, true, CLASSES).cpu()
    assert np.array_equal(counts, theirs)
    each = np.asarray(metrics.confusion_matrices(truth, prediction, CLASSES))
    theirs = monai.get_confusion_matrix(one_hot(prediction), one_hot(truth)).cpu().numpy()
    assert np.array_equal(np.diagonal(each, axis1=1, axis2=2), theirs[..., 0])
    np.testing.assert_allclose(
        metrics.iou(each),
        monai.compute_iou(one_hot(prediction), one_hot(truth)).cpu(),
        rtol=1e-5,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=360)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="write the results here, too")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*is all 0")

    truth, prediction = cells(arguments.images, arguments.size)
    check(truth, prediction)
    hot = one_hot(prediction), one_hot(truth)
    tensors = [torch.from_numpy(m).long().to(DEVICE) for m in (prediction, truth)]
    tolerance = boundary.tolerance(*truth.shape[1:])
    run = functools.partial(compare, rounds=arguments.rounds)

    def surface_dice(background: bool):
        thresholds = [tolerance] * (CLASSES if background else CLASSES - 1)
        return monai.compute_surface_dice(*hot, thresholds, include_background=background)

    def monai_distances():
        monai.compute_hausdorff_distance(*hot, include_background=True, percentile=95)
        monai.compute_average_surface_distance(*hot, include_background=True, symmetric=True)

    def counted(**options):
        return torchmetrics.multiclass_confusion_matrix(*tensors, CLASSES, **options)

    rows = [
        *run(
            "BF score",
            10,
            ours=lambda: metrics.bf_score(truth, prediction, CLASSES),
            references={
                "scipy, a loop over images": lambda: scipy_bf(truth, prediction),
                "MONAI surface Dice, 2 classes": lambda: surface_dice(False),
                "MONAI surface Dice, with background": lambda: surface_dice(True),
            },
            torch_threads=1,
        ),
        *run(
            "Hausdorff-95, average",
            None,
            ours=lambda: metrics.surface_distances(truth, prediction, CLASSES),
            references={
                "scipy, a loop over images": lambda: scipy_surface(truth, prediction),
                "MONAI, with background": monai_distances,
            },
            torch_threads=1,
        ),
        *run(
            "confusion, all images",
            5,
            ours=lambda: metrics.confusion_matrix(truth, prediction, CLASSES),
            references={
                "torchmetrics": counted,
                "torchmetrics, unchecked": lambda: counted(validate_args=False),
            },
        ),
        *run(
            "confusion, by image",
            5,
            ours=lambda: np.asarray(metrics.confusion_matrices(truth, prediction, CLASSES)),
            references={"MONAI (TP, FP, TN, FN)": lambda: monai.get_confusion_matrix(*hot)},
        ),
        *run(
            "mean IoU",
            5,
            ours=lambda: metrics.mean_iou(metrics.confusion_matrix(truth, prediction, CLASSES)),
            references={
                "torchmetrics": lambda: torchmetrics.multiclass_jaccard_index(*tensors, CLASSES),
                "MONAI (by image)": lambda: monai.compute_iou(*hot),
            },
        ),
    ]
    result = {
        "images": arguments.images,
        "size": arguments.size,
        "classes": CLASSES,
        "tolerance_px": math.floor(1e4 * tolerance) / 1e4,
        "rounds": arguments.rounds,
        "jax_device": jax.devices()[0].device_kind,
        "torch_device": DEVICE,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "rows": rows,
    }
    print(json.dumps(result))
    if arguments.out:
        atomic.write_json(arguments.out, result)


if __name__ == "__main__":
    main()
