"""Outlines that a person corrected in QuPath (GeoJSON) or ImageJ (ROI files and their zips).

Coordinates are pixels of the image, and whole ones run along the edges of pixels, as in the files
that `wbc_jax.predict` writes: a pixel lies inside if its center does. An outline that is still the
predicted one, or that of the mask now, says nothing; only others are corrections. So a file in
which one nucleus of a hundred was moved corrects one cell, and takes back no other correction.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from skimage import draw

from wbc_jax.corrections import log, masks, pictures
from wbc_jax.corrections.cells import Box, Cell, Results
from wbc_jax.corrections.session import Session
from wbc_jax.data import crops
from wbc_jax.errors import DataError, InputError
from wbc_jax.labels import BACKGROUND, CYTOPLASM, NUCLEUS

KINDS = ("cell", "cytoplasm", "nucleus")
_ENDINGS = (".geojson", ".json", ".zip", ".roi")
_NAMED = "name it “nucleus”, “cytoplasm” or “cell”"


@dataclasses.dataclass(frozen=True, slots=True)
class Outline:
    """An area that a person drew.

    Attributes:
        label: what the file calls it, for messages.
        kind: one of `KINDS`.
        number: of the cell, if the file says it.
        polygons: each a list of rings of corners (x, y), float `[N, 2]`; what lies inside an odd
            number of a polygon's rings is inside.
    """

    label: str
    kind: str
    number: int | None
    polygons: list[list[np.ndarray]]

    def region(self, size: tuple[int, int]) -> np.ndarray:
        """Returns the pixels whose centers lie inside, bool `[H, W]`."""
        found = np.zeros(size, bool)
        for polygon in self.polygons:
            inside = np.zeros(size, bool)
            for ring in polygon:
                rows, columns = draw.polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, size)
                inside[rows, columns] ^= True
            found |= inside
        return found


def read(path: epath.PathLike) -> tuple[list[Outline], list[str]]:
    """Reads a file of outlines.

    Returns:
        The outlines, and a line for each that cannot be used.

    Raises:
        InputError: the file is missing, or of another kind.
        DataError: it is damaged.
    """
    name = os.fspath(path)
    if not name.lower().endswith(_ENDINGS):
        raise InputError(
            f"--import={name} ends in none of {', '.join(_ENDINGS)}: export annotations from "
            "QuPath as GeoJSON, or save ImageJ's ROI manager as a zip."
        )
    try:
        data = epath.Path(name).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"--import={name} cannot be read: {error.strerror or error}.") from error
    found: list[Outline] = []
    passed: list[str] = []
    parts = _geojson(name, data) if name.lower().endswith("json") else _rois(name, data)
    for one in parts:
        if isinstance(one, Outline):
            found.append(one)
        else:
            passed.append(one)
    return found, passed


def _kind(text: str) -> str | None:
    kinds = [kind for kind in KINDS if re.search(rf"\b{kind}\b|_{kind}|{kind}_", text.lower())]
    return kinds[0] if len(kinds) == 1 else None


def _number(text: str) -> int | None:
    numbers = re.findall(r"\d+", text)
    return int(numbers[0]) if len(numbers) == 1 and len(numbers[0]) < 6 else None


def _geojson(name: str, data: bytes) -> Iterator[Outline | str]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise DataError(f"{name} is no JSON ({error}): export it again.") from None
    if isinstance(found, dict):
        found = found.get("features", [found])
    if not isinstance(found, list):
        raise DataError(f"{name} holds no features: export annotations from QuPath as GeoJSON.")
    for n, feature in enumerate(found, 1):
        try:
            yield from _feature(n, feature)
        except (LookupError, TypeError, ValueError, AttributeError):
            yield f"object {n} is no feature with a polygon"


def _feature(n: int, feature: Mapping[str, Any]) -> Iterator[Outline | str]:
    about = feature.get("properties") or {}
    called = str(about.get("name") or "")
    classified = str((about.get("classification") or {}).get("name") or "")
    number = (about.get("metadata") or {}).get("cell")
    # The names that predict gives begin with the cell's number.
    number = int(number) if number is not None else _number(called)
    label = f"object {n}" + (f" ({called or classified})" if called or classified else "")
    shapes = [(_kind(classified) or _kind(called), feature["geometry"])]
    if nucleus := feature.get("nucleusGeometry"):  # a cell that QuPath detected
        shapes = [("cell", feature["geometry"]), ("nucleus", nucleus)]
    for kind, geometry in shapes:
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            yield f"{label} is a {geometry['type']}, no area"
        elif kind is None:
            yield f"{label} has no class: {_NAMED}"
        else:
            polygons = geometry["coordinates"]
            if geometry["type"] == "Polygon":
                polygons = [polygons]
            yield Outline(label, kind, number, [[_ring(r) for r in p] for p in polygons])


def _ring(corners: Sequence[Any]) -> np.ndarray:
    found = np.asarray(corners, np.float64)[:, :2]
    if len(found) < 3 or not np.isfinite(found).all() or np.abs(found).max() > 1e6:
        raise ValueError("no ring")
    return found


def _rois(name: str, data: bytes) -> Iterator[Outline | str]:
    try:
        import roifile
    except ModuleNotFoundError as error:
        raise InputError(
            "ROI files need the package roifile: pip install 'wbc_jax[review]'."
        ) from error
    if name.lower().endswith(".zip"):
        try:
            with zipfile.ZipFile(epath.Path(name).expanduser()) as file:
                parts = [(p, file.read(p)) for p in file.namelist() if p.lower().endswith(".roi")]
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{name} is no zip of ROI files ({error}): save it again.") from error
    else:
        parts = [(os.path.basename(name), data)]
    areas = {roifile.ROI_TYPE[kind] for kind in ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")}
    for part, content in parts:
        label = os.path.splitext(os.path.basename(part))[0]
        try:
            roi = roifile.ImagejRoi.frombytes(content)
            label = roi.name or label
            if roi.roitype not in areas:
                yield f"{label} is a {roi.roitype.name.lower()}, no area"
                continue
            rings = [_ring(ring) for ring in roi.coordinates(multi=True)]
        except (ValueError, LookupError, TypeError, struct.error):
            yield f"{part} is no ROI with an area"
            continue
        if kind := _kind(label):
            yield Outline(label, kind, _number(label), [rings])
        else:
            yield f"{label} has no kind in its name: {_NAMED}, with the cell's number if you like"


def find_image(results: Results, path: epath.PathLike, image: str | None) -> list[Cell]:
    """Returns the cells of the image that a file of outlines belongs to.

    Args:
        results: the folder's.
        path: of the file, which is named like the image, as those in `geojson/` are.
        image: the image's name, if the person gave it.

    Raises:
        InputError: no image has that name.
    """
    stem = os.path.basename(os.fspath(path))
    while os.path.splitext(stem)[1].lower() in _ENDINGS:
        stem = os.path.splitext(stem)[0]
    wanted = stem if image is None else image
    for name, found in results.by_name.items():
        if wanted in (name, os.path.basename(found[0].file)):
            return found
    if image is None and len(results.by_name) == 1:
        return next(iter(results.by_name.values()))
    names = list(results.by_name)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    flag = f"--import={os.fspath(path)}" if image is None else f"--image={image}"
    raise InputError(f"{flag} names no image of these results: give --image=NAME, one of {shown}.")


@dataclasses.dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        changed, same: numbers of the image's cells that were corrected, and that stay.
        passed: a line for each outline that was not used.
    """

    changed: list[int]
    same: list[int]
    passed: list[str]


def apply(session: Session, path: epath.PathLike, image: str | None = None) -> Imported:
    """Takes the outlines of a file for corrections of masks, which one undo takes back.

    Args:
        session: the reviewer's.
        path: as in `read`.
        image: as in `find_image`.

    Raises:
        InputError, DataError: as `read`, `find_image` and `Session.paint`.
        OSError: a mask or the log cannot be written.
    """
    outlines, passed = read(path)
    cells = find_image(session.results, path, image)
    size = cells[0].row["height"], cells[0].row["width"]
    labels = _labels(session.results, cells[0], size)
    drawn: dict[int, dict[str, np.ndarray]] = {}
    for one in outlines:
        region = one.region(size)
        cell = _owner(one, region, cells, labels)
        if cell is None:
            passed.append(f"{one.label} covers no cell of {cells[0].file}")
            continue
        kinds = drawn.setdefault(cell.index, {})
        kinds[one.kind] = kinds.get(one.kind, np.zeros(size, bool)) | region
    act, changed, same = log.new_act(), [], []
    for index, regions in sorted(drawn.items()):
        cell = session.results.cells[index]
        area, base, new = _corrected(session, index, regions)
        if new is None:
            same.append(cell.cell)
            continue
        try:
            session.paint(index, area, new, base, os.path.basename(os.fspath(path)), act)
        except DataError as error:
            passed.append(f"cell {cell.cell}: {error}")
            continue
        changed.append(cell.cell)
    return Imported(changed, same, passed)


def _labels(results: Results, cell: Cell, size: tuple[int, int]) -> np.ndarray | None:
    """Returns the numbers of the cells that pixels belong to; None without a segmenter."""
    path = pictures.inside(results.path, f"labels/{cell.name}.png")
    found = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    return found if found is not None and found.shape == size else None


def _owner(
    outline: Outline, region: np.ndarray, cells: Sequence[Cell], labels: np.ndarray | None
) -> Cell | None:
    """Returns the cell that an outline is about: that of its number, or the one it covers most."""
    box = crops.bounding_box(region)
    if box is None:
        return None
    covers = {cell.cell: _common(cell.box, box) for cell in cells}
    if covers.get(outline.number):
        return next(cell for cell in cells if cell.cell == outline.number)
    if labels is not None:
        counts = np.bincount(labels[region].astype(np.int64))
        covers = {number: int(counts[number]) for number in covers if number < len(counts)}
    best = max(cells, key=lambda cell: covers.get(cell.cell, 0))
    return best if covers.get(best.cell, 0) else None


def _common(one: Box, other: Box) -> int:
    """Returns the area that two boxes have in common."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    return max(0, height) * max(0, min(one[3], other[3]) - max(one[1], other[1]))


def _corrected(
    session: Session, index: int, regions: Mapping[str, np.ndarray]
) -> tuple[Box, str, np.ndarray | None]:
    """Returns the window of a cell, the hash of its mask now, and the new mask; None: the same."""
    cell = session.results.cells[index]
    area, base, mask = session.mask(index)
    boxes = filter(None, (crops.bounding_box(region) for region in regions.values()))
    area = masks.window(cell, [area, *boxes])
    saved = session.state.of(session.reviewer, index)
    mask = masks.current(session.results.path, cell, saved and saved.mask, area)
    predicted = _parts(masks.current(session.results.path, cell, None, area))
    top, left, bottom, right = area
    parts = {kind: region[top:bottom, left:right] for kind, region in regions.items()}
    new = merge(
        mask, {kind: part for kind, part in parts.items() if (part != predicted[kind]).any()}
    )
    return area, base, None if (new == mask).all() else new


def _parts(mask: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the regions of a mask by `KINDS`, bool `[H, W]`."""
    nucleus, cytoplasm = mask == NUCLEUS, mask == CYTOPLASM
    return {"cell": nucleus | cytoplasm, "cytoplasm": cytoplasm, "nucleus": nucleus}


def merge(mask: np.ndarray, regions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a mask with the regions that differ from it taken over.

    Args:
        mask: uint8 `[H, W]`, as in `masks`.
        regions: bool `[H, W]` by `KINDS`. The cell's is taken over first, the nucleus's last: what
            is cut off the cell is background, what is cut off the nucleus becomes cytoplasm.
    """
    now = _parts(mask)
    edited = {kind for kind, region in regions.items() if (region != now[kind]).any()}
    new = mask.copy()
    if "cell" in edited:
        inside = regions["cell"]
        new[now["cell"] & ~inside] = BACKGROUND
        new[inside & (new != NUCLEUS)] = CYTOPLASM
    if "cytoplasm" in edited:
        inside = regions["cytoplasm"]
        new[(new == CYTOPLASM) & ~inside] = BACKGROUND
        new[inside & (new != NUCLEUS)] = CYTOPLASM
    if "nucleus" in edited:
        inside = regions["nucleus"]
        new[(new == NUCLEUS) & ~inside] = CYTOPLASM
        new[inside] = NUCLEUS
    return new


def describe(found: Imported, path: epath.PathLike) -> Iterable[str]:
    """Yields what to tell the person, line by line."""
    cells = "1 cell" if len(found.changed) == 1 else f"{len(found.changed)} cells"
    yield f"{os.fspath(path)}: {cells} corrected, {len(found.same)} as before"
    for line in found.passed:
        yield f"not used: {line}"
