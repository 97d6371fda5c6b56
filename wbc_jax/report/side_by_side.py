"""A paper's tables with ours beside them: as text, CSV, LaTeX, and one HTML page.

All four are written from the same cells, so that they cannot disagree.
"""

import dataclasses
import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

from etils import epath

from wbc_jax import files
from wbc_jax.papers.cells import PAPERS
from wbc_jax.papers.sheets import Line, Sheet
from wbc_jax.report import html, tables

RECOMPUTED = "from its own numbers"
NUMBERS = ("paper", "ours", "difference", "95 % interval")
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
"""Units that are not written beside a column."""
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
class Row:
    """A line of a written table.

    Attributes:
        row, column: its place.
        numbers: a text for each of `Body.heads`.
        mark: letter of the reason why ours is blank, '' where it is not.
        remark: letter of what ours is, likewise.
    """

    row: str
    column: str
    numbers: tuple[str, ...]
    mark: str
    remark: str


@dataclasses.dataclass(frozen=True, slots=True)
class Body:
    """A table as texts.

    Attributes:
        heads: headings of the numbers; `ours` is where marks belong.
        rows: its lines.
        marks: letter and reason or remark.
    """

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    marks: tuple[tuple[str, str], ...]

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        """Lines that stand together in one row of the paper's table."""
        return [(name, list(g)) for name, g in itertools.groupby(self.rows, lambda r: r.row)]


def body(sheet: Sheet) -> Body:
    """Returns a sheet's table as texts: what every format shows."""
    explained = [*sheet.reasons, *(r for r in sheet.remarks if r not in sheet.reasons)]
    letters = {text: _letter(i) for i, text in enumerate(explained)}
    recomputed = (RECOMPUTED,) if sheet.has_recomputed else ()
    heads = (NUMBERS[0], *recomputed, *NUMBERS[1:], *sheet.stand_ins)
    return Body(
        heads,
        tuple(_row(line, sheet, letters) for line in sheet.lines),
        tuple((letter, text) for text, letter in letters.items()),
    )


def _title(sheet: Sheet) -> str:
    """The title, with the unit that all lines share."""
    units = {line.unit for line in sheet.lines}
    shared = units.pop() if len(units) == 1 else ""
    said = shared and shared not in PLAIN_UNITS
    return f"{sheet.title}, in {shared}" if said else sheet.title


def _row(line: Line, sheet: Sheet, letters: dict[str, str]) -> Row:
    found = [line.printed or tables.DASH]
    if sheet.has_recomputed:
        found.append(line.written(line.recomputed))
    found += [
        line.written(line.ours) or tables.DASH,
        line.number(line.difference, signed=True),
        line.interval,
    ]
    for name in sheet.stand_ins:
        value = line.stand_ins.get(name)
        found.append("" if value is None else line.written(value) or tables.DASH)
    said = line.unit in PLAIN_UNITS or len({other.unit for other in sheet.lines}) == 1
    return Row(
        line.row,
        line.column if said else f"{line.column} [{line.unit}]",
        tuple(found),
        letters.get(line.reason, ""),
        letters.get(line.remark, ""),
    )


def _letter(index: int) -> str:
    """0 → a, 25 → z, 26 → aa."""
    name = ""
    index += 1
    while index:
        index, place = divmod(index - 1, 26)
        name = string.ascii_lowercase[place] + name
    return name


def _beneath(sheet: Sheet) -> list[tuple[str, list[str]]]:
    """What stands beneath a table, heading and sentences."""
    parts = [
        (
            "Cells of the paper († contradicts another number or is damaged in the text)",
            sheet.notes,
        ),
        ("What the paper contradicts in itself", list(sheet.contradictions)),
        ("Differences of protocol", list(sheet.protocol)),
        ("Not there", list(sheet.missing)),
    ]
    return [(head, found) for head, found in parts if found]


def text(sheet: Sheet) -> str:
    """Returns a sheet as plain text for a terminal."""
    table = body(sheet)
    title = f"Paper {sheet.paper.upper()}, {sheet.name}: {_title(sheet)}"
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
    for cells in grid:
        left = [cell.ljust(w) for cell, w in zip(cells[:2], widths)]
        right = [cell.rjust(w) for cell, w in zip(cells[2:], widths[2:])]
        lines.append("  ".join(left + right).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    parts = [title, "=" * len(title), *lines]
    parts += [f"({letter}) {reason}" for letter, reason in table.marks]
    for head, sentences in _beneath(sheet):
        parts += [f"{head}:", *(f"  - {sentence}" for sentence in sentences)]
    return "\n".join(parts)


def csv_rows(sheet: Sheet) -> list[dict[str, Any]]:
    """Returns a sheet's lines with unrounded numbers, a key a column of its CSV file."""
    found = []
    for line in sheet.lines:
        paper = line.paper
        number = _word_or_number(line.ours.word, line.ours.number)
        row = {
            "paper": sheet.paper,
            "item": sheet.name,
            "row": line.row,
            "column": line.column,
            "unit": line.unit,
            "paper_value": paper.value if paper else "",
            "paper_printed": (paper.printed or paper.value) if paper else "",
            "paper_flag": paper.flag if paper else "",
            "paper_note": paper.note if paper else "",
            "recomputed": _word_or_number(line.recomputed.word, line.recomputed.number),
            "ours": number,
            "difference": line.difference,
            "ours_low": line.ours.low,
            "ours_high": line.ours.high,
            "blank_because": line.reason,
            "remark": line.remark,
        }
        for name in sheet.stand_ins:
            value = line.stand_ins.get(name)
            row[name] = math.nan if value is None else value.number
        found.append(row)
    return found


def _word_or_number(word: str, number: float) -> Any:
    return word or number


def latex_text(value: str) -> str:
    """Returns a text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in value)


def latex(sheet: Sheet) -> str:
    """Returns a sheet as a LaTeX table (packages longtable and booktabs)."""
    table = body(sheet)
    ours = table.heads.index("ours")
    title = f"{_title(sheet)} ({PAPERS[sheet.paper]}, {sheet.name})"
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
    for letter, reason in table.marks:
        lines.append(rf"\noindent\textsuperscript{{{letter}}} {latex_text(reason)}\par")
    for head, sentences in _beneath(sheet):
        lines.append(
            rf"\noindent\textbf{{{latex_text(head)}.}} {latex_text(' '.join(sentences))}\par"
        )
    return "\n".join(lines) + "\n"


def page(paper: str, scale: str, sheets: Sequence[Sheet]) -> str:
    """Returns one HTML page with all sheets, readable offline."""
    environment = html.make_environment()
    shown = [
        {
            "item": sheet.item,
            "name": sheet.name,
            "title": _title(sheet),
            "body": body(sheet),
            "beneath": _beneath(sheet),
            "pictures": [
                {
                    "title": picture.title,
                    "alt": picture.alt,
                    "light": html.uri(picture.light),
                    "dark": html.uri(picture.dark or picture.light),
                }
                for picture in sheet.pictures
            ],
            **_tally(sheet),
        }
        for sheet in sheets
    ]
    return environment.get_template("reproduce.html.j2").render(
        paper=PAPERS[paper],
        letter=paper.upper(),
        scale=SCALES[scale],
        quick=scale == "quick",
        sheets=shown,
        cells=sum(sheet["cells"] for sheet in shown),
        filled=sum(sheet["filled"] for sheet in shown),
        research=RESEARCH,
    )


def _tally(sheet: Sheet) -> dict[str, int]:
    return {
        "cells": len(sheet.lines),
        "filled": sum(line.ours.known for line in sheet.lines),
    }


def write(folder: epath.Path, paper: str, scale: str, sheets: Sequence[Sheet]) -> list[epath.Path]:
    """Writes text, CSV and LaTeX of each sheet, its pictures, and `index.html` with all.

    Returns:
        The files written, the page last.

    Raises:
        OSError: a file cannot be written; each is whole or not there.
    """
    written = []
    for sheet in sheets:
        stem = folder / sheet.item
        columns = (*CSV_COLUMNS, *sheet.stand_ins)
        files.write_text(stem.with_suffix(".txt"), text(sheet) + "\n")
        files.write_csv(stem.with_suffix(".csv"), csv_rows(sheet), columns)
        files.write_text(stem.with_suffix(".tex"), latex(sheet))
        written += [stem.with_suffix(suffix) for suffix in (".txt", ".csv", ".tex")]
        for number, picture in enumerate(sheet.pictures, 1):
            path = folder / f"{sheet.item}_{number}.png"
            files.write_bytes(path, picture.light)
            written.append(path)
    files.write_text(folder / "index.html", page(paper, scale, sheets))
    return [*written, folder / "index.html"]
