"""Summaries of evaluated runs: the scores that documents and model cards cite.

A summary has the keys of `report/metrics.json`, so that code that reads one reads the other. Files
in `results/` and `wbc_jax/shipped/*.json` are summaries.
"""

import json
import operator
import pathlib
from collections.abc import Callable
from typing import Any

from wbc_jax.utils import atomic


def bf_score(found: dict[str, Any]) -> float:
    """Returns the BF score of a row, in which a class on one side only counts as 0.

    Older summaries hold MATLAB's value alone, which leaves such classes out; so do their intervals
    (`intervals`). In the images of these every N/C ratio is finite (`nc.flagged` is 0), so that no
    nucleus and no cytoplasm is on one side only.
    """
    return found.get("mean_absent_as_zero", found["mean"])


def intervals(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row's intervals by their keys in `SCORES` (see `bf_score`)."""
    found = row.get("intervals", {})
    if "bf_score_mean" in found:
        return {"bf_score_mean_absent_as_zero": found["bf_score_mean"]} | found
    return found


Scores = dict[str, tuple[str, Callable[[dict[str, Any]], float]]]
"""Columns of a table: name → (key of the interval, function from a row of results to the value)."""

_MASK_SCORES: Scores = {
    "mean IoU": ("mean_iou", lambda row: row["mean_iou"]),
    "nucleus Dice": ("dice_nucleus", lambda row: row["dice"]["nucleus"]),
    "cytoplasm Dice": ("dice_cytoplasm", lambda row: row["dice"]["cytoplasm"]),
    "BF score": ("bf_score_mean_absent_as_zero", lambda row: bf_score(row["bf_score"])),
    "N/C median error": (
        "nc_median_relative_error",
        lambda row: row["nc"]["median_relative_error"],
    ),
}
SCORES: dict[str, Scores] = {
    "segmentation": _MASK_SCORES,
    "classification": {
        "accuracy": ("accuracy", operator.itemgetter("accuracy")),
        "macro recall": ("macro_recall", operator.itemgetter("macro_recall")),
        "macro F1": ("macro_f1", operator.itemgetter("macro_f1")),
    },
}
"""Scores of a data set, by task."""
TYPE_SCORES: dict[str, Scores] = {
    "segmentation": {
        name: _MASK_SCORES[name] for name in ("mean IoU", "nucleus Dice", "N/C median error")
    },
    "classification": {
        key: (key, operator.itemgetter(key)) for key in ("recall", "precision", "f1")
    },
}
"""Scores of a cell type within a data set, by task."""
_ROWS = ("results", "baseline", "external", "by_label_source")
_DROPPED = ("calibration", "skipped")
_KEPT = {
    "segmentation": (
        *("images", "left_out", "global_accuracy", "mean_accuracy", "mean_iou", "weighted_iou"),
        *("iou", "dice", "bf_score", "nc"),
    ),
    "classification": (
        *("images", "left_out", "accuracy", "macro_recall", "macro_precision", "macro_f1"),
        *("macro_precision_absent_as_zero", "types_never_predicted"),
        *("mean_one_vs_rest_accuracy", "mean_balanced_accuracy", "macro_auroc"),
        *("expected_calibration_error", "confusion", "recall", "precision", "f1"),
    ),
}
_DECIMALS = 6


def summarize(report: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a run's report that documents and model cards cite.

    Rows of data sets and cell types keep their main scores and intervals, rounded to six decimals.
    Calibration by bin, confusion matrices of masks and the baseline by cell type are left out.
    Everything else (command, commit, config, versions, ...) is copied.

    Args:
        report: `report/metrics.json`, with or without further keys.
    """
    task = report["task"]
    summary = {key: value for key, value in report.items() if key not in _DROPPED}
    for part in _ROWS:
        if part in summary:
            summary[part] = {
                name: _row(row, task, by_type=part != "baseline")
                for name, row in summary[part].items()
            }
    return summary


def _row(row: dict[str, Any], task: str, by_type: bool) -> dict[str, Any]:
    kept = {key: _rounded(row[key]) for key in _KEPT[task] if key in row}
    if "bf_score" in kept:
        names = ("mean", "mean_absent_as_zero", "images_left_out")
        kept["bf_score"] = {n: kept["bf_score"][n] for n in names if n in kept["bf_score"]}
    if ends := row.get("intervals"):
        columns = SCORES[task] | TYPE_SCORES[task]
        keys = [*(key for key, _ in columns.values()), "bf_score_mean"]
        kept["intervals"] = {key: _rounded(ends[key]) for key in keys if key in ends}
    if by_type and (types := row.get("by_type")):
        kept["by_type"] = {k: _row(own, task, False) for k, own in types.items() if own["images"]}
    return kept


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value


def write(path: pathlib.Path, summary: dict[str, Any]) -> None:
    """Writes a summary as JSON; an object that holds no other object takes one line."""
    atomic.write_text(path, _json(atomic.finite(summary)) + "\n")


def _json(value: Any, indent: int = 0) -> str:
    if not isinstance(value, dict) or not any(isinstance(one, dict) for one in value.values()):
        return json.dumps(value)
    space = " " * indent
    lines = [f"{space}  {json.dumps(key)}: {_json(one, indent + 2)}" for key, one in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{space}}}"
