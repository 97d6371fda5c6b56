"""wbc_jax.data.reading: threads, bad files."""

import time

import numpy as np
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


def test_stray_grays_get_the_class_of_the_nearest_level_and_are_counted():
    classes = {0: 0, 155: 1, 255: 2}
    gray = np.array([[0, 77, 78, 155], [204, 206, 250, 255]], np.uint8)
    mask, moved = reading.nearest_classes("m.png", gray, classes, 1.0)
    assert mask.tolist() == [[0, 0, 1, 1], [1, 2, 2, 2]]
    assert (mask.dtype, moved) == (np.uint8, 5)
    # 77, 78, 204 and 206 are 77, 77, 49 and 49 from a level, 250 is 5.
    assert reading.nearest_classes("m.png", gray, classes, 4 / 8, tolerance=5)[1] == 5
    with pytest.raises(DataError) as caught:
        reading.nearest_classes("m.png", gray, classes, 4 / 8)
    assert str(caught.value).startswith("m.png: mask values 77 (1 pixel), 78 (1 pixel), 204")
    assert "allowed are 0, 155, 255, and other grays in at most 50% of" in str(caught.value)
    with pytest.raises(DataError, match=r"155, 255 \(or up to 48 from these\), and other"):
        reading.nearest_classes("m.png", gray, classes, 3 / 8, tolerance=48)
