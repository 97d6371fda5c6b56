"""Numbers of images of each cell type, ours beside Table 3 of paper B."""

from collections.abc import Mapping, Sequence
from typing import Any

from wbc_jax.data.splits import SPLITS
from wbc_jax.labels import CELL_TYPES, UNKNOWN_LABEL
from wbc_jax.papers import printed

INDEPENDENT = "independent"
"""The paper's second test set, from sources without training images (LISC and BCD)."""
TOTAL = "total"
UNKNOWN = "unknown"
TEXT_TOTAL = 14_563
"""Images of the mixed data set according to paper B's text; Table 3 has 28,128."""

_COLUMNS = (*SPLITS, TOTAL, INDEPENDENT)


def table_3() -> list[dict[str, Any]]:
    """Returns Table 3 of paper B as printed: one row per cell type, then the row `total`.

    Returns:
        Dicts of `class` (text), `train`, `validation`, `test`, `total`, `independent` (numbers of
        images) and `note` (text; contradictions within the paper).
    """
    cells = printed.load("b", "table_3")
    return [
        {
            "class": name,
            **{column: int(cells[name, column].value) for column in _COLUMNS},
            "note": " ".join(n for column in _COLUMNS if (n := cells[name, column].note)),
        }
        for name in printed.rows(cells)
    ]


def by_type(labels: Mapping[str, Sequence[int]]) -> dict[str, dict[str, int]]:
    """Counts labels by cell type, in the form that `compare` takes.

    Args:
        labels: {split: index in `labels.CELL_TYPES` of each image, -1 if unknown}.

    Returns:
        {cell type: {split: number}}; `unknown` only if there are such images.
    """
    found = {name: dict.fromkeys(labels, 0) for name in (*CELL_TYPES, UNKNOWN)}
    for split, values in labels.items():
        for label in values:
            known = label != UNKNOWN_LABEL
            found[CELL_TYPES[label] if known else UNKNOWN][split] += 1
    if not any(found[UNKNOWN].values()):
        del found[UNKNOWN]
    return found


def compare(counts: dict[str, dict[str, int]]) -> str:
    """Returns a text table of our numbers of images beside the paper's Table 3.

    Args:
        counts: {cell type: {split: number}}, from `by_type`; the types may include `unknown`,
            the splits `independent`. Missing numbers are shown as a dash.

    Raises:
        ValueError: a name is no cell type or split.
    """
    strange = sorted(counts.keys() - {*CELL_TYPES, UNKNOWN})
    strange += sorted({s for row in counts.values() for s in row} - {*SPLITS, INDEPENDENT})
    if strange:
        raise ValueError(
            f"there is no cell type or split {', '.join(map(repr, strange))}; there are "
            f"{', '.join((*CELL_TYPES, UNKNOWN))} and "
            f"{', '.join((*SPLITS, INDEPENDENT))}"
        )
    paper = {row["class"]: row for row in table_3()}
    types = [*CELL_TYPES, *([UNKNOWN] if UNKNOWN in counts else [])]
    ours = {name: _with_total(counts.get(name, {})) for name in types}
    ours[TOTAL] = {
        column: sum(given) if (given := [r[column] for r in ours.values() if column in r]) else None
        for column in _COLUMNS
    }
    lines = [
        "Images by cell type and split, here beside Table 3 of paper B:",
        f"{'':<12}" + "".join(f"{column:>18}" for column in _COLUMNS),
        f"{'cell type':<12}" + f"{'here':>9}{'paper':>9}" * len(_COLUMNS),
    ]
    for name, row in ours.items():
        pairs = [(row.get(column), paper.get(name, {}).get(column)) for column in _COLUMNS]
        cells = "".join(f"{_number(here):>9}{_number(there):>9}" for here, there in pairs)
        lines.append(f"{name:<12}{cells}")
    neutrophils, total = paper["neutrophil"][TOTAL], paper[TOTAL][TOTAL]
    return "\n".join(
        [
            *lines,
            "The data sets here may be parts of the full ones; their counts need not reach the "
            "paper's.",
            f"The paper contradicts itself: its neutrophil row ({neutrophils:,}) equals the total "
            f"in its text ({TEXT_TOTAL:,}), while its total column sums to {total:,}.",
        ]
    )


def _with_total(row: Mapping[str, int]) -> dict[str, int]:
    given = [row[split] for split in SPLITS if split in row]
    return {**row, TOTAL: sum(given)} if given else dict(row)


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
