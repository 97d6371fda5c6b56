"""Image files → all results of `wbc_jax.predict`: tables, masks, polygons, the page."""

from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from wbc_jax import cli
from wbc_jax.data.images import read_image
from wbc_jax.errors import DataError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import results
from wbc_jax.utils import atomic
from wbc_jax.utils.progress import Progress

BATCH = 16
BATCH_PIXELS = 2**24
"""Images are analyzed together up to so many, and up to so many pixels."""


def predict_files(
    models: fields.Models,
    paths: Sequence[str],
    out: epath.PathLike,
    find: str = "auto",
    um_per_px: float | None = None,
) -> list[tuple[str, str]]:
    """Analyzes image files and writes all results (see `wbc_jax.fields.results`) under `out`.

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
    out = epath.Path(out).expanduser()
    atomic.check_writable(out)
    progress = Progress("image", len(paths))
    written, bad, done = results.Results(out), [], 0
    for chunk, unread in _chunks(paths):
        bad += unread
        found = fields.analyze([image for _, _, image in chunk], models, find, um_per_px)
        written.add(chunk, found)
        done += len(chunk) + len(unread)
        progress.update(done, len(chunk))
    progress.close()
    written.close(models)
    cli.list_bad(out, bad)
    print(written.summary(), flush=True)
    return bad


def _chunks(
    paths: Sequence[str],
) -> Iterator[tuple[list[tuple[str, str, np.ndarray]], list[tuple[str, str]]]]:
    """Yields ((path, name of results, image) of some files, (path, reason) of bad ones)."""
    good: list[tuple[str, str, np.ndarray]] = []
    bad: list[tuple[str, str]] = []
    for path, name in zip(paths, cli.output_names(paths)):
        try:
            image = read_image(path)
        except DataError as error:
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
