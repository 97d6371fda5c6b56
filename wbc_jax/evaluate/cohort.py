"""Compares groups of cells, such as those of patients and of healthy people, measure by measure.

`assemble` makes groups of tables (`evaluate.cell_tables`); `compare` describes and tests them. For
research: a difference between groups, or an area under a ROC curve, says nothing about a single
person.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from wbc_jax.errors import InputError
from wbc_jax.evaluate.cell_tables import SHAPES, CellRow, Rule, Table
from wbc_jax.metrics import separation, statistics
from wbc_jax.metrics.nc_ratio import from_areas

MOST_GROUPS = 8
"""More groups than this are a mistake, such as a column of file names."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """A number that each cell has.

    Attributes:
        key: its name in `measures.csv`.
        name: its name in texts.
        unit: `px`, `µm²` or empty.
        digits: decimals to print.
        ranks_of: key of the measure that sorts all cells in the same order, so that tests and
            curves are the same and count once; empty if none does.
    """

    key: str
    name: str
    unit: str = ""
    digits: int = 3
    ranks_of: str = ""

    @property
    def label(self) -> str:
        """The name with the unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """A group of cells.

    Attributes:
        name: of the group.
        rows: the cells that are measured.
        left_out: number of cells left out, by reason, each under its first.
        kept: number of measured cells by flag.
    """

    name: str
    rows: tuple[CellRow, ...]
    left_out: Mapping[str, int]
    kept: Mapping[str, int]

    @property
    def images(self) -> int:
        """Number of images of the measured cells."""
        return len({row.real for row in self.rows})


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """One measure in one group; NaN without cells.

    Attributes:
        cells: number of cells that have the measure.
        infinite: of these, those of which it is infinite (N/C of a cell without cytoplasm).
        quartiles, low, high: lower quartile, median and upper quartile, with the ends of their
            95 % bootstrap intervals.
    """

    measure: Measure
    group: str
    cells: int
    infinite: int
    quartiles: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Test:
    """A test of one measure.

    Attributes:
        first, second: names of two groups (Mann–Whitney); both empty for all of three or more
            (Kruskal–Wallis).
        statistic: U of the first group, or H.
        p, p_holm: two-sided; and corrected for the measures (and pairs) tested.
        effect, interval: Cliff's delta of a pair, ε² of all groups; with its 95 % interval.
        auroc, auroc_interval: of the second group against the first; NaN for all groups.
    """

    measure: Measure
    first: str
    second: str
    statistic: float
    p: float
    p_holm: float
    effect: float
    interval: tuple[float, float]
    auroc: float = math.nan
    auroc_interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def name(self) -> str:
        """The test's name."""
        return "Mann-Whitney" if self.first else "Kruskal-Wallis"


@dataclasses.dataclass(frozen=True, slots=True)
class Cohort:
    """The comparison of groups of cells.

    Attributes:
        groups: in the order given.
        nameless: number of rows without a group, left out.
        measures: those compared.
        values: float64 `[cells]` of each group by measure, in the order of its rows.
        summaries: by measure, then by group.
        tests: by measure; all groups (if more than two), then each pair.
        rule: which cells were left out.
        absent: columns that a table lacks, so that they are not compared.
        notes: sentences about units and cells that a reader must know.
    """

    groups: tuple[Group, ...]
    nameless: int
    measures: tuple[Measure, ...]
    values: Mapping[str, tuple[np.ndarray, ...]]
    summaries: tuple[Summary, ...]
    tests: tuple[Test, ...]
    rule: Rule
    absent: tuple[str, ...]
    notes: tuple[str, ...]


def assemble(
    tables: Sequence[tuple[str, Table]],
    rule: Rule,
    by_column: bool = False,
    reference: str = "",
) -> tuple[tuple[Group, ...], int]:
    """Makes groups.

    Args:
        tables: tables with their group's name; those with one name are one group.
        rule: which cells are left out.
        by_column: the rows' own `group` counts instead, in alphabetical order.
        reference: name of the group to put first; empty: the order stays.

    Returns:
        The groups, and the number of rows that have none.

    Raises:
        InputError: there are fewer than two groups, or too many, or one has no cell to measure, or
            a flag of the rule is misspelt, or a cell stands twice in one group.
    """
    rows: dict[str, list[CellRow]] = {}
    for name, table in tables:
        if not by_column:
            rows.setdefault(name, [])
        for row in table.rows:
            rows.setdefault(row.group if by_column else name, []).append(row)
    rule.check(row for found in rows.values() for row in found)
    nameless = rows.pop("", []) if by_column else []
    names = sorted(rows) if by_column else list(rows)
    shown = ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")
    if not 2 <= len(names) <= MOST_GROUPS:
        raise InputError(
            f"there {'is 1 group' if len(names) == 1 else f'are {len(names)} groups'} "
            f"({shown or 'none'}); allowed are 2 to {MOST_GROUPS}. Name two tables or more, or one "
            "with --by and a column that has a few different values."
        )
    if reference and reference not in names:
        raise InputError(f"--reference is {reference!r}, but the groups are {shown}.")
    groups = []
    for name in sorted(names, key=lambda name: name != reference):
        twice = [k for k, n in collections.Counter(row.key for row in rows[name]).items() if n > 1]
        if twice:
            raise InputError(
                f"group {name!r} holds the cell {twice[0][1] or '(none)'} of {twice[0][0]} twice; "
                "name each table once."
            )
        groups.append(_group(name, rows[name], rule))
    if empty := [group for group in groups if not group.rows]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in empty[0].left_out.items())
        raise InputError(
            f"group {empty[0].name!r} has no cell to measure ({reasons or 'its table is empty'}); "
            "see --leave_out."
        )
    return tuple(groups), len(nameless)


def _group(name: str, rows: Sequence[CellRow], rule: Rule) -> Group:
    reasons = [rule.reason(row) for row in rows]
    kept = tuple(row for row, reason in zip(rows, reasons) if not reason)
    return Group(
        name,
        kept,
        dict(collections.Counter(filter(None, reasons))),
        dict(collections.Counter(flag for row in kept for flag in row.flags)),
    )


def measures(rows: Sequence[CellRow], absent: Sequence[str] = ()) -> tuple[Measure, ...]:
    """Returns the measures to compare: areas in µm² if each row's magnification is known.

    Args:
        rows: all cells.
        absent: columns of `cell_tables.SHAPES` that are not compared.
    """
    known = bool(rows) and all(row.values["um_per_px"] > 0 for row in rows)
    unit, end, digits = ("µm²", "um2", 1) if known else ("px", "px", 0)
    named = [(key, key.replace("_", " ")) for key in SHAPES if key not in absent]
    return (
        Measure("nc_ratio", "N/C"),
        Measure("nucleus_share", "N/(N+C)", ranks_of="nc_ratio"),
        *(
            Measure(f"{part}_{end}", f"{part} area", unit, digits)
            for part in ("nucleus", "cytoplasm", "cell")
        ),
        *(Measure(key, name, digits=0 if key == "lobes" else 3) for key, name in named),
    )


def values(rows: Sequence[CellRow], wanted: Sequence[Measure]) -> dict[str, np.ndarray]:
    """Returns the measures of cells, float64 `[N]` each; NaN where a cell has none.

    The ratios follow from the areas in pixels, which tables hold without rounding.
    """
    column = {
        key: np.array([row.values[key] for row in rows], np.float64)
        for key in ("nucleus_px", "cytoplasm_px", "um_per_px", *SHAPES)
    }
    nucleus, cytoplasm = column["nucleus_px"], column["cytoplasm_px"]
    ratios = from_areas(nucleus, cytoplasm)
    found = column | {"nc_ratio": ratios.nc_ratio, "nucleus_share": ratios.nucleus_share}
    found["cell_px"] = nucleus + cytoplasm
    for part in ("nucleus", "cytoplasm", "cell"):
        found[f"{part}_um2"] = found[f"{part}_px"] * column["um_per_px"] ** 2
    return {measure.key: found[measure.key] for measure in wanted}


def compare(
    groups: Sequence[Group],
    rule: Rule,
    absent: Sequence[str] = (),
    nameless: int = 0,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Cohort:
    """Describes and tests each measure.

    Pairs: Mann–Whitney's test, Cliff's delta and AUROC of the later group against the earlier one.
    Three groups or more: also Kruskal–Wallis's test and ε². Holm's correction is over the measures
    for the test of all groups, and over measures and pairs for the pairs. Measures that sort the
    cells alike count once.

    Args:
        groups, nameless: from `assemble`.
        rule: that of `assemble`.
        absent: columns that a table lacks.
        resamples, seed: of the bootstrap.
    """
    wanted = measures([row for group in groups for row in group.rows], absent)
    by_group = [values(group.rows, wanted) for group in groups]
    found = {m.key: tuple(one[m.key] for one in by_group) for m in wanted}
    summaries = tuple(
        _summarize(measure, group.name, column, resamples, seed)
        for measure in wanted
        for group, column in zip(groups, found[measure.key])
    )
    names = [group.name for group in groups]
    tests: dict[str, list[Test]] = {}
    for measure in wanted:
        if measure.ranks_of:
            same = tests[measure.ranks_of]
            tests[measure.key] = [dataclasses.replace(test, measure=measure) for test in same]
        else:
            tests[measure.key] = _test(measure, names, found[measure.key], resamples, seed)
    return Cohort(
        tuple(groups),
        nameless,
        wanted,
        found,
        summaries,
        tuple(_corrected(list(itertools.chain(*tests.values())))),
        rule,
        tuple(absent),
        tuple(_notes(groups)),
    )


def _summarize(
    measure: Measure, group: str, column: np.ndarray, resamples: int, seed: int
) -> Summary:
    known = column[~np.isnan(column)]
    low, high = separation.interval_of_groups(separation.quartiles, (known,), resamples, seed=seed)
    middle = separation.quartiles(known)
    ends = (tuple(map(float, numbers)) for numbers in (middle, low, high))
    return Summary(measure, group, len(known), int(np.isinf(known).sum()), *ends)


def _test(
    measure: Measure, names: Sequence[str], columns: Sequence[np.ndarray], resamples: int, seed: int
) -> list[Test]:
    """Tests all groups, and each pair of them, without correction."""
    known = {name: column[~np.isnan(column)] for name, column in zip(names, columns)}
    known = {name: column for name, column in known.items() if len(column)}
    # Tests of ranks: an infinite ratio becomes the largest finite number.
    finite = {name: np.minimum(column, np.finfo(np.float32).max) for name, column in known.items()}
    nan = math.nan
    compared = statistics.compare_groups(finite) if len(finite) > 1 else None
    found = []
    if len(names) > 2:
        ends = separation.interval_of_groups(
            separation.epsilon_squared, tuple(known.values()), resamples, seed=seed
        )
        h, p = (compared.h, compared.p) if compared else (nan, nan)
        effect = separation.epsilon_squared(*known.values())
        found.append(Test(measure, "", "", h, p, nan, effect, (float(ends[0]), float(ends[1]))))
    pairs = {(pair.first, pair.second): pair for pair in compared.pairs} if compared else {}
    for first, second in itertools.combinations(names, 2):
        pair = pairs.get((first, second))
        if pair is None:
            found.append(Test(measure, first, second, nan, nan, nan, nan, (nan, nan)))
            continue
        apart = separation.separate(known[first], known[second], resamples, seed=seed)
        found.append(
            Test(
                measure, first, second, pair.u, pair.p, nan, apart.delta, apart.delta_interval,
                apart.auroc, apart.auroc_interval,
            )
        )  # fmt: skip
    return found


def _corrected(tests: Sequence[Test]) -> list[Test]:
    """Corrects the tests of all groups together, and those of pairs together."""
    done = {}
    for pairs in (False, True):
        family = [t for t in tests if bool(t.first) == pairs and not t.measure.ranks_of]
        for test, p in zip(family, statistics.holm([t.p for t in family])):
            done[test.measure.key, test.first, test.second] = float(p)
    return [
        dataclasses.replace(t, p_holm=done[t.measure.ranks_of or t.measure.key, t.first, t.second])
        for t in tests
    ]


def _notes(groups: Sequence[Group]) -> list[str]:
    """Returns sentences about units and about cells that are not independent."""
    rows = [row for group in groups for row in group.rows]
    sizes = [row.values["um_per_px"] for row in rows]
    known = sum(size > 0 for size in sizes)
    said = []
    if known < len(rows):
        part = f" ({known} of {len(rows)} cells have one)" if known else ""
        said.append(
            f"Areas are in pixels, as not every cell's magnification is known{part}: they can be "
            "compared only if all images have the same magnification."
        )
    else:
        sources = [{row.um_per_px_source for row in group.rows} for group in groups]
        if len(set().union(*sources)) > 1:
            told = "; ".join(f"{g.name}: {', '.join(sorted(s))}" for g, s in zip(groups, sources))
            said.append(
                f"The magnification has more than one source ({told}): a difference of areas may "
                "be one of scales."
            )
        if any("red_cells" in source for source in sources):
            said.append(
                "Some magnifications are estimated from red cells, assumed to be 7.5 µm wide: "
                "where a disease changes the red cells, areas in µm² are wrong."
            )
    for group in groups:
        if len(group.rows) > group.images:
            said.append(
                f"The {len(group.rows)} cells of {group.name} are of {group.images} "
                f"image{'' if group.images == 1 else 's'}. Tests and intervals take cells as "
                "independent; those of one image or person are alike, so that the true "
                "uncertainty is larger."
            )
    owners = collections.Counter(key for g in groups for key in {row.key for row in g.rows})
    if both := sum(n > 1 for n in owners.values()):
        said.append(
            f"{both} cells stand in more than one group, but the tests take groups as independent: "
            "their p values are not valid. To compare two masks of the same cells, use --truth."
        )
    return said
