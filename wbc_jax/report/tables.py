"""Results as rows, and as plain text for the end of a run.

`result_rows` and `type_rows` flatten the nested results of `report/metrics.json`; the text tables
here and the page in `html` both read those rows and the same `COLUMNS`, so that the two cannot
disagree on a number's name or its digits.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from wbc_jax import vocabulary

DASH = "–"
"""Stands for a value that is not known or not defined."""
ALL = "all"
"""Name of the result over all data sets together."""


def number(value: Any) -> float | None:
    """`value` as a float, None where it is missing, NaN or no number at all."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(result) else result


def decimal(value: Any, digits: int = 3) -> str:
    """`value` with a fixed number of decimals; a dash where there is none."""
    found = number(value)
    return DASH if found is None else f"{found:.{digits}f}"


def percent(value: Any, digits: int = 1) -> str:
    """A fraction as a percentage, `0.0561` → `5.6 %`; a dash where there is none."""
    found = number(value)
    return DASH if found is None else f"{100 * found:.{digits}f} %"


def count(value: Any) -> str:
    """A whole number with separated thousands; a dash where there is none."""
    found = number(value)
    if found is None:
        return DASH
    return f"{round(found):,}" if math.isfinite(found) else f"{found:.0f}"


def interval(low: Any, high: Any, form: Callable[[Any], str] = decimal) -> str:
    """`[low, high]`, written by `form`, a unit once; empty where either end is missing."""
    if number(low) is None or number(high) is None:
        return ""
    return f"[{form(low).removesuffix(' %')}, {form(high)}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column of results: where its value lies in a row and how it is written."""

    key: str
    """Key in a row of `result_rows` or `type_rows`."""
    group: str
    """Upper line of the heading, shared by neighbours that belong together."""
    head: str
    """Lower line of the heading."""
    short: str
    """The same, where room is scarce."""
    form: Callable[[Any], str] = decimal
    """Writes the value."""
    low: str = ""
    """Key of the interval's lower end; empty: the column has no interval."""
    high: str = ""
    """Key of the interval's upper end."""


COLUMNS = (
    Column("images", "", "images", "images", count),
    Column("global_accuracy", "accuracy", "global", "global"),
    Column("mean_accuracy", "accuracy", "mean", "mean"),
    Column("mean_iou", "IoU", "mean", "mean", low="mean_iou_low", high="mean_iou_high"),
    Column("weighted_iou", "IoU", "weighted", "weighted"),
    Column("iou_background", "IoU", "background", "backgr."),
    Column("iou_cytoplasm", "IoU", "cytoplasm", "cytopl."),
    Column("iou_nucleus", "IoU", "nucleus", "nucleus"),
    Column("dice_cytoplasm", "Dice", "cytoplasm", "cytopl."),
    Column("dice_nucleus", "Dice", "nucleus", "nucleus"),
    Column(
        "nc_error",
        "N/C ratio",
        "median error",
        "error",
        percent,
        low="nc_error_low",
        high="nc_error_high",
    ),
    Column("nc_spearman", "N/C ratio", "Spearman", "Spearman"),
)
"""Columns of every table of results, after the one that names the row."""


def _ends(intervals: Mapping[str, Any], key: str) -> tuple[float | None, float | None]:
    found = intervals.get(key)
    if not isinstance(found, (list, tuple)) or len(found) != 2:
        return None, None
    return number(found[0]), number(found[1])


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    iou, dice = result.get("iou") or {}, result.get("dice") or {}
    nc, intervals = result.get("nc") or {}, result.get("intervals") or {}
    row: dict[str, Any] = {"images": result.get("images")}
    for key in ("global_accuracy", "mean_accuracy", "mean_iou", "weighted_iou"):
        row[key] = number(result.get(key))
    row["mean_iou_low"], row["mean_iou_high"] = _ends(intervals, "mean_iou")
    for name in vocabulary.MASK_CLASSES:
        row[f"iou_{name}"] = number(iou.get(name))
    for name in vocabulary.MASK_CLASSES:
        row[f"dice_{name}"] = number(dice.get(name))
    row["nc_images"], row["nc_flagged"] = nc.get("images"), nc.get("flagged")
    row["nc_error"] = number(nc.get("median_relative_error"))
    row["nc_error_low"], row["nc_error_high"] = _ends(intervals, "nc_median_relative_error")
    row["nc_spearman"] = number(nc.get("spearman"))
    return row


def result_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat dict a data set, in the order given, `all` last.

    Args:
        results: data set → result, as `results`, `external` and `baseline` of
            `report/metrics.json`. Keys may be missing.

    Returns:
        Rows with `dataset`, the keys of `COLUMNS` with their intervals' ends, `dice_background`,
        `nc_images` and `nc_flagged`. Fractions stay fractions; None where a value is missing.
    """
    names = [name for name in results if name != ALL] + [ALL] * (ALL in results)
    return [{"dataset": name, **_flat(results[name] or {})} for name in names]


def type_rows(results: Mapping[str, Any], dataset: str = "") -> list[dict[str, Any]]:
    """One flat dict a cell type, in the vocabulary's order, other names after it.

    Args:
        results: data set → result.
        dataset: whose cells; empty: `all`, or the only data set where there is no `all`.

    Returns:
        Rows as of `result_rows`, with `type` in place of `dataset`; empty where cell types are
        not known.
    """
    if not dataset:
        dataset = ALL if ALL in results or not results else next(iter(results))
    by_type = (results.get(dataset) or {}).get("by_type") or {}
    names = [name for name in vocabulary.CELL_TYPES if name in by_type]
    names += [name for name in by_type if name not in vocabulary.CELL_TYPES]
    return [{"type": name, **_flat(by_type[name] or {})} for name in names]


def _text(name: str, head: str, rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text: headings in two lines, a rule, one line a row."""
    columns = [[head, *(str(row[name]) for row in rows)]]
    for column in COLUMNS:
        heading, cells = column.short, [column.form(row[column.key]) for row in rows]
        # The page shows every interval; on a terminal there is room for the headline's alone.
        if column.key == "mean_iou":
            ends = [interval(row[column.low], row[column.high]) for row in rows]
            width = max(map(len, ends))
            heading = "mean [95 % interval]" if width else heading
            cells = [f"{cell} {end:<{width}}" if width else cell for cell, end in zip(cells, ends)]
        columns.append([heading, *cells])
    widths = [max(map(len, cells)) for cells in columns]
    gap = "  "
    groups = [" " * widths[0]]
    for group, members in itertools.groupby(zip(COLUMNS, widths[1:]), lambda pair: pair[0].group):
        width = len(gap.join(" " * width for _, width in members))
        groups.append(f" {group} ".center(width, "-") if group else " " * width)
    rule = "-" * len(gap.join(" " * width for width in widths))
    lines = []
    for first, *rest in zip(*columns):
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:])]
        lines.append(gap.join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return "\n".join([gap.join(groups).rstrip(), lines[0], rule, *lines[1:]])


def results_table(results: Mapping[str, Any]) -> str:
    """The results as text for a terminal, one row a data set and `all` last.

    Columns: images, global and mean accuracy, mean IoU with its 95 % interval, weighted IoU, IoU
    of the three classes, Dice of cytoplasm and nucleus, N/C ratio's median relative error in per
    cent and Spearman's correlation. A missing value is a dash. Empty where there are no results.
    """
    rows = result_rows(results)
    return _text("dataset", "data set", rows) if rows else ""


def type_table(results: Mapping[str, Any], dataset: str = "") -> str:
    """As `results_table` with one row a cell type; empty where cell types are not known."""
    rows = type_rows(results, dataset)
    return _text("type", "cell type", rows) if rows else ""
