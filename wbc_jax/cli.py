"""The part that all commands share: inputs, names of outputs, bad files, errors."""

import contextlib
import glob
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from wbc_jax.errors import InputError, UserError
from wbc_jax.utils import atomic

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
RESULT_FOLDERS = ("masks", "labels", "overlays", "geojson")
"""Folders that `wbc_jax.predict` writes; they are no input."""
EXPECTED = (UserError, OSError)
"""Errors that a command reports in one line; all others are bugs and keep their traceback."""


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Ends the program with `error: ...` and status 1 on an expected error inside the block."""
    try:
        yield
    except EXPECTED as error:
        sys.exit(f"error: {error}")


def find_images(inputs: Sequence[str], out: epath.PathLike = "") -> list[str]:
    """Returns the image files named by files, folders (searched through) and globs, each once.

    A file named outright is taken whatever its suffix; in folders and globs only `IMAGE_SUFFIXES`
    count. Folders skip `out`, the results of an earlier call.

    Raises:
        InputError: an input does not exist, or there is no image in all of them.
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


def output_names(paths: Iterable[str]) -> list[str]:
    """Returns a file-name stem for each path, all different even where two inputs share a name."""
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        candidates = itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2)))
        # Some file systems take A.png and a.png for one file.
        name = next(c for c in candidates if c.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def list_bad(out: epath.Path, bad: Sequence[tuple[str, str]]) -> None:
    """Writes (path, reason) of each bad file to `<out>/bad_files.csv`.

    Without any, it removes the list of an earlier call.
    """
    listed = out / "bad_files.csv"
    if bad:
        table = [{"file": path, "reason": reason} for path, reason in bad]
        atomic.write_csv(listed, table, ("file", "reason"))
    else:
        listed.unlink(missing_ok=True)


def exit_if_bad(bad: Sequence[tuple[str, str]], total: int, done: str) -> None:
    """Names the bad files and ends the program with status 1, if there are any.

    Args:
        bad: (path, reason) of each.
        total: number of files asked for.
        done: what could not be done with them, such as `predicted`.
    """
    if bad:
        for path, reason in bad:
            print(f"bad file: {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)
        sys.exit(f"error: {len(bad)} of {total} files could not be {done}")
