"""Paper B's tables and figures beside ours: literature, sizes and times, and the list of all."""

from flax import nnx

from wbc_jax import models
from wbc_jax.config import Model
from wbc_jax.models import describe
from wbc_jax.papers import (
    examples,
    items,
    paper_b_classification,
    paper_b_segmentation,
    plans,
    printed,
)
from wbc_jax.papers.comparison import UNKNOWN, Row, Value
from wbc_jax.papers.items import Content, Item
from wbc_jax.papers.paper_b_classification import BY_DATASET, TRAINED, independent, tested
from wbc_jax.papers.paper_b_segmentation import (
    MASKS_NOTE,
    NETS,
    NO_INDEPENDENT_MASKS,
    external_result,
    mean_global_accuracy,
    score,
    split_result,
)
from wbc_jax.papers.printed import TableCell
from wbc_jax.papers.runs import NeededRun

CITED = "A cited study's number: its data, code and split are not ours to repeat."
NOT_OURS = "Of the paper's own data or machine; see Table 3 for our images."
TIMES_NOTE = (
    "Times are of other machines, image sizes and numbers of images, and so not to be subtracted; "
    "ours are of the network alone, without reading and decoding files."
)
SIZES = ("parameters", "operations an image", "layers")
SIZES_REMARK = (
    "Counted for the network that the text describes, at 360 × 360 px; an operation is half a "
    "multiply-add, and input, softmax and output are layers."
)
SIDE_PX = 360
TOOLBOX_LAYERS = 3
"""Input, softmax and output, which the paper's toolbox counts as layers."""
_FOUND: dict[str, Item] = {}
item = items.register(_FOUND, "b")


# ---- Literature ------------------------------------------------------------------------------


@item("table_1", "Literature, studies of one data set (accuracy)")
def table_1() -> Content:
    return Content([_cited(cell) for cell in printed.load("b", "table_1").values()])


@item("table_2", "Literature, studies of several data sets (accuracy)")
def table_2() -> Content:
    return Content([_cited(cell) for cell in printed.load("b", "table_2").values()])


def _cited(cell: TableCell) -> Row:
    return Row(cell.row, cell.column, cell.unit, cell, reason=CITED)


@item(
    "table_14",
    "Classification, the paper beside the literature (accuracy)",
    (*BY_DATASET.values(), "classifier"),
    (plans.STAND_IN_NOTE,),
)
def table_14(*classifiers: NeededRun) -> Content:
    names = ("CellaVision", "Raabin-WBC", "Kaggle")
    *by_dataset, pooled = classifiers
    own = {name: tested(c, (d,)) for name, c, d in zip(names, by_dataset, TRAINED)}
    own["CellaVision, Raabin-WBC and Kaggle pooled"] = tested(pooled)
    external, rows = independent(pooled), []
    for (row, column), cell in printed.load("b", "table_14").items():
        if row != "this paper":
            rows.append(_cited(cell))
        else:
            rows += own.get(column, external).readings(cell)
    return Content(rows)


@item(
    "table_15",
    "Segmentation, the paper beside the literature (accuracy)",
    ("encoder_decoder",),
    (MASKS_NOTE, plans.STAND_IN_NOTE),
)
def table_15(proposed: NeededRun) -> Content:
    run, rows = proposed.run, []
    for (row, column), cell in printed.load("b", "table_15").items():
        if row != "this paper":
            rows.append(_cited(cell))
            continue
        ours, stand_ins, reason = UNKNOWN, {}, proposed.reason
        if run is not None:
            find, reason = split_result, NO_INDEPENDENT_MASKS
            if column.startswith("independent"):
                find = external_result(*plans.INDEPENDENT)
                stand_ins = {
                    title: mean_global_accuracy(external_result(name)(run))
                    for name, title in plans.STAND_INS.items()
                }
            ours = mean_global_accuracy(find(run))
        rows.append(
            Row(row, column, cell.unit, cell, ours=ours, reason=reason, stand_ins=stand_ins)
        )
    return Content(rows)


# ---- Numbers in the text ---------------------------------------------------------------------


@item(
    "text",
    "Time, size and overall scores",
    ("classifier", *NETS.values()),
    (TIMES_NOTE,),
)
def text(*needed: NeededRun) -> Content:
    """Returns the numbers in the paper's sentences: times, sizes, overall accuracies."""
    by_network = dict(zip(("classifier", *NETS), needed))
    rows = []
    for (row, column), cell in printed.load("b", "text").items():
        name = row.partition(",")[0]
        network = by_network.get(name)
        if network is None:
            rows.append(Row(row, column, cell.unit, cell, reason=NOT_OURS))
        elif "accuracy" in column:
            rows += _accuracy(cell, network)
        elif column in SIZES:
            size = _size(cell, network.plan.model)
            rows.append(Row(row, column, cell.unit, cell, ours=size, remark=SIZES_REMARK))
        else:
            ours, reason, remark = _time(cell, network)
            rows.append(
                Row(
                    row,
                    column,
                    cell.unit,
                    cell,
                    ours=ours,
                    reason=reason,
                    remark=remark,
                    comparable=False,
                )
            )
    return Content(rows)


def _accuracy(cell: TableCell, needed: NeededRun) -> list[Row]:
    external = "independent" in cell.column
    if needed.plan.task == "classification":
        return (independent(needed) if external else tested(needed)).readings(cell)
    result, reason = None, needed.reason
    if needed.run is not None:
        find = external_result(*plans.INDEPENDENT) if external else split_result
        result = find(needed.run)
        reason = "The test split was scored without this metric."
        reason = NO_INDEPENDENT_MASKS if external else reason
    if "nucleus" in cell.row:
        ours = score(result, cell.column.split(", ")[1], "recall.nucleus").scaled(100)
    else:
        ours = mean_global_accuracy(result)
    return [Row(cell.row, cell.column, cell.unit, cell, ours=ours, reason=reason)]


def _size(cell: TableCell, name: str) -> Value:
    shape = (1, SIDE_PX, SIDE_PX, 3)
    model = nnx.eval_shape(lambda: models.build(Model(name=name), image_size=SIDE_PX))
    layers = describe.describe(model, shape)
    if cell.column == "layers":
        return Value(float(len(layers) + TOOLBOX_LAYERS))
    scale = {"million": 1e6, "thousand": 1e3, "MFLOPs": 1e6, "BFLOPs": 1e9}[cell.unit]
    total = sum(x.parameters if cell.column == "parameters" else x.flops for x in layers)
    return Value(total / scale)


def _time(cell: TableCell, needed: NeededRun) -> tuple[Value, str, str]:
    """Returns our time, the reason if it is unknown, and its definition."""
    run = needed.run
    if run is None:
        return UNKNOWN, needed.reason, ""
    if cell.column == "training time":
        seconds = run.summary.get("train_seconds")
        ours = UNKNOWN if seconds is None else Value(seconds / 60)
        return ours, "The run does not say how long it took.", "Our time is that of our own run."
    rate = examples.throughput(run)
    if cell.column == "throughput":
        ours = Value(rate)
    elif cell.column.startswith("test time"):
        ours = Value(float(cell.column.split()[3].replace(",", "")) / rate)
    else:
        ours = Value(1 / rate)
    side = run.config.data.image_size
    return (
        ours,
        f"There is no checkpoint in {run.folder}.",
        f"Our time is measured, with images of {side} × {side} px.",
    )


ITEMS = items.in_order(_FOUND, paper_b_classification.ITEMS, paper_b_segmentation.ITEMS)
