"""Names of output files."""

import itertools
import os
from collections.abc import Iterable


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
