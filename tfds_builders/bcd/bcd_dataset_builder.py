"""Blood Cell Detection dataset (Aslan 2020): small frames with boxes around the cells."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, crops, records
from wbc_jax.data.images import decode_image, read_image_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, UNKNOWN_LABEL

PAGE = "https://github.com/draaslan/blood-cell-detection-dataset"
FOLDERS = ("bcd", "blood-cell-detection-dataset", "blood-cell-detection-dataset-master")
SOURCE = "bcd"

HEADER = ["image_id", "image", "xmin", "ymin", "xmax", "ymax", "label"]
LABELS = ("rbc", "wbc")

MAX_EXCESS = 1.0
"""Pixels that a box may reach out of its frame; it is then clipped, and counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """One line of `annotations.csv`.

    Attributes:
        line: its number in the file.
        image: name of the image file.
        index: number of the box among the white cells of its image, from 0, in the file's order;
            -1 for red cells.
        edges: `(y0, x0, y1, x1)` as fractions of the frame's height and width.
    """

    line: int
    image: str
    index: int
    edges: tuple[float, float, float, float]


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of bcd.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. The
    metadata hold counts: `clipped_boxes`, `images_without_white_cell`, `unlabelled_cells`,
    `excluded_records`, `left_out_files`. Nothing is downloaded.

    Raises (while building):
        DataError: the set is not in `manual_dir`, or files are bad.
    """

    # TFDS would guess both: below wbc_jax/, where this file lies only once installed from a wheel,
    # and by way of importlib_resources, which it does not install (4.9.10).
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads it on the class)
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="crops", description="A square around each white cell."),
        tfds.core.BuilderConfig(name="frames", description="Whole images."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Fetch {PAGE} and place it as {FOLDERS[0]}/images/*.png and "
        f"{FOLDERS[0]}/annotations.csv in manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(), homepage=PAGE, metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        folder = building.manual_folder(dl_manager, FOLDERS, ("images", "annotations.csv"))
        if folder is None:
            manual_dir = building.manual_path(dl_manager) or epath.Path("<manual_dir>")
            raise DataError(
                f"bcd is not in {manual_dir}: fetch {PAGE} and place it so that the folder "
                f"{manual_dir / FOLDERS[0]} holds 'images' and 'annotations.csv'"
            )
        return {"train": self._generate_examples(folder)}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        bad = building.bad_files()
        already_bad = len(bad.files)
        table = folder / "annotations.csv"
        cells, broken = _white_cells(table, bad)
        names = {cell_id(box) for boxes in cells.values() for box in boxes} | broken
        types = read_types(folder / "types.csv", names)
        images = {
            path.name: path
            for path in sorted((folder / "images").iterdir(), key=lambda path: path.name)
            if path.name.lower().endswith(".png") and not path.name.startswith(".")
        }
        if not images:
            raise DataError(
                f"{folder / 'images'}: holds no .png file: unpack the authors' images there"
            )
        for name in sorted(cells.keys() - images.keys()):
            lines = ", ".join(str(box.line) for box in cells[name])
            bad.add(
                table,
                f"white cells (lines {lines}) of an image that is missing: "
                f"{folder / 'images' / name}",
            )
        excluded = building.read_exclusions(self.pkg_dir_path)
        fields = read_fields(self.pkg_dir_path / "same_field.csv")
        whole = self.builder_config.name == "frames"
        if whole:
            listed = {name: [image_file.stem] for name, image_file in images.items()}
        else:
            listed = {name: [cell_id(box) for box in cells.get(name, ())] for name in images}
        chosen = [name for name, ids in listed.items() if set(ids) - excluded.keys()]

        def read(name: str) -> tuple[list[dict[str, object]], int, list[str]]:
            """The records, the number of clipped boxes, and what is wrong with other boxes."""
            encoded, _, _ = read_image_file(images[name])
            if whole:
                id = images[name].stem
                group = fields.get(id)
                return [records.example(image=encoded, id=id, group=group, source=SOURCE)], 0, []
            pixels = decode_image(encoded)
            found, clipped, wrong = [], 0, []
            for box in cells[name]:
                if cell_id(box) not in excluded:
                    try:
                        record, was_clipped = _crop(table, pixels, box, types, fields)
                    except DataError as error:
                        wrong.append(str(error))
                        continue
                    found.append(record)
                    clipped += was_clipped
            return found, clipped, wrong

        clipped_boxes = unlabelled = 0
        for found, clipped, wrong in building.each(read, chosen, images.get, bad):
            for reason in wrong:
                bad.add(table, reason)
            clipped_boxes += clipped
            for record in found:
                unlabelled += not whole and record["label"] < 0
                yield record["id"], record
        bad.finish(f"bcd/{self.builder_config.name} in {folder}")
        self.info.metadata.update(
            clipped_boxes=clipped_boxes,
            images_without_white_cell=len(images.keys() - cells.keys()),
            unlabelled_cells=unlabelled,
            excluded_records=sum(id in excluded for ids in listed.values() for id in ids),
            left_out_files=len(bad.files) - already_bad,
        )
        for name, count in self.info.metadata.items():
            logging.info("bcd/%s: %s = %d", self.builder_config.name, name, count)


def cell_id(box: Box) -> str:
    """The record's id of a white cell: `image-100_0` is the first of `image-100.png`."""
    return f"{epath.Path(box.image).stem}_{box.index}"


def read_annotations(path: epath.PathLike) -> tuple[list[Box], dict[int, tuple[str, str]]]:
    """Reads `annotations.csv`.

    Args:
        path: CSV with the header `image_id,image,xmin,ymin,xmax,ymax,label`, the edges as
            fractions of the image's width and height, and the label `rbc` or `wbc`.

    Returns:
        The boxes; and by line number, what is wrong with the others and the id of the white cell
        that the line would have described (empty for others). Broken lines count in the numbers
        of white cells, so that leaving them out does not rename the rest.

    Raises:
        DataError: no such file, or another header.
    """
    (_, header), *rows = building.read_csv(path)
    if [cell.strip() for cell in header] != HEADER:
        raise DataError(
            f"{path}: the header is {','.join(header)!r}: allowed is {','.join(HEADER)!r}"
        )
    boxes, wrong, white = [], {}, {}
    for line, row in rows:
        cells = [cell.strip() for cell in row]
        said = f"line {line}: {','.join(row)!r}"
        if len(cells) != len(HEADER) or not cells[1]:
            wrong[line] = (f"{said}: allowed are {len(HEADER)} cells: {','.join(HEADER)}", "")
            continue
        _, image, *edges, label = cells
        if label not in LABELS:
            wrong[line] = (f"{said}: the label is {label!r}: allowed are {', '.join(LABELS)}", "")
            continue
        index = -1
        if label == "wbc":
            index = white.get(image, 0)
            white[image] = index + 1
        try:
            x0, y0, x1, y1 = (float(edge) for edge in edges)
        except ValueError:
            x0 = y0 = x1 = y1 = math.nan
        box = Box(line=line, image=image, index=index, edges=(y0, x0, y1, x1))
        if all(map(math.isfinite, box.edges)) and x0 < x1 and y0 < y1:
            boxes.append(box)
        else:
            reason = "allowed are numbers with xmin < xmax and ymin < ymax"
            wrong[line] = (f"{said}: {reason}", cell_id(box) if index >= 0 else "")
    return boxes, wrong


def read_fields(path: epath.PathLike) -> dict[str, str]:
    """Reads `same_field.csv`: images that show the field of view of another, shifted.

    Args:
        path: CSV with the header `image,same_field_as`, names without suffix.

    Returns:
        Image to the image whose name is the group of both.
    """
    return {image: other for _, (image, other) in building.read_csv(path)[1:]}


def read_types(path: epath.PathLike, known: set[str]) -> dict[str, int]:
    """Reads the user's `types.csv`, if there is one.

    Args:
        path: CSV with the header `id,type`: a record's id and one of `labels.CELL_TYPES`.
        known: ids of all white cells.

    Returns:
        Record id to index into `labels.CELL_TYPES`; empty if there is no such file.

    Raises:
        DataError: another header, an unknown id or type, or an id twice; lists up to 20 lines.
    """
    path = epath.Path(path)
    if not path.exists():
        return {}
    (_, header), *rows = building.read_csv(path)
    if [cell.strip() for cell in header] != ["id", "type"]:
        raise DataError(f"{path}: the header is {','.join(header)!r}: allowed is 'id,type'")
    types, wrong = {}, []
    for line, row in rows:
        cells = [cell.strip() for cell in row]
        said = f"line {line}: {','.join(row)!r}"
        if len(cells) != 2 or cells[1] not in CELL_TYPES:
            wrong.append(f"{said} has no known type")
        elif cells[0] not in known:
            wrong.append(f"{said} is no white cell of annotations.csv")
        elif cells[0] in types:
            wrong.append(f"{said} names the cell again")
        else:
            types[cells[0]] = CELL_TYPES.index(cells[1])
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are wrong: allowed is a white cell's id, once (such as "
            f"{min(known, default='image-1_0')}: the image's name and the number of the white cell "
            f"in it, from 0), and one of {', '.join(CELL_TYPES)}; mend them:\n  "
            + "\n  ".join(wrong[:20])
        )
    return types


def pixel_box(
    edges: tuple[float, float, float, float], height: int, width: int
) -> tuple[tuple[int, int, int, int], bool]:
    """The whole pixels that a box touches.

    Args:
        edges: `(y0, x0, y1, x1)` as fractions.
        height, width: the frame's size in pixels.

    Returns:
        `(y0, x0, y1, x1)` in pixels, inside the frame; and whether it had to be clipped to it.

    Raises:
        DataError: the box reaches out of the frame by more than `MAX_EXCESS` pixels, or lies
            outside of it.
    """
    sizes = (height, width, height, width)
    exact = [edge * size for edge, size in zip(edges, sizes)]
    excess = max(-exact[0], -exact[1], exact[2] - height, exact[3] - width, 0.0)
    # Rounded, as fractions of whole pixels are not exact.
    y0, x0 = (max(math.floor(round(edge, 6)), 0) for edge in exact[:2])
    y1, x1 = (min(math.ceil(round(edge, 6)), size) for edge, size in zip(exact[2:], sizes))
    if excess > MAX_EXCESS or y0 >= y1 or x0 >= x1:
        raise DataError(
            f"the box (ymin, xmin, ymax, xmax) = {edges} reaches {excess:.1f} pixels out of its "
            f"frame: allowed are fractions from 0 to 1, or {MAX_EXCESS:g} pixel beyond"
        )
    return (y0, x0, y1, x1), excess > 0


def _white_cells(
    table: epath.Path, bad: building.BadFiles
) -> tuple[dict[str, list[Box]], set[str]]:
    """White cells by image, and the ids of those whose line is broken. Red ones are checked too."""
    boxes, wrong = read_annotations(table)
    for reason, _ in wrong.values():
        bad.add(table, reason)
    cells = {}
    for box in boxes:
        if box.index >= 0:
            cells.setdefault(box.image, []).append(box)
    return cells, {name for _, name in wrong.values() if name}


def _crop(
    table: epath.Path,
    pixels: np.ndarray,
    box: Box,
    types: dict[str, int],
    fields: dict[str, str],
) -> tuple[dict[str, object], bool]:
    """The record of one white cell, and whether its box was clipped."""
    try:
        inside, clipped = pixel_box(box.edges, *pixels.shape[:2])
    except DataError as error:
        raise DataError(f"{table}: line {box.line}: {error}") from error
    label = types.get(cell_id(box), UNKNOWN_LABEL)
    stem = epath.Path(box.image).stem
    record = records.example(
        image=crops.cut(pixels, inside),
        label=label,
        id=cell_id(box),
        group=fields.get(stem, stem),
        source=SOURCE,
        label_source="types.csv" if label >= 0 else "",
    )
    return record, clipped
