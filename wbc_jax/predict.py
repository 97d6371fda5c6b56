"""Image files → masks, types and one table: `python -m wbc_jax.predict IMAGES… --out=DIR`.

IMAGES may be whole slides, which are read region by region (docs/slides.md).

Each leukocyte gets a row in `cells.csv` and `cells.parquet`. DIR also holds `differential.csv`,
`index.html`, `masks/`, `labels/`, `overlays/`, and the masks as polygons in `geojson/` and
`coco.json`.

With `--format=parquet` (or `--paths`, `--shard`), any number of images of one cell each become
Parquet shards, written by one process or many; `--collect=DIR` then makes tables and a page of
them.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

from wbc_jax import cli, inputs
from wbc_jax.errors import InputError
from wbc_jax.utils import stopping


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("predict", __doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGES", help="files, folders or globs")
    parser.add_argument("--out", help="folder for the results")
    parser.add_argument(
        "--collect",
        metavar="DIR",
        help="predict nothing: make tables, a differential count and a page of all Parquet files "
        "in DIR, in --out or in DIR itself",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="a run's folder, a .safetensors file, or a name of shipped weights; given twice, a "
        "segmenter and a classifier; by default the shipped segmenter and classifier (parquet: the "
        "segmenter)",
    )
    cli.add_switch(parser, "flips", False, "average masks over reflections, at four times the work")
    parser.add_argument("--paths", help="file with one path per line, instead of IMAGES")
    parser.add_argument(
        "--format",
        choices=("csv", "parquet"),
        help="csv, the default: tables, pictures and a page; parquet, the default with --paths or "
        "--shard: shards of rows and masks, for images of one cell each; one process or many "
        "write them, and can be restarted",
    )
    tables = parser.add_argument_group("csv")
    tables.add_argument(
        "--find",
        choices=("auto", "yes", "no"),
        help="yes: find the cells in each image; no: each image is one cell; auto, the default: "
        "decide for each image",
    )
    tables.add_argument(
        "--um_per_px",
        type=_positive,
        help="micrometers per pixel, for areas; by default estimated from each image's red cells",
    )
    tables.add_argument(
        "--folder_statistics",
        choices=("auto", "off"),
        help="auto, the default: where the images have 50 cells or more, take them for one "
        "laboratory's and decide types by their own statistics (docs/folder_statistics.md); off: "
        "a cell's type does not depend on the others",
    )
    slides = parser.add_argument_group("slides")
    slides.add_argument(
        "--count", type=_count, help="stop at so many leukocytes of a slide, spread over it"
    )
    slides.add_argument(
        "--area",
        choices=("thin", "all"),
        help="thin, the default: look at the thin part of the smear; all: at all that is stained",
    )
    shards = parser.add_argument_group("parquet")
    shards.add_argument(
        "--shard",
        help="I/N: this is process I, from 0, of N; by default from WBC_JAX_PROCESS_ID and "
        "WBC_JAX_NUM_PROCESSES, or from SLURM's variables",
    )
    shards.add_argument("--part_size", type=int, default=1024, help="images per Parquet file")
    shards.add_argument(
        "--batch_size", type=int, default=32, help="images that are read and computed together"
    )
    shards.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        help="threads that read images and encode masks",
    )
    cli.add_switch(shards, "masks", True, "do not store the masks as PNG in the Parquet files")
    cli.add_switch(shards, "retry_bad", False, "process Parquet files with bad images again")
    return parser


def _positive(text: str) -> float:
    """Returns a number of micrometers per pixel.

    Raises:
        argparse.ArgumentTypeError: it is no number, or none that a microscope can give.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-6 <= value <= 1e3:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; allowed is a number from 0.000001 to 1000, such as 0.1"
        )
    return value


def _count(text: str) -> int:
    """Returns a number of leukocytes.

    Raises:
        argparse.ArgumentTypeError: it is no number of cells.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; allowed is a number from 1 to 65535, such as 200"
        )
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    parser = _parser()
    given = parser.parse_intermixed_args(argv)
    if given.collect:
        with cli.reported_errors():
            _collect(given, parser)
        return
    if not given.out:
        parser.error("the following arguments are required: --out")
    if not (given.images or given.paths):
        parser.error("name IMAGES (files, folders or globs), or --paths=FILE, one path per line")
    with cli.reported_errors():
        if _asks_for_shards(given):
            _write_shards(given)
        else:
            _write_tables(given)


def _collect(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    defaults = {name: parser.get_default(name) for name in vars(given)}
    defaults |= {"images": [], "collect": given.collect, "out": given.out}
    if others := [name for name, value in vars(given).items() if value != defaults[name]]:
        named = ", ".join("IMAGES" if name == "images" else f"--{name}" for name in others)
        raise InputError(f"--collect predicts nothing: leave out {named}")
    from wbc_jax.report import collected

    summary = collected.collect(given.collect, given.out)
    print(summary.describe(), flush=True)
    if summary.bad:
        _exit_with_bad(summary.bad, summary.images, summary.out / "bad_files.csv")


def _exit_with_bad(bad: int, total: int, listed: object) -> NoReturn:
    print(
        f"error: {bad} of {total} files could not be predicted; they are listed in {listed}",
        file=sys.stderr,
    )
    sys.exit(cli.BAD_SHARDS)


def _asks_for_shards(given: argparse.Namespace) -> bool:
    """Returns whether to write Parquet shards.

    Raises:
        InputError: the flags contradict each other.
    """
    if given.images and given.paths:
        raise InputError(f"both --paths={given.paths} and {given.images[0]!r} are given; give one")
    implied = given.paths or given.shard
    if implied and given.format == "csv":
        raise InputError("--format is csv, but --paths and --shard write Parquet; leave one out")
    if not (implied or given.format == "parquet"):
        return False
    if (
        given.find in ("auto", "yes")
        or given.um_per_px
        or given.folder_statistics == "auto"
        or given.count
        or given.area
    ):
        raise InputError(
            "Parquet shards hold images of one cell each, which do not depend on each other: leave "
            "out --find, --um_per_px, --folder_statistics, --count and --area"
        )
    return True


def _write_tables(given: argparse.Namespace) -> None:
    from wbc_jax.data import slides
    from wbc_jax.fields import analyze as fields
    from wbc_jax.inference import shards
    from wbc_jax.report import cell_files, cell_results, finished, slide_regions
    from wbc_jax.utils import output_folder, outputs

    if shards.find_shard("", os.environ)[1] > 1:
        raise InputError("several processes cannot share one cells.csv; add --format=parquet")
    found = _inputs(given.images, slides=True)
    paths = [path for path in found.paths if not slides.is_slide(path)]
    whole = [path for path in found.paths if path not in set(paths)]
    names = outputs.output_names([*paths, *whole])
    area = given.area or "thin"
    runs = [
        slide_regions.SlideRun(path, name, given.count, area, given.um_per_px)
        for path, name in zip(whole, names[len(paths) :])
    ]
    if not runs and (given.count or given.area):
        raise InputError("--count and --area are for slides, and there is none: leave them out")
    expected = cell_files.result_names(names[: len(paths)])
    for run in runs:
        expected += slide_regions.result_names(given.out, run)
    output_folder.check(given.out, expected)
    models = fields.load_models(given.model, given.flips)
    if models.classifier is None and not given.model:
        print("no classifier is shipped: types are left out", file=sys.stderr, flush=True)
    find = given.find or "auto"
    own = {"count": given.count, "area": area} if runs else {}
    with stopping.stopped_by_signals():
        bad = cell_results.predict_files(
            models,
            paths,
            given.out,
            find,
            given.um_per_px,
            finished.settings(models, find=find, um_per_px=given.um_per_px, **own),
            found.passed_over,
            given.folder_statistics or "auto",
            runs,
        )
    cli.exit_if_bad(bad, len(paths) + sum(max(1, run.visited) for run in runs), "predicted")


def _inputs(names: Sequence[str], slides: bool = False) -> inputs.Inputs:
    """Finds the images, and says what was passed over."""
    found = inputs.find_images(names, slides)
    if said := found.describe():
        print(said, file=sys.stderr, flush=True)
    return found


def _write_shards(given: argparse.Namespace) -> None:
    from wbc_jax.fields import analyze as fields
    from wbc_jax.fields import contrast
    from wbc_jax.inference import path_lists, shard_rows, shards

    settings = shards.Settings(
        part_size=given.part_size,
        batch_size=given.batch_size,
        masks=given.masks,
        threads=given.threads,
        retry_bad=given.retry_bad,
    )
    shard = shards.find_shard(given.shard or "", os.environ)
    with tempfile.TemporaryDirectory(prefix="wbc_jax_") as folder:
        listed = given.paths
        if not listed:
            listed = os.path.join(folder, "paths.txt")
            path_lists.write_listing(_inputs(given.images).paths, listed)
        listing = path_lists.read_listing(listed, settings.part_size)
        # As for a table: one file, one mask.
        models = fields.load_models(given.model or [fields.SEGMENTER], given.flips)
        model = models.segmenter or models.classifier
        typing = shard_rows.Typing(models.segmenter and models.classifier, models.rule)
        summary = shards.predict(model, listing, given.out, shard, settings, contrast.judge, typing)
    print(shards.describe(summary, given.out, shard), flush=True)
    if summary.bad_files:
        _exit_with_bad(summary.bad, summary.images, summary.bad_files)


if __name__ == "__main__":
    main()
