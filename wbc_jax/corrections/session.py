"""One reviewer at a folder of results: says types, takes back, keeps `corrections.csv` up to date.

All that is said is in the log before a method returns; `corrections.csv` follows it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from wbc_jax.corrections import cells, log, masks, state
from wbc_jax.corrections.cells import Box
from wbc_jax.errors import InputError
from wbc_jax.utils import output_folder, outputs
from wbc_jax.utils.output_folder import OutputFolder

PAGE = "page"
"""The source of what is said in the browser."""
_PART = "review-"


class Session:
    """A reviewer's session. Threads may share it; other processes may have sessions of their own.

    Args:
        path: a folder of results.
        reviewer: the person's name.

    Attributes:
        results: the cells.
        log: the log of the folder.
        state: what is said so far.
        reviewer: the person's name, as it is written down.
        still: a lock; who reads several things that belong together holds it.
        trouble: why `corrections.csv` could not be written the last time; empty if it could.

    Raises:
        InputError: the folder holds no results, or a `corrections.csv` of a person; or the name is
            not allowed.
        DataError: the results are damaged.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: epath.PathLike, reviewer: str):
        self.reviewer = state.check_reviewer(reviewer)
        self.results = cells.read(path)
        output_folder.check(self.results.path, [state.TABLE], flag="DIR")
        self.log = log.Log(self.results.path)
        self.state = state.State(self.results)
        self.trouble = ""
        self.still = threading.RLock()
        self._folder = OutputFolder(self.results.path, flag="DIR", part=_PART)
        self._in_table = -1
        self.log.mend()
        self.refresh()

    def refresh(self) -> int:
        """Reads what other processes said; returns the number of statements in all."""
        with self.still:
            self.state.apply(self.log.read_new())
            return len(self.state.applied)

    def changed_since(self, revision: int) -> list[int]:
        """Returns the cells about which this reviewer said anything after that many statements."""
        with self.still:
            new = self.state.applied[revision:]
            own = {i for name, i in new if name == self.reviewer and i is not None}
            return sorted(own)

    def set_types(self, indices: Sequence[int], name: str | None) -> list[int]:
        """Says the type of cells, or that nothing is said of it (None).

        Returns:
            The cells for which this is news.

        Raises:
            InputError: the type has no allowed name, or the results have changed.
            OSError: the log cannot be written.
        """
        with self.still, self.log.locked():
            self._check_current()
            self.refresh()
            after = None if name is None else self.state.type_named(name)
            act = log.new_act()
            news = []
            for index in dict.fromkeys(indices):
                said = self.state.of(self.reviewer, index)
                before = said.type if said else None
                if before != after:
                    news.append(self._statement(index, act, log.TYPE, before, after))
            return self._say(news)

    def mask(self, index: int) -> tuple[Box, str, np.ndarray]:
        """Returns the window of a cell, the hash of its correction (or nothing), and its mask now.

        Raises:
            DataError: as `masks.current`.
        """
        with self.still:
            self.refresh()
            saved = self._saved(index)
            cell = self.results.cells[index]
            area = masks.window(cell, [saved["window"]] if saved else [])
            mask = masks.current(self.results.path, cell, saved, area)
            return area, saved["sha256"] if saved else "", mask

    def _saved(self, index: int) -> dict[str, Any] | None:
        said = self.state.of(self.reviewer, index)
        return said.mask if said else None

    def paint(
        self,
        index: int,
        area: Box,
        mask: np.ndarray,
        base: str | None = None,
        source: str = PAGE,
        act: str = "",
    ) -> list[int]:
        """Says the mask of a cell.

        Args:
            index: the cell.
            area: the part of the image that the mask covers.
            mask: uint8 `[H, W]`, as `masks` says.
            base: hash of the correction that it was painted on, as from `mask`; None: any.
            source: where it comes from.
            act: what it is undone together with; empty: nothing.

        Returns:
            The cell, if this is news.

        Raises:
            InputError: another window has corrected the mask since, or as `set_types`.
            DataError: as `masks.encode`.
            OSError: the mask or the log cannot be written.
        """
        saved, data = masks.encode(self.results.cells[index], area, mask)
        with self.still, self.log.locked():
            self._check_base(index, base)
            path = self.results.path / saved.png
            if not path.exists() or path.read_bytes() != data:
                self._folder.write({saved.png: data})
                log.sync(path)
            return self._set_mask(index, saved.as_json(), source, act)

    def forget_mask(self, index: int, base: str | None = None) -> list[int]:
        """Says that the mask of a cell is as predicted; arguments and errors as of `paint`."""
        with self.still, self.log.locked():
            self._check_base(index, base)
            return self._set_mask(index, None, PAGE)

    def _check_base(self, index: int, base: str | None) -> None:
        self._check_current()
        self.refresh()
        saved = self._saved(index)
        if base is not None and base != (saved["sha256"] if saved else ""):
            raise InputError(
                "Another window has corrected this mask since it was shown here. The mask of that "
                "window is shown now; paint on it."
            )

    def _set_mask(
        self, index: int, after: dict[str, Any] | None, source: str, act: str = ""
    ) -> list[int]:
        before = self._saved(index)
        if before == after:
            return []
        act = act or log.new_act()
        return self._say([self._statement(index, act, log.MASK, before, after, source)])

    def undo(self) -> list[int]:
        """Takes back the last act of this reviewer that is not taken back yet.

        Returns:
            The cells that change; none if there is nothing to take back.

        Raises:
            As `set_types`.
        """
        with self.still, self.log.locked():
            self._check_current()
            self.refresh()
            news = []
            for one in reversed(self.state.last_act(self.reviewer)):
                cell = self.results.find(one.file, one.cell, one.box)
                if cell is None:
                    raise InputError(
                        f"cell {one.cell} of {one.file} is not in these results, so what was last "
                        "said of it cannot be taken back here."
                    )
                said = self.state.of(self.reviewer, cell.index)
                now = getattr(said, one.what) if said else None
                news.append(
                    self._statement(cell.index, one.act, one.what, now, one.before, undoes=one.act)
                )
            return self._say(news)

    def _statement(
        self,
        index: int,
        act: str,
        what: str,
        before: Any,
        after: Any,
        source: str = PAGE,
        undoes: str = "",
    ) -> log.Statement:
        cell = self.results.cells[index]
        return log.Statement(
            act=act, undoes=undoes, reviewer=self.reviewer, source=source, file=cell.file,
            cell=cell.cell, box=cell.box, predicted=cell.predicted, what=what, before=before,
            after=after,
        )  # fmt: skip

    def _say(self, news: Sequence[log.Statement]) -> list[int]:
        if not news:
            return []
        first = len(self.state.applied)
        self.log.append(news)
        self.refresh()
        return [i for _, i in self.state.applied[first:] if i is not None]

    def _check_current(self) -> None:
        if not self.results.is_current():
            raise InputError(
                f"{self.results.path / outputs.TABLE} has changed since this review began: another "
                "program predicts into this folder. End this review and start it again; all that "
                "was said so far is in the log."
            )

    def write_table(self) -> None:
        """Writes `corrections.csv`, if anything was said since; says in `trouble` if it cannot."""
        with self.still:
            try:
                with self.log.locked():
                    revision = self.refresh()
                    if revision == self._in_table or not revision:
                        return
                    self._folder.refuse_foreign([state.TABLE])
                    self._folder.write_csv(state.TABLE, self.state.rows(), state.COLUMNS)
                    self._in_table = revision
                self.trouble = ""
            except (InputError, OSError) as error:
                self.trouble = f"{error} Nothing is lost: all that was said is in {self.log.path}."
