"""Paper B's tables and figures beside ours, a function each."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from wbc_jax import config as config_lib
from wbc_jax import metrics, models, vocabulary
from wbc_jax.data import records
from wbc_jax.models import describe
from wbc_jax.papers import cells, confusions, library, pictures, runs
from wbc_jax.papers.library import Library
from wbc_jax.papers.runs import Run
from wbc_jax.papers.sheets import UNKNOWN, Line, Sheet, Value

TRAINED = ("Dataset 1", "Dataset 2 & 3", "Dataset 4")
BY_DATASET = {
    "Dataset 1": "classifier_dataset_1",
    "Dataset 2 & 3": "classifier_dataset_2_3",
    "Dataset 4": "classifier_dataset_4",
}
NETS = {"proposed CNN": "encoder_decoder", "UNet": "unet", "SegNet": "segnet"}
"""The paper's networks by the names of their runs."""
MASKED_TYPES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
PER_IMAGE = {
    "global accuracy": "global_accuracy",
    "mean accuracy": "mean_accuracy",
    "mean IoU": "mean_iou",
    "weighted IoU": "weighted_iou",
    "mean BF score": "bf_score",
}
"""Metrics of Tables 10 and 12 by the columns of `per_image.csv`."""

CITED = "A cited study's number: its data, code and split are not ours to repeat."
NO_INDEPENDENT = (
    "The independent images are not there: LISC is given only to those who ask its authors, and "
    "BCD is published without cell types."
)
NO_INDEPENDENT_MASKS = (
    "The independent images are not there: LISC is given only to those who ask its authors, and "
    "masks of BCD were never published."
)
MASKS_NOTE = (
    "Ours are of Raabin's published masks (Datasets 2 & 3). The paper's masks of the other data "
    "sets were drawn by its authors and not published."
)
STAND_IN_NOTE = (
    "Stand-ins are sources that no run has trained on: JTSC and CellaVision of Zheng et al. 2018. "
    "They are other images than the paper's."
)
SOURCES_NOTE = "Our images by the paper's data sets: "


def table_1(library_: Library) -> Sheet:
    """Literature on one data set."""
    return _cited("table_1", "Literature, studies of one data set (accuracy)")


def table_2(library_: Library) -> Sheet:
    """Literature on several."""
    return _cited("table_2", "Literature, studies of several data sets (accuracy)")


def _cited(item: str, title: str) -> Sheet:
    lines = library.fill(cells.load("b", item), lambda row, column: UNKNOWN, CITED)
    return _sheet(item, title, lines)


def table_3(library_: Library) -> Sheet:
    """Numbers of images."""
    run = library_.run("classifier")
    found, reason = _counts(run), library_.reason("classifier")
    if run is not None:
        reason = "The records that the run was split from cannot be read."

    def ours(row: str, column: str) -> Value:
        return Value(float(found[row, column])) if (row, column) in found else UNKNOWN

    stand_ins = {}
    if run is not None:
        for dataset in runs.STAND_INS:
            counts = _by_type_counts([run.external((dataset,))[1]])
            stand_ins[library.stand_in_name(dataset)] = _only("independent", counts)
    lines = [
        line if line.column != "independent" or line.ours.known else _because(line, NO_INDEPENDENT)
        for line in library.fill(cells.load("b", "table_3"), ours, reason, stand_ins)
    ]
    return _sheet(
        "table_3",
        "Images by cell type and split",
        lines,
        [*library_.protocol("b", "classifier"), *_sources(run), STAND_IN_NOTE],
        library_.missing("classifier"),
    )


def _only(wanted: str, counts: Mapping[str, int]) -> Callable[[str, str], Value]:
    def get(row: str, column: str) -> Value:
        known = column == wanted and row in counts
        return Value(float(counts[row])) if known else UNKNOWN

    return get


def _by_type_counts(results: Sequence[Mapping[str, Any] | None]) -> dict[str, int]:
    matrix = runs.confusion(results)
    if matrix is None:
        return {}
    found = {name: int(matrix[k].sum()) for k, name in enumerate(vocabulary.CELL_TYPES)}
    return found | {"total": int(matrix.sum())}


def _counts(run: Run | None) -> dict[cells.Key, int]:
    """Returns numbers of images by type and split: of the test split always, else if they can."""
    if run is None:
        return {}
    tested = _by_type_counts([run.result(runs.SOURCES[d])[1] for d in TRAINED])
    found = {(row, "test"): n for row, n in tested.items()}
    apart = _by_type_counts([run.external((name,))[1] for name in runs.INDEPENDENT])
    found |= {(row, "independent"): n for row, n in apart.items()}
    try:
        parts = runs.splits_of(run)
    except (config_lib.ConfigError, records.DataError, OSError):
        return found
    for split in ("train", "validation", "test"):
        counts = np.bincount(parts[split].labels, minlength=len(vocabulary.CELL_TYPES))
        found |= {(name, split): int(n) for name, n in zip(vocabulary.CELL_TYPES, counts)}
        found["total", split] = int(counts.sum())
    for row in (*vocabulary.CELL_TYPES, "total"):
        found[row, "total"] = sum(found[row, s] for s in ("train", "validation", "test"))
    return found


# ---- Classification --------------------------------------------------------------------------


def table_4(library_: Library) -> Sheet:
    """Classification of the test split."""
    run = library_.run("classifier")
    confusion = _test_confusion(run)
    lines = _classified(
        "table_4",
        confusion,
        library_.reason("classifier"),
        {},
        confusions.of_matrix(confusions.figure_7()),
    )
    return _sheet(
        "table_4",
        "Classification, test split of the pooled data sets",
        lines,
        [*library_.protocol("b", "classifier"), *_sources(run)],
        library_.missing("classifier"),
    )


def table_5(library_: Library) -> Sheet:
    """Classification of the independent images."""
    run = library_.run("classifier")
    confusion, stand_ins, why = _independent(run)
    reason = why or library_.reason("classifier")
    lines = _classified("table_5", confusion, reason, stand_ins, confusions.behind_table_5())
    return _sheet(
        "table_5",
        "Classification, independent images (Datasets 5 and 6)",
        lines,
        [*library_.protocol("b", "classifier"), *_sources(run), STAND_IN_NOTE],
        library_.missing("classifier"),
    )


def _test_confusion(run: Run | None, datasets: Sequence[str] = TRAINED) -> np.ndarray | None:
    if run is None:
        return None
    return runs.confusion([run.result(runs.SOURCES[d])[1] for d in datasets])


def _independent(
    run: Run | None,
) -> tuple[np.ndarray | None, dict[str, np.ndarray | None], str]:
    """Returns the confusion of the independent images, those of the stand-ins, and why not."""
    if run is None:
        return None, {}, ""
    confusion = runs.confusion([run.external((name,))[1] for name in runs.INDEPENDENT])
    stand_ins = {
        library.stand_in_name(name): runs.confusion([run.external((name,))[1]])
        for name in runs.STAND_INS
    }
    return confusion, stand_ins, NO_INDEPENDENT


def _classified(
    item: str,
    confusion: np.ndarray | None,
    reason: str,
    stand_ins: Mapping[str, np.ndarray | None],
    counts: confusions.Counts,
) -> list[Line]:
    """Returns the lines of Table 4 or 5: the overall accuracy stands once for each reading."""
    ours = library.classification_scores(confusion)
    others = {name: library.classification_scores(m) for name, m in stand_ins.items()}
    again, readings = confusions.table(counts), confusions.readings(counts)
    overall = (confusions.OVERALL, "accuracy")
    lines = []
    for key, cell in cells.load("b", item).items():
        wanted = [(key, again.get(key), "")]
        if key == overall:
            names = confusions.READINGS
            wanted = [((key[0], k), readings[k], name) for k, name in names.items()]
        for place, recomputed, reading in wanted:
            value = ours.get(place, UNKNOWN)
            lines.append(
                Line(
                    row=key[0],
                    column=f"{key[1]}: {reading}" if reading else key[1],
                    unit=cell.unit,
                    paper=cell,
                    recomputed=Value(float(recomputed)),
                    ours=value,
                    reason="" if value.known else reason,
                    stand_ins={n: scores.get(place, UNKNOWN) for n, scores in others.items()},
                )
            )
    return lines


def _readings(
    cell: cells.Cell,
    confusion: np.ndarray | None,
    reason: str,
    stand_ins: Mapping[str, np.ndarray | None] | None = None,
) -> list[Line]:
    """Returns a line for each number that a printed accuracy could be."""
    ours = library.classification_scores(confusion)
    others = {n: library.classification_scores(m) for n, m in (stand_ins or {}).items()}
    factor = 100.0 if cell.unit == "percent" else 1.0
    lines = []
    for key, name in confusions.READINGS.items():
        place = (confusions.OVERALL, key)
        value = ours.get(place, UNKNOWN).scaled(factor)
        lines.append(
            Line(
                row=cell.row,
                column=f"{cell.column}: {name}",
                unit=cell.unit,
                paper=cell,
                ours=value,
                reason="" if value.known else reason,
                stand_ins={
                    n: scores.get(place, UNKNOWN).scaled(factor) for n, scores in others.items()
                },
            )
        )
    return lines


def table_6(library_: Library) -> Sheet:
    """Classification by source."""
    run = library_.run("classifier")
    lines = []
    for (row, _), cell in cells.load("b", "table_6").items():
        reason, confusion = library_.reason("classifier"), None
        if run is not None:
            look = run.result if row in TRAINED else run.external
            confusion = runs.confusion([look(runs.SOURCES[row])[1]])
            reason = f"The run has no scores of {row} ({' or '.join(runs.SOURCES[row])})."
            reason = reason if row in TRAINED else NO_INDEPENDENT
        lines += _readings(cell, confusion, reason)
    return _sheet(
        "table_6",
        "Classification by data set, one network for all",
        lines,
        [*library_.protocol("b", "classifier"), *_sources(run)],
        library_.missing("classifier"),
    )


def table_7(library_: Library) -> Sheet:
    """Networks trained on one data set each."""
    lines = []
    printed = cells.load("b", "table_7")
    for row, name in BY_DATASET.items():
        run = library_.run(name)
        confusion, reason = _test_confusion(run, (row,)), library_.reason(name)
        scores = library.classification_scores(confusion)
        for column in cells.columns(printed):
            cell = printed[row, column]
            if column == "accuracy":
                lines += _readings(cell, confusion, reason)
                continue
            value = scores.get((confusions.OVERALL, column), UNKNOWN)
            lines.append(
                Line(
                    row,
                    column,
                    cell.unit,
                    cell,
                    ours=value,
                    reason="" if value.known else reason,
                )
            )
    return _sheet(
        "table_7",
        "Classification, a network for each data set",
        lines,
        library_.protocol("b", *BY_DATASET.values()),
        library_.missing(*BY_DATASET.values()),
    )


def table_8(library_: Library) -> Sheet:
    """The same networks on the independent images."""
    lines = []
    for (row, _), cell in cells.load("b", "table_8").items():
        run = library_.run(BY_DATASET[row])
        confusion, stand_ins, why = _independent(run)
        lines += _readings(cell, confusion, why or library_.reason(BY_DATASET[row]), stand_ins)
    return _sheet(
        "table_8",
        "Networks of one data set on the independent images",
        lines,
        [
            *library_.protocol("b", *BY_DATASET.values()),
            "The paper's networks of this table trained on all of their data set; ours are those "
            "of Table 7.",
            STAND_IN_NOTE,
        ],
        library_.missing(*BY_DATASET.values()),
    )


# ---- Segmentation ----------------------------------------------------------------------------


def table_9(library_: Library) -> Sheet:
    """Segmentation by cell type, test split."""

    def ours(row: str, column: str) -> Value:
        net, kind = row.split(", ")
        run = library_.run(NETS[net])
        result = _of_type(run.result(runs.MASKS)[1], kind) if run else None
        return library.segmentation_score(result, library.SEGMENTATION[column])

    lines = library.fill(cells.load("b", "table_9"), ours, "")
    return _sheet(
        "table_9",
        "Segmentation by cell type, test split",
        _explained(lines, library_),
        [*library_.protocol("b", *NETS.values()), MASKS_NOTE],
        library_.missing(*NETS.values()),
    )


def table_11(library_: Library) -> Sheet:
    """Segmentation by cell type, independent images."""

    def score(names: Sequence[str]) -> Callable[[str, str], Value]:
        def get(row: str, column: str) -> Value:
            net, kind = row.split(", ")
            run = library_.run(NETS[net])
            result = _of_type(run.external(names)[1], kind) if run else None
            return library.segmentation_score(result, library.SEGMENTATION[column])

        return get

    stand_ins = {library.stand_in_name(name): score((name,)) for name in runs.STAND_INS}
    lines = library.fill(
        cells.load("b", "table_11"), score(runs.INDEPENDENT), NO_INDEPENDENT_MASKS, stand_ins
    )
    return _sheet(
        "table_11",
        "Segmentation by cell type, independent images",
        _explained(lines, library_, NO_INDEPENDENT_MASKS),
        [*library_.protocol("b", *NETS.values()), MASKS_NOTE, STAND_IN_NOTE],
        library_.missing(*NETS.values()),
    )


def table_13(library_: Library) -> Sheet:
    """Segmentation by cell type and region."""

    def ours(row: str, column: str) -> Value:
        net, kind = row.split(", ")
        part, metric = column.split(" ", 1)
        run = library_.run(NETS[net])
        result = _of_type(run.result(runs.MASKS)[1], kind) if run else None
        return library.segmentation_score(result, f"{library.PARTS[metric]}.{part}")

    lines = library.fill(cells.load("b", "table_13"), ours, "")
    return _sheet(
        "table_13",
        "Segmentation by cell type and region, test split",
        _explained(lines, library_),
        [
            *library_.protocol("b", *NETS.values()),
            MASKS_NOTE,
            "Accuracy of a region is the share of its pixels that are found (recall).",
        ],
        library_.missing(*NETS.values()),
    )


def _of_type(result: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any] | None:
    return ((result or {}).get("by_type") or {}).get(kind)


def _explained(lines: Sequence[Line], library_: Library, otherwise: str = "") -> list[Line]:
    """Fills in why ours is blank: no run, no such cells in it, or a metric it was scored without.

    `otherwise` is the reason where there is a run.
    """
    found = []
    for line in lines:
        net = line.row.split(", ")[0]
        run = library_.run(NETS[net])
        reason = library_.reason(NETS[net]) if run is None else otherwise
        if not reason:
            kind = line.row.split(", ")[1]
            there = run is not None and _of_type(run.result(runs.MASKS)[1], kind)
            lacks = "this metric" if there else f"a {kind} with a published mask"
            reason = f"The test split was scored without {lacks}."
        found.append(line if line.ours.known else _because(line, reason))
    return found


def _because(line: Line, reason: str) -> Line:
    return dataclasses.replace(line, reason=reason)


# ---- p-values --------------------------------------------------------------------------------


def table_10(library_: Library) -> Sheet:
    """Pairwise tests between the networks, test split."""
    lines = _p_lines("table_10", library_, lambda run: _rows_of(run.rows, runs.MASKS), {}, "")
    return _p_sheet("table_10", "Mann–Whitney tests between networks, test split", lines, library_)


def table_12(library_: Library) -> Sheet:
    """The same, independent images."""
    stand_ins = {library.stand_in_name(name): _external_rows(name) for name in runs.STAND_INS}
    lines = _p_lines(
        "table_12",
        library_,
        lambda run: _rows_of(run.external_rows, runs.INDEPENDENT),
        stand_ins,
        NO_INDEPENDENT_MASKS,
    )
    return _p_sheet(
        "table_12",
        "Mann–Whitney tests between networks, independent images",
        lines,
        library_,
        STAND_IN_NOTE,
    )


Rows = Callable[[Run], list[dict[str, Any]]]


def _rows_of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [row for row in rows if any(runs.is_named(row["dataset"], name) for name in names)]


def _external_rows(name: str) -> Rows:
    return lambda run: _rows_of(run.external_rows, (name,))


def _scores(rows: Sequence[Mapping[str, Any]], kind: str, metric: str) -> list[float]:
    label = vocabulary.CELL_TYPES.index(kind)
    values = (row.get(PER_IMAGE[metric], math.nan) for row in rows if row["label"] == label)
    return [v for v in values if math.isfinite(v)]


def _p_values(
    library_: Library, rows: Rows, kind: str, metric: str
) -> dict[tuple[str, ...], Value]:
    """Returns Kruskal–Wallis's p of the networks' scores, and Mann–Whitney's of each pair of them.

    Those by all the networks' names, these by the two; only of networks with two images or more.
    """
    groups = {}
    for net, name in NETS.items():
        run = library_.run(name)
        scores = _scores(rows(run), kind, metric) if run else []
        if len(scores) > 1:
            groups[net] = scores
    if len(groups) < 2:
        return {}
    found = metrics.compare_groups(groups)
    values = {(pair.first, pair.second): Value(pair.p) for pair in found.pairs}
    return values | ({tuple(groups): Value(found.p)} if len(groups) == len(NETS) else {})


def _p_lines(
    item: str, library_: Library, rows: Rows, stand_ins: Mapping[str, Rows], otherwise: str
) -> list[Line]:
    def reason() -> str:
        for name in NETS.values():
            if library_.run(name) is None:
                return library_.reason(name)
        return otherwise or "The runs were scored without this metric by image, or on too few."

    lines = []
    printed = cells.load("b", item)
    places = [("Kruskal–Wallis", tuple(NETS))]
    places += [
        (f"proposed CNN vs {other}", ("proposed CNN", other)) for other in ("SegNet", "UNet")
    ]
    for metric in PER_IMAGE:
        ours = {kind: _p_values(library_, rows, kind, metric) for kind in MASKED_TYPES}
        others = {
            name: {kind: _p_values(library_, get, kind, metric) for kind in MASKED_TYPES}
            for name, get in stand_ins.items()
        }
        for name, nets in places:
            for kind in MASKED_TYPES:
                row, value = f"{metric}, {name}", ours[kind].get(nets, UNKNOWN)
                lines.append(
                    Line(
                        row,
                        kind,
                        "p",
                        printed.get((row, kind)),
                        ours=value,
                        reason="" if value.known else reason(),
                        stand_ins={
                            name: found[kind].get(nets, UNKNOWN) for name, found in others.items()
                        },
                        comparable=False,
                    )
                )
    return lines


def _p_sheet(item: str, title: str, lines: Sequence[Line], library_: Library, *more: str) -> Sheet:
    return _sheet(
        item,
        title,
        lines,
        [
            *library_.protocol("b", *NETS.values()),
            MASKS_NOTE,
            *more,
            "Significant is p < 0.017 (Bonferroni, three pairs), as in the paper. Its Kruskal–"
            "Wallis p-values are not printed. A p-value depends on the number of images, so that "
            "ours and the paper's are not to be subtracted.",
        ],
        library_.missing(*NETS.values()),
    )


# ---- Literature beside the paper -------------------------------------------------------------


def table_14(library_: Library) -> Sheet:
    """Classification beside the literature."""
    own = {
        "CellaVision": ("classifier_dataset_1", ("Dataset 1",)),
        "Raabin-WBC": ("classifier_dataset_2_3", ("Dataset 2 & 3",)),
        "Kaggle": ("classifier_dataset_4", ("Dataset 4",)),
        "CellaVision, Raabin-WBC and Kaggle pooled": ("classifier", TRAINED),
    }
    lines: list[Line] = []
    for (row, column), cell in cells.load("b", "table_14").items():
        if row != "this paper":
            lines.append(Line(row, column, cell.unit, cell, reason=CITED))
        elif column in own:
            name, datasets = own[column]
            confusion = _test_confusion(library_.run(name), datasets)
            lines += _readings(cell, confusion, library_.reason(name))
        else:
            confusion, stand_ins, why = _independent(library_.run("classifier"))
            lines += _readings(cell, confusion, why or library_.reason("classifier"), stand_ins)
    names = [name for name, _ in own.values()]
    return _sheet(
        "table_14",
        "Classification, the paper beside the literature (accuracy)",
        lines,
        [*library_.protocol("b", *names), STAND_IN_NOTE],
        library_.missing(*names),
    )


def table_15(library_: Library) -> Sheet:
    """Segmentation beside the literature."""
    run = library_.run("encoder_decoder")

    def mean(result: Mapping[str, Any] | None) -> Value:
        """The mean of the four types' global accuracies, as the paper's numbers are."""
        values = [
            library.segmentation_score(_of_type(result, kind), "global_accuracy").number
            for kind in MASKED_TYPES
        ]
        return Value(100 * float(np.mean(values)))

    lines: list[Line] = []
    for (row, column), cell in cells.load("b", "table_15").items():
        if row != "this paper":
            lines.append(Line(row, column, cell.unit, cell, reason=CITED))
            continue
        apart = column.startswith("independent")
        found, stand_ins, reason = UNKNOWN, {}, library_.reason("encoder_decoder")
        if run is not None:
            look, names = (run.external, runs.INDEPENDENT) if apart else (run.result, runs.MASKS)
            found, reason = mean(look(names)[1]), NO_INDEPENDENT_MASKS
        if run is not None and apart:
            stand_ins = {
                library.stand_in_name(name): mean(run.external((name,))[1])
                for name in runs.STAND_INS
            }
        lines.append(
            Line(
                row,
                column,
                cell.unit,
                cell,
                ours=found,
                reason="" if found.known else reason,
                stand_ins=stand_ins,
            )
        )
    return _sheet(
        "table_15",
        "Segmentation, the paper beside the literature (accuracy)",
        lines,
        [*library_.protocol("b", "encoder_decoder"), MASKS_NOTE, STAND_IN_NOTE],
        library_.missing("encoder_decoder"),
    )


# ---- Figures ---------------------------------------------------------------------------------


def figure_3(library_: Library) -> Sheet:
    """Training of the classifier."""
    run = library_.run("classifier")
    lines, shown = pictures.curve_lines(run, library_.reason("classifier")), []
    if run is not None and run.history:
        shown = [pictures.curve(run, "Loss and scores of our classifier over its steps")]
    return _sheet(
        "figure_3",
        "Training of the classifier",
        lines,
        library_.protocol("b", "classifier"),
        library_.missing("classifier"),
        shown,
    )


def figure_7(library_: Library) -> Sheet:
    """Confusion of the test split."""
    run = library_.run("classifier")
    lines = _confused(
        confusions.figure_7(),
        cells.load("b", "figure_7"),
        _test_confusion(run),
        library_.reason("classifier"),
    )
    return _sheet(
        "figure_7",
        "Confusion matrix, test split of the pooled data sets",
        lines,
        [*library_.protocol("b", "classifier"), *_sources(run)],
        library_.missing("classifier"),
    )


def figure_8(library_: Library) -> Sheet:
    """Confusion of the independent images."""
    confusion, stand_ins, why = _independent(library_.run("classifier"))
    reason = why or library_.reason("classifier")
    counts = confusions.behind_table_5()
    lines = []
    for (i, truth), (j, found) in itertools.product(enumerate(vocabulary.CELL_TYPES), repeat=2):
        value = UNKNOWN if confusion is None else Value(float(confusion[i, j]))
        lines.append(
            Line(
                truth,
                f"taken for {found}",
                "images",
                recomputed=Value(float(counts.hits[i])) if i == j else UNKNOWN,
                ours=value,
                reason="" if value.known else reason,
                stand_ins={
                    n: UNKNOWN if m is None else Value(float(m[i, j])) for n, m in stand_ins.items()
                },
                comparable=False,
            )
        )
    for j, found in enumerate(vocabulary.CELL_TYPES):
        value = UNKNOWN if confusion is None else Value(float(confusion[:, j].sum()))
        lines.append(
            Line(
                "all types",
                f"taken for {found}",
                "images",
                recomputed=Value(float(counts.hits[j] + counts.false_alarms[j])),
                ours=value,
                reason="" if value.known else reason,
                stand_ins={
                    n: UNKNOWN if m is None else Value(float(m[:, j].sum()))
                    for n, m in stand_ins.items()
                },
                comparable=False,
            )
        )
    return _sheet(
        "figure_8",
        "Confusion matrix, independent images",
        lines,
        [*library_.protocol("b", "classifier"), library.NOT_IN_TEXT, STAND_IN_NOTE],
        library_.missing("classifier"),
    )


def _confused(
    theirs: np.ndarray,
    printed: Mapping[cells.Key, cells.Cell],
    ours: np.ndarray | None,
    reason: str,
) -> list[Line]:
    """Returns the cells of a confusion matrix as counts, then as shares of their row."""
    types, lines = vocabulary.CELL_TYPES, []
    for (i, truth), (j, found) in itertools.product(enumerate(types), repeat=2):
        value = UNKNOWN if ours is None else Value(float(ours[i, j]))
        cell, why = printed[truth, found], "" if value.known else reason
        lines.append(
            Line(
                truth,
                f"taken for {found}",
                "images",
                cell,
                ours=value,
                reason=why,
                comparable=False,
            )
        )
    for (i, truth), (j, found) in itertools.product(enumerate(types), repeat=2):
        value = UNKNOWN
        if ours is not None and ours[i].sum():
            hits = np.zeros(int(ours[i].sum()), bool)
            hits[: int(ours[i, j])] = True
            value = library.share(hits).scaled(100)
        why = "" if value.known else reason
        lines.append(
            Line(
                truth,
                f"taken for {found}, share",
                "percent",
                recomputed=Value(100 * theirs[i, j] / theirs[i].sum()),
                ours=value,
                reason=why,
            )
        )
    return lines


def figure_9(library_: Library) -> Sheet:
    """Masks with Dice."""
    return pictures.mask_sheet(
        library_,
        "b",
        "figure_9",
        "Masks of the proposed CNN by cell type, with Dice",
        "encoder_decoder",
        MASKED_TYPES,
        [MASKS_NOTE],
    )


# ---- Time and size ---------------------------------------------------------------------------


def text(library_: Library) -> Sheet:
    """What the paper's sentences give: time, throughput, sizes, overall accuracies."""
    runs_of = {"classifier": "classifier", **NETS}
    lines: list[Line] = []
    for (row, column), cell in cells.load("b", "text").items():
        name = runs_of.get(row.partition(",")[0])
        if name is None:
            lines.append(Line(row, column, cell.unit, cell, reason=NOT_OURS))
        elif "accuracy" in column:
            lines += _text_accuracy(library_, cell, name)
        else:
            value, reason, remark = _text_number(library_, cell, name)
            lines.append(
                Line(
                    row,
                    column,
                    cell.unit,
                    cell,
                    ours=value,
                    reason="" if value.known else reason,
                    remark=remark,
                    comparable=not remark.startswith("Our time"),
                )
            )
    return _sheet(
        "text",
        "Time, size and overall scores",
        lines,
        [*library_.protocol("b", *runs_of.values()), TIMES_NOTE],
        library_.missing(*runs_of.values()),
    )


NOT_OURS = "Of the paper's own data or machine; see Table 3 for our images."
TIMES_NOTE = (
    "Times are of other machines, image sizes and numbers of images, and so not to be subtracted; "
    "ours are of the network alone, without reading and decoding files."
)
TOOLBOX_LAYERS = 3
"""Input, softmax and output, which the paper's toolbox counts as layers."""


def _text_accuracy(library_: Library, cell: cells.Cell, name: str) -> list[Line]:
    run = library_.run(name)
    reason = library_.reason(name)
    if name == "classifier":
        if "independent" in cell.column:
            confusion, stand_ins, why = _independent(run)
            return _readings(cell, confusion, why or reason, stand_ins)
        return _readings(cell, _test_confusion(run), reason)
    apart = "independent" in cell.column
    result = None
    if run is not None:
        result = (run.external(runs.INDEPENDENT) if apart else run.result(runs.MASKS))[1]
        reason = NO_INDEPENDENT_MASKS if apart else "The test split was scored without this metric."
    if "nucleus" in cell.row:
        kind = cell.column.split(", ")[1]
        value = library.segmentation_score(_of_type(result, kind), "recall.nucleus").scaled(100)
    else:
        by_type = [
            library.segmentation_score(_of_type(result, kind), "global_accuracy").number
            for kind in MASKED_TYPES
        ]
        value = Value(100 * float(np.mean(by_type)))
    why = "" if value.known else reason
    return [Line(cell.row, cell.column, cell.unit, cell, ours=value, reason=why)]


def _text_number(library_: Library, cell: cells.Cell, name: str) -> tuple[Value, str, str]:
    """Returns ours, why it is blank, and what it is."""
    size = (
        "Counted for the network that the text describes, at 360 × 360 px; an operation is half a "
        "multiply-add, and input, softmax and output are layers."
    )
    if cell.column in ("parameters", "operations an image", "layers"):
        return _network_size(name, cell), "", size
    run = library_.run(name)
    if run is None:
        return UNKNOWN, library_.reason(name), ""
    if cell.column == "training time":
        seconds = run.summary.get("train_seconds")
        ours = UNKNOWN if seconds is None else Value(seconds / 60)
        return ours, "The run does not say how long it took.", "Our time is that of our own run."
    rate = library.throughput(run)
    reason = f"There is no checkpoint in {run.folder}."
    if cell.column == "throughput":
        value = Value(rate)
    elif cell.column.startswith("test time"):
        value = Value(float(cell.column.split()[3].replace(",", "")) / rate)
    else:
        value = Value(1 / rate)
    side = run.config.data.image_size
    return value, reason, f"Our time is measured, with images of {side} × {side} px."


def _network_size(name: str, cell: cells.Cell) -> Value:
    side = 360
    model = nnx.eval_shape(lambda: models.build(config_lib.Model(name=name), image_size=side))
    found = describe.describe(model, (1, side, side, 3))
    if cell.column == "layers":
        return Value(float(len(found) + TOOLBOX_LAYERS))
    scale = {"million": 1e6, "thousand": 1e3, "MFLOPs": 1e6, "BFLOPs": 1e9}[cell.unit]
    total = sum(x.parameters if cell.column == "parameters" else x.flops for x in found)
    return Value(total / scale)


# ---- All of them -----------------------------------------------------------------------------


def _sources(run: Run | None) -> list[str]:
    """Says which of our data sets stand for the paper's, and how many of their images there are."""
    if run is None:
        return []
    found = []
    for dataset in TRAINED:
        name, result = run.result(runs.SOURCES[dataset])
        amount = f"{name}, {result['images']:,} test images" if result else "not there"
        found.append(f"{dataset}: {amount}")
    return [SOURCES_NOTE + "; ".join(found) + "."]


def _sheet(
    item: str,
    title: str,
    lines: Sequence[Line],
    protocol: Sequence[str] = (),
    missing: Sequence[str] = (),
    shown: Sequence[Any] = (),
) -> Sheet:
    return Sheet(
        "b",
        item,
        title,
        list(lines),
        list(shown),
        list(protocol),
        cells.contradictions("b", item),
        list(missing),
    )


BUILDERS: dict[str, Callable[[Library], Sheet]] = {
    "table_1": table_1,
    "table_2": table_2,
    "table_3": table_3,
    "table_4": table_4,
    "table_5": table_5,
    "table_6": table_6,
    "table_7": table_7,
    "table_8": table_8,
    "table_9": table_9,
    "table_10": table_10,
    "table_11": table_11,
    "table_12": table_12,
    "table_13": table_13,
    "table_14": table_14,
    "table_15": table_15,
    "figure_3": figure_3,
    "figure_7": figure_7,
    "figure_8": figure_8,
    "figure_9": figure_9,
    "text": text,
}
_CLASSIFIERS = ("classifier", *BY_DATASET.values())
_SEGMENTERS = tuple(NETS.values())
NEEDS: dict[str, tuple[str, ...]] = {
    "table_1": (),
    "table_2": (),
    "table_3": ("classifier",),
    "table_4": ("classifier",),
    "table_5": ("classifier",),
    "table_6": ("classifier",),
    "table_7": tuple(BY_DATASET.values()),
    "table_8": tuple(BY_DATASET.values()),
    "table_9": _SEGMENTERS,
    "table_10": _SEGMENTERS,
    "table_11": _SEGMENTERS,
    "table_12": _SEGMENTERS,
    "table_13": _SEGMENTERS,
    "table_14": _CLASSIFIERS,
    "table_15": ("encoder_decoder",),
    "figure_3": ("classifier",),
    "figure_7": ("classifier",),
    "figure_8": ("classifier",),
    "figure_9": ("encoder_decoder",),
    "text": ("classifier", *_SEGMENTERS),
}
"""The runs that each is made from."""
