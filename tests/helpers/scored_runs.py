"""Evaluated runs made by hand: tables of scores as `report/per_image.csv` holds them."""

import csv

import numpy as np

from wbc_jax import labels as labels_lib

MASKS = (
    "dataset", "id", "label", "mean_iou", "iou_cytoplasm", "iou_nucleus", "bf_score",
    "bf_score_absent_as_zero", "bf_one_sided_classes", "truth_nucleus_px",
    "truth_cytoplasm_px", "nc_relative_error", "flag",
)  # fmt: skip
TYPES = (
    "dataset", "id", "label", "predicted", "right", "probability", "label_source",
    "probability_basophil", "probability_eosinophil", "probability_lymphocyte",
    "probability_monocyte", "probability_neutrophil",
)  # fmt: skip


def write(folder, rows, columns=MASKS):
    path = folder / "report" / "per_image.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def masks(scores, dataset="jtsc", prefix="cell", **more):
    """Rows of a segmentation with these mean IoUs; the other scores follow from them."""
    return [
        {
            "dataset": dataset, "id": f"{prefix}-{i}", "label": i % 5, "mean_iou": score,
            "iou_cytoplasm": score, "iou_nucleus": score, "bf_score": score,
            "bf_score_absent_as_zero": score, "bf_one_sided_classes": 0,
            "truth_nucleus_px": 100 + i, "truth_cytoplasm_px": 200,
            "nc_relative_error": 1 - score, "flag": "",
        } | more
        for i, score in enumerate(scores)
    ]  # fmt: skip


def types(answers, probability=0.6):
    """Rows of a classification: the true types' labels are 0 to 4 in turn."""
    rows = []
    for i, right in enumerate(answers):
        label = i % 5
        given = label if right else (label + 1) % 5
        row = {f"probability_{name}": (1 - probability) / 4 for name in labels_lib.CELL_TYPES}
        row[f"probability_{labels_lib.CELL_TYPES[given]}"] = probability
        rows.append(
            row
            | {"dataset": "pbc", "id": f"c{i}", "label": label, "predicted": given}
            | {"right": bool(right), "probability": probability, "label_source": "authors"}
        )
    return rows


def two_segmentations(folder):
    """Writes two runs; returns their folders and the scores of the first data set in each."""
    rng = np.random.default_rng(0)
    first = rng.uniform(0.6, 0.9, 30)
    second = first + rng.normal(0.02, 0.03, 30)
    other = rng.uniform(0.5, 0.9, 12)
    a = write(folder / "a", masks(first) + masks(other, "raabin"))
    b = write(folder / "b", masks(other, "raabin")[::-1] + masks(second))
    return a, b, first, second


def row(found, dataset, key):
    """Returns the row of a comparison for one data set and score."""
    (one,) = [x for x in found.rows if (x.dataset, x.score.key) == (dataset, key)]
    return one
