"""wbc_jax.data.reading: threads, bad files."""

import time

import pytest

from wbc_jax.data import reading
from wbc_jax.errors import DataError


def test_each_keeps_the_order_and_notes_bad_files():
    def read(number):
        time.sleep(0.002 * (number % 3))  # later ones are done earlier
        if number in (2, 7):
            raise DataError(f"{number} is bad")
        return -number

    for threads in (1, 5):
        bad = reading.BadFiles()
        with reading.on_threads(threads, ""):
            found = list(reading.each(read, range(40), lambda n: f"/x/{n}", bad))
        assert found == [-n for n in range(40) if n not in (2, 7)]
        assert bad.files == [("/x/2", "2 is bad"), ("/x/7", "7 is bad")]
    with pytest.raises(DataError, match="2 is bad"):
        list(reading.each(read, range(40)))


def test_each_reads_only_a_little_ahead():
    started = []
    with reading.on_threads(2, ""):
        found = reading.each(started.append, range(1000))
        next(found)
        found.close()
    assert 1 <= len(started) <= 9  # four a thread, and one


def test_each_says_how_far_it_is(capsys):
    with reading.on_threads(2, "cells"):
        assert list(reading.each(str, range(3))) == ["0", "1", "2"]
    assert capsys.readouterr().err.startswith("cells 3/3 (100 %)  ")


def test_all_bad_files_are_collected_and_20_are_shown():
    bad = reading.bad_files()
    for number in range(25):
        with bad.catch(f"/x/{number:02}.png"):
            raise DataError("broken")
    with pytest.raises(DataError) as caught:
        bad.finish("set")
    message = str(caught.value)
    assert "set: 25 bad files" in message
    assert "/x/19.png: broken" in message
    assert "/x/20.png" not in message
    assert "and 5 more" in message


def test_skip_keeps_the_list():
    with reading.on_bad_file("skip") as collector:
        reading.bad_files().add("/x/a.png", "broken")
        reading.bad_files().finish("set")
    assert collector.files == [("/x/a.png", "broken")]
    assert reading.bad_files().policy == "error"


def test_unknown_policy():
    with (
        pytest.raises(DataError, match="allowed are 'error', 'skip'"),
        reading.on_bad_file("ignore"),
    ):
        pass
