"""Drawn white blood cells with exact masks: needs no download and no manual files."""

import dataclasses
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.data.images import encode_png
from wbc_jax.tfds_builders.wbc_synthetic import render


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """Says which crops to draw.

    Attributes:
        cells: number of crops; crop `i` is `render.render_cell(seed, i, size)`.
        size: side of a crop in pixels.
        seed: stream of `render.render_cell`.
    """

    cells: int = 600
    size: int = 96
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawing(building.Item):
    """A cell to draw: its number in the stream."""

    index: int


class Builder(building.Builder):
    """Builder of wbc_synthetic; see `building.Builder`.

    A smaller config holds the first crops of a larger config of the same seed and size.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        Config(name="default", description="600 crops of 96 x 96 pixels."),
        Config(name="small", description="The first 60 crops, for tests.", cells=60),
    ]
    counted = ()

    def locate(self, dl_manager: tfds.download.DownloadManager) -> epath.Path:
        return self.pkg_dir_path  # the code that draws

    def find(self, folder: epath.Path, notes: building.Notes) -> list[Drawing]:
        return [
            Drawing(id=f"synthetic_{index:05d}", path=folder, index=index)
            for index in range(self.builder_config.cells)
        ]

    def read(self, item: Drawing, notes: building.Notes) -> Iterator[building.Record]:
        cell = render.render_cell(self.builder_config.seed, item.index, self.builder_config.size)
        yield records.example(
            image=encode_png(cell.image),
            mask=cell.mask,
            label=cell.label,
            id=item.id,
            source=self.source,
            subtype=cell.subtype,
            label_source="drawn",
            um_per_px=cell.um_per_px,
        )
