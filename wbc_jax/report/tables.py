"""Results as rows, and as plain text for the end of a run.

`result_rows` and `type_rows` flatten the nested results of `report/metrics.json`. The text tables
here and the page in `run_page` read the same rows and `COLUMNS`, so that the two cannot disagree on
a number's name or its digits.
"""

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.labels import ALL, CELL_TYPES, MASK_CLASSES

DASH = "–"
"""Stands for a value that is not known or not defined."""


def number(value: Any) -> float | None:
    """Returns `value` as a float; None where it is missing, NaN or not a number."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(result) else result


def decimal(value: Any, digits: int = 3) -> str:
    """Writes a number with a fixed number of decimals; a dash where there is none."""
    found = number(value)
    return DASH if found is None else f"{found:.{digits}f}"


def percent(value: Any, digits: int = 1) -> str:
    """Writes a fraction as a percentage, `0.0561` → `5.6 %`; a dash where there is none."""
    found = number(value)
    return DASH if found is None else f"{100 * found:.{digits}f} %"


def signed_percent(value: Any, digits: int = 1) -> str:
    """Writes a difference as a percentage, `0.051` → `+5.1 %`, with a minus as wide as a digit."""
    found = number(value)
    if found is None:
        return DASH
    text = f"{100 * found:+.{digits}f} %"
    return text[1:] if float(text[:-2]) == 0 else text.replace("-", "−")


def count(value: Any) -> str:
    """Writes a whole number with separated thousands; a dash where there is none."""
    found = number(value)
    if found is None:
        return DASH
    return f"{round(found):,}" if math.isfinite(found) else f"{found:.0f}"


def interval(low: Any, high: Any, form: Callable[[Any], str] = decimal) -> str:
    """Writes `[low, high]` by `form`, with the unit once; empty where either end is missing."""
    if number(low) is None or number(high) is None:
        return ""
    return f"[{form(low).removesuffix(' %')}, {form(high)}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of results: the key of its value in a row, its heading and its format."""

    key: str
    """Key in a row of `result_rows` or `type_rows`."""
    group: str
    """Upper line of the heading, shared by neighboring columns of one kind."""
    head: str
    """Lower line of the heading."""
    short: str
    """The lower line on a terminal, where room is scarce."""
    form: Callable[[Any], str] = decimal
    """Writes the value."""
    low: str = ""
    """Key of the interval's lower end; empty: the column has no interval."""
    high: str = ""
    """Key of the interval's upper end."""


def _with_interval(key: str, *names: str, form: Callable[[Any], str] = decimal) -> Column:
    return Column(key, *names, form, low=f"{key}_low", high=f"{key}_high")


COLUMNS = (
    Column("images", "", "images", "images", count),
    Column("cell_only_images", "", "whole cells", "whole", count),
    _with_interval("global_accuracy", "accuracy", "global", "global"),
    _with_interval("mean_accuracy", "accuracy", "mean", "mean"),
    _with_interval("mean_iou", "IoU", "mean", "mean"),
    _with_interval("weighted_iou", "IoU", "weighted", "weighted"),
    _with_interval("iou_background", "IoU", "background", "backgr."),
    _with_interval("iou_cytoplasm", "IoU", "cytoplasm", "cytopl."),
    _with_interval("iou_nucleus", "IoU", "nucleus", "nucleus"),
    _with_interval("iou_cell", "IoU", "cell", "cell"),
    _with_interval("dice_cytoplasm", "Dice", "cytoplasm", "cytopl."),
    _with_interval("dice_nucleus", "Dice", "nucleus", "nucleus"),
    _with_interval("dice_cell", "Dice", "cell", "cell"),
    _with_interval("bf_score", "BF", "mean", "mean"),
    _with_interval("bf_score_matlab", "BF", "MATLAB's", "MATLAB's"),
    Column("bf_left_out", "BF", "left out", "left out", count),
    _with_interval("nc_error", "N/C ratio", "median error", "error", form=percent),
    Column("nc_spearman", "N/C ratio", "Spearman", "Spearman"),
    Column("nc_images", "N/C ratio", "images", "images", count),
    Column("nc_missed", "N/C ratio", "missed", "missed", count),
)
"""Columns of a segmentation's tables, after the one that names the row; see `shown`."""
_OF_WHOLE_CELLS = ("cell_only_images", "iou_cell", "dice_cell")

MASKS_EXPLAINED = (
    "BF: boundary F1 score (tolerance 0.75 % of the diagonal), mean over images of the mean over "
    "classes; a class that only the truth has (a miss) or only the prediction has counts as 0. "
    "MATLAB's bfscore leaves such a class out of its mean, so that a miss raises it; left out: "
    "number of images of which it leaves a class out. N/C median error: relative error of the "
    "predicted nucleus to cytoplasm ratio, median over the images in which truth and prediction "
    "have both parts (images); missed: number of images whose prediction lacks a part that the "
    "truth has."
)
"""What the columns of a segmentation mean; page and terminal say it in the same words."""
WHOLE_CELLS_EXPLAINED = (
    " Whole cells: number of images whose true mask marks the cell without its nucleus; of them "
    "only the cell is scored. Cell: nucleus and cytoplasm together, over all images."
)
"""Follows `MASKS_EXPLAINED` where the columns of whole cells are shown."""

CLASSIFICATION_COLUMNS = (
    Column("images", "", "images", "images", count),
    _with_interval("accuracy", "", "accuracy", "accuracy"),
    _with_interval("macro_recall", "mean over types", "recall", "recall"),
    _with_interval("macro_precision_absent_as_zero", "mean over types", "precision", "precision"),
    _with_interval("macro_f1", "mean over types", "F1", "F1"),
    _with_interval(
        "mean_one_vs_rest_accuracy", "mean over types", "one-vs-rest accuracy", "1-vs-rest"
    ),
    _with_interval("mean_balanced_accuracy", "mean over types", "balanced accuracy", "balanced"),
    Column("macro_auroc", "mean over types", "AUROC", "AUROC"),
    Column("expected_calibration_error", "", "calibration error", "ECE", percent),
)
"""Columns of a classification's tables by data set."""

TYPE_COLUMNS = (
    Column("images", "", "images", "images", count),
    _with_interval("recall", "", "recall", "recall"),
    _with_interval("precision", "", "precision", "precision"),
    _with_interval("specificity", "", "specificity", "specif."),
    _with_interval("f1", "", "F1", "F1"),
    _with_interval("one_vs_rest_accuracy", "", "one-vs-rest accuracy", "1-vs-rest"),
    _with_interval("balanced_accuracy", "", "balanced accuracy", "balanced"),
    Column("auroc", "", "AUROC", "AUROC"),
)
"""Columns of a classification's tables by cell type."""

AGREEMENT_COLUMNS = (
    Column("images", "", "images", "images", count),
    _with_interval("bias", "", "bias", "bias", form=signed_percent),
    _with_interval("lower", "95 % limits of agreement", "lower", "lower", form=signed_percent),
    _with_interval("upper", "95 % limits of agreement", "upper", "upper", form=signed_percent),
)
"""Columns of the table of the N/C ratio's limits of agreement."""


def _ends(intervals: Mapping[str, Any], key: str) -> tuple[float | None, float | None]:
    found = intervals.get(key)
    if not isinstance(found, (list, tuple)) or len(found) != 2:
        return None, None
    return number(found[0]), number(found[1])


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens a segmentation's result to the values of `COLUMNS` and their intervals' ends."""
    iou, dice = result.get("iou") or {}, result.get("dice") or {}
    nc, intervals = result.get("nc") or {}, result.get("intervals") or {}
    row: dict[str, Any] = {key: result.get(key) for key in ("images", "cell_only_images")}
    headlines = ("global_accuracy", "mean_accuracy", "mean_iou", "weighted_iou")
    for key in (*headlines, "iou_cell", "dice_cell"):
        row[key] = number(result.get(key))
    for name in MASK_CLASSES:
        row[f"iou_{name}"] = number(iou.get(name))
    for name in MASK_CLASSES:
        row[f"dice_{name}"] = number(dice.get(name))
    bf = result.get("bf_score") or {}
    row["bf_score"] = number(bf.get("mean_absent_as_zero"))
    row["bf_score_matlab"] = number(bf.get("mean"))
    row["bf_left_out"] = bf.get("images_left_out")
    for key in ("images", "missed", "flagged"):
        row[f"nc_{key}"] = nc.get(key)
    row["nc_error"] = number(nc.get("median_relative_error"))
    row["nc_spearman"] = number(nc.get("spearman"))
    named = {
        "bf_score": "bf_score_mean_absent_as_zero",
        "bf_score_matlab": "bf_score_mean",
        "nc_error": "nc_median_relative_error",
    }
    for column in COLUMNS:
        if column.low:
            key = named.get(column.key, column.key)
            row[column.low], row[column.high] = _ends(intervals, key)
    return row


def _flat_types(result: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, Any]:
    """Flattens a classification's result to the columns' values and their intervals' ends."""
    intervals = result.get("intervals") or {}
    row: dict[str, Any] = {"images": result.get("images")}
    for column in columns[1:]:
        row[column.key] = number(result.get(column.key))
        if column.low:
            row[column.low], row[column.high] = _ends(intervals, column.key)
    return row


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The layout of a task's results."""

    columns: Sequence[Column]
    """Columns of tables by data set."""
    type_columns: Sequence[Column]
    """Columns of tables by cell type."""
    headline: str
    """Key of the column whose interval is shown on a terminal, where there is no room for all."""
    flat: Callable[[Mapping[str, Any], Sequence[Column]], dict[str, Any]]
    """Flattens a result to a row of these columns."""


VIEWS = {
    "segmentation": View(COLUMNS, COLUMNS, "mean_iou", lambda result, _: _flat(result)),
    "classification": View(CLASSIFICATION_COLUMNS, TYPE_COLUMNS, "accuracy", _flat_types),
}
"""By the task of `report/metrics.json`."""


def shown(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Returns the columns of a table; those of whole cells only where some row has such images."""
    if any(row.get("cell_only_images") for row in rows):
        return list(columns)
    return [column for column in columns if column.key not in _OF_WHOLE_CELLS]


def result_rows(results: Mapping[str, Any], task: str = "segmentation") -> list[dict[str, Any]]:
    """Returns one flat dict a data set, in the order given, `all` last.

    Args:
        results: data set → result, as `results`, `external` and `baseline` in
            `report/metrics.json`. Keys may be missing.
        task: `segmentation` or `classification`.

    Returns:
        Rows with `dataset` and the keys of the view's columns with their intervals' ends; for
        segmentation also `dice_background` and `nc_flagged`. Fractions stay fractions; a missing
        value is None.
    """
    view = VIEWS[task]
    names = [name for name in results if name != ALL] + [ALL] * (ALL in results)
    return [{"dataset": name, **view.flat(results[name] or {}, view.columns)} for name in names]


def type_rows(
    results: Mapping[str, Any], dataset: str = "", task: str = "segmentation"
) -> list[dict[str, Any]]:
    """Returns one flat dict a cell type, in the vocabulary's order, other names last.

    Args:
        results: data set → result.
        dataset: one of them; empty: `all`, or the only data set where there is no `all`.
        task: `segmentation` or `classification`.

    Returns:
        Rows as from `result_rows`, with `type` in place of `dataset`; empty where cell types are
        not known.
    """
    view = VIEWS[task]
    if not dataset:
        dataset = ALL if ALL in results or not results else next(iter(results))
    by_type = (results.get(dataset) or {}).get("by_type") or {}
    names = [name for name in CELL_TYPES if name in by_type]
    names += [name for name in by_type if name not in CELL_TYPES]
    return [{"type": name, **view.flat(by_type[name] or {}, view.type_columns)} for name in names]


def agreement_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Measures the agreement of the predicted N/C ratios of some images with the true ones.

    Args:
        rows: `truth_nc_ratio` and `nc_ratio` of each image, as in `report/per_image.csv`.

    Returns:
        The keys of `AGREEMENT_COLUMNS`, relative as in `metrics.limits_of_agreement`; `trend` and
        `trend_p`, the rank correlation of the spread of those differences with size; and
        `plain_trend` and `plain_trend_p`, the same for absolute differences.
    """
    truth, found = (
        [value if (value := number(row.get(key))) is not None else math.nan for row in rows]
        for key in ("truth_nc_ratio", "nc_ratio")
    )
    agreement = metrics.limits_of_agreement(truth, found)
    # The images that have a relative difference, so that the two scales can be compared.
    usual = [(t, f) for t, f in zip(truth, found) if 0 < t < math.inf and 0 < f < math.inf]
    plain = metrics.limits_of_agreement(
        [t for t, _ in usual], [f for _, f in usual], relative=False
    )
    values = {
        "bias": (agreement.bias, agreement.bias_interval),
        "lower": (agreement.limits[0], agreement.lower_interval),
        "upper": (agreement.limits[1], agreement.upper_interval),
    }
    row: dict[str, Any] = {"images": agreement.images}
    for name, (value, (low, high)) in values.items():
        row |= {name: number(value), f"{name}_low": number(low), f"{name}_high": number(high)}
    row |= {"trend": number(agreement.spread_trend), "trend_p": number(agreement.spread_p)}
    return row | {
        "plain_trend": number(plain.spread_trend),
        "plain_trend_p": number(plain.spread_p),
    }


def p_value(value: Any) -> str:
    """Writes a p value to follow its letter, `= 0.012` or `< 0.001`; a dash where there is none."""
    found = number(value)
    if found is None:
        return DASH
    return "< 0.001" if found < 0.001 else f"= {found:.3f}"


def _text(
    name: str, head: str, rows: list[dict[str, Any]], columns: Sequence[Column], headline: str
) -> str:
    """Writes rows as aligned text: headings in two lines, a rule, one line a row."""
    columns = shown(columns, rows)
    filled = [[head, *(str(row[name]) for row in rows)]]
    for column in columns:
        heading, cells = column.short, [column.form(row[column.key]) for row in rows]
        # The page shows every interval; a terminal has room only for the headline's.
        if column.key == headline:
            ends = [interval(row[column.low], row[column.high]) for row in rows]
            width = max(map(len, ends))
            heading = f"{column.short} [95 % interval]" if width else heading
            cells = [f"{cell} {end:<{width}}" if width else cell for cell, end in zip(cells, ends)]
        filled.append([heading, *cells])
    widths = [max(map(len, cells)) for cells in filled]
    gap = "  "
    groups = [" " * widths[0]]
    for group, members in itertools.groupby(zip(columns, widths[1:]), lambda pair: pair[0].group):
        width = len(gap.join(" " * width for _, width in members))
        groups.append(f" {group} ".center(width, "-") if group else " " * width)
    rule = "-" * len(gap.join(" " * width for width in widths))
    lines = []
    for first, *rest in zip(*filled):
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:])]
        lines.append(gap.join([f"{first:<{widths[0]}}", *cells]).rstrip())
    heads = [line for line in [gap.join(groups).rstrip()] if line]
    return "\n".join([*heads, lines[0], rule, *lines[1:]])


def results_table(results: Mapping[str, Any], task: str = "segmentation") -> str:
    """Writes the results as text for a terminal, one row a data set and `all` last.

    The columns are those of the task's view, with the headline's 95 % interval. A missing value is
    a dash. The text is empty where there are no results.
    """
    view, rows = VIEWS[task], result_rows(results, task)
    return _text("dataset", "data set", rows, view.columns, view.headline) if rows else ""


def type_table(results: Mapping[str, Any], dataset: str = "", task: str = "segmentation") -> str:
    """As `results_table` with one row a cell type; empty where cell types are not known."""
    view, rows = VIEWS[task], type_rows(results, dataset, task)
    headline = "recall" if task == "classification" else view.headline
    return _text("type", "cell type", rows, view.type_columns, headline) if rows else ""


def row_fractions(confusion: Any) -> np.ndarray:
    """Divides counts `[C, C]`, rows truth, by their row's sum; NaN in a row without counts.

    Raises:
        ValueError: not a square matrix.
    """
    counts = np.asarray(confusion, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a confusion matrix is [C, C], not {list(counts.shape)}")
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def confusion_table(
    confusion: Sequence[Sequence[int]],
    names: Sequence[str],
    corner: str = "truth \\ prediction",
) -> str:
    """Writes a confusion matrix as text: rows truth, columns prediction, as `corner` says."""
    cells = [[corner, *names]]
    cells += [[name, *map(count, row)] for name, row in zip(names, confusion)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:]))])
        for first, *rest in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def text(summary: Mapping[str, Any]) -> str:
    """Writes all tables of `report/metrics.json`, for the end of a run."""
    task, results = summary["task"], summary["results"]
    scored = f"Test split, scored at {summary['eval_size']} x {summary['eval_size']}:"
    table = results_table(results, task)
    if table and task == "segmentation":
        whole = any(row["cell_only_images"] for row in result_rows(results))
        explained = MASKS_EXPLAINED + WHOLE_CELLS_EXPLAINED * whole
        table += "\n" + textwrap.fill(explained, 100)
    parts = [
        ("Test split:" if task == "classification" else scored, table),
        ("By cell type:", type_table(results, task=task)),
    ]
    if task == "classification":
        whole = results[ALL] if ALL in results else next(iter(results.values()))
        table = confusion_table(whole["confusion"], CELL_TYPES)
        parts.append(("Images by true and predicted type:", table))
    parts.append(
        (f"{summary['baseline_name']}, same images:", results_table(summary["baseline"], task))
    )
    apart = [results_table(summary["external"], task)] if summary["external"] else []
    apart += [f"  {name}: {reason}" for name, reason in summary["skipped"].items()]
    if apart:
        parts.append(("Data sets that training never saw:", "\n".join(apart)))
    return "\n\n".join(f"{head}\n{body}" for head, body in parts if body)
