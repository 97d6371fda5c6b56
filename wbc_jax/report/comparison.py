"""Two runs' difference, image by image, as text, CSV and one HTML page; `wbc_jax.compare` fills it.

All three are written from the same lines, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

from etils import epath

from wbc_jax.report import figures, html, tables
from wbc_jax.utils import atomic

type_name = figures.type_name
LEVEL = 0.05
CSV_COLUMNS = (
    "dataset", "score", "images", "first", "second", "difference", "low", "high", "median",
    "better", "worse", "test", "p", "p_holm", "verdict",
)  # fmt: skip
UNPAIRED_COLUMNS = ("dataset", "id", "only_in")
HEADS = ("images", "A", "B", "B − A", "95 % interval", "better", "worse", "p", "p (Holm)", "")


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """What is compared.

    Attributes:
        key: column of `report/per_image.csv`.
        name: for people.
        lower_is_better: it is an error.
        test: `Wilcoxon` (signed rank) or `McNemar` (exact).
    """

    key: str
    name: str
    lower_is_better: bool = False
    test: str = "Wilcoxon"


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One score on the images of one data set, or of all; NaN where nothing is known.

    Attributes:
        images: how many have it in both runs.
        first, second: its mean over them.
        difference, low, high: mean of second − first, and its 95 % interval.
        median: of second − first.
        better, worse: images on which the second run is better and worse than the first.
        p, p_holm: two-sided; corrected for all tests of the comparison.
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

    @property
    def verdict(self) -> str:
        """`B better` or `A better` where the corrected p is below 0.05 and the interval lies on one
        side of 0, else empty: a test of ranks may see another difference than the mean's."""
        if not (self.p_holm < LEVEL and self.low * self.high > 0):
            return ""
        return "B better" if (self.difference > 0) != self.score.lower_is_better else "A better"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two runs.

    Attributes:
        first, second: the runs' names, A and B.
        images: how many are in both.
        scores: what was compared.
        absent: names of scores that a run's table lacks.
        lines: by data set and then by score, `all` last.
        only_first, only_second: (data set, id) of images of one run alone.
    """

    first: str
    second: str
    task: str
    images: int
    scores: tuple[Score, ...]
    absent: tuple[str, ...]
    lines: tuple[Line, ...]
    only_first: tuple[tuple[str, str], ...]
    only_second: tuple[tuple[str, str], ...]

    @property
    def groups(self) -> list[tuple[str, list[Line]]]:
        """Lines of each data set."""
        return [(n, list(g)) for n, g in itertools.groupby(self.lines, lambda x: x.dataset)]


def signed(value: float, digits: int = 4) -> str:
    """`−0.0123`; a dash where there is none."""
    if tables.number(value) is None:
        return tables.DASH
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def cells(line: Line) -> tuple[str, ...]:
    """The texts of `HEADS`."""
    known = not math.isnan(line.low)
    return (
        tables.count(line.images),
        tables.decimal(line.first, 4),
        tables.decimal(line.second, 4),
        signed(line.difference),
        f"[{signed(line.low)}, {signed(line.high)}]" if known else "",
        tables.count(line.better),
        tables.count(line.worse),
        _p(line.p),
        _p(line.p_holm),
        line.verdict,
    )


def _p(value: float) -> str:
    found = tables.number(value)
    return tables.DASH if found is None else "<0.0001" if found < 0.0001 else f"{found:.4f}"


def notes(found: Comparison) -> list[str]:
    """What the numbers mean, and what was left out, as sentences."""
    tests = {score.test for score in found.scores}
    named = {
        "Wilcoxon": "Wilcoxon's signed-rank test, images without a difference left out",
        "McNemar": "for the accuracy the exact McNemar test",
    }
    said = [
        "B − A: mean over images of the difference on the same image; the interval is a bootstrap "
        "over images. Better and worse: images on which B is. p: two-sided, "
        f"{'; '.join(text for name, text in named.items() if name in tests)}. p (Holm): corrected "
        f"for the {sum(not math.isnan(line.p) for line in found.lines)} tests of this comparison; "
        f"a run is called better where it is below {LEVEL} and the interval lies on one side of 0."
    ]
    if any(score.lower_is_better for score in found.scores):
        lower = [score.name for score in found.scores if score.lower_is_better]
        said.append(f"Lower is better: {', '.join(lower)} (relative, as in each run's report).")
    if found.absent:
        said.append(f"Not compared, as a run's table lacks it: {', '.join(found.absent)}.")
    alone = [(len(found.only_first), "A"), (len(found.only_second), "B")]
    left = [f"{html.plural(number, 'image')} of {name} alone" for number, name in alone if number]
    if left:
        said.append(f"Left out: {' and '.join(left)}.")
    return said


def lead(found: Comparison) -> list[str]:
    """The headline: of the first score, over all images."""
    line = next(x for x in reversed(found.lines) if x.score == found.scores[0])
    outcome = {
        "B better": "B is better.",
        "A better": "A is better.",
        "": "No difference is shown.",
    }[line.verdict]
    return [
        f"On the {html.plural(found.images, 'image')} that both scored, the {line.score.name} of B "
        f"is {tables.decimal(line.second, 4)} and that of A {tables.decimal(line.first, 4)}: "
        f"{signed(line.difference)} (95 % interval {signed(line.low)} to {signed(line.high)}; "
        f"p {tables.p_value(line.p_holm)} after Holm). {outcome}"
    ]


def text(found: Comparison) -> str:
    """The comparison for a terminal."""
    grid = [["data set", "score", *HEADS]]
    for name, lines in found.groups:
        for i, line in enumerate(lines):
            grid.append(["" if i else name, line.score.name, *cells(line)])
    widths = [max(map(len, column)) for column in zip(*grid)]
    table = []
    for row in grid:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:])]
        table.append("  ".join(left + right).rstrip())
    table.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    heads = [f"A: {found.first}", f"B: {found.second}"]
    return "\n".join([*heads, "", *lead(found), "", *table, "", *notes(found)])


def csv_rows(found: Comparison) -> list[dict[str, Any]]:
    """The lines with unrounded numbers, a key a column of `comparison.csv`."""
    same = ("dataset", "images", "first", "second", "difference", "low", "high", "median")
    return [
        {key: getattr(line, key) for key in (*same, "better", "worse", "p", "p_holm", "verdict")}
        | {"score": line.score.key, "test": line.score.test}
        for line in found.lines
    ]


def page(found: Comparison) -> str:
    """The comparison as one HTML page that opens anywhere, without a network."""
    environment = html.make_environment()
    environment.filters.update(breakable=html.breakable)
    return environment.get_template("comparison.html.j2").render(
        task=found.task,
        first=found.first,
        second=found.second,
        lead=lead(found),
        heads=HEADS,
        groups=[(n, [(x.score.name, cells(x), x.verdict) for x in g]) for n, g in found.groups],
        notes=notes(found),
        figure=html.both(figures.differences, found.lines),
        width=figures.DIFFERENCES_WIDTH,
        alone=[
            (f"{html.plural(len(keys), 'image')} of {name} alone", keys)
            for name, keys in (("A", found.only_first), ("B", found.only_second))
            if keys
        ],
    )


def write(folder: epath.Path, found: Comparison) -> list[epath.Path]:
    """Writes `comparison.csv`, `unpaired.csv` and `index.html`, each whole or not at all.

    Returns:
        The files written, the page last.

    Raises:
        OSError: the folder cannot be written.
    """
    unpaired = [
        {"dataset": dataset, "id": id_, "only_in": name}
        for name, keys in (("A", found.only_first), ("B", found.only_second))
        for dataset, id_ in keys
    ]
    atomic.write_csv(folder / "comparison.csv", csv_rows(found), CSV_COLUMNS)
    atomic.write_csv(folder / "unpaired.csv", unpaired, UNPAIRED_COLUMNS)
    atomic.write_text(folder / "index.html", page(found))
    return [folder / name for name in ("comparison.csv", "unpaired.csv", "index.html")]
