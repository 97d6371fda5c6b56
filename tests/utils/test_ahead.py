"""Items that a thread makes ahead come in their order, one ahead at most, errors included."""

import itertools
import threading

import pytest

from wbc_jax.utils.ahead import ahead


def test_all_items_in_their_order():
    assert list(ahead(iter([3, None, 1]))) == [3, None, 1]
    assert list(ahead(iter(()))) == []


def test_one_item_is_made_while_the_last_is_in_use_and_no_more():
    made = [threading.Event() for _ in range(4)]

    def items():
        for number, event in enumerate(made):
            event.set()
            yield number

    found = ahead(items())
    for number in range(3):
        assert next(found) == number
        assert made[number + 1].wait(10)
        assert not any(event.is_set() for event in made[number + 2 :])


def test_an_error_comes_at_its_place():
    def items():
        yield 1
        raise KeyboardInterrupt

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(KeyboardInterrupt):
        next(found)


def test_an_endless_wait_keeps_nothing_from_ending():
    """The thread that waits is a daemon."""
    before = set(threading.enumerate())
    forever = threading.Event()

    def items():
        yield 1
        forever.wait()

    found = ahead(items())
    assert next(found) == 1
    found.close()
    late = set(threading.enumerate()) - before
    assert len(late) == 1 and all(thread.daemon for thread in late)
    forever.set()
    for thread in late:
        thread.join(10)


def test_nothing_is_made_before_it_is_asked_for():
    counted = itertools.count()
    found = ahead(counted)
    assert next(counted) == 0
    assert next(found) == 1
