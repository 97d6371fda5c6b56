"""Image files → a crop of each leukocyte and one table of boxes."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath

from wbc_jax.data import crops
from wbc_jax.data.images import encode_png, read_image
from wbc_jax.errors import DataError
from wbc_jax.fields import finder
from wbc_jax.utils import atomic, outputs
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
) -> list[tuple[str, str]]:
    """Finds cells in image files; writes `crops/` (PNG) and `cells.csv` under `out`.

    A file without cells has one row without a box. Bad files are skipped, listed in
    `bad_files.csv`, and returned.

    Args:
        paths: image files.
        out: folder, made if missing.
        pictures: folder for the fields with boxes drawn in, if any.
        margin: as in `finder.crop`.

    Returns:
        (path, reason) of each file that could not be read.

    Raises:
        OSError: a folder cannot be written.
    """
    out = epath.Path(out).expanduser()
    rows, bad, count = [], [], 0
    progress = Progress("image", len(paths))
    for number, (path, name) in enumerate(zip(paths, outputs.output_names(paths)), 1):
        try:
            image = read_image(path)
        except DataError as error:
            bad.append((path, str(error)))
            continue
        found = finder.find(image)
        about: dict[str, object] = {"file": path}
        if found.scale:
            about |= {"um_per_px": found.scale.um_per_px}
            about |= {"um_per_px_reliable": int(found.scale.reliable)}
        for index, cell in enumerate(found.cells):
            file = f"crops/{name}_{index}.png"
            atomic.write_bytes(out / file, encode_png(finder.crop(image, cell, margin)))
            own = dataclasses.asdict(cell) | {"touches_frame": int(cell.touches_frame)}
            rows.append(about | {"crop": file, "cell": index} | own)
        if not found.cells:
            rows.append(about)
        if pictures:
            drawn = encode_png(draw(image, found.cells))
            atomic.write_bytes(epath.Path(pictures).expanduser() / f"{name}.png", drawn)
        count += len(found.cells)
        progress.update(number, 1)
    progress.close()
    atomic.write_csv(out / "cells.csv", rows, COLUMNS)
    outputs.list_bad(out, bad)
    print(f"{count} cells in {len(paths) - len(bad)} images: {out / 'cells.csv'}", flush=True)
    return bad
