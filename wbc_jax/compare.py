"""Compares two runs image by image: `python -m wbc_jax.compare RUN_A RUN_B --out=DIR`.

Reads `report/per_image.csv` of both, pairs the rows by data set and id, and prints for each score,
by data set and over all images, the difference B − A with an interval and a paired test. Reads no
image and runs no model.
"""

import argparse
import os
from collections.abc import Sequence

from wbc_jax import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command: see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m wbc_jax.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="RUN_A", help="--workdir of an evaluated run")
    parser.add_argument("second", metavar="RUN_B", help="that of the run to compare with it")
    parser.add_argument("--out", help="folder for comparison.csv, unpaired.csv and index.html")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling")
    given = parser.parse_args(argv)
    if given.bootstrap < 1:
        parser.error(f"--bootstrap is {given.bootstrap}; it must be 1 or more")
    with cli.reported_errors():
        _compare(given)


def _compare(given: argparse.Namespace) -> None:
    from wbc_jax.errors import CompareError
    from wbc_jax.evaluate import paired
    from wbc_jax.report import comparison
    from wbc_jax.utils import output_folder
    from wbc_jax.utils.output_folder import OutputFolder

    if os.path.realpath(given.first) == os.path.realpath(given.second):
        raise CompareError(f"{given.first} and {given.second} are one run; name two.")
    if given.out:
        output_folder.check(given.out, comparison.FILES)
    first, second = paired.read(given.first), paired.read(given.second)
    found = paired.compare(first, second, given.bootstrap, given.seed)
    print(comparison.text(found), flush=True)
    if given.out:
        with OutputFolder(given.out) as folder:
            folder.refuse_foreign(comparison.FILES)
            written = comparison.write(folder, found)
        print(f"\nWritten: {', '.join(map(os.fspath, written))}", flush=True)


if __name__ == "__main__":
    main()
