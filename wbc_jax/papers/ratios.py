"""Paper A's Tables 1–4 from their own counts: ratios, verdicts, and where they contradict.

The reference ranges are the paper's, taken from its text, not medicine's: for research use only.
"""

import csv
import dataclasses
import importlib.resources
import math

from wbc_jax.metrics.nc_ratio import from_areas
from wbc_jax.papers import cells

RANGES = "paper_a_reference_ranges.csv"
TYPES = {"1": "neutrophil", "2": "eosinophil", "3": "basophil", "4": "monocyte"}
"""Cell type of each of the tables."""
HEALTHY, UNHEALTHY, NOTHING_SAID = "healthy", "unhealthy", ""
COUNT_OFFSET = 10
"""Added to both counts, this gives 36 of the 41 printed pixel ratios; the plain quotient gives 14.
The paper does not name it."""
MEAN_OFFSETS = {"1": 1, "2": 2, "3": 2, "4": 10}
"""The same for the ratio of means, a number a table: 34 of 41; the plain quotient gives one."""
SLACK = 5e-4
"""What a printed ratio may be off: its last digits are cut off, and the means are rounded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """One statement of the paper's text on the N/C ratios of a cell type.

    Attributes:
        type: of `vocabulary.CELL_TYPES`.
        verdict: `healthy` or `unhealthy`.
        above: the ratio must be larger; None: no such bound.
        at_least, at_most: bounds that belong to the range.
        decimals: the ratio is rounded to so many digits before it is compared, where the text says
            "around"; None: it is not rounded.
        source, note: where it is said, and how it is read.
    """

    type: str
    verdict: str
    above: float | None
    at_least: float | None
    at_most: float | None
    decimals: int | None
    source: str
    note: str

    def holds(self, ratio: float) -> bool:
        """Returns whether the range covers an N/C ratio."""
        value = ratio
        if self.decimals is not None and math.isfinite(ratio):
            value = math.floor(ratio * 10**self.decimals + 0.5) / 10**self.decimals
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
        )


def reference_ranges() -> list[Range]:
    """Returns the paper's ranges; of one type, the first that covers a ratio decides."""
    path = importlib.resources.files("wbc_jax.papers").joinpath(RANGES)

    def bound(text: str) -> float | None:
        return float(text) if text else None

    return [
        Range(
            row["type"],
            row["verdict"],
            bound(row["above"]),
            bound(row["at_least"]),
            bound(row["at_most"]),
            int(row["decimals"]) if row["decimals"] else None,
            row["source"],
            row["note"],
        )
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    ]


def verdict(type: str, ratio: float) -> str:
    """Returns what paper A's text says of a cell of a type with an N/C ratio.

    Args:
        type: of `vocabulary.CELL_TYPES`; the paper has no lymphocytes.
        ratio: nucleus / cytoplasm; +inf is above every bound.

    Returns:
        `healthy`, `unhealthy`, or '' where the text says nothing: another type, NaN, or a ratio
        between its ranges.
    """
    if math.isnan(ratio):
        return NOTHING_SAID
    fits = (r.verdict for r in reference_ranges() if r.type == type and r.holds(ratio))
    return next(fits, NOTHING_SAID)


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A row of Tables 1–4, with what follows from its own numbers.

    Attributes:
        table, number: the table, and the figure that the row is of.
        type: of the table.
        nc_ratio, nucleus_share: N / C and N / (N + C) of the row's counts.
        offset_ratio: (N + 10) / (C + 10), see `COUNT_OFFSET`.
        mean_ratio, offset_mean_ratio: the same of the row's means, see `MEAN_OFFSETS`.
        verdict: by the text's ranges from `nc_ratio`.
        verdict_of_printed: by the text's ranges from the printed ratio.
        printed: the row's cells by column.
    """

    table: str
    number: str
    type: str
    nc_ratio: float
    nucleus_share: float
    offset_ratio: float
    mean_ratio: float
    offset_mean_ratio: float
    verdict: str
    verdict_of_printed: str
    printed: dict[str, cells.Cell]

    @property
    def ratio_follows(self) -> bool:
        """Whether the printed pixel ratio follows from the counts, with or without the offset."""
        return self._follows("N/C", self.nc_ratio, self.offset_ratio)

    @property
    def mean_ratio_follows(self) -> bool:
        """Whether the printed ratio of means follows from the means, likewise."""
        return self._follows("ratio of means", self.mean_ratio, self.offset_mean_ratio)

    @property
    def verdict_follows(self) -> bool:
        """Whether the printed verdict is the text's for both the counts and the printed ratio.

        A ratio of which the text says nothing contradicts nothing.
        """
        said = self.printed["verdict"].value
        return {self.verdict, self.verdict_of_printed} <= {said, NOTHING_SAID}

    def _follows(self, column: str, *ratios: float) -> bool:
        cell = self.printed[column]
        return any(
            abs(ratio - cell.number) < SLACK or cells.same_digits(ratio, cell) for ratio in ratios
        )


def figures(table: str) -> list[Figure]:
    """Returns the rows of one of the tables, recomputed from their own counts and means.

    Args:
        table: `1` to `4`.
    """
    printed = cells.load("a", f"table_{table}")
    found = []
    for number in cells.rows(printed):
        row = {column: printed[number, column] for column in cells.columns(printed)}
        nucleus, cytoplasm = int(row["nucleus"].value), int(row["cytoplasm"].value)
        areas = from_areas([nucleus], [cytoplasm])
        means = row["mean nucleus"].number, row["mean cytoplasm"].number
        ratio = float(areas.nc_ratio[0])
        found.append(
            Figure(
                table=table,
                number=number,
                type=TYPES[table],
                nc_ratio=ratio,
                nucleus_share=float(areas.nucleus_share[0]),
                offset_ratio=(nucleus + COUNT_OFFSET) / (cytoplasm + COUNT_OFFSET),
                mean_ratio=means[0] / means[1],
                offset_mean_ratio=(means[0] + MEAN_OFFSETS[table])
                / (means[1] + MEAN_OFFSETS[table]),
                verdict=verdict(TYPES[table], ratio),
                verdict_of_printed=verdict(TYPES[table], row["N/C"].number),
                printed=row,
            )
        )
    return found


def all_figures() -> list[Figure]:
    """Returns the rows of all four tables."""
    return [figure for table in TYPES for figure in figures(table)]
