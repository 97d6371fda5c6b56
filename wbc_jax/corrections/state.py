"""What is said of each cell now, by each reviewer: the log, played from its beginning."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from wbc_jax.corrections import log
from wbc_jax.corrections.cells import Box, Results
from wbc_jax.errors import InputError
from wbc_jax.fields import results as tables
from wbc_jax.labels import ALL, CELL_TYPES, REVIEW, UNKNOWN_TYPE
from wbc_jax.metrics.nc_ratio import from_areas

NO_LEUKOCYTE, BROKEN, SEVERAL = "not a leukocyte", "broken", "several cells"
NOT_COUNTED = (NO_LEUKOCYTE, BROKEN, SEVERAL)
"""What a person may call a cell so that the differential count leaves it out."""
MOST_CHARACTERS, MOST_OWN = 40, 100
"""Longest name of a type of one's own, and the most of them."""
TABLE = "corrections.csv"
COLUMNS = (
    *("file", "cell", "top", "left", "bottom", "right", "predicted", "best_guess", "probability"),
    *("type", "mask", "mask_top", "mask_left", "mask_bottom", "mask_right"),
    *("nucleus_px", "cytoplasm_px", "nc_ratio", "reviewer", "time", "status"),
)
CURRENT, GONE = "current", "gone"


@dataclasses.dataclass(slots=True)
class Said:
    """A reviewer's last word on a cell.

    Attributes:
        last: the last statement about it.
        type: None: nothing is said.
        mask: as in `log.Statement`; None: nothing is said.
    """

    last: log.Statement
    type: str | None = None
    mask: dict[str, Any] | None = None


class State:
    """What all reviewers said of the cells of a folder.

    Args:
        results: the folder's.

    Attributes:
        gone: statements about cells that the results no longer have.
        applied: (reviewer, cell's index) of each statement so far; None: the cell is gone.
    """

    def __init__(self, results: Results):
        self._results = results
        self._said: dict[str, dict[int, Said]] = {}
        self._lost: dict[tuple[str, str, int, Box], Said] = {}
        self._acts: dict[str, dict[str, list[log.Statement]]] = {}
        guessed = {cell.row.get("best_guess") for cell in results.cells}
        # An adapted classifier has further types.
        self._predicted = sorted(name for name in guessed if name and name not in CELL_TYPES)
        self._own = {name.casefold(): name for name in self._predicted}
        self.gone: list[log.Statement] = []
        self.applied: list[tuple[str, int | None]] = []

    @property
    def reviewers(self) -> list[str]:
        """Those who said anything, in the order of their first word."""
        return list(self._said)

    def said(self, reviewer: str) -> dict[int, Said]:
        """Returns a reviewer's last words by the cells' indices, without what was taken back."""
        return {i: s for i, s in self._said.get(reviewer, {}).items() if s.type or s.mask}

    def of(self, reviewer: str, index: int) -> Said | None:
        """Returns a reviewer's last word on a cell, even if it was taken back."""
        return self._said.get(reviewer, {}).get(index)

    def apply(self, statements: Iterable[log.Statement]) -> None:
        """Plays statements, in the log's order."""
        for one in statements:
            cell = self._results.find(one.file, one.cell, one.box)
            self.applied.append((one.reviewer, None if cell is None else cell.index))
            if cell is None:
                self.gone.append(one)
                place = self._lost.setdefault(
                    (one.reviewer, one.file, one.cell, one.box), Said(one)
                )
            else:
                words = self._said.setdefault(one.reviewer, {})
                place = words.setdefault(cell.index, Said(one))
            place.last = one
            setattr(place, one.what, one.after)
            if one.what == log.TYPE and one.after is not None:
                self._own.setdefault(one.after.casefold(), one.after)
            acts = self._acts.setdefault(one.reviewer, {})
            if one.undoes:
                acts.pop(one.undoes, None)
            else:
                acts.setdefault(one.act, []).append(one)

    def last_act(self, reviewer: str) -> list[log.Statement]:
        """Returns what an undo would take back; empty if there is nothing."""
        acts = self._acts.get(reviewer, {})
        return acts[next(reversed(acts))] if acts else []

    def types(self) -> list[str]:
        """Returns all types: the model's, what is not counted, then those of people's own."""
        known = [*CELL_TYPES, *NOT_COUNTED]
        return [*known, *(name for name in self._own.values() if name not in known)]

    def type_named(self, text: str) -> str:
        """Returns the type that a person means, perhaps a new one.

        Raises:
            InputError: it cannot be the name of a type.
        """
        name = " ".join(unicodedata.normalize("NFC", text).split())
        for known in self.types():
            if known.casefold() == name.casefold():
                return known
        reserved = (REVIEW, ALL, UNKNOWN_TYPE)
        if not name or len(name) > MOST_CHARACTERS or not name.isprintable():
            raise InputError(
                f"{text[:60]!r} cannot be a type: a name has 1 to {MOST_CHARACTERS} characters "
                "that can be printed."
            )
        if name.casefold() in reserved:
            raise InputError(
                f"{name!r} cannot be a type, as tables use it for something else: choose another "
                "name."
            )
        if len(self.types()) >= MOST_OWN + len(CELL_TYPES) + len(NOT_COUNTED):
            raise InputError(f"there are {MOST_OWN} types of one's own already: use one of them.")
        return name

    def current_type(self, reviewer: str, index: int) -> str:
        """Returns a cell's type after correction."""
        said = self.of(reviewer, index)
        return (said and said.type) or self._results.cells[index].predicted

    def count(self, reviewer: str | None) -> list[dict[str, Any]]:
        """Returns the differential count after a reviewer's corrections.

        Args:
            reviewer: None: before any correction.

        Returns:
            As `results.differential`; the types of people's own follow the model's. What is
            `NOT_COUNTED` is left out.
        """
        if reviewer is None:
            every = [*CELL_TYPES, *self._predicted]
            return tables.differential([cell.row for cell in self._results.cells], every)
        found = [self.current_type(reviewer, i) for i in range(len(self._results.cells))]
        rows = [{"cell": 1, "type": name} for name in found if name not in NOT_COUNTED]
        used = set(found)
        own = [name for name in self.types() if name not in (*CELL_TYPES, *NOT_COUNTED)]
        return tables.differential(rows, [*CELL_TYPES, *(name for name in own if name in used)])

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of `corrections.csv`: one per reviewer and cell, by cell."""
        found = []
        for reviewer in self._said:
            for index, said in self.said(reviewer).items():
                cell = self._results.cells[index]
                row = _row(cell.row | {"predicted": cell.predicted}, said, CURRENT)
                found.append(((index, reviewer), row))
        last = len(self._results.cells)
        for n, said in enumerate(said for said in self._lost.values() if said.type or said.mask):
            one = said.last
            edges = dict(zip(("top", "left", "bottom", "right"), one.box))
            about = {"file": one.file, "cell": one.cell, "predicted": one.predicted, **edges}
            found.append(((last + n, one.reviewer), _row(about, said, GONE)))
        return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def _row(about: Mapping[str, Any], said: Said, status: str) -> dict[str, Any]:
    row = {name: about.get(name) for name in COLUMNS[:9]}
    row |= {"type": said.type, "reviewer": said.last.reviewer, "time": said.last.time}
    row["status"] = status
    if said.mask is not None:
        edges = zip(("mask_top", "mask_left", "mask_bottom", "mask_right"), said.mask["window"])
        areas = {name: said.mask[name] for name in ("nucleus_px", "cytoplasm_px")}
        row |= {"mask": said.mask["png"], **dict(edges), **areas, "nc_ratio": ratio(**areas)}
    return row


def ratio(nucleus_px: int, cytoplasm_px: int) -> float:
    """Returns the N/C ratio, as in `metrics.nc_ratio`."""
    return float(from_areas([nucleus_px], [cytoplasm_px]).nc_ratio[0])


def check_reviewer(name: str) -> str:
    """Returns a reviewer's name as it is written down.

    Raises:
        InputError: it is empty, too long, or cannot be printed.
    """
    text = " ".join(os.fsdecode(name).split())
    if not text or len(text) > MOST_CHARACTERS or not text.isprintable():
        raise InputError(
            f"--reviewer={name!r} is no name: allowed are 1 to {MOST_CHARACTERS} characters that "
            "can be printed."
        )
    return text
