"""The numbers of the papers as printed, read from one CSV file per table.

A file `paper_<a|b>_<item>.csv` has one line per table cell: `source` (the table, figure or section
that prints it), its `row` and `column`, `value`, `unit`, `printed` (the source's own characters if
they differ from the value), and a `flag` with a `note` if the cell is damaged in the text or
contradicts another number.
"""

import csv
import dataclasses
import importlib.resources
import math
import re
from collections.abc import Mapping

DAMAGED = "damaged"
"""The source's text does not let the cell be read with certainty."""
CONTRADICTION = "contradiction"
"""The cell disagrees with another number or a statement of the same paper."""
FLAGS = ("", DAMAGED, CONTRADICTION)
CONTRADICTIONS = "contradictions.csv"
PAPERS = {
    "a": (
        "paper A (Kirubakaran et al., White Blood Cell Segmentation and Determination of Nucleus "
        "to Cytoplasm Ratio)"
    ),
    "b": "paper B (Özcan et al., Cytometry A 2024;105:501–520)",
}
Key = tuple[str, str]
"""Row and column."""


@dataclasses.dataclass(frozen=True, slots=True)
class TableCell:
    """One number as a paper prints it.

    Attributes:
        source: `Table 4`, `Figure 7`, `section 3.1`.
        row, column: its position there, in this project's words.
        value: the number with the printed digits, `<0.001` for a bound; a word for a verdict.
        unit: `fraction`, `percent`, `px`, `ratio`, `images`, `p`, …
        printed: the source's characters, if they differ from `value`.
        flag: one of `FLAGS`.
        note: explains the flag, or where the number comes from.
    """

    source: str
    row: str
    column: str
    value: str
    unit: str
    printed: str = ""
    flag: str = ""
    note: str = ""

    @property
    def number(self) -> float:
        """The value as a number; NaN for a word and for a bound."""
        try:
            return float(self.value)
        except ValueError:
            return math.nan

    @property
    def decimals(self) -> int:
        """Number of digits printed after the point."""
        return len(self.value.partition(".")[2])


def items(paper: str) -> list[str]:
    """Returns the names of a paper's files: `table_1`, …, `figure_7`, `text`, tables first.

    Raises:
        ValueError: there is no such paper.
    """
    if paper not in PAPERS:
        raise ValueError(f"there is no paper {paper!r}; there are {', '.join(PAPERS)}")
    pattern = re.compile(rf"paper_{paper}_((?:table|figure)_\d+|text)\.csv")
    names = [
        match[1]
        for path in importlib.resources.files("wbc_jax.papers").iterdir()
        if (match := pattern.fullmatch(path.name))
    ]
    return sorted(names, key=order)


def order(item: str) -> tuple[int, int]:
    """Returns the sorting key of an item: tables, then figures, then the text, each by number."""
    kind, _, number = item.partition("_")
    return ("table", "figure", "text").index(kind), int(number or 0)


def contradictions(paper: str, item: str) -> list[str]:
    """Returns the contradictions of a table or figure as a whole, one sentence each."""
    path = importlib.resources.files("wbc_jax.papers").joinpath(CONTRADICTIONS)
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [line["note"] for line in lines if (line["paper"], line["item"]) == (paper, item)]


def load(paper: str, item: str) -> dict[Key, TableCell]:
    """Returns the cells of one table, figure or of the text, by (row, column), as printed.

    Args:
        paper: `a` or `b`.
        item: one of `items`.

    Raises:
        ValueError: there is no such file; lists the available ones.
    """
    if item not in items(paper):
        raise ValueError(
            f"there is no {item!r} of paper {paper}; there are {', '.join(items(paper))}"
        )
    path = importlib.resources.files("wbc_jax.papers").joinpath(f"paper_{paper}_{item}.csv")
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {(line["row"], line["column"]): TableCell(**line) for line in lines}


def rows(table: Mapping[Key, TableCell]) -> list[str]:
    """Returns the names of the rows in printed order."""
    return list(dict.fromkeys(row for row, _ in table))


def columns(table: Mapping[Key, TableCell]) -> list[str]:
    """Returns the names of the columns in printed order."""
    return list(dict.fromkeys(column for _, column in table))


def same_digits(found: float, cell: TableCell) -> bool:
    """Returns whether `found`, rounded or truncated to the printed digits, equals the cell.

    Both papers truncate in some places and round in others.
    """
    if not (math.isfinite(found) and math.isfinite(cell.number)):
        return False
    scale = 10**cell.decimals
    shown = round(cell.number * scale)
    # The slack covers binary fractions: 0.29 * 100 is 28.999999999999996.
    return shown in (round(found * scale), math.floor(found * scale + 1e-9))
