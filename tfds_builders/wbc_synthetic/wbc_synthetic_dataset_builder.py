"""Drawn white blood cells, with exact masks: needs no download and no manual files."""

import dataclasses
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.data.images import encode_png
from wbc_jax.tfds_builders.wbc_synthetic import render

SOURCE = "wbc_synthetic"


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """How many crops to draw.

    Attributes:
        cells: number of crops; crop `i` is `render.render_cell(seed, i, size)`.
        size: side of a crop in pixels.
        seed: stream of `render.render_cell`.
    """

    cells: int = 600
    size: int = 96
    seed: int = 0


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of wbc_synthetic.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. Crops of
    a smaller config are the first ones of a larger config of the same seed and size.
    """

    # TFDS would guess both: below wbc_jax/, where this file lies only once installed from a wheel,
    # and by way of importlib_resources, which it does not install (4.9.10).
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads it on the class)
    BUILDER_CONFIGS = [  # noqa: RUF012
        Config(name="default", description="600 crops of 96 x 96 pixels."),
        Config(name="small", description="The first 60 crops, for tests.", cells=60),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=records.features())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing is fetched
        return {"train": self._generate_examples(self.builder_config)}

    def _generate_examples(self, config: Config) -> Iterator[tuple[str, dict[str, object]]]:
        def draw(index: int) -> dict[str, object]:
            cell = render.render_cell(config.seed, index, config.size)
            return records.example(
                image=encode_png(cell.image),
                mask=cell.mask,
                label=cell.label,
                id=f"synthetic_{index:05d}",
                source=SOURCE,
                subtype=cell.subtype,
                label_source="drawn",
                um_per_px=cell.um_per_px,
            )

        for record in building.each(draw, range(config.cells)):
            yield record["id"], record
