"""wbc_jax.cli: inputs, names of outputs, switches, exit statuses."""

import argparse
import os
import subprocess
import sys

import pytest

from wbc_jax import cli
from wbc_jax.errors import DataError, Interrupted


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], (False, True)),
        (["--a", "--b"], (True, True)),
        (["--a=true", "--b=true"], (True, True)),
        (["--a=1", "--b=0"], (True, False)),
        (["--a=False", "--b=f"], (False, False)),
        (["--noa", "--nob"], (False, False)),
        (["--a", "--noa"], (False, True)),  # the last one counts
    ],
)
def test_switches_are_spelled_as_absl_spells_them(arguments, expected):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("paths", nargs="*")
    cli.add_switch(parser, "a", False, "turns a on")
    cli.add_switch(parser, "b", True, "turns b off")
    given = parser.parse_args([*arguments, "x.png"])
    assert (given.a, given.b) == expected
    assert given.paths == ["x.png"]  # a switch takes no path for its value
    usage = parser.format_usage()
    assert "[--a]" in usage and "[--nob]" in usage and "--noa" not in usage


@pytest.mark.parametrize("argument", ["--a=perhaps", "--a=", "--aa"])
def test_a_switch_takes_no_other_value(argument, capsys):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    cli.add_switch(parser, "a", False, "turns a on")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([argument])
    assert caught.value.code == 2
    assert argument in capsys.readouterr().err or argument.startswith("--a=")


@pytest.mark.parametrize(
    "error, status, text",
    [
        (DataError("a.png is damaged"), "error: a.png is damaged", ""),
        (OSError("disk full"), "error: disk full", ""),
        (Interrupted("SIGTERM came", 15), 143, "SIGTERM came\n"),
        (Interrupted("SIGINT came", 2), 130, "SIGINT came\n"),
    ],
)
def test_expected_errors_become_messages(error, status, text, capsys):
    # Python prints a text given to sys.exit and ends with status 1.
    with pytest.raises(SystemExit) as caught, cli.reported_errors():
        raise error
    assert caught.value.code == status
    assert capsys.readouterr().err == text


def test_names_that_a_stream_cannot_encode_are_printed(tmp_path):
    program = "from wbc_jax import cli\nwith cli.reported_errors(): print('caf\\udce9 \\xb5')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "caf\\udce9 \\xb5\n"), done.stderr


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), cli.reported_errors():
        1 / 0  # noqa: B018
