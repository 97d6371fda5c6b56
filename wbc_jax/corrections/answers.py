"""What the server of a review tells its page, as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from wbc_jax.corrections import order, state
from wbc_jax.corrections.cells import Cell
from wbc_jax.corrections.session import Session
from wbc_jax.labels import CELL_TYPES, REVIEW
from wbc_jax.utils import atomic


def everything(session: Session) -> dict[str, Any]:
    """Returns all cells, what is said of them, and the counts."""
    cells = session.results.cells
    rows = [cell.row for cell in cells]
    with session.still:
        first = session.state.count(None) if session.results.typed else []
    return atomic.finite(
        {
            "cells": {
                "name": [os.path.basename(cell.file) for cell in cells],
                "cell": [cell.cell for cell in cells],
                "predicted": [cell.predicted for cell in cells],
                "guess": [row["best_guess"] or "" for row in rows],
                "probability": [row["probability"] for row in rows],
                "review": [row["review"] or "" for row in rows],
            },
            "order": order.informative(rows),
            "turns": order.in_turns(rows),
            "forReview": REVIEW,
            "model": list(CELL_TYPES),
            "notCounted": list(state.NOT_COUNTED),
            "typed": session.results.typed,
            "before": first,
            **news(session, 0),
        }
    )


def news(session: Session, since: int) -> dict[str, Any]:
    """Returns what changed after a number of statements.

    The result holds the number of statements now, what is said of each cell that changed, the types
    there are, the differential count, and what is wrong.
    """
    with session.still:
        found = {
            "revision": session.refresh(),
            "said": {index: said(session, index) for index in session.changed_since(since)},
            "types": session.state.types(),
            "after": session.state.count(session.reviewer),
            "problems": problems(session),
        }
    return atomic.finite(found)


def said(session: Session, index: int) -> dict[str, Any]:
    """Returns what is said of a cell: its type, and its mask's hash and N/C ratio."""
    found = session.state.of(session.reviewer, index)
    mask = found.mask if found else None
    return {
        "type": found.type if found else None,
        "mask": mask["sha256"] if mask else None,
        "nc": state.ratio(mask["nucleus_px"], mask["cytoplasm_px"]) if mask else None,
    }


def problems(session: Session) -> list[str]:
    """Returns what the person has to know, a sentence each."""
    found = list(session.log.problems)
    if lost := len(session.state.gone):
        found.append(
            f"{lost} statement{'' if lost == 1 else 's'} in the log {'is' if lost == 1 else 'are'} "
            "about cells that these results do not have, as of another run or of other images. "
            f"They stay in the log, and in {state.TABLE} with the status {state.GONE!r}."
        )
    if session.trouble:
        found.append(session.trouble)
    if not session.results.is_current():
        found.append(
            "These results have changed since this review began: end it and start it again."
        )
    return found


def about(cell: Cell, problem: str) -> dict[str, Any]:
    """Returns what the page shows of one cell beside its pictures."""
    row = cell.row
    facts: Sequence[str] = (
        *("nucleus_px", "cytoplasm_px", "nc_ratio", "lobes", "flag", "width", "height"),
    )
    found = {name: row[name] for name in facts}
    return atomic.finite({**found, "file": cell.file, "box": list(cell.box), "problem": problem})
