"""wbc_jax.training.stop_signals in one process; tests/parallel/test_multihost.py has several."""

import os
import signal
import threading

import pytest

from wbc_jax.training.stop_signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_recorded_and_a_second_has_its_usual_effect(number):
    seen = []
    before = signal.signal(number, lambda received, _: seen.append(received))
    usual = signal.getsignal(number)
    try:
        with StopSignals() as signals:
            assert signals.agreed() == 0
            os.kill(os.getpid(), number)
            assert signals.agreed() == signals.agreed() == number and not seen
            os.kill(os.getpid(), number)
            assert seen == [number]
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_signals_are_left_alone():
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    found = []

    def inside():
        with StopSignals() as signals:
            found.extend([signals.agreed()])
            found.extend(signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [0, *handlers]
