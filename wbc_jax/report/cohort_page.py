"""The comparison of groups of cells (`evaluate.cohort`) as text, tables and one HTML page.

All are written from the same numbers, so that they cannot disagree.
"""

from __future__ import annotations

import functools
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from wbc_jax.data import crops, images
from wbc_jax.errors import DataError
from wbc_jax.evaluate import cohort, cohort_truth
from wbc_jax.evaluate.cell_tables import UNMEASURED, CellRow
from wbc_jax.report import cohort_figures, html, overlays, tables
from wbc_jax.report.comparison import signed
from wbc_jax.utils.output_folder import OutputFolder

TRUTH_FILES = ("against_truth.csv", "truth_tests.csv")
FILES = ("measures.csv", "tests.csv", "left_out.csv", *TRUTH_FILES, "index.html")
MEASURE_COLUMNS = (
    "measure", "unit", "group", "cells", "infinite", "median", "median_low", "median_high",
    "q1", "q1_low", "q1_high", "q3", "q3_low", "q3_high",
)  # fmt: skip
TEST_COLUMNS = (
    "measure", "first", "second", "test", "statistic", "p", "p_holm", "effect", "effect_size",
    "effect_low", "effect_high", "auroc", "auroc_low", "auroc_high",
)  # fmt: skip
LEFT_OUT_COLUMNS = ("group", "flag", "cells", "left_out")
TRUTH_COLUMNS = (
    "measure", "unit", "group", "cells", "truth_median", "median", "difference", "difference_low",
    "difference_high",
)  # fmt: skip
RESEARCH = (
    "This is research, not a diagnosis: it compares groups of cells on these images, and says "
    "nothing about a single person."
)
EXTREMES = 6
"""Number of cells shown at each end of a group."""
THUMBNAIL_PX = 112


def value(number: float, measure: cohort.Measure) -> str:
    """Writes a number in the measure's decimals."""
    return "∞" if number == math.inf else tables.decimal(number, measure.digits)


def between(low: float, high: float, measure: cohort.Measure) -> str:
    """Writes an interval in the measure's decimals; empty where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{value(low, measure)} to {value(high, measure)}"


def ends(interval: Sequence[float], digits: int = 3) -> str:
    """Writes an interval; empty where there is none."""
    if any(map(math.isnan, interval)):
        return ""
    return " to ".join(tables.decimal(end, digits).replace("-", "−") for end in interval)


def _p(number: float) -> str:
    found = tables.number(number)
    return tables.DASH if found is None else "<0.0001" if found < 0.0001 else f"{found:.4f}"


def lead(found: cohort.Cohort) -> list[str]:
    """Returns the headline: the N/C ratio of the groups."""
    ratios = [summary for summary in found.summaries if summary.measure.key == "nc_ratio"]
    medians = ", ".join(
        f"{value(one.quartiles[1], one.measure)} in {html.plural(one.cells, 'cell')} of "
        f"{one.group} (95 % interval {between(one.low[1], one.high[1], one.measure)})"
        for one in ratios
    )
    test = next(test for test in found.tests if test.measure.key == "nc_ratio")
    if test.first:
        told = (
            f"A cell of {test.second} has a larger one than a cell of {test.first} with a "
            f"probability of {tables.decimal(test.auroc)} (AUROC, {ends(test.auroc_interval)}; "
            f"{test.name}, p {tables.p_value(test.p_holm)} after Holm)."
        )
    else:
        told = (
            f"The groups explain {tables.percent(test.effect)} of the variance of its ranks "
            f"({test.name}, p {tables.p_value(test.p_holm)} after Holm)."
        )
    return [f"The median N/C ratio is {medians}. {told}", RESEARCH]


def rule_text(found: cohort.Cohort) -> str:
    """Returns the sentence that says which cells were left out."""
    flags = ", ".join(found.rule.flags) or "none"
    return (
        "Left out are images without a cell, cells without a mask, and cells with one of these "
        f"flags: {flags} (--leave_out). A cell with several is counted under the first. Other "
        "flags change nothing. review means that the classifier is not sure of the type. It says "
        "nothing about the mask, and leaving such cells out may select within a group."
    )


def notes(found: cohort.Cohort) -> list[str]:
    """Returns sentences that explain the numbers."""
    pairs = sum(bool(t.first) and not t.measure.ranks_of for t in found.tests)
    said = [
        "Intervals: 95 %, bootstrap over the cells of each group. An interval without width at 0 "
        "or 1 means only that no resample had another order; it does not show certainty.",
        "AUROC: probability that a cell of the second group has a larger value than one of the "
        "first, ties half; below 0.5 the second group is lower. Cliff’s delta, which is the "
        "rank-biserial correlation, is 2 · AUROC − 1. p: two-sided, Mann–Whitney, normal "
        f"approximation with ties; p (Holm): corrected for the {pairs} tests of this table. N/C "
        "and N/(N+C) sort cells alike, so that their tests are one.",
    ]
    if len(found.groups) > 2:
        said.append(
            "All groups: Kruskal–Wallis with its effect size ε², corrected for the measures on "
            "its own."
        )
    if found.absent:
        said.append(f"Not compared, as a table lacks it: {', '.join(found.absent)}.")
    if infinite := sum(s.infinite for s in found.summaries if s.measure.key == "nc_ratio"):
        said.append(
            f"N/C is infinite in {html.plural(infinite, 'cell')} without cytoplasm: it counts as "
            "the largest, and is not drawn."
        )
    return [*said, *found.notes]


def test_cells(test: cohort.Test) -> tuple[str, ...]:
    """Returns a test's texts: AUROC, effect, p, p (Holm), each interval after its number."""
    return (
        tables.decimal(test.auroc),
        ends(test.auroc_interval),
        signed(test.effect, 3) if test.first else tables.decimal(test.effect),
        ends(test.interval),
        _p(test.p),
        _p(test.p_holm),
    )


def pair_name(test: cohort.Test) -> str:
    """Returns the groups that a test compares."""
    return f"{test.second} against {test.first}" if test.first else "all groups"


def text(found: cohort.Cohort, truth: cohort_truth.AgainstTruth | None = None) -> str:
    """Writes the comparison for a terminal."""
    several = len(found.groups) > 2
    effect_name = "delta or ε²" if several else "delta"
    grid = [["measure", *(g.name for g in found.groups), "AUROC", "", effect_name, "p (Holm)"]]
    for measure in found.measures:
        row = [measure.label]
        for one in found.summaries:
            if one.measure == measure:
                quarter = between(one.quartiles[0], one.quartiles[2], measure)
                row.append(f"{value(one.quartiles[1], measure)} ({quarter})")
        lines = []
        for test in (t for t in found.tests if t.measure == measure):
            auroc, interval, effect, _, _, p = test_cells(test)
            lines.append((test, [auroc, interval, effect, p]))
        if several:
            grid.append([*row, *[""] * 4])
            blank = [""] * len(found.groups)
            grid += [[f"  {pair_name(test)}", *blank, *numbers] for test, numbers in lines]
        else:
            grid.append([*row, *lines[0][1]])
    wrap = functools.partial(textwrap.fill, width=100)
    said = [*map(wrap, lead(found)), "", *_aligned(grid), ""]
    said += ["Groups: median (lower to upper quartile).", "", *map(wrap, _counted(found))]
    said += ["", wrap(rule_text(found)), "", *map(wrap, notes(found))]
    if truth is not None:
        grid = [["measure", "group", "cells", "true masks", "our masks", "difference", ""]]
        grid += [[b.measure.label, b.group, *bias_cells(b)] for b in truth.biases]
        said += ["", "Our masks against true masks of the same cells, medians:", *_aligned(grid)]
        grid = [["measure", "groups", "AUROC, true masks", "", "AUROC, our masks", ""]]
        grid += [
            [real.measure.label, pair_name(real), *test_cells(real)[:2], *test_cells(ours)[:2]]
            for real, ours in _paired_tests(truth)
        ]
        said += ["", *_aligned(grid)]
    return "\n".join(said)


def _counted(found: cohort.Cohort) -> Iterator[str]:
    """Yields a sentence a group about the cells that are measured and left out."""
    for group in found.groups:
        left = ", ".join(f"{n} {reason}" for reason, n in group.left_out.items())
        kept = ", ".join(f"{n} {flag}" for flag, n in group.kept.items())
        yield (
            f"{group.name}: {html.plural(len(group.rows), 'cell')} of "
            f"{html.plural(group.images, 'image')}; left out: {left or 'none'}"
            f"{f'; flagged and kept: {kept}' if kept else ''}."
        )
    if found.nameless:
        yield f"Left out without a group: {html.plural(found.nameless, 'row')}."


def _aligned(grid: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in grid
    ]
    return [lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])]


def bias_cells(bias: cohort_truth.Bias) -> tuple[str, ...]:
    """Returns a bias's texts: cells, both medians, difference and its interval."""
    digits = max(bias.measure.digits, 1)
    return (
        tables.count(bias.cells),
        value(bias.truth, bias.measure),
        value(bias.ours, bias.measure),
        signed(bias.difference, digits),
        f"{signed(bias.low, digits)} to {signed(bias.high, digits)}" if bias.cells else "",
    )


def extremes(
    found: cohort.Cohort, key: str = "nc_ratio"
) -> list[tuple[str, str, list[tuple[CellRow, float]]]]:
    """Returns the cells at both ends of each group, the most extreme first.

    Args:
        found: the comparison.
        key: of the measure.

    Returns:
        (group, `lowest` or `highest`, cells with their values). A cell stands at one end only.
    """
    shown = []
    for group, values in zip(found.groups, found.values[key]):
        order = [int(i) for i in np.argsort(values, kind="stable") if not math.isnan(values[i])]
        number = min(EXTREMES, (len(order) + 1) // 2)
        low = order[:number]
        high = order[::-1][: min(number, len(order) - number)]
        for name, places in (("lowest", low), ("highest", high)):
            shown.append((group.name, name, [(group.rows[i], float(values[i])) for i in places]))
    return shown


def picture(row: CellRow) -> bytes | None:
    """Returns a cell cut from its image as JPEG, with its outlines if there is a mask.

    None where the image is not there, cannot be read, or is not the one that the table describes.
    """
    try:
        image = images.read_image(row.file)
        if row.box is None or (row.size and image.shape[:2] != row.size):
            return None
        if row.mask and os.path.exists(path := os.path.join(row.folder, row.mask)):
            mask = images.decode_mask(epath.Path(path).read_bytes())
            if mask.shape == image.shape[:2]:
                image = overlays.overlay(image, mask)
        cut = crops.cut(image, row.box)
    except (DataError, OSError, ValueError):
        return None
    return overlays.jpeg(overlays.resize(cut, THUMBNAIL_PX), quality=85)


def page(found: cohort.Cohort, truth: cohort_truth.AgainstTruth | None = None) -> str:
    """Writes the comparison as one offline HTML page (see `html`)."""
    measure = found.measures[0]
    shown, missing = [], 0
    for group, end, chosen in extremes(found, measure.key):
        cards = []
        for row, number in chosen:
            cut = picture(row)
            missing += cut is None
            if cut is not None:
                cards.append((html.uri(cut, "jpeg"), row.stem, value(number, measure)))
        shown.append((group, end, cards))
    chart = functools.partial(html.chart, data=found)
    return (
        html.make_environment()
        .get_template("cohort.html.j2")
        .render(
            title=" against ".join(group.name for group in reversed(found.groups))
            if len(found.groups) == 2
            else ", ".join(group.name for group in found.groups),
            lead=lead(found),
            counts=list(_counted(found)),
            rule=rule_text(found),
            notes=notes(found),
            summaries=[
                (m.label, [s for s in found.summaries if s.measure == m]) for m in found.measures
            ],
            groups=[group.name for group in found.groups],
            tests=[(m.label, [t for t in found.tests if t.measure == m]) for m in found.measures],
            extremes=shown if any(cards for *_, cards in shown) else [],
            extreme_of=measure.name,
            missing=missing,
            distributions=chart(cohort_figures.cohort_distributions),
            distributions_size=cohort_figures.cohort_distributions_px(found),
            curves=chart(cohort_figures.cohort_curves),
            curves_size=cohort_figures.cohort_curves_px(found),
            truth=truth,
            truth_pairs=[] if truth is None else _paired_tests(truth),
            value=value,
            between=between,
            ends=ends,
            test_cells=test_cells,
            pair_name=pair_name,
            bias_cells=bias_cells,
        )
    )


def _paired_tests(truth: cohort_truth.AgainstTruth) -> list[tuple[cohort.Test, cohort.Test]]:
    """Returns the tests of pairs by the true masks and by ours, side by side."""
    ours = {(t.measure, t.first, t.second): t for t in truth.ours.tests if t.first}
    keys = ((test, (test.measure, test.first, test.second)) for test in truth.truth.tests)
    return [(test, ours[key]) for test, key in keys if key in ours]


def measure_rows(found: cohort.Cohort) -> list[dict[str, Any]]:
    """Returns the rows of `measures.csv`, with numbers not rounded."""
    return [
        {
            "measure": one.measure.key,
            "unit": one.measure.unit,
            **{key: getattr(one, key) for key in ("group", "cells", "infinite")},
            **{
                f"{name}{end}": getattr(one, attribute)[place]
                for place, name in enumerate(("q1", "median", "q3"))
                for end, attribute in (("", "quartiles"), ("_low", "low"), ("_high", "high"))
            },
        }
        for one in found.summaries
    ]


def test_rows(found: cohort.Cohort) -> list[dict[str, Any]]:
    """Returns the rows of `tests.csv`, with numbers not rounded."""
    return [
        {
            "measure": test.measure.key,
            "test": test.name,
            "first": test.first or "all",
            **{key: getattr(test, key) for key in ("second", "statistic", "p", "p_holm", "auroc")},
            "effect": "cliffs_delta" if test.first else "epsilon_squared",
            "effect_size": test.effect,
            "effect_low": test.interval[0],
            "effect_high": test.interval[1],
            "auroc_low": test.auroc_interval[0],
            "auroc_high": test.auroc_interval[1],
        }
        for test in found.tests
    ]


def left_out_rows(found: cohort.Cohort) -> list[dict[str, Any]]:
    """Returns the rows of `left_out.csv`: cells by flag, left out or kept all the same."""
    rows = [
        {"group": group.name, "flag": flag, "cells": cells, "left_out": left}
        for group in found.groups
        for counts, left in ((group.left_out, True), (group.kept, False))
        for flag, cells in counts.items()
    ]
    if found.nameless:
        rows.append(
            {"group": "", "flag": UNMEASURED[-1], "cells": found.nameless, "left_out": True}
        )
    return rows


def _truth_rows(truth: cohort_truth.AgainstTruth) -> list[dict[str, Any]]:
    return [
        {
            "measure": bias.measure.key,
            "unit": bias.measure.unit,
            **{key: getattr(bias, key) for key in ("group", "cells", "difference")},
            "truth_median": bias.truth,
            "median": bias.ours,
            "difference_low": bias.low,
            "difference_high": bias.high,
        }
        for bias in truth.biases
    ]


def write(
    folder: OutputFolder, found: cohort.Cohort, truth: cohort_truth.AgainstTruth | None = None
) -> list[epath.Path]:
    """Writes `FILES`, each whole or not at all; `TRUTH_FILES` only with true masks.

    `truth_tests.csv` has the rows of `tests.csv` by each of both masks, on the same cells.

    Returns:
        The files written, the page last.

    Raises:
        OSError: the folder cannot be written.
    """
    measures, tests, left_out, against, both, index = FILES
    folder.write_csv(measures, measure_rows(found), MEASURE_COLUMNS)
    folder.write_csv(tests, test_rows(found), TEST_COLUMNS)
    folder.write_csv(left_out, left_out_rows(found), LEFT_OUT_COLUMNS)
    if truth is None:
        for name in TRUTH_FILES:
            folder.remove(name)
    else:
        folder.write_csv(against, _truth_rows(truth), TRUTH_COLUMNS)
        rows = [
            {"masks": name, **row}
            for name, by in (("true", truth.truth), ("ours", truth.ours))
            for row in test_rows(by)
        ]
        folder.write_csv(both, rows, ("masks", *TEST_COLUMNS))
    folder.write_text(index, page(found, truth))
    return [folder.path / name for name in FILES if truth is not None or name not in TRUTH_FILES]
