"""Image files → a crop of each leukocyte and one table of boxes."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath

from wbc_jax.data import crops
from wbc_jax.data.images import encode_png, read_with_metadata
from wbc_jax.errors import DataError
from wbc_jax.fields import finder
from wbc_jax.utils import atomic, outputs
from wbc_jax.utils.output_folder import OutputFolder
from wbc_jax.utils.progress import Progress

COLUMNS = (
    *("file", "crop", "cell", "top", "left", "bottom", "right", "nucleus_px", "score"),
    *("touches_frame", "um_per_px", "um_per_px_reliable"),
)
_FOUND, _CUT, _TRUE = (200, 0, 0), (110, 0, 0), (0, 150, 0)


def draw(
    image: np.ndarray, cells: Sequence[finder.Detection], truth: Sequence[Sequence[int]] = ()
) -> np.ndarray:
    """Draws boxes on a copy of an image: cells in red, true boxes in green.

    The boxes of cells that touch the image's edge are dark red.
    """
    picture = np.ascontiguousarray(image).copy()
    width = max(1, round(min(image.shape[:2]) / 240))
    boxes = [
        *((box, _TRUE) for box in truth),
        *((cell.box, _CUT if cell.touches_frame else _FOUND) for cell in cells),
    ]
    for (top, left, bottom, right), color in boxes:
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), color, width)
    return picture


def detect_files(
    paths: Sequence[str],
    out: epath.PathLike,
    pictures: epath.PathLike | None = None,
    margin: float = crops.MARGIN,
    passed_over: Sequence[tuple[str, str]] = (),
) -> list[tuple[str, str]]:
    """Finds cells in image files; writes `crops/` (PNG) and `cells.csv` under `out`.

    A file without cells has one row without a box. Bad files are skipped, listed in
    `bad_files.csv`, and returned.

    If the work is stopped, the table of the finished images is written.

    Args:
        paths: image files.
        out: folder, made if missing.
        pictures: folder for the fields with boxes drawn in, if any.
        margin: as in `finder.crop`.
        passed_over: (path, reason) of files that are no inputs, for `passed_over.csv`.

    Returns:
        (path, reason) of each file that could not be read.

    Raises:
        InputError: another process writes to a folder, or it holds a file of a person that would be
            replaced.
        OSError: a folder cannot be written.
    """
    names = outputs.output_names(paths)
    rows: list[dict[str, object]] = []
    bad: list[tuple[str, str]] = []
    count, done = 0, 0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(OutputFolder(out))
        folder.refuse_foreign(_result_names(folder.path, names))
        drawn = None
        if pictures:
            drawn = OutputFolder(pictures, flag="--pictures")
            if os.path.realpath(drawn.path) == os.path.realpath(folder.path):
                drawn = folder
            else:
                stack.enter_context(drawn)
            drawn.refuse_foreign([f"{name}.png" for name in names])
        progress = Progress("image", len(paths))
        try:
            for path, name in zip(paths, names):
                try:
                    image = read_with_metadata(path).pixels
                except DataError as error:
                    bad.append((path, str(error)))
                    continue
                found = finder.find(image)
                rows += _write_crops(folder, path, name, image, found, margin)
                if drawn:
                    picture = draw(image, found.cells)
                    drawn.write({f"{name}.png": encode_png(picture)})
                count += len(found.cells)
                done += 1
                progress.update(done + len(bad), 1)
        finally:
            progress.close()
            folder.write_csv("cells.csv", rows, COLUMNS)
            folder.list_bad(bad)
            folder.list_passed_over(passed_over)
    print(f"{count} cells in {done} images: {folder.path / 'cells.csv'}", flush=True)
    return bad


def _result_names(out: epath.Path, names: Sequence[str]) -> list[str]:
    """Returns the files that the results may replace; a crop's name ends in the cell's number."""
    stems = set(names)
    there = [path.name for path in (out / "crops").glob("*_*.png")]
    crop_names = [f"crops/{name}" for name in there if name.rpartition("_")[0] in stems]
    return ["cells.csv", "bad_files.csv", "passed_over.csv", *crop_names]


def _write_crops(
    folder: OutputFolder,
    path: str,
    name: str,
    image: np.ndarray,
    found: finder.Detections,
    margin: float,
) -> list[dict[str, object]]:
    """Writes an image's crops; returns its rows."""
    about: dict[str, object] = {"file": atomic.utf8(path)}
    if found.scale:
        about |= {"um_per_px": found.scale.um_per_px}
        about |= {"um_per_px_reliable": int(found.scale.reliable)}
    rows, files = [], {}
    for index, cell in enumerate(found.cells):
        file = f"crops/{name}_{index}.png"
        files[file] = encode_png(finder.crop(image, cell, margin))
        own = dataclasses.asdict(cell) | {"touches_frame": int(cell.touches_frame)}
        rows.append(about | {"crop": file, "cell": index} | own)
    folder.write(files)
    return rows or [about]
