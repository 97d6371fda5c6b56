"""Paper B's classification: Tables 3 to 8, Figures 3, 7 and 8."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.errors import ConfigError, DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import confusions, figures, items, plans, printed, scores
from wbc_jax.papers.comparison import UNKNOWN, Row, Value
from wbc_jax.papers.items import Content, Item
from wbc_jax.papers.printed import TableCell
from wbc_jax.papers.runs import NeededRun, Run

CLASSIFIER = ("classifier",)
BY_DATASET = {
    "Dataset 1": "classifier_dataset_1",
    "Dataset 2 & 3": "classifier_dataset_2_3",
    "Dataset 4": "classifier_dataset_4",
}
"""Runs on one data set each."""
TRAINED = plans.TRAINED
NO_INDEPENDENT = (
    "The independent images are not there: LISC is given only to those who ask its authors, and "
    "BCD is published without cell types."
)
ITEMS: dict[str, Item] = {}
item = items.register(ITEMS, "b")


@dataclasses.dataclass(frozen=True)
class Scored:
    """Our scores on some images, and on the stand-ins if those images are unavailable.

    Attributes:
        confusion: int64 `[5, 5]`, rows truth; None if it is unknown.
        reason: explains why a score is unknown.
        stand_ins: by column name, as `confusion`.
    """

    confusion: np.ndarray | None
    reason: str
    stand_ins: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _scores(self) -> dict[printed.Key, Value]:
        return scores.classification_scores(self.confusion)

    @functools.cached_property
    def _stand_in_scores(self) -> dict[str, dict[printed.Key, Value]]:
        return {name: scores.classification_scores(m) for name, m in self.stand_ins.items()}

    def row(
        self, cell: TableCell, place: printed.Key, reading: str = "", recomputed: Value = UNKNOWN
    ) -> Row:
        """Returns the row of a printed cell.

        Args:
            cell: the paper's.
            place: key of our score (`scores.classification_scores`).
            reading: the meaning of the paper's word, if it could have several.
            recomputed: see `comparison.Row`.
        """
        factor = 100.0 if cell.unit == "percent" else 1.0
        return Row(
            cell.row,
            f"{cell.column}: {reading}" if reading else cell.column,
            cell.unit,
            cell,
            recomputed=recomputed,
            ours=self._scores.get(place, UNKNOWN).scaled(factor),
            reason=self.reason,
            stand_ins={
                name: found.get(place, UNKNOWN).scaled(factor)
                for name, found in self._stand_in_scores.items()
            },
        )

    def readings(
        self, cell: TableCell, recomputed: Mapping[str, np.ndarray] | None = None
    ) -> list[Row]:
        """Returns one row for each number that a printed accuracy could be."""
        return [
            self.row(
                cell,
                (confusions.OVERALL, key),
                reading,
                UNKNOWN if recomputed is None else Value(float(recomputed[key])),
            )
            for key, reading in confusions.READINGS.items()
        ]

    def count_row(self, row: str, column: str, place: tuple[Any, Any], **fields: Any) -> Row:
        """Returns the row of an entry of the confusion matrix, or of a sum of entries."""
        return Row(
            row,
            column,
            "images",
            ours=_count(self.confusion, place),
            reason=self.reason,
            stand_ins={name: _count(m, place) for name, m in self.stand_ins.items()},
            comparable=False,
            **fields,
        )


def _count(matrix: np.ndarray | None, place: tuple[Any, Any]) -> Value:
    return UNKNOWN if matrix is None else Value(float(matrix[place].sum()))


def tested(classifier: NeededRun, datasets: Sequence[str] = TRAINED) -> Scored:
    """Returns the scores on the test split of some of paper B's data sets."""
    run, found = classifier.run, None
    if run is not None:
        results = [run.result(plans.DATASETS[d])[1] for d in datasets]
        found = scores.total_confusion(results)
    return Scored(found, classifier.reason)


def independent(classifier: NeededRun) -> Scored:
    """Returns the scores on the independent images and the stand-ins."""
    run = classifier.run
    if run is None:
        return Scored(None, classifier.reason)

    def total(names: Sequence[str]) -> np.ndarray | None:
        return scores.total_confusion([run.external((name,))[1] for name in names])

    stand_ins = {title: total((name,)) for name, title in plans.STAND_INS.items()}
    return Scored(total(plans.INDEPENDENT), NO_INDEPENDENT, stand_ins)


def _sources(classifier: NeededRun) -> list[str]:
    """Lists our data sets in place of the paper's, with their numbers of test images."""
    run = classifier.run
    if run is None:
        return []
    found = []
    for dataset in TRAINED:
        name, result = run.result(plans.DATASETS[dataset])
        amount = f"{name}, {result['images']:,} test images" if result else "not there"
        found.append(f"{dataset}: {amount}")
    return [f"Our images by the paper's data sets: {'; '.join(found)}."]


# ---- Table 3 ---------------------------------------------------------------------------------


@item("table_3", "Images by cell type and split", CLASSIFIER, (plans.STAND_IN_NOTE,))
def table_3(classifier: NeededRun) -> Content:
    run, reason = classifier.run, classifier.reason
    ours: dict[printed.Key, int] = {}
    stand_ins: dict[str, dict[printed.Key, int]] = {}
    if run is not None:
        ours, reason = _counts(run), "The records that the run was split from cannot be read."
        for name, title in plans.STAND_INS.items():
            stand_ins[title] = _by_type([run.external((name,))[1]], "independent")

    def value(counts: Mapping[printed.Key, int], key: printed.Key) -> Value:
        return Value(float(counts[key])) if key in counts else UNKNOWN

    rows = [
        Row(
            *key,
            cell.unit,
            cell,
            ours=value(ours, key),
            reason=NO_INDEPENDENT if key[1] == "independent" else reason,
            stand_ins={title: value(counts, key) for title, counts in stand_ins.items()},
        )
        for key, cell in printed.load("b", "table_3").items()
    ]
    return Content(rows, notes=_sources(classifier))


def _by_type(results: Sequence[Mapping[str, Any] | None], column: str) -> dict[printed.Key, int]:
    """Returns the numbers of scored images, as a column of Table 3."""
    matrix = scores.total_confusion(results)
    if matrix is None:
        return {}
    found = {(name, column): int(n) for name, n in zip(CELL_TYPES, matrix.sum(1))}
    return found | {("total", column): int(matrix.sum())}


def _counts(run: Run) -> dict[printed.Key, int]:
    """Returns the numbers of images; those of training and validation only if records are there."""
    found = _by_type([run.result(plans.DATASETS[d])[1] for d in TRAINED], "test")
    results = [run.external((name,))[1] for name in plans.INDEPENDENT]
    found |= _by_type(results, "independent")
    try:
        splits = run.splits()
    except (ConfigError, DataError, OSError):
        return found
    names = ("train", "validation", "test")
    for split in names:
        counts = np.bincount(splits[split].labels, minlength=len(CELL_TYPES))
        found |= {(name, split): int(n) for name, n in zip(CELL_TYPES, counts)}
        found["total", split] = int(counts.sum())
    for row in (*CELL_TYPES, "total"):
        found[row, "total"] = sum(found[row, split] for split in names)
    return found


# ---- Scores ----------------------------------------------------------------------------------


@item("table_4", "Classification, test split of the pooled data sets", CLASSIFIER)
def table_4(classifier: NeededRun) -> Content:
    counts = confusions.of_matrix(confusions.figure_7())
    return Content(
        _by_type_and_metric("table_4", tested(classifier), counts), notes=_sources(classifier)
    )


@item(
    "table_5",
    "Classification, independent images (Datasets 5 and 6)",
    CLASSIFIER,
    (plans.STAND_IN_NOTE,),
)
def table_5(classifier: NeededRun) -> Content:
    counts = confusions.behind_table_5()
    rows = _by_type_and_metric("table_5", independent(classifier), counts)
    return Content(rows, notes=_sources(classifier))


def _by_type_and_metric(name: str, scored: Scored, counts: confusions.Counts) -> list[Row]:
    """Returns the rows of Table 4 or 5, with one row per reading of the overall accuracy.

    Args:
        name: of the table.
        scored: our scores.
        counts: the counts behind the paper's numbers.
    """
    recomputed, readings = confusions.table(counts), confusions.readings(counts)
    rows = []
    for key, cell in printed.load("b", name).items():
        if key == (confusions.OVERALL, "accuracy"):
            rows += scored.readings(cell, readings)
        else:
            rows.append(scored.row(cell, key, recomputed=Value(float(recomputed[key]))))
    return rows


@item("table_6", "Classification by data set, one network for all", CLASSIFIER)
def table_6(classifier: NeededRun) -> Content:
    run, rows = classifier.run, []
    for (row, _), cell in printed.load("b", "table_6").items():
        reason, confusion = classifier.reason, None
        if run is not None:
            names = plans.DATASETS[row]
            find = run.result if row in TRAINED else run.external
            confusion = scores.total_confusion([find(names)[1]])
            reason = f"The run has no scores of {row} ({' or '.join(names)})."
            reason = reason if row in TRAINED else NO_INDEPENDENT
        rows += Scored(confusion, reason).readings(cell)
    return Content(rows, notes=_sources(classifier))


@item("table_7", "Classification, a network for each data set", BY_DATASET.values())
def table_7(*classifiers: NeededRun) -> Content:
    cells, rows = printed.load("b", "table_7"), []
    for dataset, classifier in zip(TRAINED, classifiers):
        scored = tested(classifier, (dataset,))
        for column in printed.columns(cells):
            cell = cells[dataset, column]
            if column == "accuracy":
                rows += scored.readings(cell)
            else:
                rows.append(scored.row(cell, (confusions.OVERALL, column)))
    return Content(rows)


@item(
    "table_8",
    "Networks of one data set on the independent images",
    BY_DATASET.values(),
    (
        "The paper's networks of this table trained on all of their data set; ours are those of "
        "Table 7. In the columns of data sets, ours are tested on all images of another data set "
        "than their own.",
        plans.STAND_IN_NOTE,
    ),
)
def table_8(*classifiers: NeededRun) -> Content:
    by_dataset = dict(zip(TRAINED, classifiers))
    columns = across(classifiers)
    rows = []
    for (dataset, _), cell in printed.load("b", "table_8").items():
        classifier = by_dataset[dataset]
        scored = independent(classifier)
        stand_ins = {**scored.stand_ins, **{t: found.get(dataset) for t, found in columns.items()}}
        # A missing run has no stand-ins, and nothing to show.
        scored = dataclasses.replace(scored, stand_ins=stand_ins if classifier.run else {})
        rows += scored.readings(cell)
    return Content(rows)


def across(classifiers: Sequence[NeededRun]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the confusions of networks of one data set on paper B's other data sets.

    Args:
        classifiers: the runs of `BY_DATASET`.

    Returns:
        int64 `[5, 5]`, by a column's title, which names the data set tested on and ours in its
        place, and by the data set trained on. Data sets on which no run was tested are left out.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for tested_on in TRAINED:
        for trained_on, classifier in zip(TRAINED, classifiers):
            if classifier.run is None or trained_on == tested_on:
                continue
            name, result = classifier.run.external(plans.DATASETS[tested_on])
            matrix = scores.total_confusion([result])
            if matrix is not None:
                found.setdefault(f"{tested_on} ({name})", {})[trained_on] = matrix
    return found


# ---- Figures ---------------------------------------------------------------------------------


@item("figure_3", "Training of the classifier", CLASSIFIER)
def figure_3(classifier: NeededRun) -> Content:
    return figures.curves(classifier, "Loss and scores of our classifier over its steps")


@item("figure_7", "Confusion matrix, test split of the pooled data sets", CLASSIFIER)
def figure_7(classifier: NeededRun) -> Content:
    """Returns the entries of the confusion matrix as counts, then as shares of their row."""
    theirs, cells = confusions.figure_7(), printed.load("b", "figure_7")
    scored, types = tested(classifier), CELL_TYPES
    rows = []
    for (i, truth), (j, found) in itertools.product(enumerate(types), repeat=2):
        column = f"taken for {found}"
        rows.append(scored.count_row(truth, column, (i, j), paper=cells[truth, found]))
    for (i, truth), (j, found) in itertools.product(enumerate(types), repeat=2):
        rows.append(
            Row(
                truth,
                f"taken for {found}, share",
                "percent",
                recomputed=Value(100 * theirs[i, j] / theirs[i].sum()),
                ours=_share(scored.confusion, i, j),
                reason=scored.reason,
            )
        )
    return Content(rows, notes=_sources(classifier))


def _share(matrix: np.ndarray | None, i: int, j: int) -> Value:
    """Returns an entry as a percentage of its row, with the interval."""
    if matrix is None or not matrix[i].sum():
        return UNKNOWN
    hits = np.zeros(int(matrix[i].sum()), bool)
    hits[: int(matrix[i, j])] = True
    return scores.share(hits).scaled(100)


@item(
    "figure_8",
    "Confusion matrix, independent images",
    CLASSIFIER,
    (items.NOT_IN_TEXT, plans.STAND_IN_NOTE),
)
def figure_8(classifier: NeededRun) -> Content:
    scored, counts = independent(classifier), confusions.behind_table_5()
    types, rows = CELL_TYPES, []
    for (i, truth), (j, found) in itertools.product(enumerate(types), repeat=2):
        known = Value(float(counts.hits[i])) if i == j else UNKNOWN
        rows.append(scored.count_row(truth, f"taken for {found}", (i, j), recomputed=known))
    for j, found in enumerate(types):
        known = Value(float(counts.hits[j] + counts.false_alarms[j]))
        place = (slice(None), j)
        rows.append(scored.count_row("all types", f"taken for {found}", place, recomputed=known))
    return Content(rows)
