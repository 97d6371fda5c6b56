"""Paper A's tables and figures beside ours, a function each."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wbc_jax import vocabulary
from wbc_jax.papers import cells, library, pictures, ratios, runs
from wbc_jax.papers.library import Library
from wbc_jax.papers.sheets import UNKNOWN, Line, Sheet, Value

RUN = "paper_a_unet"
NOT_PUBLISHED = "The image of this figure was not published."
RESEARCH = (
    "The ranges behind the verdicts are those of the paper's text, not medicine's: for research "
    "use only, and no cell here is known to be healthy or not. Expert masks of public data lie "
    "elsewhere."
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
"""Fields of `config.loss` that weigh a loss."""
FIGURE_TYPES = {
    "figure_3": "neutrophil",
    "figure_4": "eosinophil",
    "figure_5": "basophil",
    "figure_6": "monocyte",
}


def table(number: str) -> Callable[[Library], Sheet]:
    """Returns the builder of Table 1, 2, 3 or 4."""

    def build(library_: Library) -> Sheet:
        kind = ratios.TYPES[number]
        figures = ratios.figures(number)
        lines = [line for figure in figures for line in _figure_lines(figure)]
        lines += _all_cells(library_, kind, figures)
        return Sheet(
            "a",
            f"table_{number}",
            f"N/C ratios of {kind}s",
            lines,
            protocol=[*library_.protocol("a", RUN), OURS, RESEARCH],
            contradictions=cells.contradictions("a", f"table_{number}") + _listed(figures),
            missing=library_.missing(RUN),
        )

    return build


def _figure_lines(figure: ratios.Figure) -> list[Line]:
    again = {
        "N/C": Value(figure.nc_ratio),
        "ratio of means": Value(figure.mean_ratio),
        "verdict": Value(word=figure.verdict or "nothing said"),
    }
    return [
        Line(
            f"figure {figure.number}",
            column,
            cell.unit,
            cell,
            recomputed=again.get(column, UNKNOWN),
            reason=NOT_PUBLISHED,
        )
        for column, cell in figure.printed.items()
    ]


def _listed(figures: Sequence[ratios.Figure]) -> list[str]:
    """Says of which rows ratios and verdicts do not follow from the row itself."""
    found = []
    for what, holds in (
        ("pixel ratio does not follow from the counts", lambda f: f.ratio_follows),
        ("ratio of means does not follow from the means", lambda f: f.mean_ratio_follows),
        ("verdict is not what the text's ranges give", lambda f: f.verdict_follows),
    ):
        numbers = [f.number for f in figures if not holds(f)]
        if numbers:
            word = "figure" if len(numbers) == 1 else "figures"
            found.append(f"The {what} in the row of {word} {', '.join(numbers)}.")
    return found


def _all_cells(library_: Library, kind: str, figures: Sequence[ratios.Figure]) -> list[Line]:
    """Returns the table's summary beside ours: the median ratio, and the share called healthy."""
    run = library_.run(RUN)
    label = vocabulary.CELL_TYPES.index(kind)
    rows = [r for r in run.rows if r["label"] == label] if run else []
    reason = library_.reason(RUN)
    if run is not None:
        reason = f"The run's test split has no {kind} whose mask tells nucleus from cytoplasm."
    found, truth = _column(rows, "nc_ratio"), _column(rows, "truth_nc_ratio")
    theirs = [f.nc_ratio for f in figures]
    healthy = [f.printed["verdict"].value == ratios.HEALTHY for f in figures]
    name = f"all {kind}s"

    def line(column: str, unit: str, theirs: float, score: Callable[[list[float]], Value]) -> Line:
        ours = score(found)
        return Line(
            name,
            column,
            unit,
            recomputed=Value(theirs),
            ours=ours,
            reason="" if ours.known else reason,
            stand_ins={EXPERT: score(truth)} if rows else {},
        )

    def called(verdict: str) -> Callable[[list[float]], Value]:
        return lambda values: library.share([ratios.verdict(kind, v) == verdict for v in values])

    count = Value(float(len(rows))) if rows else UNKNOWN
    mean_ratios = ([f.mean_ratio for f in figures], *_mean_ratios(library_, kind, reason))
    unhealthy = [f.printed["verdict"].value == ratios.UNHEALTHY for f in figures]
    return [
        Line(
            name,
            "cells",
            "images",
            recomputed=Value(float(len(figures))),
            ours=count,
            reason="" if rows else reason,
            comparable=False,
        ),
        line("median N/C", "ratio", library.median(theirs).number, library.median),
        line(
            "median N/(N+C)",
            "ratio",
            library.median([_share(v) for v in theirs]).number,
            lambda values: library.median([_share(v) for v in values]),
        ),
        _mean_line(name, *mean_ratios),
        line("called healthy", "fraction", sum(healthy) / len(healthy), called(ratios.HEALTHY)),
        line(
            "called unhealthy",
            "fraction",
            sum(unhealthy) / len(unhealthy),
            called(ratios.UNHEALTHY),
        ),
    ]


def _mean_ratios(library_: Library, kind: str, reason: str) -> tuple[list[float], list[float], str]:
    """Returns our ratios of means, those of expert masks, and why there are none."""
    run = library_.run(RUN)
    if run is None:
        return [], [], reason
    try:
        return *library.mean_ratios(run, kind), reason
    except library.Unreadable as error:
        return [], [], str(error)


def _mean_line(
    name: str, theirs: list[float], ours: list[float], truth: list[float], reason: str
) -> Line:
    value = library.median(ours)
    return Line(
        name,
        "median ratio of means",
        "ratio",
        recomputed=library.median(theirs),
        ours=value,
        reason="" if value.known else reason,
        stand_ins={EXPERT: library.median(truth)} if truth else {},
    )


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Values of a column without NaN; an infinite ratio (no cytoplasm) is a ratio."""
    return [v for row in rows if not math.isnan(v := row.get(name, math.nan))]


def _share(ratio: float) -> float:
    return 1.0 if math.isinf(ratio) else ratio / (1 + ratio)


def masks(item: str) -> Callable[[Library], Sheet]:
    """Returns the builder of Figure 3, 4, 5 or 6."""
    kind = FIGURE_TYPES[item]

    def build(library_: Library) -> Sheet:
        return pictures.mask_sheet(
            library_, "a", item, f"Nucleus and cytoplasm of a {kind}", RUN, (kind,)
        )

    return build


def figure_7(library_: Library) -> Sheet:
    """Training and validation curves."""
    run = library_.run(RUN)
    shown = []
    if run is not None and run.history:
        shown = [pictures.curve(run, "Loss and IoU of our U-Net over its steps")]
    return Sheet(
        "a",
        "figure_7",
        "Training and validation of the U-Net",
        pictures.curve_lines(run, library_.reason(RUN)),
        shown,
        [*library_.protocol("a", RUN), library.NOT_IN_TEXT],
        cells.contradictions("a", "figure_7"),
        library_.missing(RUN),
    )


def text(library_: Library) -> Sheet:
    """The accuracy of 80 %, the final loss of 1.2, and the protocol's numbers."""
    run = library_.run(RUN)
    reason = library_.reason(RUN)
    lines = []
    for (row, column), cell in cells.load("a", "text").items():
        if column == "accuracy":
            result = run.result(runs.MASKS)[1] if run else None
            for name, key in (
                ("accuracy: share of pixels", "global_accuracy"),
                ("accuracy: Jaccard, mean of three classes", "mean_iou"),
                ("accuracy: Jaccard, nucleus", "iou.nucleus"),
                ("accuracy: Jaccard, cytoplasm", "iou.cytoplasm"),
            ):
                value = library.segmentation_score(result, key).scaled(100)
                why = "" if value.known else reason
                lines.append(Line(row, name, cell.unit, cell, ours=value, reason=why))
            continue
        value, why, remark = UNKNOWN, reason, ""
        if run is not None:
            value, why, remark = _text_number(run, column)
        lines.append(
            Line(
                row,
                column,
                cell.unit,
                cell,
                ours=value,
                reason="" if value.known else why,
                remark=remark,
            )
        )
    return Sheet(
        "a",
        "text",
        "Accuracy, loss and protocol",
        lines,
        protocol=library_.protocol("a", RUN),
        contradictions=cells.contradictions("a", "text"),
        missing=library_.missing(RUN),
    )


def _text_number(run: runs.Run, column: str) -> tuple[Value, str, str]:
    """Returns ours, why it is blank, and what it is."""
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


BUILDERS: dict[str, Callable[[Library], Sheet]] = {
    **{f"table_{number}": table(number) for number in ratios.TYPES},
    **{item: masks(item) for item in FIGURE_TYPES},
    "figure_7": figure_7,
    "text": text,
}
NEEDS: dict[str, tuple[str, ...]] = dict.fromkeys(BUILDERS, (RUN,))
"""The runs that each is made from."""
