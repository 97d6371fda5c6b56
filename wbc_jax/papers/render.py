"""Writes comparisons with a paper as text, CSV, LaTeX, and one HTML page.

Text, LaTeX and the page show the same formatted cells, so that they cannot disagree.
"""

import dataclasses
import itertools
import math
import re
import string
from collections.abc import Sequence
from typing import Any

from etils import epath

from wbc_jax.papers.comparison import Comparison, Row, Value
from wbc_jax.papers.printed import PAPERS
from wbc_jax.report import html, tables
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder

RECOMPUTED = "from its own numbers"
HEADS = ("paper", "ours", "difference", "95 % interval")
CSV_COLUMNS = (
    "paper", "item", "row", "column", "unit", "paper_value", "paper_printed", "paper_flag",
    "paper_note", "recomputed", "ours", "difference", "ours_low", "ours_high", "blank_because",
    "remark",
)  # fmt: skip
SCALES = {
    "quick": "Quick scale: small networks, small images, few steps. Not the paper's protocol.",
    "full": "Full scale: finished runs of the papers' protocols, where there are any.",
}
PLAIN_UNITS = ("fraction", "ratio", "p", "verdict")
"""Units that are not named beside a column."""
RESEARCH = "For research use only. Not a medical device; not for diagnosis or treatment."
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textsuperscript{\textdagger}",
    "–": "--",
    "×": r"$\times$",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TextRow:
    """A row of a table, formatted.

    Attributes:
        row, column: its position.
        numbers: one text for each of `TextTable.heads`.
        mark: letter of the reason why ours is blank; '' if it is not.
        remark: letter of the remark on ours; '' if there is none.
    """

    row: str
    column: str
    numbers: tuple[str, ...]
    mark: str
    remark: str


@dataclasses.dataclass(frozen=True, slots=True)
class TextTable:
    """A table, formatted.

    Attributes:
        heads: headings of the numbers; marks belong to the column `ours`.
        rows: its rows.
        marks: letters with their reasons or remarks.
    """

    heads: tuple[str, ...]
    rows: tuple[TextRow, ...]
    marks: tuple[tuple[str, str], ...]

    @property
    def groups(self) -> list[tuple[str, list[TextRow]]]:
        """Consecutive rows that belong to the same row of the paper's table."""
        return [(name, list(g)) for name, g in itertools.groupby(self.rows, lambda r: r.row)]


def text_table(item: Comparison) -> TextTable:
    """Formats the table that text, LaTeX and the page show."""
    explained = [*item.reasons, *(r for r in item.remarks if r not in item.reasons)]
    letters = {sentence: _letter(i) for i, sentence in enumerate(explained)}
    recomputed = (RECOMPUTED,) if item.has_recomputed else ()
    heads = (HEADS[0], *recomputed, *HEADS[1:], *item.stand_ins)
    return TextTable(
        heads,
        tuple(_text_row(row, item, letters) for row in item.rows),
        tuple((letter, sentence) for sentence, letter in letters.items()),
    )


def _title(item: Comparison) -> str:
    """Returns the title, with the unit if all rows share one."""
    units = {row.unit for row in item.rows}
    shared = units.pop() if len(units) == 1 else ""
    named = shared and shared not in PLAIN_UNITS
    return f"{item.title}, in {shared}" if named else item.title


def _text_row(row: Row, item: Comparison, letters: dict[str, str]) -> TextRow:
    numbers = [row.printed or tables.DASH]
    if item.has_recomputed:
        numbers.append(row.format_value(row.recomputed))
    numbers += [
        row.format_value(row.ours) or tables.DASH,
        row.format_number(row.difference, signed=True),
        row.interval,
    ]
    for name in item.stand_ins:
        value = row.stand_ins.get(name)
        numbers.append("" if value is None else row.format_value(value) or tables.DASH)
    unit_known = row.unit in PLAIN_UNITS or len({other.unit for other in item.rows}) == 1
    return TextRow(
        row.row,
        row.column if unit_known else f"{row.column} [{row.unit}]",
        tuple(numbers),
        letters.get(row.reason, ""),
        letters.get(row.remark, ""),
    )


def _letter(index: int) -> str:
    """Returns a letter for an index: 0 → a, 25 → z, 26 → aa."""
    name = ""
    index += 1
    while index:
        index, place = divmod(index - 1, 26)
        name = string.ascii_lowercase[place] + name
    return name


def _notes(item: Comparison) -> list[tuple[str, list[str]]]:
    """Returns the notes below a table: headings with their sentences."""
    notes = [
        (
            "Cells of the paper († contradicts another number or is damaged in the text)",
            item.notes,
        ),
        ("What the paper contradicts in itself", list(item.contradictions)),
        ("Differences of protocol", list(item.protocol)),
        ("Not there", list(item.missing)),
    ]
    return [(head, sentences) for head, sentences in notes if sentences]


def text(item: Comparison) -> str:
    """Returns a comparison as plain text for a terminal."""
    table = text_table(item)
    title = f"Paper {item.paper.upper()}, {item.name}: {_title(item)}"
    ours = table.heads.index("ours")
    grid = [["row", "column", *table.heads]]
    before = None
    for row in table.rows:
        numbers = list(row.numbers)
        mark = " ".join(f"({m})" for m in (row.mark, row.remark) if m)
        numbers[ours] += f" {mark}" if mark else ""
        grid.append([row.row if row.row != before else "", row.column, *numbers])
        before = row.row
    widths = [max(map(len, column)) for column in zip(*grid)]
    lines = []
    for line in grid:
        left = [word.ljust(w) for word, w in zip(line[:2], widths)]
        right = [word.rjust(w) for word, w in zip(line[2:], widths[2:])]
        lines.append("  ".join(left + right).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    parts = [title, "=" * len(title), *lines]
    parts += [f"({letter}) {sentence}" for letter, sentence in table.marks]
    for head, sentences in _notes(item):
        parts += [f"{head}:", *(f"  - {sentence}" for sentence in sentences)]
    return "\n".join(parts)


def csv_rows(item: Comparison) -> list[dict[str, Any]]:
    """Returns the rows of a comparison's CSV file, with unrounded numbers."""
    found = []
    for row in item.rows:
        paper = row.paper
        line = {
            "paper": item.paper,
            "item": item.name,
            "row": row.row,
            "column": row.column,
            "unit": row.unit,
            "paper_value": paper.value if paper else "",
            "paper_printed": (paper.printed or paper.value) if paper else "",
            "paper_flag": paper.flag if paper else "",
            "paper_note": paper.note if paper else "",
            "recomputed": _word_or_number(row.recomputed),
            "ours": _word_or_number(row.ours),
            "difference": row.difference,
            "ours_low": row.ours.low,
            "ours_high": row.ours.high,
            "blank_because": row.reason,
            "remark": row.remark,
        }
        for name in item.stand_ins:
            value = row.stand_ins.get(name)
            line[name] = math.nan if value is None else value.number
        found.append(line)
    return found


def _word_or_number(value: Value) -> str | float:
    return value.word or value.number


def latex_text(value: str) -> str:
    """Returns a text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in value)


def latex(item: Comparison) -> str:
    """Returns a comparison as a LaTeX table (packages longtable and booktabs)."""
    table = text_table(item)
    ours = table.heads.index("ours")
    title = f"{_title(item)} ({PAPERS[item.paper]}, {item.name})"
    heads = " & ".join(latex_text(h) for h in ("row", "column", *table.heads))
    lines = [
        "% packages: longtable, booktabs",
        rf"\begin{{longtable}}{{ll{'r' * len(table.heads)}}}",
        rf"\caption{{{latex_text(title)}}}\\",
        r"\toprule",
        rf"{heads} \\",
        r"\midrule",
        r"\endhead",
    ]
    before = None
    for row in table.rows:
        numbers = [latex_text(n) for n in row.numbers]
        marks = ",".join(m for m in (row.mark, row.remark) if m)
        numbers[ours] += rf"\textsuperscript{{{marks}}}" if marks else ""
        first = latex_text(row.row) if row.row != before else ""
        lines.append(" & ".join([first, latex_text(row.column), *numbers]) + r" \\")
        before = row.row
    lines += [r"\bottomrule", r"\end{longtable}"]
    for letter, sentence in table.marks:
        lines.append(rf"\noindent\textsuperscript{{{letter}}} {latex_text(sentence)}\par")
    for head, sentences in _notes(item):
        lines.append(
            rf"\noindent\textbf{{{latex_text(head)}.}} {latex_text(' '.join(sentences))}\par"
        )
    return "\n".join(lines) + "\n"


def page(paper: str, scale: str, items: Sequence[Comparison]) -> str:
    """Returns one HTML page with all comparisons; it needs no network."""
    environment = html.make_environment()
    shown = [
        {
            "item": item.item,
            "name": item.name,
            "title": _title(item),
            "table": text_table(item),
            "notes": _notes(item),
            "figures": [
                {
                    "title": figure.title,
                    "alt": figure.alt,
                    "light": html.uri(figure.light),
                    "dark": html.uri(figure.dark or figure.light),
                }
                for figure in item.figures
            ],
            "cells": len(item.rows),
            "filled": sum(row.ours.known for row in item.rows),
        }
        for item in items
    ]
    return environment.get_template("reproduce.html.j2").render(
        paper=PAPERS[paper],
        letter=paper.upper(),
        scale=SCALES[scale],
        quick=scale == "quick",
        items=shown,
        cells=sum(item["cells"] for item in shown),
        filled=sum(item["filled"] for item in shown),
        research=RESEARCH,
    )


def write(
    folder: OutputFolder, paper: str, scale: str, items: Sequence[Comparison]
) -> list[epath.Path]:
    """Writes text, CSV and LaTeX of each comparison, its figures, and `index.html` with all.

    Returns:
        The files written, the page last.

    Raises:
        OSError: a file cannot be written; no partial file is left.
    """
    written = []
    for item in items:
        columns = (*CSV_COLUMNS, *item.stand_ins)
        files = {
            f"{item.item}.txt": f"{text(item)}\n".encode(),
            f"{item.item}.csv": atomic.csv_table(csv_rows(item), columns).encode(),
            f"{item.item}.tex": latex(item).encode(),
        }
        for number, figure in enumerate(item.figures, 1):
            files[f"{item.item}_{number}.png"] = figure.light
        folder.write(files)
        written += files
    folder.write_text("index.html", page(paper, scale, items))
    return [folder.path / name for name in (*written, "index.html")]


def result_names(folder: epath.Path, items: Sequence[str]) -> list[str]:
    """Returns the files in a folder that `write` may replace.

    Args:
        folder: as in `write`.
        items: names of the tables and figures, such as `table_4`.
    """
    stems = re.compile(rf"({'|'.join(map(re.escape, items))})(_\d+)?|index")
    return sorted(path.name for path in folder.glob("*.*") if stems.fullmatch(path.stem))
