"""Arguments of `wbc_jax.report.run_page.write` that fill every part of a page."""

import math

import numpy as np

from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import run_page

EVIL = """<script>alert("x")</script>'"&"""


def result(images=40, **changes):
    found = {
        "images": images,
        "global_accuracy": 0.98765,
        "mean_accuracy": 0.9512,
        "mean_iou": 0.9004,
        "weighted_iou": None,
        "iou": {"background": 0.99, "cytoplasm": 0.8126, "nucleus": 0.9},
        "dice": {"background": 0.995, "cytoplasm": 0.8966, "nucleus": 0.9474},
        "confusion": [[9000, 1000, 0], [25, 75, 0], [0, 0, 0]],
        "intervals": {
            "mean_iou": [0.88, 0.9151],
            "bf_score_mean": [0.71, 0.76],
            "bf_score_mean_absent_as_zero": [0.63, 0.68],
            "nc_median_relative_error": [0.041, 0.079],
        },
        "bf_score": {"mean": 0.7345, "mean_absent_as_zero": 0.6543, "images_left_out": 3},
        "nc": {
            "images": 37,
            "median_relative_error": 0.0561,
            "spearman": 0.954,
            "flagged": 3,
            "missed": 2,
        },
    }
    return {**found, **changes}


def example(place, score, truth=True, name=""):
    y, x = np.mgrid[:64, :64] - 32
    radius = np.hypot(y, x * (1 + place / 40))
    mask = np.where(radius < 12, 2, np.where(radius < 22, 1, 0)).astype(np.uint8)
    colors = np.array([[240, 220, 225], [190, 160, 215], [90, 40, 130]], np.uint8)
    return run_page.Example(
        dataset="jtsc",
        id=name or f"cell-{place}",
        label=place % 6 - 1,
        image=colors[mask],
        truth=mask if truth else None,
        prediction=np.roll(mask, place, axis=1),
        score=score,
    )


def arguments():
    by_type = {name: result(8) for name in CELL_TYPES}
    whole = result(60, mean_iou=0.876, by_type=by_type)
    return {
        "title": "A run & its <name>",
        "summary": {
            "task": "segmentation",
            "model": "unet",
            "step": 600,
            "parameters": 1234567,
            "split": "test",
            "eval_size": 256,
            "results": {"jtsc": result(by_type=by_type), EVIL: result(20), "all": whole},
            "external": {"raabin": result(114)},
            "baseline": {"jtsc": result(mean_iou=0.7), "all": result(60, mean_iou=0.654)},
            "skipped": {"lisc": f"not found {EVIL}"},
            "versions": {"jax": "0.10.1"},
            "hardware": "8 CPU cores",
            "train_seconds": 754.2,
        },
        "rows": [
            {"id": EVIL, "label": 4, "truth_nc_ratio": 0.5, "nc_ratio": 0.6, "flag": ""},
            {"id": "b", "label": 0, "truth_nc_ratio": math.inf, "nc_ratio": 1, "flag": EVIL},
        ],
        "history": [
            {"step": 10, "kind": "train", "loss": 1.0},
            {"step": 10, "kind": "validation", "mean_iou": 0.5},
        ],
        "examples": [example(0, 0.99, name=EVIL)]
        + [example(place, 0.9 - place / 100) for place in range(1, 30)],
        "config": {"data": {"datasets": ["jtsc"], "note": EVIL}, "seed": 7, "empty": {}},
    }


def typed_arguments():
    by_type = {
        name: {"images": 8, "recall": 0.875, "auroc": 0.99, "intervals": {"recall": [0.6, 1.0]}}
        for name in CELL_TYPES
    }
    found = {
        "images": 40,
        "accuracy": 0.925,
        "macro_recall": 0.9012,
        "confusion": np.diag([8, 8, 7, 8, 6]).tolist(),
        "intervals": {"accuracy": [0.85, 0.975], "macro_recall": [0.8, 0.95]},
        "by_type": by_type,
    }
    given = arguments()
    rows = [
        {"id": "a", "label": 3, "predicted": 2, "right": False, "probability": 0.97},
        {"id": EVIL, "label": 1, "predicted": 1, "right": True, "probability": 0.41},
    ]
    shown = [
        run_page.Example(
            dataset="pbc",
            id=row["id"],
            label=row["label"],
            image=example(1, 1.0).image,
            score=row["probability"],
            predicted=row["predicted"],
        )
        for row in rows
    ]
    history = [
        {"step": 10, "kind": "train", "loss": 1.0, "accuracy": 0.4},
        {"step": 10, "kind": "validation", "loss": 0.9, "accuracy": 0.5, "macro_recall": 0.5},
    ]
    summary = given["summary"] | {
        "task": "classification",
        "results": {"pbc": found},
        "baseline": {"pbc": {"images": 40, "accuracy": 0.2}},
        "baseline_name": "Always the most frequent type of training",
        "external": {},
    }
    return given | {"summary": summary, "rows": rows, "history": history, "examples": shown}
