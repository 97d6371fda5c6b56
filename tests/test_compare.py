"""The command that compares two runs."""

import functools
import os

import pytest

from helpers import scored_runs, tiny_runs
from wbc_jax import compare


@pytest.fixture
def pair(tmp_path):
    return scored_runs.two_segmentations(tmp_path)


def test_the_command(pair, tmp_path):
    a, b, *_ = pair
    command = functools.partial(tiny_runs.command, "wbc_jax.compare", cwd=tmp_path)
    done = command(a, b, "--out", tmp_path / "out", "--bootstrap", 50)
    assert done.returncode == 0, done.stderr
    assert "B − A" in done.stdout and "Written: " in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".wbc_jax",
        "comparison.csv",
        "index.html",
        "unpaired.csv",
    ]
    done = command(a, tmp_path / "nothing")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_command_line_is_checked(pair, capsys):
    a, b = map(str, pair[:2])
    with pytest.raises(SystemExit, match="are one run; name two"):
        compare.main([a, a])
    with pytest.raises(SystemExit):
        compare.main([a, b, "--bootstrap=0"])
    assert "--bootstrap is 0; it must be 1 or more" in capsys.readouterr().err


def test_a_persons_page_is_not_replaced(pair, tmp_path):
    page = tmp_path / "mine" / "index.html"
    page.parent.mkdir()
    page.write_text("a person's")
    with pytest.raises(SystemExit) as caught:
        compare.main([*map(str, pair[:2]), f"--out={page.parent}"])
    assert str(caught.value).startswith(f"error: {page} was not written by an earlier call")
    assert page.read_text() == "a person's" and os.listdir(page.parent) == ["index.html"]
