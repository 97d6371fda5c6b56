"""SIGINT and SIGTERM as an exception that is not lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_came: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal has asked the program to end."""

    def __init__(self, signal_number: int):
        super().__init__()
        self.signal_number = signal_number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raises `Stopped` in the block on SIGINT and SIGTERM, so that it can clean up.

    Outside the main thread, where Python takes no signals, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _came.clear()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _came.clear()


def raise_if_stopped() -> None:
    """Raises `Stopped` if a signal came and the work goes on nevertheless.

    A long loop calls it at each step: where a signal arrives while a finalizer or the callback of a
    weak reference runs, Python prints the exception and drops it.
    """
    if _came:
        raise Stopped(_came[0])


def _stop(number: int, _: object) -> None:
    _came.append(number)
    raise Stopped(number)
