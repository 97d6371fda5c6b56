"""Benchmark of the cell finder on the boxes of BCCD and BCD: recall and precision."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy import optimize

from wbc_jax import metrics
from wbc_jax.data.images import encode_png, read_image
from wbc_jax.errors import DataError, InputError
from wbc_jax.fields import detections, finder
from wbc_jax.metrics.ratios import ratio
from wbc_jax.utils import atomic, output_folder
from wbc_jax.utils.output_folder import OutputFolder
from wbc_jax.utils.progress import Progress

Box = tuple[int, int, int, int]

DATASETS = ("kaggle_blood_cells", "bcd")
SUBSETS = ("all", "development", "rest")
MIN_IOU = 0.5
"""Overlap from which a found box is a hit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """An image file and the boxes (top, left, bottom, right; half open) of its white cells."""

    path: epath.Path
    boxes: list[Box]


def subset_of(name: str) -> str:
    """Returns `development` or `rest`, by the first bit of the SHA-256 of a file name's stem.

    The finder's parameters were chosen on BCCD's development images only.
    """
    return "development" if hashlib.sha256(name.encode()).digest()[0] < 128 else "rest"


def read_truth(dataset: str, manual_dir: epath.PathLike, subset: str = "all") -> list[Truth]:
    """Reads a data set's boxes as its authors drew them: none is left out or corrected.

    Args:
        dataset: one of `DATASETS`.
        manual_dir: folder that holds the data set's folder.
        subset: one of `SUBSETS`.

    Raises:
        DataError: the data set is missing, or its boxes cannot be read.
        InputError: an unknown data set or subset.
    """
    if dataset not in DATASETS or subset not in SUBSETS:
        raise InputError(
            f"dataset {dataset!r}, part {subset!r}: allowed are {', '.join(DATASETS)}, and "
            f"{', '.join(SUBSETS)}"
        )
    read = _read_bccd if dataset == "kaggle_blood_cells" else _read_bcd
    return [
        t
        for t in read(epath.Path(manual_dir).expanduser())
        if subset in ("all", subset_of(t.path.stem))
    ]


def _folder(manual_dir: epath.Path, names: Sequence[str], entry: str) -> epath.Path:

    for folder in [manual_dir / name for name in names] + [manual_dir]:
        if (folder / entry).exists():
            return folder
    raise DataError(
        f"{manual_dir}: holds no {names[0]}/{entry}: name the folder in which {names[0]}/ "
        "lies with --manual_dir"
    )


def _read_bccd(manual_dir: epath.Path) -> Iterator[Truth]:
    from wbc_jax.tfds_builders.kaggle_blood_cells import (
        kaggle_blood_cells_dataset_builder as builder,
    )

    folder = _folder(manual_dir, builder.FOLDERS, "dataset-master")
    inner = folder / "dataset-master" / "dataset-master"
    folder = inner if inner.is_dir() else folder / "dataset-master"
    for path in sorted((folder / "JPEGImages").glob("*.jpg")):
        annotation = folder / "Annotations" / f"{path.stem}.xml"
        if annotation.exists():
            height, width = read_image(path).shape[:2]
            yield Truth(path, builder.read_boxes(annotation, height, width)[0])


def _read_bcd(manual_dir: epath.Path) -> Iterator[Truth]:
    from wbc_jax.tfds_builders.bcd import bcd_dataset_builder as builder

    folder = _folder(manual_dir, builder.FOLDERS, "annotations.csv")
    boxes, _ = builder.read_annotations(folder / "annotations.csv")
    for path in sorted((folder / "images").glob("*.png")):
        height, width = read_image(path).shape[:2]
        own = [box for box in boxes if box.index >= 0 and box.image == path.name]
        yield Truth(path, [builder.pixel_box(box.edges, height, width)[0] for box in own])


def overlap(truth: Sequence[Box], found: Sequence[Box]) -> np.ndarray:
    """Returns the IoU of every true box with every found box, float64 `[T, F]`."""
    a = np.array(truth, float).reshape(-1, 1, 4)
    b = np.array(found, float).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    both = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return common / (both - common)


def center_inside(truth: Sequence[Box], found: Sequence[Box]) -> np.ndarray:
    """Returns whether the center of each found box lies in each true box, bool `[T, F]`."""
    a = np.array(truth, float).reshape(-1, 1, 4)
    b = np.array(found, float).reshape(1, -1, 4)
    center = (b[..., :2] + b[..., 2:]) / 2
    return ((a[..., :2] <= center) & (center < a[..., 2:])).all(-1)


def count_hits(allowed: np.ndarray) -> int:
    """Returns the largest number of one-to-one pairs of true and found boxes in bool `[T, F]`."""
    rows, columns = optimize.linear_sum_assignment(allowed, maximize=True)
    return int(allowed[rows, columns].sum())


def measure(
    truths: Sequence[Truth], find: Callable[[np.ndarray], Sequence[Box]]
) -> list[dict[str, Any]]:
    """Finds the cells of every image and counts hits.

    Args:
        truths: from `read_truth`.
        find: uint8 `[H, W, 3]` → the boxes found.

    Returns:
        One row per image: `file`, `truth`, `found` (numbers of boxes), `hits`, `centre_hits`,
        `worst` (the lowest IoU of any box, true or found, with its best counterpart),
        `truth_boxes`, `found_boxes`.
    """

    rows = []
    progress = Progress("image", len(truths))
    for number, truth in enumerate(truths):
        image = read_image(truth.path)
        found = list(find(image))
        iou = overlap(truth.boxes, found)
        best = [*iou.max(1, initial=0), *iou.max(0, initial=0)]
        rows.append(
            {
                "file": truth.path.name,
                "truth": len(truth.boxes),
                "found": len(found),
                "hits": count_hits(iou >= MIN_IOU),
                "centre_hits": count_hits(center_inside(truth.boxes, found)),
                "worst": float(min(best, default=1.0)),
                "truth_boxes": [list(box) for box in truth.boxes],
                "found_boxes": [list(box) for box in found],
            }
        )
        progress.update(number + 1, 1)
    progress.close()
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns recall and precision over all boxes, with 95 % bootstrap intervals by image.

    Returns:
        `images`, `truth`, `found`, `hits`, `centre_hits`; `recall`, `precision` (at IoU 0.5),
        `centre_recall`, `centre_precision`, each `{"value": …, "interval": [low, high]}`.
    """
    keys = ("truth", "found", "hits", "centre_hits")
    counts = np.array([[row[key] for key in keys] for row in rows], float).reshape(-1, len(keys))
    total = counts.sum(0)
    result: dict[str, Any] = {"images": len(rows)}
    result |= {key: int(value) for key, value in zip(keys, total)}
    resampled = metrics.resampled_sums(counts)
    for name, hits, boxes in (
        ("recall", 2, 0),
        ("precision", 2, 1),
        ("centre_recall", 3, 0),
        ("centre_precision", 3, 1),
    ):
        value, samples = (ratio(sums[..., hits], sums[..., boxes]) for sums in (total, resampled))
        result[name] = {"value": float(value), "interval": metrics.interval(samples).tolist()}
    return result


def table(result: dict[str, Any], title: str) -> str:
    """Returns the summary as lines of text."""
    lines = [
        f"{title}: {result['images']} images, {result['truth']} boxes, {result['found']} found",
        f"{'':26}{'recall':>24}{'precision':>24}",
    ]
    for name, prefix in (("IoU of at least 0.5", ""), ("middle in a true box", "centre_")):
        texts = []
        for key in ("recall", "precision"):
            low, high = result[prefix + key]["interval"]
            texts.append(f"{result[prefix + key]['value']:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"{name:26}" + "".join(f"{text:>24}" for text in texts))
    return "\n".join(lines)


def score(
    dataset: str,
    manual_dir: str,
    part: str = "all",
    out: epath.PathLike | None = None,
    pictures: epath.PathLike | None = None,
    most_pictures: int = 40,
) -> None:
    """Scores the finder against a data set's boxes and prints the table.

    Args:
        dataset: `kaggle_blood_cells` or `bcd`.
        manual_dir: folder of the data sets.
        part: `all`, `development` or `rest`.
        out: JSON file for the figures, if any.
        pictures: folder for drawings of the worst fields, if any.
        most_pictures: how many of these.

    Raises:
        DataError: the data set is not there.
        InputError: there is no such data set or part.
    """
    if out:
        output_folder.refuse_other_json(out, ("dataset", "part", "per_image"))
    truths = read_truth(dataset, manual_dir, part)
    folder = OutputFolder(pictures, "--pictures") if pictures else None
    rows = measure(truths, lambda image: [cell.box for cell in finder.find_cells(image)])
    result = summary(rows)
    print(table(result, f"{dataset}, {part}"), flush=True)
    if out:
        whole = {"dataset": dataset, "part": part, **result, "per_image": rows}
        atomic.write_json(out, whole)
    if folder:
        ranked = sorted(zip(rows, truths), key=lambda pair: pair[0]["worst"])
        for rank, (row, truth) in enumerate(ranked[:most_pictures]):
            image = read_image(truth.path)
            drawn = detections.draw(image, finder.find_cells(image), row["truth_boxes"])
            name = f"{rank:03d}_{truth.path.stem}.png"
            folder.refuse_foreign([name])
            folder.write({name: encode_png(drawn)})
