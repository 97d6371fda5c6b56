"""Paper A's tables and figures beside ours."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import examples, figures, items, plans, printed, raabin_cells, ratios, scores
from wbc_jax.papers.comparison import UNKNOWN, Row, Value
from wbc_jax.papers.items import Content, Item
from wbc_jax.papers.raabin_cells import Measured, RaabinCell
from wbc_jax.papers.runs import NeededRun, Run

NEEDS = ("paper_a_unet",)
NOT_PUBLISHED = "The image of this figure was not published."
RESEARCH = (
    "The ranges behind the verdicts are those of the paper's text, not medicine's: for research "
    "use only. Expert masks of public data lie elsewhere. Raabin-WBC is published as normal blood; "
    "of no single cell is it known whether it is healthy."
)
TEN = 10
"""Cells of a type in the paper's tables (eleven neutrophils)."""
OWN_DATA = (
    "Rows of Raabin-WBC: the paper's cells are crops of its folder Train, which ones is not said. "
    "Ours are those that are there; the ten have the names of smallest SHA-256. The masks are the "
    "shipped segmenter's (wbc_jax.predict --find=no), which has learned from experts' masks of "
    "some of these cells. Areas are in pixels of the crop; intervals of shares are Wilson's."
)
OURS = (
    "Rows of all cells: ours are the run's test cells of the type, their predicted masks; the "
    "column of expert masks has the same cells' true ones."
)
EXPERT = "expert masks"
LOSSES = (
    "cross_entropy",
    "binary_cross_entropy",
    "focal",
    "binary_focal",
    "dice",
    "generalised_dice",
)
"""Fields of `config.loss` that are weights of losses."""
FIGURE_TYPES = {
    "figure_3": "neutrophil",
    "figure_4": "eosinophil",
    "figure_5": "basophil",
    "figure_6": "monocyte",
}
_FOUND: dict[str, Item] = {}
item = items.register(_FOUND, "a")


# ---- Tables 1 to 4 ---------------------------------------------------------------------------


def _table(number: str, unet: NeededRun, measured: Measured) -> Content:
    table, kind = ratios.rows(number), ratios.TYPES[number]
    rows = [row for one in table for row in _recomputed(one)]
    return Content(
        [*rows, *_all_cells(kind, table, unet), *_own_data(kind, table, measured)],
        contradictions=_contradictions(table),
    )


for _number, _type in ratios.TYPES.items():
    item(f"table_{_number}", f"N/C ratios of {_type}s", NEEDS, (OURS, OWN_DATA, RESEARCH), True)(
        functools.partial(_table, _number)
    )


def _recomputed(one: ratios.TableRow) -> list[Row]:
    recomputed = {
        "N/C": Value(one.nc_ratio),
        "ratio of means": Value(one.mean_ratio),
        "verdict": Value(word=one.verdict or "nothing said"),
    }
    return [
        Row(
            f"figure {one.number}",
            column,
            cell.unit,
            cell,
            recomputed=recomputed.get(column, UNKNOWN),
            reason=NOT_PUBLISHED,
        )
        for column, cell in one.cells.items()
    ]


def _contradictions(table: Sequence[ratios.TableRow]) -> list[str]:
    """Lists the rows whose ratios or verdict do not follow from the row itself."""
    found = []
    for what, holds in (
        ("pixel ratio does not follow from the counts", lambda row: row.ratio_follows),
        ("ratio of means does not follow from the means", lambda row: row.mean_ratio_follows),
        ("verdict is not what the text's ranges give", lambda row: row.verdict_follows),
    ):
        numbers = [row.number for row in table if not holds(row)]
        if numbers:
            word = "figure" if len(numbers) == 1 else "figures"
            found.append(f"The {what} in the row of {word} {', '.join(numbers)}.")
    return found


def _all_cells(kind: str, table: Sequence[ratios.TableRow], unet: NeededRun) -> list[Row]:
    """Returns the table's summary beside ours: median ratios and shares of verdicts."""
    run, reason = unet.run, unet.reason
    label = CELL_TYPES.index(kind)
    cells = [r for r in run.rows if r["label"] == label] if run else []
    if run is not None:
        reason = f"The run's test split has no {kind} whose mask tells nucleus from cytoplasm."
    predicted, true = _column(cells, "nc_ratio"), _column(cells, "truth_nc_ratio")
    name = f"all {kind}s"

    def row(column: str, unit: str, theirs: float, score: Callable[[list[float]], Value]) -> Row:
        return Row(
            name,
            column,
            unit,
            recomputed=Value(theirs),
            ours=score(predicted),
            reason=reason,
            stand_ins={EXPERT: score(true)} if cells else {},
        )

    def share_called(verdict: str) -> Row:
        called = [one.cells["verdict"].value == verdict for one in table]
        return row(
            f"called {verdict}",
            "fraction",
            sum(called) / len(called),
            lambda found: scores.share([ratios.verdict(kind, v) == verdict for v in found]),
        )

    def median_share(found: list[float]) -> Value:
        return scores.median([_nucleus_share(v) for v in found])

    theirs = [one.nc_ratio for one in table]
    return [
        Row(
            name,
            "cells",
            "images",
            recomputed=Value(float(len(table))),
            ours=Value(float(len(cells))) if cells else UNKNOWN,
            reason=reason,
            comparable=False,
        ),
        row("median N/C", "ratio", scores.median(theirs).number, scores.median),
        row("median N/(N+C)", "ratio", median_share(theirs).number, median_share),
        _mean_ratio_row(name, kind, [one.mean_ratio for one in table], run, reason),
        share_called(ratios.HEALTHY),
        share_called(ratios.UNHEALTHY),
    ]


def _mean_ratio_row(name: str, kind: str, theirs: list[float], run: Run | None, reason: str) -> Row:
    predicted, true = [], []
    if run is not None:
        try:
            predicted, true = examples.mean_ratios(run, kind)
        except examples.UnreadableError as error:
            reason = str(error)
    return Row(
        name,
        "median ratio of means",
        "ratio",
        recomputed=scores.median(theirs),
        ours=scores.median(predicted),
        reason=reason,
        stand_ins={EXPERT: scores.median(true)} if true else {},
    )


def _own_data(kind: str, table: Sequence[ratios.TableRow], measured: Measured) -> list[Row]:
    """Returns ten cells of the paper's own data, their summary, and that of all cells there."""
    cells = measured.of_type(kind)
    reason = measured.reason or f"There is no {kind} in {raabin_cells.DATASET}."
    ten = raabin_cells.chosen(cells, TEN)
    return [
        *(row for cell in ten for row in _own_cell(cell)),
        *_own_summary(f"ten {kind}s of Raabin-WBC", kind, table, ten, reason),
        *_own_summary(f"all {kind}s of Raabin-WBC", kind, table, cells, reason),
    ]


def _own_cell(cell: RaabinCell) -> list[Row]:
    """Returns the row of one cell, in the columns of the paper's tables."""
    units = {"N/C": "ratio", "ratio of means": "ratio"}
    units |= {"mean nucleus": "grey level", "mean cytoplasm": "grey level", "verdict": "verdict"}
    values = {
        "nucleus": Value(float(cell.nucleus_px)),
        "cytoplasm": Value(float(cell.cytoplasm_px)),
        "N/C": Value(cell.nc_ratio),
        "mean nucleus": Value(cell.mean_nucleus),
        "mean cytoplasm": Value(cell.mean_cytoplasm),
        "ratio of means": Value(cell.mean_ratio),
        "verdict": Value(word=cell.verdict or "nothing said"),
    }
    name, reason = f"cell {cell.id}", "Our mask of this cell has no nucleus."
    return [
        Row(name, column, units.get(column, "px"), ours=value, reason=reason)
        for column, value in values.items()
    ]


def _own_summary(
    name: str,
    kind: str,
    table: Sequence[ratios.TableRow],
    cells: Sequence[RaabinCell],
    reason: str,
) -> list[Row]:
    """Returns the medians and the verdicts of some cells beside those of the paper's rows."""
    known = [cell for cell in cells if not math.isnan(cell.nc_ratio)]
    remark = ""
    if cells:
        reason = "Our masks of these cells have no nucleus."
    if len(known) < len(cells):
        remark = f"{len(cells) - len(known)} of {len(cells):,}, without a nucleus, are left out."

    def row(column: str, unit: str, theirs: float, ours: Value) -> Row:
        return Row(name, column, unit, None, Value(theirs), ours, reason, remark)

    def count(column: str, theirs: int, found: int) -> Row:
        ours = Value(float(found)) if cells else UNKNOWN
        recomputed = Value(float(theirs))
        return Row(name, column, "images", None, recomputed, ours, reason, comparable=False)

    theirs = [one.nc_ratio for one in table]
    said = [one.cells["verdict"].value for one in table]
    found = [cell.verdict for cell in known]
    rows = [
        count("cells", len(table), len(cells)),
        row(
            "median N/C",
            "ratio",
            scores.median(theirs).number,
            scores.median([cell.nc_ratio for cell in known]),
        ),
        row(
            "median N/(N+C)",
            "ratio",
            scores.median([_nucleus_share(v) for v in theirs]).number,
            scores.median([_nucleus_share(cell.nc_ratio) for cell in known]),
        ),
        row(
            "median ratio of means",
            "ratio",
            scores.median([one.mean_ratio for one in table]).number,
            scores.median([cell.mean_ratio for cell in known]),
        ),
    ]
    for verdict in (ratios.HEALTHY, ratios.UNHEALTHY):
        rows.append(
            row(
                f"called {verdict}",
                "fraction",
                said.count(verdict) / len(said),
                scores.proportion([one == verdict for one in found]),
            )
        )
    unhealthy = ratios.UNHEALTHY
    return [
        *rows,
        count(f"cells called {unhealthy}", said.count(unhealthy), found.count(unhealthy)),
    ]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Returns a column's values without NaN; an infinite ratio (no cytoplasm) is kept."""
    return [v for row in rows if not math.isnan(v := row.get(name, math.nan))]


def _nucleus_share(ratio: float) -> float:
    return 1.0 if math.isinf(ratio) else ratio / (1 + ratio)


# ---- Figures ---------------------------------------------------------------------------------

for _name, _type in FIGURE_TYPES.items():
    item(_name, f"Nucleus and cytoplasm of a {_type}", NEEDS, figures.MASK_NOTES)(
        functools.partial(figures.masks, types=(_type,))
    )


@item("figure_7", "Training and validation of the U-Net", NEEDS, (items.NOT_IN_TEXT,))
def figure_7(unet: NeededRun) -> Content:
    return figures.curves(unet, "Loss and IoU of our U-Net over its steps")


# ---- Text ------------------------------------------------------------------------------------


@item("text", "Accuracy, loss and protocol", NEEDS)
def text(unet: NeededRun) -> Content:
    """Returns the accuracy of 80 %, the final loss of 1.2, and the protocol's numbers."""
    run = unet.run
    rows = []
    for (row, column), cell in printed.load("a", "text").items():
        if column == "accuracy":
            result = run.result(plans.MASKED)[1] if run else None
            for name, key in (
                ("accuracy: share of pixels", "global_accuracy"),
                ("accuracy: Jaccard, mean of three classes", "mean_iou"),
                ("accuracy: Jaccard, nucleus", "iou.nucleus"),
                ("accuracy: Jaccard, cytoplasm", "iou.cytoplasm"),
            ):
                ours = scores.segmentation_score(result, key).scaled(100)
                rows.append(Row(row, name, cell.unit, cell, ours=ours, reason=unet.reason))
            continue
        ours, reason, remark = UNKNOWN, unet.reason, ""
        if run is not None:
            ours, reason, remark = _number(run, column)
        rows.append(Row(row, column, cell.unit, cell, ours=ours, reason=reason, remark=remark))
    return Content(rows)


def _number(run: Run, column: str) -> tuple[Value, str, str]:
    """Returns our number, the reason if it is unknown, and its definition."""
    if column == "final loss":
        last = [x["loss"] for x in run.history if x.get("kind") == "train" and x.get("loss")]
        ours = Value(float(last[-1])) if last else UNKNOWN
        weights = {name: getattr(run.config.loss, name) for name in LOSSES}
        named = " + ".join(f"{w:g} × {name.replace('_', ' ')}" for name, w in weights.items() if w)
        return ours, "The log is empty.", f"Our final loss is {named}, of the last steps logged."
    if column == "image and mask pairs":
        images = run.training_images
        return Value(float(images)) if images else UNKNOWN, "The log does not tell.", ""
    if column == "epochs":
        return Value(run.epochs) if run.epochs else UNKNOWN, "The log does not tell.", ""
    if column == "learning rate":
        return Value(run.config.optimizer.learning_rate), "", ""
    if column == "batch size":
        return Value(float(run.config.train.batch_size)), "", ""
    return UNKNOWN, "Of the paper's own data set; the images are Raabin's, repackaged.", ""


ITEMS = items.in_order(_FOUND)
