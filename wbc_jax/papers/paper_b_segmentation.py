"""Paper B's segmentation: Tables 9 to 13 and Figure 9."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import figures, items, plans, printed, scores
from wbc_jax.papers.comparison import UNKNOWN, Row, Value
from wbc_jax.papers.items import Content, Item
from wbc_jax.papers.runs import NeededRun, Run

NETS = {"proposed CNN": "encoder_decoder", "UNet": "unet", "SegNet": "segnet"}
"""The paper's networks by the names of their runs."""
MASKED_TYPES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
METRICS = {
    "global accuracy": "global_accuracy",
    "mean accuracy": "mean_accuracy",
    "mean IoU": "mean_iou",
    "weighted IoU": "weighted_iou",
    "mean BF score": "bf_score.mean",
}
"""Columns of Tables 9 and 11 with their keys in `report/metrics.json`; the BF score is MATLAB's."""
REGION_METRICS = {"accuracy": "recall", "IoU": "iou", "BF score": "bf_score"}
"""Columns of Table 13 with their keys there; each has an entry per mask class."""
PER_IMAGE = {**METRICS, "mean BF score": "bf_score"}
"""Metrics of Tables 10 and 12 with their columns in `per_image.csv`."""

NO_INDEPENDENT_MASKS = (
    "The independent images are not there: LISC is given only to those who ask its authors, and "
    "masks of BCD were never published."
)
MASKS_NOTE = (
    "Ours are of Raabin's published masks (Datasets 2 & 3). The paper's masks of the other data "
    "sets were drawn by its authors and not published."
)
BF_NOTE = (
    "The BF scores are MATLAB's, as in the paper: a class that only truth or only prediction has "
    "is left out of the mean, where the reports of the runs count it as 0."
)
P_NOTE = (
    "Significant is p < 0.017 (Bonferroni, three pairs), as in the paper. Its Kruskal–Wallis "
    "p-values are not printed. A p-value depends on the number of images, so that ours and the "
    "paper's are not to be subtracted."
)
ITEMS: dict[str, Item] = {}
item = items.register(ITEMS, "b")

Result = Mapping[str, Any] | None
"""Scores of a data set in `report/metrics.json`; None if it was not scored."""


def split_result(run: Run) -> Result:
    """Returns a run's scores on the test split."""
    return run.result(plans.MASKED)[1]


def external_result(*names: str) -> Callable[[Run], Result]:
    """Returns the function that gives a run's scores on the first of some external data sets."""
    return lambda run: run.external(names)[1]


def score(result: Result, kind: str, key: str) -> Value:
    """Returns a score of one cell type, see `scores.segmentation_score`."""
    return scores.segmentation_score(((result or {}).get("by_type") or {}).get(kind), key)


def mean_global_accuracy(result: Result) -> Value:
    """Returns the mean of the four types' global accuracies in percent, as in paper B."""
    by_type = [score(result, kind, "global_accuracy").number for kind in MASKED_TYPES]
    return Value(100 * float(np.mean(by_type)))


# ---- Tables 9, 11 and 13 ---------------------------------------------------------------------


@item("table_9", "Segmentation by cell type, test split", NETS.values(), (MASKS_NOTE, BF_NOTE))
def table_9(*segmenters: NeededRun) -> Content:
    return Content(_score_rows("table_9", segmenters, METRICS.__getitem__, split_result))


@item(
    "table_11",
    "Segmentation by cell type, independent images",
    NETS.values(),
    (MASKS_NOTE, BF_NOTE, plans.STAND_IN_NOTE),
)
def table_11(*segmenters: NeededRun) -> Content:
    rows = _score_rows(
        "table_11",
        segmenters,
        METRICS.__getitem__,
        external_result(*plans.INDEPENDENT),
        {title: external_result(name) for name, title in plans.STAND_INS.items()},
        NO_INDEPENDENT_MASKS,
    )
    return Content(rows)


@item(
    "table_13",
    "Segmentation by cell type and region, test split",
    NETS.values(),
    (
        MASKS_NOTE,
        BF_NOTE,
        "Accuracy of a region is the share of its pixels that are found (recall).",
    ),
)
def table_13(*segmenters: NeededRun) -> Content:
    def key(column: str) -> str:
        region, metric = column.split(" ", 1)
        return f"{REGION_METRICS[metric]}.{region}"

    return Content(_score_rows("table_13", segmenters, key, split_result))


def _score_rows(
    name: str,
    segmenters: Sequence[NeededRun],
    key: Callable[[str], str],
    find: Callable[[Run], Result],
    stand_ins: Mapping[str, Callable[[Run], Result]] | None = None,
    reason: str = "",
) -> list[Row]:
    """Returns the rows of a table of scores by network and cell type.

    Args:
        name: of the table.
        segmenters: in the order of `NETS`.
        key: gives the key in `report/metrics.json` of a column.
        find: gives the scores of a run.
        stand_ins: by column name, the same for the stand-ins.
        reason: explains unknown scores of existing runs; empty if a test split lacks them.
    """
    by_net, rows = dict(zip(NETS, segmenters)), []
    for (row, column), cell in printed.load("b", name).items():
        net, kind = row.split(", ")
        needed = by_net[net]

        def value(find: Callable[[Run], Result], needed=needed, kind=kind, column=column) -> Value:
            return score(find(needed.run), kind, key(column)) if needed.run else UNKNOWN

        rows.append(
            Row(
                row,
                column,
                cell.unit,
                cell,
                ours=value(find),
                reason=(reason or _lacks(needed.run, kind)) if needed.run else needed.reason,
                stand_ins={title: value(other) for title, other in (stand_ins or {}).items()},
            )
        )
    return rows


def _lacks(run: Run, kind: str) -> str:
    by_type = (split_result(run) or {}).get("by_type") or {}
    lacks = "this metric" if by_type.get(kind) else f"a {kind} with a published mask"
    return f"The test split was scored without {lacks}."


# ---- p-values --------------------------------------------------------------------------------

ImageRows = Callable[[Run], list[dict[str, Any]]]


@item(
    "table_10",
    "Mann–Whitney tests between networks, test split",
    NETS.values(),
    (MASKS_NOTE, BF_NOTE, P_NOTE),
)
def table_10(*segmenters: NeededRun) -> Content:
    reason = "The runs were scored without this metric by image, or on too few."
    return Content(
        _p_rows("table_10", segmenters, lambda run: _of(run.rows, plans.MASKED), {}, reason)
    )


@item(
    "table_12",
    "Mann–Whitney tests between networks, independent images",
    NETS.values(),
    (MASKS_NOTE, BF_NOTE, plans.STAND_IN_NOTE, P_NOTE),
)
def table_12(*segmenters: NeededRun) -> Content:
    def external_rows(*names: str) -> ImageRows:
        return lambda run: _of(run.external_rows, names)

    stand_ins = {title: external_rows(name) for name, title in plans.STAND_INS.items()}
    rows = external_rows(*plans.INDEPENDENT)
    return Content(_p_rows("table_12", segmenters, rows, stand_ins, NO_INDEPENDENT_MASKS))


def _of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [row for row in rows if any(plans.same_dataset(row["dataset"], name) for name in names)]


def _p_rows(
    name: str,
    segmenters: Sequence[NeededRun],
    image_rows: ImageRows,
    stand_ins: Mapping[str, ImageRows],
    reason: str,
) -> list[Row]:
    """Returns the p-values of Table 10 or 12, and the Kruskal–Wallis ones that are not printed.

    Args:
        name: of the table.
        segmenters: in the order of `NETS`.
        image_rows: gives the scores by image of a run.
        stand_ins: by column name, the same for the stand-ins.
        reason: explains unknown p-values if all runs exist.
    """
    missing = [needed.reason for needed in segmenters if needed.run is None]
    tests = [("Kruskal–Wallis", tuple(NETS))]
    tests += [(f"proposed CNN vs {net}", ("proposed CNN", net)) for net in ("SegNet", "UNet")]
    cells, rows = printed.load("b", name), []
    for metric in PER_IMAGE:
        ours = {kind: _p_values(segmenters, image_rows, kind, metric) for kind in MASKED_TYPES}
        others = {
            title: {kind: _p_values(segmenters, get, kind, metric) for kind in MASKED_TYPES}
            for title, get in stand_ins.items()
        }
        for test, nets in tests:
            for kind in MASKED_TYPES:
                row = f"{metric}, {test}"
                rows.append(
                    Row(
                        row,
                        kind,
                        "p",
                        cells.get((row, kind)),
                        ours=ours[kind].get(nets, UNKNOWN),
                        reason=missing[0] if missing else reason,
                        stand_ins={
                            title: found[kind].get(nets, UNKNOWN) for title, found in others.items()
                        },
                        comparable=False,
                    )
                )
    return rows


def _p_values(
    segmenters: Sequence[NeededRun], image_rows: ImageRows, kind: str, metric: str
) -> dict[tuple[str, ...], Value]:
    """Returns the p-values of tests between the networks' scores by image.

    Returns:
        By the names of all networks the Kruskal–Wallis p, by those of two the Mann–Whitney p.
        Networks with fewer than two images are left out.
    """
    label, column = CELL_TYPES.index(kind), PER_IMAGE[metric]
    groups = {}
    for net, needed in zip(NETS, segmenters):
        rows = image_rows(needed.run) if needed.run else []
        found = [row.get(column, math.nan) for row in rows if row["label"] == label]
        found = [value for value in found if math.isfinite(value)]
        if len(found) > 1:
            groups[net] = found
    if len(groups) < 2:
        return {}
    compared = metrics.compare_groups(groups)
    values = {(pair.first, pair.second): Value(pair.p) for pair in compared.pairs}
    return values | ({tuple(groups): Value(compared.p)} if len(groups) == len(NETS) else {})


# ---- Figure 9 --------------------------------------------------------------------------------


@item(
    "figure_9",
    "Masks of the proposed CNN by cell type, with Dice",
    ("encoder_decoder",),
    (MASKS_NOTE, *figures.MASK_NOTES),
)
def figure_9(proposed: NeededRun) -> Content:
    return figures.masks(proposed, MASKED_TYPES)
