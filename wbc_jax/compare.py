"""Two runs beside each other, image by image: `python -m wbc_jax.compare RUN_A RUN_B --out=DIR`.

Reads `report/per_image.csv` of both, pairs the rows by data set and id, and says for each score, by
data set and over all images, how far B lies from A, with an interval and a paired test. Reads no
image and runs no model.
"""

import argparse
import csv
import dataclasses
import io
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from etils import epath

from wbc_jax.errors import CompareError
from wbc_jax.metrics import statistics
from wbc_jax.report import comparison, tables
from wbc_jax.report.comparison import Comparison, Line, Score

Key = tuple[str, str]
"""Data set and id of an image."""

SCORES = {
    "segmentation": (
        Score("mean_iou", "mean IoU"),
        Score("iou_cytoplasm", "cytoplasm IoU"),
        Score("iou_nucleus", "nucleus IoU"),
        Score("bf_score", "BF score"),
        Score("nc_relative_error", "N/C error", lower_is_better=True),
    ),
    "classification": (
        Score("right", "accuracy", test="McNemar"),
        Score("true_probability", "true type's probability"),
    ),
}
"""By task: what is compared. Each is a number an image."""
_TASK_COLUMNS = {"segmentation": "mean_iou", "classification": "predicted"}
_TRUTH = {
    "segmentation": ("truth_nucleus_px", "truth_cytoplasm_px"),
    "classification": ("label",),
}
_WORDS = {"True": 1.0, "False": 0.0, "": math.nan}


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one run scored.

    Attributes:
        name: as the user wrote it.
        task: `segmentation` or `classification`.
        rows: numbers of each image; NaN where there is none.
    """

    name: str
    task: str
    rows: Mapping[Key, Mapping[str, float]]


def read(folder: epath.PathLike) -> Run:
    """Reads the rows of a run.

    Args:
        folder: the run's `--workdir`.

    Raises:
        CompareError: there is no table, or it is no table of this program's, or an image stands in
            it twice, or a cell that must be a number is none; names file, line and column.
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
    needed = [c for c in columns if c not in ("dataset", "id", "flag", "label_source")]
    missing = [c for c in (*_TRUTH[task], "label") if c not in columns]
    if missing:
        raise CompareError(f"{path} lacks the column {missing[0]}; evaluate the run again.")
    rows: dict[Key, dict[str, float]] = {}
    for number, line in enumerate(lines, 2):
        key = (str(line["dataset"]), str(line["id"]))
        if key in rows:
            raise CompareError(
                f"{path}, line {number}: {key[0]} {key[1]} stands there twice; evaluate the run "
                "again."
            )
        rows[key] = {c: _number(line[c], f"{path}, line {number}, {c}") for c in needed}
        if task == "classification":
            rows[key]["true_probability"] = _true_probability(line, path, number)
    return Run(os.fspath(folder), task, rows)


def _number(text: str | None, where: str) -> float:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return float(text or "missing")
    except ValueError:
        raise CompareError(f"{where}: {text!r} is no number; evaluate the run again.") from None


def _true_probability(line: Mapping[str, str], path: epath.Path, number: int) -> float:
    """The probability that the model gave to the type that the cell has."""
    label = tables.number(line["label"])
    name = comparison.type_name(label)
    where = f"{path}, line {number}"
    if f"probability_{name}" not in line:
        raise CompareError(
            f"{where}: label {line['label']!r} is none of a type whose probability is given; "
            "evaluate the run again."
        )
    return _number(line[f"probability_{name}"], f"{where}, probability_{name}")


def compare(
    first: Run, second: Run, resamples: int = statistics.RESAMPLES, seed: int = 0
) -> Comparison:
    """Compares the second run with the first on the images that both have scored.

    The difference is second − first, of the same image; its mean has a percentile interval by
    bootstrap over images, and a two-sided test: Wilcoxon's signed-rank test, or for right and wrong
    answers the exact McNemar test. The p values of all tests of the comparison are corrected
    together (Holm 1979).

    Args:
        first, second: from `read`.
        resamples, seed: of the intervals.

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
            f"{_sets(first)} and {_sets(second)}. Evaluate them on the same data and split."
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
    known = [
        score
        for score in SCORES[first.task]
        if all(score.key in run.rows[both[0]] for run in (first, second))
    ]
    sets = list(dict.fromkeys(dataset for dataset, _ in both))
    groups = {name: [key for key in both if key[0] == name] for name in sets}
    if len(groups) > 1:
        groups[tables.ALL] = both
    lines = [
        _line(first, second, name, keys, score, resamples, seed)
        for name, keys in groups.items()
        for score in known
    ]
    corrected = statistics.holm([line.p for line in lines])
    return Comparison(
        first=first.name,
        second=second.name,
        task=first.task,
        images=len(both),
        scores=tuple(known),
        absent=tuple(s.name for s in SCORES[first.task] if s not in known),
        lines=tuple(
            dataclasses.replace(line, p_holm=float(p)) for line, p in zip(lines, corrected)
        ),
        only_first=tuple(key for key in first.rows if key not in second.rows),
        only_second=tuple(key for key in second.rows if key not in first.rows),
    )


def _line(
    first: Run, second: Run, name: str, keys: Sequence[Key], score: Score, resamples: int, seed: int
) -> Line:
    one, two = (np.array([run.rows[key][score.key] for key in keys]) for run in (first, second))
    # A relative error of a ratio that is infinite has no difference either.
    kept = np.isfinite(one) & np.isfinite(two)
    one, two = one[kept], two[kept]
    found = statistics.compare_pairs(two, one, resamples=resamples, seed=seed)
    p = _mcnemar(one, two) if score.test == "McNemar" and len(one) else found.p
    return Line(
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
    )


def _mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact McNemar test: of the images that one run alone has right, half are each one's."""
    gained, lost = int((second > first).sum()), int((second < first).sum())
    if not gained + lost:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost).pvalue)


def _sets(run: Run) -> str:
    names = list(dict.fromkeys(dataset for dataset, _ in run.rows))
    return f"{len(run.rows)} images of {', '.join(names) or 'no data set'}"


def main(argv: Sequence[str] | None = None) -> None:
    """The command; ends with a message where the runs cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m wbc_jax.compare", description=__doc__)
    parser.add_argument("first", metavar="RUN_A", help="--workdir of an evaluated run")
    parser.add_argument("second", metavar="RUN_B", help="that of the run to compare with it")
    parser.add_argument("--out", help="folder for comparison.csv, unpaired.csv and index.html")
    parser.add_argument("--bootstrap", type=int, default=statistics.RESAMPLES, help="resamples")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    given: Any = parser.parse_args(argv)
    if given.bootstrap < 1:
        parser.error(f"--bootstrap is {given.bootstrap}; it must be 1 or more")
    try:
        if os.path.realpath(given.first) == os.path.realpath(given.second):
            raise CompareError(f"{given.first} and {given.second} are one run; name two.")
        found = compare(read(given.first), read(given.second), given.bootstrap, given.seed)
        print(comparison.text(found), flush=True)
        if given.out:
            written = comparison.write(epath.Path(given.out).expanduser(), found)
            print(f"\nWritten: {', '.join(map(os.fspath, written))}", flush=True)
    except (CompareError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
