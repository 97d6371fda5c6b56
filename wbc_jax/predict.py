"""Image files → masks, types and one table: `python -m wbc_jax.predict IMAGES… --out=DIR`.

Fields of many cells are taken apart (`wbc_jax.fields`): a row a cell. Under DIR are `cells.csv` and
`cells.parquet`, `differential.csv`, `index.html`, `masks/`, `labels/`, `overlays/`, and the masks
as polygons in `geojson/` and `coco.json`.

With `--format=parquet` (or `--paths`, `--shard`) any number of images of one cell each → Parquet
parts, by one process or many (`wbc_jax.parts`).
"""

from __future__ import annotations

import glob
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import app, flags, logging
from etils import epath

from wbc_jax import files
from wbc_jax import progress as progress_lib

if TYPE_CHECKING:
    from wbc_jax import fields

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
RESULTS = ("masks", "labels", "overlays", "geojson")
"""Folders of the results."""
BATCH = 16
BATCH_PIXELS = 2**24
"""Images are analysed together up to so many, and up to so many pixels."""
_OUT = flags.DEFINE_string("out", None, "Folder for the results.")
_MODEL = flags.DEFINE_multi_string(
    "model",
    [],
    "A run's folder, a .safetensors file, or a name of shipped weights; given twice, a segmenter "
    "and a classifier. By default the shipped segmenter and classifier.",
)
_FIND = flags.DEFINE_enum(
    "find",
    None,
    ("auto", "yes", "no"),
    "yes: find the cells of each image. no: each image is one cell. auto, the default: look at the "
    "image.",
)
_UM_PER_PX = flags.DEFINE_float(
    "um_per_px",
    None,
    "Micrometres a pixel, for areas; by default as the red cells of each image suggest.",
    lower_bound=1e-6,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    None,
    ("csv", "parquet"),
    "csv: the tables, pictures and page of a folder. parquet: parts that hold rows and masks of "
    "images of one cell each, written by one process or many, restartable; the default with "
    "--paths or --shard.",
)
_PATHS = flags.DEFINE_string("paths", None, "File with an image's path a line, instead of IMAGES.")
_SHARD = flags.DEFINE_string(
    "shard",
    None,
    "I/N: do the share of process I, from 0, of N. By default as WBC_JAX_PROCESS_ID and "
    "WBC_JAX_NUM_PROCESSES, or SLURM's variables, say.",
)
_FLIPS = flags.DEFINE_bool(
    "flips",
    False,
    "csv: average masks over reflections, for four times the work. parquet: always as the model "
    "was evaluated.",
)
_PART_SIZE = flags.DEFINE_integer("part_size", 1024, "Images a Parquet part.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images a pass through the network (parquet).")
_THREADS = flags.DEFINE_integer(
    "threads", os.cpu_count() or 1, "Threads that read images and encode masks (parquet)."
)
_MASKS = flags.DEFINE_bool("masks", True, "Store the masks in the parts, as PNG.")
_RETRY_BAD = flags.DEFINE_bool("retry_bad", False, "Do parts that list bad files again.")
BAD_FILES = 3
"""Exit status: all is done, but for files that could not be predicted (parquet; csv says 1)."""


class InputError(ValueError):
    """The inputs name nothing that can be predicted."""


def find_images(inputs: Sequence[str], out: epath.PathLike = "") -> list[str]:
    """Returns the image files named by files, folders (searched through) and globs, each once.

    A file named outright is taken whatever its suffix; in folders and globs only `SUFFIXES` count.
    What lies in `out`, the results of an earlier call, is passed over in folders.

    Raises:
        InputError: an input does not exist, or there is no image in all of them.
    """
    found: dict[str, None] = {}
    for name in inputs:
        path = epath.Path(name).expanduser()
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                own = RESULTS if _same(folder, out) else ()
                folders[:] = sorted(
                    f for f in folders if f not in own and not _same(os.path.join(folder, f), out)
                )
                chosen = sorted(n for n in names if n.lower().endswith(SUFFIXES))
                found |= dict.fromkeys(os.path.join(folder, n) for n in chosen)
        elif path.exists():
            found[os.fspath(path)] = None
        else:
            matches = sorted(glob.glob(os.fspath(path), recursive=True))
            images = [m for m in matches if m.lower().endswith(SUFFIXES)]
            if not images:
                raise InputError(f"{name}: no such file or folder, and no image matches it.")
            found |= dict.fromkeys(images)
    if not found:
        raise InputError(
            f"no image in {', '.join(inputs)}; looked for files ending in {', '.join(SUFFIXES)}."
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


def predict_files(
    models: fields.Models,
    paths: Sequence[str],
    out: epath.PathLike,
    find: str = "auto",
    um_per_px: float | None = None,
) -> list[tuple[str, str]]:
    """Analyses image files and writes all results (see `wbc_jax.results`) under `out`.

    Bad files are left out, listed in `bad_files.csv`, and returned.

    Args:
        models: from `fields.load_models`.
        paths: image files.
        out: folder, made if missing.
        find, um_per_px: as of `fields.analyze`.

    Returns:
        (path, reason) of each file that could not be predicted.

    Raises:
        OSError: `out` cannot be written.
    """
    from wbc_jax import fields, results

    out = epath.Path(out).expanduser()
    files.check_writable(out)
    progress = progress_lib.Progress("image", len(paths))
    written, bad, done = results.Results(out), [], 0
    for chunk, unread in _chunks(paths):
        bad += unread
        found = fields.analyze([image for _, _, image in chunk], models, find, um_per_px)
        written.add(chunk, found)
        done += len(chunk) + len(unread)
        progress.update(done, len(chunk))
    progress.close()
    written.close(models)
    list_bad(out, bad)
    print(written.summary(), flush=True)
    return bad


def _chunks(
    paths: Sequence[str],
) -> Iterator[tuple[list[tuple[str, str, np.ndarray]], list[tuple[str, str]]]]:
    """Yields ((path, name of results, image) of some files, (path, reason) of bad ones)."""
    from wbc_jax import inference
    from wbc_jax.data import records

    good: list[tuple[str, str, np.ndarray]] = []
    bad: list[tuple[str, str]] = []
    for path, name in zip(paths, output_names(paths)):
        try:
            image = inference.read_image(path)
        except records.DataError as error:
            bad.append((path, str(error)))
            continue
        if good and sum(i.size for _, _, i in good) + image.size > 3 * BATCH_PIXELS:
            yield good, bad
            good, bad = [], []
        good.append((path, name, image))
        if len(good) == BATCH:
            yield good, bad
            good, bad = [], []
    if good or bad:
        yield good, bad


def list_bad(out: epath.Path, bad: Sequence[tuple[str, str]]) -> None:
    """Writes (path, reason) of each bad file to `<out>/bad_files.csv`; without any, removes that of
    an earlier call."""
    listed = out / "bad_files.csv"
    if bad:
        table = [{"file": path, "reason": reason} for path, reason in bad]
        files.write_csv(listed, table, ("file", "reason"))
    else:
        listed.unlink(missing_ok=True)


def exit_if_bad(bad: Sequence[tuple[str, str]], total: int, done: str) -> None:
    """Names the bad files and ends with status 1, if there are any.

    Args:
        bad: (path, reason) of each.
        total: files asked for.
        done: what could not be done with them, such as `predicted`.
    """
    if bad:
        for path, reason in bad:
            print(f"bad file: {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)
        sys.exit(f"error: {len(bad)} of {total} files could not be {done}")


def predict_parts(inputs: Sequence[str], out: str, model: epath.PathLike) -> None:
    """Writes this process's Parquet parts, as the flags say.

    Raises:
        InputError, PartsError: the inputs, a flag or `out` cannot be used.
        CheckpointError: there is no model.
        SystemExit: with `BAD_FILES`, where there were some.
    """
    from wbc_jax import inference, parts

    settings = parts.Settings(
        part_size=_PART_SIZE.value,
        batch_size=_BATCH_SIZE.value,
        masks=_MASKS.value,
        threads=_THREADS.value,
        retry_bad=_RETRY_BAD.value,
    )
    shard = parts.find_shard(_SHARD.value or "", os.environ)
    with tempfile.TemporaryDirectory(prefix="wbc_jax_") as folder:
        listed = _PATHS.value
        if not listed:
            listed = os.path.join(folder, "paths.txt")
            parts.write_listing(find_images(inputs, out), listed)
        listing = parts.read_listing(listed, settings.part_size)
        summary = parts.predict(inference.load(model), listing, out, shard, settings)
    print(parts.describe(summary, out, shard), flush=True)
    if summary.bad_files:
        print(
            f"error: {summary.bad} of {summary.images} files could not be predicted; they are "
            f"listed in {summary.bad_files}",
            file=sys.stderr,
        )
        sys.exit(BAD_FILES)


def main(argv: Sequence[str]) -> None:
    from wbc_jax import checkpoint, fields, parts
    from wbc_jax import config as config_lib
    from wbc_jax.data import records

    inputs, listed = argv[1:], _PATHS.value
    if not (inputs or listed) or not _OUT.value:
        sys.exit(
            "error: usage: python -m wbc_jax.predict IMAGES... --out=DIR [--model=RUN], where "
            "IMAGES are files, folders or globs (or --paths=FILE, with a path a line) and RUN is "
            "the --workdir of a training, such as runs/unet, or a file of weights; twice, for a "
            "segmenter and a classifier"
        )
    if inputs and listed:
        sys.exit(f"error: both --paths={listed} and {inputs[0]!r} are given; give one of them")
    parquet = listed or _SHARD.value
    if parquet and _FORMAT.value == "csv":
        sys.exit("error: --format is csv, but --paths and --shard write Parquet; leave one out")
    try:
        if parquet or _FORMAT.value == "parquet":
            if len(_MODEL.value) > 1 or _FIND.value in ("auto", "yes") or _UM_PER_PX.value:
                sys.exit(
                    "error: Parquet parts are of images of one cell each, by one model: leave out "
                    "--find, --um_per_px and the second --model"
                )
            predict_parts(inputs, _OUT.value, (_MODEL.value or [fields.SEGMENTER])[0])
            return
        if parts.find_shard("", os.environ)[1] > 1:
            sys.exit("error: several processes cannot share one cells.csv; add --format=parquet")
        paths = find_images(inputs, _OUT.value)
        files.check_writable(_OUT.value)
        models = fields.load_models(_MODEL.value, _FLIPS.value)
        if models.classifier is None and not _MODEL.value:
            print("no classifier is shipped: types are left out", file=sys.stderr, flush=True)
        bad = predict_files(models, paths, _OUT.value, _FIND.value or "auto", _UM_PER_PX.value)
    except (
        InputError,
        parts.PartsError,
        checkpoint.CheckpointError,
        config_lib.ConfigError,
        records.DataError,
        OSError,
    ) as error:
        sys.exit(f"error: {error}")
    exit_if_bad(bad, len(paths), "predicted")


def _parse(argv: list[str]) -> list[str]:
    rest = app.parse_flags_with_usage(argv)
    # absl would raise this to INFO, at which Orbax writes pages a checkpoint.
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
