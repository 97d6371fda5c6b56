"""wbc_jax.utils.progress: done, rate and time left, on a terminal and in a log."""

import io

import pytest

from wbc_jax.utils.progress import Progress, duration, time


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (46.6, "47 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7649, "2 h 07 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_a_log_gets_an_occasional_line(clock):
    stream = io.StringIO()
    progress = Progress("step", 100, stream=stream)
    for done in range(1, 13):
        clock[0] += 2.0
        progress.update(done, 16)
    progress.close()
    # 16 images in 2 s; a step takes 2 s. Lines at 10 s and 20 s.
    assert stream.getvalue() == (
        "step 5/100 (5 %)  8.0 images/s  3 min 10 s left\n"
        "step 10/100 (10 %)  8.0 images/s  3 min 00 s left\n"
    )


def test_the_last_step_is_always_shown(clock):
    stream = io.StringIO()
    progress = Progress("image", 2, stream=stream)
    clock[0] += 0.5
    progress.update(2, 2, "done")
    assert stream.getvalue() == "image 2/2 (100 %)  4.0 images/s  0 s left  done\n"


def test_earlier_steps_count_for_neither_rate_nor_time_left(clock):
    stream = io.StringIO()
    progress = Progress("step", 100, "images", done=90, stream=stream)
    clock[0] += 20
    progress.update(92, 8)
    assert stream.getvalue() == "step 92/100 (92 %)  0.4 images/s  1 min 20 s left\n"


def test_a_terminal_gets_one_line_rewritten(clock):
    stream = _Terminal()
    progress = Progress("step", 1000, stream=stream)
    clock[0] += 1
    progress.update(1, 1, "a long note")
    clock[0] += 0.1
    progress.update(2, 1, "too soon")
    clock[0] += 0.9
    progress.update(4, 2)
    progress.close()
    progress.close()
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "step 1/1000 (0 %)  1.0 images/s  16 min 39 s left  a long note"
    assert second.rstrip() == "step 4/1000 (0 %)  2.0 images/s  8 min 18 s left"
    assert second.endswith("\n") and second.count("\n") == 1
    assert len(second.rstrip("\n")) == len(first)  # spaces overwrite the rest of the longer line


def test_close_without_a_line(clock):
    stream = _Terminal()
    Progress("step", 10, stream=stream).close()
    assert stream.getvalue() == ""


def test_parts_of_a_long_step_are_shown(clock):
    stream = io.StringIO()
    progress = Progress("image", 2, stream=stream)
    for part in (0.0, 0.25, 0.5):
        clock[0] += 10.0
        progress.update(0, 0, part=part)
    assert stream.getvalue() == (
        "image 0/2 (0 %)  0.0 images/s  20 s left\n"
        "image 0/2 (12 %)  0.0 images/s  2 min 20 s left\n"
        "image 0/2 (25 %)  0.0 images/s  1 min 30 s left\n"
    )
