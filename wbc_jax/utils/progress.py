"""A one-line progress bar: done, rate, time left."""

import sys
import time
from typing import TextIO


class Progress:
    """A progress line: rewritten in place on a terminal, an occasional new line in a log.

    Args:
        what: name of the steps that are counted, `step` or `image`.
        total: number of steps.
        unit: name of the items whose rate is shown.
        done: steps done before, by an earlier process.
        stream: standard error by default.
        every_seconds: minimum time between two lines in a log.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "images",
        done: int = 0,
        stream: TextIO | None = None,
        every_seconds: float = 10.0,
    ):
        self._what, self._total, self._unit = what, total, unit
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = 0.2 if self._terminal else every_seconds
        self._start = self._shown = time.monotonic()
        self._first = done
        self._count = 0
        self._width = 0

    def update(self, done: int, count: int, note: str = "", part: float = 0.0) -> None:
        """Shows that `done` steps are done, with `count` more items since the last call.

        Args:
            done: number of steps that are done.
            count: items since the last call.
            note: text behind the line.
            part: of the steps after these that is done. Steps and items are then the same.
        """
        self._count += count
        now = time.monotonic()
        if now - self._shown < self._every and done < self._total:
            return
        self._shown = now
        elapsed = max(now - self._start, 1e-9)
        rate = (self._count + part) / elapsed
        reached = done + part
        left = (self._total - reached) * elapsed / (reached - self._first or 1)
        line = (
            f"{self._what} {done}/{self._total} ({100 * reached / self._total:.0f} %)  "
            f"{rate:.1f} {self._unit}/s  {duration(left)} left"
        )
        self._write(f"{line}  {note}" if note else line)

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def _write(self, line: str) -> None:
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Formats a duration: `47 s`, `3 min 05 s` or `2 h 07 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
