"""The comparison of two runs (`evaluate.paired`) as text, as CSV and as one HTML page.

All three are written from the same rows, so that they cannot disagree.
"""

from __future__ import annotations

import math
from typing import Any

from etils import epath

from wbc_jax.evaluate import paired
from wbc_jax.report import figures, html, tables
from wbc_jax.utils.output_folder import OutputFolder

CSV_COLUMNS = (
    "dataset", "score", "images", "first", "second", "difference", "low", "high", "median",
    "better", "worse", "test", "p", "p_holm", "verdict", "first_missed", "second_missed",
)  # fmt: skip
FILES = ("comparison.csv", "unpaired.csv", "index.html")
UNPAIRED_COLUMNS = ("dataset", "id", "only_in")
HEADS = (
    "images", "A", "B", "B − A", "95 % interval", "better", "worse", "A missed", "B missed", "p",
    "p (Holm)", "",
)  # fmt: skip


def signed(value: float, digits: int = 4) -> str:
    """Writes a difference with its sign, `−0.0123`; a dash where there is none."""
    if tables.number(value) is None:
        return tables.DASH
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def cells(row: paired.Row) -> tuple[str, ...]:
    """Returns a row's texts below `HEADS`."""
    known = not math.isnan(row.low)
    return (
        tables.count(row.images),
        tables.decimal(row.first, 4),
        tables.decimal(row.second, 4),
        signed(row.difference),
        f"[{signed(row.low)}, {signed(row.high)}]" if known else "",
        tables.count(row.better),
        tables.count(row.worse),
        tables.count(row.first_missed),
        tables.count(row.second_missed),
        _p(row.p),
        _p(row.p_holm),
        row.verdict,
    )


def _p(value: float) -> str:
    found = tables.number(value)
    return tables.DASH if found is None else "<0.0001" if found < 0.0001 else f"{found:.4f}"


def notes(found: paired.Comparison) -> list[str]:
    """Returns sentences that explain the numbers and name what was left out."""
    tests = {score.test for score in found.scores}
    named = {
        "Wilcoxon": "Wilcoxon's signed-rank test, images without a difference left out",
        "McNemar": "for the accuracy the exact McNemar test",
    }
    number = sum(not math.isnan(row.p) for row in found.rows)
    said = [
        "B − A: mean over images of the difference on the same image; the interval is a bootstrap "
        "over images. Better, worse: number of images on which B is better or worse. p: two-sided, "
        f"{'; '.join(text for name, text in named.items() if name in tests)}. p (Holm): corrected "
        f"for the {number} tests of this comparison; a run is called better where it is below "
        f"{paired.ALPHA} and the interval lies on one side of 0."
    ]
    if found.task == "segmentation":
        said.append(
            "Means are over the images that have the score in both runs (images). A missed, B "
            "missed: number of images that lack it in the run though the truth has it. The BF "
            "score counts a class that only truth or only prediction has as 0; MATLAB's leaves it "
            "out, so that a miss raises it, and missed counts the images of which it does."
        )
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


def lead(found: paired.Comparison) -> list[str]:
    """Returns the headline: the first score over all images."""
    row = next(row for row in reversed(found.rows) if row.score == found.scores[0])
    outcome = {
        "B better": "B is better.",
        "A better": "A is better.",
        "": "No difference is shown.",
    }[row.verdict]
    return [
        f"On the {html.plural(found.images, 'image')} that both scored, the {row.score.name} of B "
        f"is {tables.decimal(row.second, 4)} and that of A {tables.decimal(row.first, 4)}: "
        f"{signed(row.difference)} (95 % interval {signed(row.low)} to {signed(row.high)}; "
        f"p {tables.p_value(row.p_holm)} after Holm). {outcome}"
    ]


def text(found: paired.Comparison) -> str:
    """Writes the comparison for a terminal."""
    grid = [["data set", "score", *HEADS]]
    for name, rows in found.groups:
        for i, row in enumerate(rows):
            grid.append(["" if i else name, row.score.name, *cells(row)])
    widths = [max(map(len, column)) for column in zip(*grid)]
    table = []
    for texts in grid:
        left = [cell.ljust(width) for cell, width in zip(texts[:2], widths)]
        right = [cell.rjust(width) for cell, width in zip(texts[2:], widths[2:])]
        table.append("  ".join(left + right).rstrip())
    table.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    heads = [f"A: {found.first}", f"B: {found.second}"]
    return "\n".join([*heads, "", *lead(found), "", *table, "", *notes(found)])


def csv_rows(found: paired.Comparison) -> list[dict[str, Any]]:
    """Returns the rows of `comparison.csv`, with numbers not rounded."""
    same = ("dataset", "images", "first", "second", "difference", "low", "high", "median")
    return [
        {key: getattr(row, key) for key in (*same, "better", "worse", "p", "p_holm", "verdict")}
        | {"score": row.score.key, "test": row.score.test}
        | {"first_missed": row.first_missed, "second_missed": row.second_missed}
        for row in found.rows
    ]


def page(found: paired.Comparison) -> str:
    """Writes the comparison as one offline HTML page (see `html`)."""
    template = html.make_environment().get_template("comparison.html.j2")
    return template.render(
        task=found.task,
        first=found.first,
        second=found.second,
        lead=lead(found),
        heads=HEADS,
        groups=[(name, [(row.score.name, cells(row)) for row in g]) for name, g in found.groups],
        notes=notes(found),
        figure=html.chart(figures.differences, found.rows),
        size=figures.DIFFERENCES_PX,
        alone=[
            (f"{html.plural(len(keys), 'image')} of {name} alone", keys)
            for name, keys in (("A", found.only_first), ("B", found.only_second))
            if keys
        ],
    )


def write(folder: OutputFolder, found: paired.Comparison) -> list[epath.Path]:
    """Writes `FILES`, each whole or not at all.

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
    table, alone, index = FILES
    folder.write_csv(table, csv_rows(found), CSV_COLUMNS)
    folder.write_csv(alone, unpaired, UNPAIRED_COLUMNS)
    folder.write_text(index, page(found))
    return [folder.path / name for name in FILES]
