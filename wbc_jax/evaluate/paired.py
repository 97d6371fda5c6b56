"""Compares two runs image by image, with an interval and a paired test for every score.

`read` reads a run's `report/per_image.csv`; `compare` pairs the rows of two runs by data set and
id. Neither reads an image or runs a model.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import scipy
from etils import epath

from wbc_jax import labels as labels_lib
from wbc_jax.errors import CompareError
from wbc_jax.labels import type_name
from wbc_jax.metrics import statistics
from wbc_jax.utils import atomic

Key = tuple[str, str]
"""Data set and id of an image."""

ALPHA = 0.05
"""A run is called better where the corrected p value is below this."""
_TASK_COLUMNS = {"segmentation": "mean_iou", "classification": "predicted"}
_TRUTH = {
    "segmentation": ("truth_nucleus_px", "truth_cytoplasm_px"),
    "classification": ("label",),
}
_WORDS = {"True": 1.0, "False": 0.0, "": math.nan}


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """A score that is compared, one number an image.

    Attributes:
        key: its column of `report/per_image.csv`.
        name: its name in tables.
        lower_is_better: it is an error.
        test: `Wilcoxon` (signed rank) or `McNemar` (exact).
        needs: columns that are above 0 in every image that must have this score; those that lack
            it in a run are counted as missed.
        leaves_out: column that is above 0 in the images of which the score leaves a class out;
            these are counted as missed.
    """

    key: str
    name: str
    lower_is_better: bool = False
    test: str = "Wilcoxon"
    needs: tuple[str, ...] = ()
    leaves_out: str = ""


SCORES = {
    "segmentation": (
        Score("mean_iou", "mean IoU"),
        Score("iou_cytoplasm", "cytoplasm IoU"),
        Score("iou_nucleus", "nucleus IoU"),
        Score("bf_score_absent_as_zero", "BF score"),
        Score("bf_score", "MATLAB's BF", leaves_out="bf_one_sided_classes"),
        Score("nc_relative_error", "N/C error", lower_is_better=True, needs=_TRUTH["segmentation"]),
    ),
    "classification": (
        Score("right", "accuracy", test="McNemar"),
        Score("true_probability", "true type's probability"),
    ),
}
"""The scores that are compared, by task."""
CELL_SCORE = Score("iou_cell", "cell IoU")
"""Compared as well where the truth of some image is a whole cell alone, which has no other score;
it stands alone where all are."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredRun:
    """The scores of one run.

    Attributes:
        name: the run's folder, as the user wrote it.
        task: `segmentation` or `classification`.
        rows: the numbers of each image by column; NaN where there is none.
    """

    name: str
    task: str
    rows: Mapping[Key, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The comparison of one score on the images of one data set, or of all; NaN where undefined.

    Attributes:
        images: number of images that have the score in both runs.
        first, second: mean of the score over them, in each run.
        difference, low, high: mean of second − first, and its 95 % interval.
        median: of second − first.
        better, worse: number of images on which the second run is better, and worse.
        first_missed, second_missed: number of images that each run misses: which lack the score
            though the truth has it, or of which the score leaves a class out; None: not known.
        p, p_holm: two-sided; and corrected for all tests of the comparison.
    """

    dataset: str
    score: Score
    images: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    median: float
    better: int
    worse: int
    p: float
    p_holm: float
    first_missed: int | None = None
    second_missed: int | None = None

    @property
    def verdict(self) -> str:
        """`B better`, `A better` or empty.

        It needs a corrected p below `ALPHA` and an interval on one side of 0: a test of ranks may
        see another difference than that of the means.
        """
        if not (self.p_holm < ALPHA and self.low * self.high > 0):
            return ""
        return "B better" if (self.difference > 0) != self.score.lower_is_better else "A better"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two runs.

    Attributes:
        first, second: the runs' names, A and B.
        task: `segmentation` or `classification`.
        images: number of images that are in both.
        scores: the scores compared.
        absent: names of scores that a run's table lacks.
        rows: by data set and then by score, `all` last.
        only_first, only_second: (data set, id) of images that are in one run only.
    """

    first: str
    second: str
    task: str
    images: int
    scores: tuple[Score, ...]
    absent: tuple[str, ...]
    rows: tuple[Row, ...]
    only_first: tuple[Key, ...]
    only_second: tuple[Key, ...]

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        """The rows of each data set."""
        return [(n, list(g)) for n, g in itertools.groupby(self.rows, lambda row: row.dataset)]


def read(folder: epath.PathLike) -> ScoredRun:
    """Reads the scores of a run.

    Args:
        folder: the run's `--workdir`.

    Raises:
        CompareError: there is no table, or another program wrote it, or it lists an image twice,
            or a cell that must hold a number does not; names file, line and column.
    """
    path = epath.Path(folder).expanduser() / "report" / "per_image.csv"
    if not path.exists():
        raise CompareError(
            f"{path} does not exist. Name the --workdir of a run that was evaluated; "
            "--mode=evaluate makes the file."
        )
    try:
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        columns, lines = table.fieldnames or [], list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CompareError(f"{path} is no CSV file ({error}); evaluate the run again.") from error
    tasks = [task for task, column in _TASK_COLUMNS.items() if column in columns]
    if len(tasks) != 1 or not {"dataset", "id"} <= set(columns):
        raise CompareError(
            f"{path} has the columns {', '.join(columns) or '(none)'}; needed are dataset, id and "
            f"one of {', '.join(_TASK_COLUMNS.values())}. Evaluate the run again."
        )
    (task,) = tasks
    numeric = [c for c in columns if c not in ("dataset", "id", "flag", "label_source")]
    missing = [c for c in (*_TRUTH[task], "label") if c not in columns]
    if missing:
        raise CompareError(f"{path} lacks the column {missing[0]}; evaluate the run again.")
    rows: dict[Key, dict[str, float]] = {}
    for number, line in enumerate(lines, 2):
        id = atomic.read_csv_text(str(line["id"]))
        key, where = (str(line["dataset"]), id), f"{path}, line {number}"
        if key in rows:
            raise CompareError(
                f"{where}: {key[0]} {key[1]} is listed twice; evaluate the run again."
            )
        rows[key] = {column: _number(line, column, where) for column in numeric}
        if task == "classification":
            column = f"probability_{type_name(rows[key]['label'])}"
            if column not in line:
                raise CompareError(
                    f"{where}: label {line['label']!r} is not a type that has a probability; "
                    "evaluate the run again."
                )
            rows[key]["true_probability"] = _number(line, column, where)
    return ScoredRun(os.fspath(folder), task, rows)


def _number(line: Mapping[str, str | None], column: str, where: str) -> float:
    text = line[column]
    if text in _WORDS:
        return _WORDS[text]
    try:
        return float(text or "missing")
    except ValueError:
        raise CompareError(
            f"{where}, {column}: {text!r} is not a number; evaluate the run again."
        ) from None


def compare(
    first: ScoredRun, second: ScoredRun, resamples: int = statistics.RESAMPLES, seed: int = 0
) -> Comparison:
    """Compares two runs on the images that both have scored.

    The difference is second − first on the same image. Its mean has a percentile interval by
    bootstrap over images, and a two-sided test: Wilcoxon's signed-rank test, or the exact McNemar
    test for right and wrong answers. The p values of all tests of the comparison are corrected
    together (Holm 1979).

    Args:
        first, second: from `read`.
        resamples, seed: of the bootstrap.

    Raises:
        CompareError: the tasks differ, no image is in both, or an image's truth differs.
    """
    if first.task != second.task:
        raise CompareError(
            f"{first.name} is a {first.task} and {second.name} a {second.task}; compare runs of "
            "one task."
        )
    both = [key for key in first.rows if key in second.rows]
    if not both:
        raise CompareError(
            f"{first.name} and {second.name} have no image in common: "
            f"{_contents(first)} and {_contents(second)}. Evaluate them on the same data and split."
        )
    for key in both:
        for column in _TRUTH[first.task]:
            one, two = first.rows[key][column], second.rows[key].get(column, math.nan)
            if one != two and not (math.isnan(one) and math.isnan(two)):
                raise CompareError(
                    f"{key[0]} {key[1]} has {column} {one:g} in {first.name} and {two:g} in "
                    f"{second.name}: they were scored against another truth. Evaluate both on the "
                    "same data with the same evaluate.size."
                )
    scores = SCORES[first.task]
    if first.task == "segmentation":
        whole = [math.isnan(first.rows[key][_TRUTH[first.task][0]]) for key in both]
        scores = (CELL_SCORE,) if all(whole) else (*scores, *[CELL_SCORE] * any(whole))
    known = [
        score for score in scores if all(score.key in run.rows[both[0]] for run in (first, second))
    ]
    sets = list(dict.fromkeys(dataset for dataset, _ in both))
    groups = {name: [key for key in both if key[0] == name] for name in sets}
    if len(groups) > 1:
        groups[labels_lib.ALL] = both
    rows = [
        _row(first, second, name, keys, score, resamples, seed)
        for name, keys in groups.items()
        for score in known
    ]
    corrected = statistics.holm([row.p for row in rows])
    return Comparison(
        first=first.name,
        second=second.name,
        task=first.task,
        images=len(both),
        scores=tuple(known),
        absent=tuple(score.name for score in scores if score not in known),
        rows=tuple(dataclasses.replace(row, p_holm=float(p)) for row, p in zip(rows, corrected)),
        only_first=tuple(key for key in first.rows if key not in second.rows),
        only_second=tuple(key for key in second.rows if key not in first.rows),
    )


def _row(
    first: ScoredRun,
    second: ScoredRun,
    name: str,
    keys: Sequence[Key],
    score: Score,
    resamples: int,
    seed: int,
) -> Row:
    one, two = (np.array([run.rows[key][score.key] for key in keys]) for run in (first, second))
    missed = [_missed(run, keys, score) for run in (first, second)]
    # The relative error of an infinite ratio is not finite either and has no difference.
    kept = np.isfinite(one) & np.isfinite(two)
    one, two = one[kept], two[kept]
    found = statistics.compare_pairs(two, one, resamples=resamples, seed=seed)
    p = _mcnemar(one, two) if score.test == "McNemar" and len(one) else found.p
    return Row(
        dataset=name,
        score=score,
        images=found.images,
        first=float(one.mean()) if len(one) else math.nan,
        second=float(two.mean()) if len(two) else math.nan,
        difference=found.mean,
        low=found.interval[0],
        high=found.interval[1],
        median=found.median,
        better=int((two < one).sum() if score.lower_is_better else (two > one).sum()),
        worse=int((two > one).sum() if score.lower_is_better else (two < one).sum()),
        p=float(p),
        p_holm=math.nan,
        first_missed=missed[0],
        second_missed=missed[1],
    )


def _missed(run: ScoredRun, keys: Sequence[Key], score: Score) -> int | None:
    """Counts the images of which a run's score tells less than the truth asks for."""
    rows = [run.rows[key] for key in keys]
    if score.leaves_out:
        left_out = [row.get(score.leaves_out, math.nan) for row in rows]
        return None if any(map(math.isnan, left_out)) else sum(value > 0 for value in left_out)
    if score.needs:
        asked = [row for row in rows if all(row[column] > 0 for column in score.needs)]
        return sum(not math.isfinite(row[score.key]) for row in asked)
    return 0  # what is missed counts as 0 in the score itself


def _mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Returns p of the exact McNemar test.

    Null hypothesis: of the images that only one run has right, each run has half.
    """
    gained, lost = int((second > first).sum()), int((second < first).sum())
    if not gained + lost:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost).pvalue)


def _contents(run: ScoredRun) -> str:
    names = list(dict.fromkeys(dataset for dataset, _ in run.rows))
    return f"{len(run.rows)} images of {', '.join(names) or 'no data set'}"
