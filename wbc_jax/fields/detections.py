"""Image files → a crop for each leukocyte and one table of boxes."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath

from wbc_jax import cli
from wbc_jax.data.crops import MARGIN
from wbc_jax.data.images import encode_png, read_image
from wbc_jax.errors import DataError
from wbc_jax.fields.finder import Detection, crop, find
from wbc_jax.utils import atomic
from wbc_jax.utils.progress import Progress

COLUMNS = (
    *("file", "crop", "cell", "top", "left", "bottom", "right", "nucleus_px", "score"),
    *("touches_frame", "um_per_px", "um_per_px_reliable"),
)


def draw(
    image: np.ndarray, cells: Sequence[Detection], truth: Sequence[Sequence[int]] = ()
) -> np.ndarray:
    """Returns a copy of an image with the cells' boxes in red (dark where the frame may cut them),
    and true ones, if any, in green."""
    picture = np.ascontiguousarray(image).copy()
    width = max(1, round(min(image.shape[:2]) / 240))
    colours = [((200, 0, 0) if not c.touches_frame else (110, 0, 0)) for c in cells]
    boxes = [*((box, (0, 150, 0)) for box in truth), *zip((c.box for c in cells), colours)]
    for (top, left, bottom, right), colour in boxes:
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, width)
    return picture


def detect_files(
    paths: Sequence[str],
    out: epath.PathLike,
    pictures: epath.PathLike | None = None,
    margin: float = MARGIN,
) -> list[tuple[str, str]]:
    """Finds cells in image files; writes `crops/` (PNG) and `cells.csv` under `out`.

    A file without cells has one row, with no box. Bad files are left out, listed in
    `bad_files.csv`, and returned.

    Args:
        paths: image files.
        out: folder, made if missing.
        pictures: folder for the fields with boxes drawn in.
        margin: as of `crop`.

    Returns:
        (path, reason) of each file that could not be read.

    Raises:
        OSError: a folder cannot be written.
    """

    out = epath.Path(out).expanduser()
    rows, bad, found = [], [], 0
    progress = Progress("image", len(paths))
    for number, (path, name) in enumerate(zip(paths, cli.output_names(paths))):
        try:
            image = read_image(path)
        except DataError as error:
            bad.append((path, str(error)))
            continue
        field = find(image)
        row: dict[str, object] = {"file": path}
        if field.scale:
            row |= {"um_per_px": field.scale.um_per_px}
            row |= {"um_per_px_reliable": int(field.scale.reliable)}
        for index, cell in enumerate(field.cells):
            file = f"crops/{name}_{index}.png"
            atomic.write_bytes(out / file, encode_png(crop(image, cell, margin)))
            own = dataclasses.asdict(cell) | {"touches_frame": int(cell.touches_frame)}
            rows.append(row | {"crop": file, "cell": index} | own)
        if not field.cells:
            rows.append(row)
        if pictures:
            drawn = encode_png(draw(image, field.cells))
            atomic.write_bytes(epath.Path(pictures).expanduser() / f"{name}.png", drawn)
        found += len(field.cells)
        progress.update(number + 1, 1)
    progress.close()
    atomic.write_csv(out / "cells.csv", rows, COLUMNS)
    cli.list_bad(out, bad)
    print(f"{found} cells in {len(paths) - len(bad)} images: {out / 'cells.csv'}", flush=True)
    return bad
