"""The types that people said of the cells of folders of results: one for each cell.

They come from the log of `wbc_jax.review` (or `corrections.csv`, where only that is left), or from
a CSV file of a person with the columns `file`, `cell` and `type`.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Sequence

from etils import epath

from wbc_jax.corrections import log, state
from wbc_jax.corrections.cells import Cell, Results
from wbc_jax.data import tables
from wbc_jax.errors import DataError, InputError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import html
from wbc_jax.utils import atomic

STOP, DROP = "stop", "drop"
ON_CONFLICT = (STOP, DROP)
_SHOWN = 10

Words = dict[int, dict[str, str]]
"""Types by reviewer, by the index of a cell."""


@dataclasses.dataclass(frozen=True, slots=True)
class Typed:
    """The types said in one folder.

    Attributes:
        cells: the cells of which a type is said that can be learned.
        types: its name, for each; one of `CELL_TYPES`, or one's own.
        reviewers: who said them.
        notes: what was left out and why, a sentence each.
    """

    cells: list[Cell]
    types: list[str]
    reviewers: list[str]
    notes: list[str]


def from_log(results: Results) -> tuple[Words, list[str]]:
    """Returns what the log of a folder says of types; else what its `corrections.csv` says.

    Returns:
        The words, and a note for each part that cannot be used.

    Raises:
        InputError, DataError: as `from_csv`.
    """
    entries, known = log.Log(results.path), state.State(results)
    known.apply(entries.read_new())
    if not known.applied and (results.path / state.TABLE).exists():
        return from_csv(results, results.path / state.TABLE)
    words: Words = {}
    for reviewer in known.reviewers:
        for index, said in known.said(reviewer).items():
            if said.type:
                words.setdefault(index, {})[reviewer] = said.type
    notes = list(entries.problems)
    if gone := sum(one.what == log.TYPE for one in known.gone):
        notes.append(
            f"{gone} statements about types in {entries.path} are of cells that these results do "
            "not have, as of another run: they are left out."
        )
    return words, notes


def from_csv(results: Results, path: epath.PathLike) -> tuple[Words, list[str]]:
    """Returns what a table says of the types of a folder's cells.

    Args:
        results: the folder's.
        path: a CSV file with the columns `file` and `type`; `cell`, by default 1; and `reviewer`.
            A file is meant by its path as in `cells.csv`, or by its name.

    Raises:
        DataError: the table cannot be read, lacks a column, or has a wrong line.
        InputError: no line is about a cell of these results.
    """
    header, *rows = tables.read(path)
    columns = {name.casefold(): i for i, name in enumerate(header.cells)}
    if missing := [name for name in ("file", "type") if name not in columns]:
        raise DataError(
            f"{path} has no column {' and no column '.join(missing)} in its first line "
            f"({header.text!r}): needed are file, type and, for images of many cells, cell."
        )
    names: dict[str, list[str]] = {}
    for file in results.by_file:
        names.setdefault(os.path.basename(file.replace("\\", "/")), []).append(file)
    words: Words = {}
    wrong, gone = [], 0
    for row in rows:
        got = {
            name: atomic.read_csv_text(row.cells[i]) if i < len(row.cells) else ""
            for name, i in columns.items()
        }
        number = got.get("cell") or "1"
        if not got["type"]:
            continue  # such as a corrected mask, or a line that is still to be filled in
        if not (number.isascii() and number.isdecimal()):
            wrong.append(f"{row}: cell is {number!r}")
            continue
        file = got["file"]
        if file not in results.by_file:
            same = names.get(os.path.basename(file.replace("\\", "/")), [])
            if len(same) > 1:
                wrong.append(f"{row}: several images have that name; give the path")
                continue
            file = same[0] if same else ""
        there = [one for one in results.by_file.get(file, []) if one.cell == int(number)]
        if not there or got.get("status") == state.GONE:
            gone += 1
            continue
        name = " ".join(got["type"].split())
        by = got.get("reviewer") or os.path.basename(path)
        mine = words.setdefault(there[0].index, {})
        known = {one.casefold(): one for one in (*CELL_TYPES, *state.NOT_COUNTED)}
        name = known.get(name.casefold(), name)
        if mine.setdefault(by, name) != name:
            wrong.append(f"{row}: an earlier line says {mine[by]!r} of this cell")
    tables.check(path, wrong, "a line for each cell and reviewer, with the number of the cell")
    if not words:
        raise InputError(
            f"{path}: none of its {len(rows)} lines gives a cell of {results.path} a type: file "
            f"and cell must be those of {results.path / 'cells.csv'}."
        )
    lines = html.plural(gone, "line")
    notes = [f"{path}: {lines} about cells that {results.path} does not have."] if gone else []
    return words, notes


def settle(
    results: Results,
    words: Words,
    reviewers: Sequence[str] = (),
    on_conflict: str = STOP,
    painters: Sequence[str] = (),
) -> Typed:
    """Decides for one type of each cell.

    Args:
        results: the folder's.
        words: from `from_log` or `from_csv`.
        reviewers: whose words count; empty: everybody's.
        on_conflict: what to do if two people say different types of a cell: `STOP` or `DROP` it.
        painters: people who corrected masks; they need not have said a type.

    Raises:
        InputError: people differ; names the cells and the remedies. Or a reviewer said nothing.
    """
    there = list(dict.fromkeys(name for said in words.values() for name in said))
    if missing := [name for name in reviewers if name not in (*there, *painters)]:
        raise InputError(
            f"--reviewer={missing[0]} said no type of a cell of {results.path}; there are: "
            f"{', '.join(there) or 'none'}."
        )
    cells, types, used, conflicts = [], [], [], []
    others: collections.Counter[str] = collections.Counter()
    for index in sorted(words):
        cell = results.cells[index]
        said = {by: name for by, name in words[index].items() if not reviewers or by in reviewers}
        if len(set(said.values())) > 1:
            different = ", ".join(f"{name} ({by})" for by, name in said.items())
            conflicts.append(f"{cell.file}, cell {cell.cell}: {different}")
            continue
        for name in set(said.values()):
            if name in state.NOT_COUNTED:
                others[name] += 1
                continue
            cells.append(cell)
            types.append(name)
            used += [by for by in said if by not in used]
    notes = []
    if conflicts:
        many = html.plural(len(conflicts), "cell")
        if on_conflict == STOP:
            shown = "".join(f"\n  {line}" for line in conflicts[:_SHOWN])
            more = f"\n  and {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
            raise InputError(
                f"people differ on the type of {many} of {results.path}; agree on them, choose a "
                f"person by --reviewer=NAME, or leave them out by --on_conflict=drop:{shown}{more}"
            )
        notes.append(f"{many} on whose type people differ: left out.")
    for name, count in others.items():
        many = html.plural(count, "cell")
        notes.append(f"{many} said to be {name!r}, no cell to learn: left out.")
    return Typed(cells, types, used, notes)
