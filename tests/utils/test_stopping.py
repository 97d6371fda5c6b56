import os
import signal
import weakref

import pytest

from wbc_jax.utils import stopping


class _Thing:
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_and_names_itself(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, stopping.stopped_by_signals():
        os.kill(os.getpid(), number)
        stopping.raise_if_stopped()
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is before
    stopping.raise_if_stopped()  # nothing is left of it


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_is_raised_at_the_next_step():
    thing, went_on = _Thing(), False
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Stopped) as caught, stopping.stopped_by_signals():
        stopping.raise_if_stopped()  # none came
        del thing  # the exception is raised in the callback, where Python drops it
        went_on = True
        stopping.raise_if_stopped()
    assert reference() is None
    assert went_on and caught.value.signal_number == signal.SIGINT
