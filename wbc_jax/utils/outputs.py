"""Names of output files, and the list of input files that could not be used."""

import itertools
import os
from collections.abc import Iterable, Sequence

from etils import epath

from wbc_jax.utils import atomic


def output_names(paths: Iterable[str]) -> list[str]:
    """Returns a different file-name stem for each path, even if two inputs have the same name."""
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

    If there are none, it removes the list of an earlier call.
    """
    listed = out / "bad_files.csv"
    if bad:
        table = [{"file": path, "reason": reason} for path, reason in bad]
        atomic.write_csv(listed, table, ("file", "reason"))
    else:
        listed.unlink(missing_ok=True)
