"""Makes the next item of an iterator while the last one is in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the items in their order; a thread makes the next one meanwhile, and no more.

    The thread does not keep the program from ending: a file may be on a disk that hangs.

    Raises:
        Exception: whatever `items` raises, at the same place.
    """
    upcoming = _start(items)
    while (found := upcoming.result()) is not None:
        upcoming = _start(items)
        yield found[0]


def _start(items: Iterator[T]) -> futures.Future[tuple[T] | None]:
    """Starts to make an item; the result is None if there is none left."""
    future: futures.Future[tuple[T] | None] = futures.Future()

    def make() -> None:
        try:
            found = next(((item,) for item in items), None)
        except BaseException as error:  # a signal, too
            future.set_exception(error)
        else:
            future.set_result(found)

    threading.Thread(target=make, daemon=True).start()
    return future
