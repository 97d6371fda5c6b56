"""A table or figure of a paper with ours beside it, before it is written down."""

import dataclasses
import math
from collections.abc import Sequence

from wbc_jax.papers.cells import Cell

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
"""Digits after the point, by unit, where the paper prints no number; others have none."""
P_SMALLEST = 1e-3
"""Smaller p-values are written as a bound, as paper B does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """One of our numbers.

    Attributes:
        number: in the line's unit; NaN where it is not defined.
        low, high: the ends of its 95 % interval; NaN: none was computed.
        word: what stands in place of a number (a verdict).
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
class Line:
    """One cell of a table: the paper's number and ours.

    Attributes:
        row, column: its place in the paper's table.
        unit: of all the numbers of the line.
        paper: the printed cell; None: the paper prints no such number.
        recomputed: what follows from other numbers that the paper prints.
        ours: from our run; unknown where `reason` says why.
        reason: why ours is blank.
        remark: what ours is where the paper's words leave a choice.
        stand_ins: by their own names, numbers of ours that are of other images than the paper's.
        comparable: whether the difference of ours and the paper's means anything.
    """

    row: str
    column: str
    unit: str
    paper: Cell | None = None
    recomputed: Value = UNKNOWN
    ours: Value = UNKNOWN
    reason: str = ""
    remark: str = ""
    stand_ins: dict[str, Value] = dataclasses.field(default_factory=dict)
    comparable: bool = True

    @property
    def difference(self) -> float:
        """Ours less the paper's, or less what follows from it where it prints none; else NaN."""
        if not self.comparable:
            return math.nan
        theirs = self.recomputed.number if self.paper is None else self.paper.number
        return self.ours.number - theirs

    @property
    def digits(self) -> int:
        """Digits after the point of the line's numbers: the paper's own, where it prints some."""
        if self.paper is not None and not math.isnan(self.paper.number):
            return self.paper.decimals
        return DIGITS.get(self.unit, 0)

    def written(self, value: Value) -> str:
        """Returns one of the line's values as text; '' where it is unknown."""
        return value.word or self.number(value.number)

    def number(self, number: float, signed: bool = False) -> str:
        """Returns a number of the line's unit as text; '' for NaN."""
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
        """Our 95 % interval as text; '' where there is none."""
        if math.isnan(self.ours.low) or math.isnan(self.ours.high):
            return ""
        return f"[{self.number(self.ours.low)}, {self.number(self.ours.high)}]"

    @property
    def printed(self) -> str:
        """The paper's number as text, with a dagger where it is flagged; '' where it has none."""
        if self.paper is None:
            return ""
        text = self.paper.value
        if not math.isnan(self.paper.number) and abs(self.paper.number) >= 10_000:
            text = f"{self.paper.number:,.{self.paper.decimals}f}"
        return text + ("†" if self.paper.flag else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """A figure of ours.

    Attributes:
        title: what stands above it.
        alt: what it shows, for those who do not see it.
        light, dark: PNG for pages of either kind; `dark` empty: `light` serves for both.
    """

    title: str
    alt: str
    light: bytes
    dark: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Sheet:
    """A table or figure of a paper, ready to be written.

    Attributes:
        paper: `a` or `b`.
        item: `table_4`, `figure_7`, `text`.
        title: what it is about.
        lines: its cells.
        pictures: figures of ours.
        protocol: how ours was made otherwise than the paper's, a sentence each.
        contradictions: of the paper, a sentence each.
        missing: what is not there, and the command that makes it.
    """

    paper: str
    item: str
    title: str
    lines: Sequence[Line]
    pictures: Sequence[Picture] = ()
    protocol: Sequence[str] = ()
    contradictions: Sequence[str] = ()
    missing: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What people call it: `Table 4`, `Figure 7`, `Numbers in the text`."""
        kind, _, number = self.item.partition("_")
        return f"{kind.capitalize()} {number}" if number else "Numbers in the text"

    @property
    def stand_ins(self) -> list[str]:
        """Names of the stand-ins of all lines, in the order in which they come."""
        return list(dict.fromkeys(name for line in self.lines for name in line.stand_ins))

    @property
    def has_recomputed(self) -> bool:
        return any(line.recomputed.known for line in self.lines)

    @property
    def notes(self) -> list[str]:
        """Notes on single cells of the paper, each with the cells it is of."""
        found: dict[str, list[str]] = {}
        for line in self.lines:
            if line.paper is not None and line.paper.note:
                places = found.setdefault(line.paper.note, [])
                place = f"{line.paper.row}, {line.paper.column}"
                if place not in places:
                    places.append(place)
        return [f"{'; '.join(places)}: {note}" for note, places in found.items()]

    @property
    def reasons(self) -> list[str]:
        """Why cells of ours are blank, each reason once."""
        return list(dict.fromkeys(line.reason for line in self.lines if line.reason))

    @property
    def remarks(self) -> list[str]:
        """What cells of ours are, where the paper leaves a choice, each once."""
        return list(dict.fromkeys(line.remark for line in self.lines if line.remark))
