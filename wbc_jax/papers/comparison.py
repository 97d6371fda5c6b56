"""A table or figure of a paper with our numbers beside it, before it is written in any format."""

import dataclasses
import math
from collections.abc import Sequence

from wbc_jax.papers.printed import TableCell

DIGITS = {
    "fraction": 4,
    "percent": 2,
    "ratio": 3,
    "grey level": 2,
    "p": 3,
    "s": 4,
    "min": 1,
    "images/s": 1,
    "loss": 3,
    "million": 2,
    "thousand": 2,
    "MFLOPs": 0,
    "BFLOPs": 3,
}
"""Digits after the point by unit, if the paper prints no number; 0 for all other units."""
P_SMALLEST = 1e-3
"""Smaller p-values are written as a bound, as in paper B."""


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """One of our numbers.

    Attributes:
        number: in the row's unit; NaN if it is not defined.
        low, high: ends of its 95 % interval; NaN if none was computed.
        word: a verdict in place of a number.
    """

    number: float = math.nan
    low: float = math.nan
    high: float = math.nan
    word: str = ""

    @property
    def known(self) -> bool:
        return bool(self.word) or not math.isnan(self.number)

    def scaled(self, factor: float) -> "Value":
        """Returns the value in a unit that is 1 / `factor` as large."""
        return Value(self.number * factor, self.low * factor, self.high * factor, self.word)


UNKNOWN = Value()


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One cell of a paper's table: the paper's number and ours.

    Attributes:
        row, column: its position in the paper's table.
        unit: the unit of all numbers here.
        paper: the printed cell; None if the paper prints no such number.
        recomputed: the number that follows from others that the paper prints.
        ours: from our run.
        reason: explains why ours is unknown; emptied if it is known.
        remark: the definition of ours, if the paper's words leave a choice.
        stand_ins: by column name, our numbers on images other than the paper's.
        comparable: whether the difference between ours and the paper's has a meaning.
    """

    row: str
    column: str
    unit: str
    paper: TableCell | None = None
    recomputed: Value = UNKNOWN
    ours: Value = UNKNOWN
    reason: str = ""
    remark: str = ""
    stand_ins: dict[str, Value] = dataclasses.field(default_factory=dict)
    comparable: bool = True

    def __post_init__(self) -> None:
        if self.ours.known:
            object.__setattr__(self, "reason", "")

    @property
    def difference(self) -> float:
        """Ours minus the paper's number (the recomputed one if it prints none); NaN if unknown."""
        if not self.comparable:
            return math.nan
        theirs = self.recomputed.number if self.paper is None else self.paper.number
        return self.ours.number - theirs

    @property
    def digits(self) -> int:
        """Digits after the point: as many as the paper prints, else those of the unit."""
        if self.paper is not None and not math.isnan(self.paper.number):
            return self.paper.decimals
        return DIGITS.get(self.unit, 0)

    def format_value(self, value: Value) -> str:
        """Formats one of the row's values; '' if it is unknown."""
        return value.word or self.format_number(value.number)

    def format_number(self, number: float, signed: bool = False) -> str:
        """Formats a number of the row's unit; '' for NaN."""
        if math.isnan(number):
            return ""
        if self.unit == "p" and not signed and number < P_SMALLEST:
            return f"<{P_SMALLEST:g}"
        if math.isinf(number):
            return "inf" if number > 0 else "-inf"
        sign, thousands = "+" if signed else "", "," if abs(number) >= 10_000 else ""
        return f"{number:{sign}{thousands}.{self.digits}f}"

    @property
    def interval(self) -> str:
        """Our 95 % interval as text; '' if there is none."""
        if math.isnan(self.ours.low) or math.isnan(self.ours.high):
            return ""
        return f"[{self.format_number(self.ours.low)}, {self.format_number(self.ours.high)}]"

    @property
    def printed(self) -> str:
        """The paper's number as text, with a dagger if it is flagged; '' if there is none."""
        if self.paper is None:
            return ""
        text = self.paper.value
        if not math.isnan(self.paper.number) and abs(self.paper.number) >= 10_000:
            text = f"{self.paper.number:,.{self.paper.decimals}f}"
        return text + ("†" if self.paper.flag else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A figure of ours.

    Attributes:
        title: its heading.
        alt: a description for those who do not see it.
        light, dark: PNG for light and dark pages; an empty `dark` means that `light` serves both.
    """

    title: str
    alt: str
    light: bytes
    dark: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A table or figure of a paper beside ours, ready to be written.

    Attributes:
        paper: `a` or `b`.
        item: `table_4`, `figure_7`, `text`.
        title: its subject.
        rows: one per cell of the paper's table.
        figures: figures of ours.
        protocol: differences between our protocol and the paper's, one sentence each.
        contradictions: contradictions within the paper, one sentence each.
        missing: the runs that are missing, with the commands that make them.
    """

    paper: str
    item: str
    title: str
    rows: Sequence[Row]
    figures: Sequence[Figure] = ()
    protocol: Sequence[str] = ()
    contradictions: Sequence[str] = ()
    missing: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name for readers: `Table 4`, `Figure 7`, `Numbers in the text`."""
        kind, _, number = self.item.partition("_")
        return f"{kind.capitalize()} {number}" if number else "Numbers in the text"

    @property
    def stand_ins(self) -> list[str]:
        """Column names of all rows' stand-ins, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.stand_ins))

    @property
    def has_recomputed(self) -> bool:
        return any(row.recomputed.known for row in self.rows)

    @property
    def notes(self) -> list[str]:
        """Notes on single cells of the paper, each with the cells that it belongs to."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.paper is not None and row.paper.note:
                places = found.setdefault(row.paper.note, [])
                place = f"{row.paper.row}, {row.paper.column}"
                if place not in places:
                    places.append(place)
        return [f"{'; '.join(places)}: {note}" for note, places in found.items()]

    @property
    def reasons(self) -> list[str]:
        """The reasons why cells of ours are blank, without repeats."""
        return list(dict.fromkeys(row.reason for row in self.rows if row.reason))

    @property
    def remarks(self) -> list[str]:
        """The remarks on cells of ours, without repeats."""
        return list(dict.fromkeys(row.remark for row in self.rows if row.remark))
