"""Paper A's Tables 1–4 recomputed from their own counts: ratios, verdicts, and contradictions.

The reference ranges are those of the paper's text, not of medicine: for research use only.
"""

import csv
import dataclasses
import importlib.resources
import math

from wbc_jax.metrics.nc_ratio import from_areas
from wbc_jax.papers import printed

RANGES = "paper_a_reference_ranges.csv"
TYPES = {"1": "neutrophil", "2": "eosinophil", "3": "basophil", "4": "monocyte"}
"""Cell type by table."""
HEALTHY, UNHEALTHY, NOTHING_SAID = "healthy", "unhealthy", ""
COUNT_OFFSET = 10
"""Added to both counts, it gives 36 of the 41 printed pixel ratios; the plain quotient gives 14.
The paper does not mention it."""
MEAN_OFFSETS = {"1": 1, "2": 2, "3": 2, "4": 10}
"""The same for the ratio of means, by table: 34 of 41; the plain quotient gives one."""
SLACK = 5e-4
"""Tolerance of a printed ratio: its last digits are cut off, and the means are rounded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """One statement in the paper's text about the N/C ratios of a cell type.

    Attributes:
        type: one of `labels.CELL_TYPES`.
        verdict: `healthy` or `unhealthy`.
        above: exclusive lower bound; None if there is none.
        at_least, at_most: inclusive bounds; None if there are none.
        decimals: digits to which the ratio is rounded before it is compared, if the text says
            "around"; None if it is not rounded.
        source, note: the section of the statement, and our reading of it.
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
    """Returns the paper's ranges; the first of a type that covers a ratio decides."""
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
    """Returns the verdict of paper A's text on a cell with an N/C ratio.

    Args:
        type: one of `labels.CELL_TYPES`; the paper has no lymphocytes.
        ratio: nucleus / cytoplasm; +inf is above every bound.

    Returns:
        `healthy`, `unhealthy`, or '' if the text says nothing: another type, NaN, or a ratio
        between its ranges.
    """
    if math.isnan(ratio):
        return NOTHING_SAID
    fits = (r.verdict for r in reference_ranges() if r.type == type and r.holds(ratio))
    return next(fits, NOTHING_SAID)


@dataclasses.dataclass(frozen=True, slots=True)
class TableRow:
    """A row of Tables 1–4 (one image of a cell), with the numbers that follow from its own.

    Attributes:
        table, number: the table, and the number of the paper's figure that the row describes.
        type: cell type of the table.
        nc_ratio, nucleus_share: N / C and N / (N + C) of the row's counts.
        offset_ratio: (N + 10) / (C + 10), see `COUNT_OFFSET`.
        mean_ratio, offset_mean_ratio: the same ratios of the row's means, see `MEAN_OFFSETS`.
        verdict: the verdict of the text's ranges on `nc_ratio`.
        verdict_of_printed: their verdict on the printed ratio.
        cells: the printed cells of the row by column.
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
    cells: dict[str, printed.TableCell]

    @property
    def ratio_follows(self) -> bool:
        """True if the printed pixel ratio follows from the counts, with or without the offset."""
        return self._follows("N/C", self.nc_ratio, self.offset_ratio)

    @property
    def mean_ratio_follows(self) -> bool:
        """True if the printed ratio of means follows from the means, with or without the offset."""
        return self._follows("ratio of means", self.mean_ratio, self.offset_mean_ratio)

    @property
    def verdict_follows(self) -> bool:
        """True if the text's ranges give the printed verdict for the counts and the printed ratio.

        A ratio without a verdict in the text contradicts nothing.
        """
        said = self.cells["verdict"].value
        return {self.verdict, self.verdict_of_printed} <= {said, NOTHING_SAID}

    def _follows(self, column: str, *ratios: float) -> bool:
        cell = self.cells[column]
        return any(
            abs(ratio - cell.number) < SLACK or printed.same_digits(ratio, cell) for ratio in ratios
        )


def rows(table: str) -> list[TableRow]:
    """Returns the rows of a table, recomputed from their own counts and means.

    Args:
        table: `1` to `4`.
    """
    cells = printed.load("a", f"table_{table}")
    found = []
    for number in printed.rows(cells):
        row = {column: cells[number, column] for column in printed.columns(cells)}
        nucleus, cytoplasm = int(row["nucleus"].value), int(row["cytoplasm"].value)
        areas = from_areas([nucleus], [cytoplasm])
        means = row["mean nucleus"].number, row["mean cytoplasm"].number
        ratio = float(areas.nc_ratio[0])
        found.append(
            TableRow(
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
                cells=row,
            )
        )
    return found


def all_rows() -> list[TableRow]:
    """Returns the rows of all four tables."""
    return [row for table in TYPES for row in rows(table)]
