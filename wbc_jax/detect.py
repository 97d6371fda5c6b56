"""A field of many cells → one box per leukocyte: `python -m wbc_jax.detect IMAGES… --out=DIR`."""

import argparse
import math
import sys
from collections.abc import Sequence

from wbc_jax import cli, inputs
from wbc_jax.data.crops import MARGIN


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m wbc_jax.detect", description=__doc__)
    parser.add_argument("images", nargs="*", help="files, folders or globs")
    parser.add_argument("--out", help="folder for the results; with --score, a JSON file")
    parser.add_argument(
        "--pictures", help="folder for pictures with boxes; with --score, of the worst fields"
    )
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help="margin of crops, in cell sizes"
    )
    parser.add_argument(
        "--score", action="store_true", help="score against the boxes of a data set"
    )
    parser.add_argument("--manual_dir", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--dataset", default="kaggle_blood_cells", help="kaggle_blood_cells or bcd")
    parser.add_argument("--part", default="all", help="all, development or rest")
    parser.add_argument(
        "--most_pictures", type=int, default=40, help="largest number of pictures with --score"
    )
    options = parser.parse_args(argv)
    if not options.score and not (options.images and options.out):
        parser.error("name IMAGES... and --out=DIR, or --score")
    if not 0 <= options.margin < math.inf:
        parser.error(f"--margin is {options.margin}: allowed is a number from 0 upwards")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    options = _options(argv)
    with cli.reported_errors():
        if options.score:
            from wbc_jax.evaluate import detection

            detection.score(
                options.dataset,
                options.manual_dir,
                options.part,
                options.out,
                options.pictures,
                options.most_pictures,
            )
            return
        from wbc_jax.fields import detections

        found = inputs.find_images(options.images)
        if said := found.describe():
            print(said, file=sys.stderr, flush=True)
        bad = detections.detect_files(
            found.paths, options.out, options.pictures, options.margin, found.passed_over
        )
    cli.exit_if_bad(bad, len(found.paths), "read")


if __name__ == "__main__":
    main()
