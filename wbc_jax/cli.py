"""The part that all commands share: bad files, errors, signals, switches.

Exit statuses: 0 done; 1 error, said in one line, or files that could not be processed; 2 wrong
flags of a command that uses argparse; 3 Parquet shards written, but without the files that could
not be predicted; 128 + n training was stopped by signal n after saving.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence

from wbc_jax.errors import Interrupted, UserError

BAD_SHARDS = 3
"""Exit status: Parquet shards are written, but some files could not be predicted."""
EXPECTED = (UserError, OSError)
"""Errors that a command reports in one line; all others are bugs and keep their traceback."""


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the program with a message, not a traceback, on an expected error in the block.

    An error ends it with `error: ...` and status 1, a signal with 128 + its number. What a stream
    cannot encode, such as a file name that is no UTF-8, is printed with a backslash.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except EXPECTED as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signal_number", signal.SIGINT))


def parser(command: str, text: str) -> argparse.ArgumentParser:
    """Returns the parser of `python -m wbc_jax.COMMAND`, whose flags are written in full.

    Args:
        command: its name.
        text: its description, which `--help` prints as it is.
    """
    return argparse.ArgumentParser(
        prog=f"python -m wbc_jax.{command}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def exit_if_bad(bad: Sequence[tuple[str, str]], total: int, done: str) -> None:
    """Prints the bad files and ends the program with status 1, if there are any.

    Args:
        bad: (path, reason) of each bad file.
        total: number of all files.
        done: participle for the message, such as `predicted`.
    """
    if bad:
        for path, reason in bad:
            print(f"bad file: {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)
        sys.exit(f"error: {len(bad)} of {total} files could not be {done}")


def add_switch(parser: argparse._ActionsContainer, name: str, default: bool, text: str) -> None:
    """Adds a switch that is spelled as absl's booleans: `--NAME`, `--NAME=false`, `--noNAME`.

    Each spelling is an option of its own: with `nargs="?"`, argparse would take a path that follows
    `--NAME` for its value.

    Args:
        parser: parser or group of one.
        name: of the flag.
        default: value without the flag.
        text: help; it is shown beside the spelling that changes the default.
    """
    on = [f"--{name}", *(f"--{name}={value}" for value in ("true", "True", "t", "1"))]
    off = [f"--no{name}", *(f"--{name}={value}" for value in ("false", "False", "f", "0"))]
    for options, value in ((on, True), (off, False)):
        shown, others = (options[:1], options[1:]) if value != default else ([], options)
        settings = {"dest": name, "action": "store_const", "const": value, "default": default}
        if shown:
            parser.add_argument(*shown, **settings, help=text)
        parser.add_argument(*others, **settings, help=argparse.SUPPRESS)
