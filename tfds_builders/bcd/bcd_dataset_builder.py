"""Blood Cell Detection dataset (Aslan 2020): small frames with boxes around the cells."""

import dataclasses
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, crops, reading, records
from wbc_jax.data.images import read_image
from wbc_jax.errors import DataError
from wbc_jax.labels import UNKNOWN_LABEL
from wbc_jax.tfds_builders.bcd.annotations import (
    Box,
    pixel_box,
    read_annotations,
    read_fields,
    read_types,
)

PAGE = "https://github.com/draaslan/blood-cell-detection-dataset"
FOLDERS = ("bcd", "blood-cell-detection-dataset", "blood-cell-detection-dataset-master")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame(building.Item):
    """A frame whose white cells become records.

    Attributes:
        cells: box and label of each; none of them is excluded.
        table: the file with the boxes.
    """

    cells: list[tuple[Box, int]]
    table: epath.Path


class Builder(building.Builder):
    """Builder of bcd; see `building.Builder`. Nothing is downloaded."""

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        tfds.core.BuilderConfig(name="crops", description="A square around each white cell."),
        tfds.core.BuilderConfig(name="frames", description="Whole images."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"fetch {PAGE} and place it so that the folder {building.MANUAL_DIR}/{FOLDERS[0]} holds "
        "'images' and 'annotations.csv'"
    )
    page = PAGE
    folders = FOLDERS
    entries = ("images", "annotations.csv")
    counted = (
        "clipped_boxes",
        "images_without_white_cell",
        "unlabelled_cells",
        "excluded_records",
        "left_out_files",
    )

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        table = folder / "annotations.csv"
        boxes, wrong = read_annotations(table)
        for reason, _ in wrong.values():
            notes.bad.add(table, reason)
        cells = {}
        for box in boxes:
            if box.index >= 0:
                cells.setdefault(box.image, []).append(box)
        known = {box.id for found in cells.values() for box in found}
        types = read_types(folder / "types.csv", known | {id for _, id in wrong.values() if id})
        images = reading.files_by_stem(folder / "images", ".png")
        if not images:
            raise DataError(
                f"{folder / 'images'}: holds no .png file: unpack the authors' images there"
            )
        names = {path.name for path in images.values()}
        for name in sorted(cells.keys() - names):
            lines = ", ".join(str(box.line) for box in cells[name])
            notes.bad.add(
                table,
                f"white cells (lines {lines}) of an image that is missing: "
                f"{folder / 'images' / name}",
            )
        notes.counts["images_without_white_cell"] = len(names - cells.keys())
        fields = read_fields(self.pkg_dir_path / "same_field.csv")
        if self.builder_config.name == "frames":
            return [
                building.Item(id=stem, path=path, group=fields.get(stem))
                for stem, path in images.items()
            ]
        frames = []
        for stem, path in images.items():
            found = cells.get(path.name, ())
            kept = [
                (b, types.get(b.id, UNKNOWN_LABEL)) for b in found if b.id not in notes.excluded
            ]
            notes.counts["excluded_records"] += len(found) - len(kept)
            if kept:
                group = fields.get(stem, stem)
                frames.append(Frame(path=path, group=group, cells=kept, table=table))
        return frames

    def read(self, item: building.Item, notes: building.Notes) -> Iterator[building.Record]:
        if not isinstance(item, Frame):
            yield from super().read(item, notes)
            return
        pixels = read_image(item.path)
        height, width = pixels.shape[:2]
        for box, label in item.cells:
            try:
                inside, clipped = pixel_box(box.edges, height, width)
            except DataError as error:
                notes.bad.add(item.table, f"{item.table}: line {box.line}: {error}")
                continue
            notes.counts["clipped_boxes"] += clipped
            notes.counts["unlabelled_cells"] += label < 0
            yield records.example(
                image=crops.cut(pixels, inside),
                label=label,
                id=box.id,
                group=item.group,
                source=self.source,
                label_source="types.csv" if label >= 0 else "",
            )
