"""The part that all commands share: inputs, bad files, errors, switches.

Exit statuses: 0 done; 1 error, said in one line, or files that could not be processed; 2 wrong
flags of a command that uses argparse; 3 Parquet shards written, but without the files that could
not be predicted; 128 + n training was stopped by signal n after saving.
"""

import argparse
import contextlib
import glob
import os
import sys
from collections.abc import Iterator, Sequence

from etils import epath

from wbc_jax.errors import InputError, Interrupted, UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
RESULT_FOLDERS = ("masks", "labels", "overlays", "geojson")
"""Folders that `wbc_jax.predict` writes; they are never inputs."""
BAD_SHARDS = 3
"""Exit status: Parquet shards are written, but some files could not be predicted."""
EXPECTED = (UserError, OSError)
"""Errors that a command reports in one line; all others are bugs and keep their traceback."""


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the program with a message, not a traceback, on an expected error in the block.

    An error ends it with `error: ...` and status 1, a signal with 128 + its number.
    """
    try:
        yield
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except EXPECTED as error:
        sys.exit(f"error: {error}")


def find_images(inputs: Sequence[str], out: epath.PathLike = "") -> list[str]:
    """Returns the images among files, folders (with their subfolders) and globs, each once.

    A file that is named itself may have any suffix; folders and globs give only `IMAGE_SUFFIXES`.
    The search of folders leaves out `out`, the results of an earlier call.

    Raises:
        InputError: an input does not exist, or there is no image in any of them.
    """
    found: dict[str, None] = {}
    for name in inputs:
        path = epath.Path(name).expanduser()
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                own = RESULT_FOLDERS if _same(folder, out) else ()
                folders[:] = sorted(
                    f for f in folders if f not in own and not _same(os.path.join(folder, f), out)
                )
                chosen = sorted(n for n in names if n.lower().endswith(IMAGE_SUFFIXES))
                found |= dict.fromkeys(os.path.join(folder, n) for n in chosen)
        elif path.exists():
            found[os.fspath(path)] = None
        else:
            matches = sorted(glob.glob(os.fspath(path), recursive=True))
            images = [m for m in matches if m.lower().endswith(IMAGE_SUFFIXES)]
            if not images:
                raise InputError(f"{name}: no such file or folder, and no image matches it.")
            found |= dict.fromkeys(images)
    if not found:
        raise InputError(
            f"no image in {', '.join(inputs)}; looked for files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    return list(found)


def _same(folder: str, other: epath.PathLike) -> bool:
    return bool(other) and os.path.realpath(folder) == os.path.realpath(other)


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
