"""PBC_dataset_normal_DIB (Acevedo et al. 2020): normal peripheral blood cells."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, UNKNOWN_LABEL
from wbc_jax.tfds_builders.pbc import attributes

PAGE = "https://data.mendeley.com/datasets/snkd93bnjr/1"
FOLDER = "PBC_dataset_normal_DIB"
FOLDERS = (f"pbc/{FOLDER}", FOLDER, "pbc")
SUFFIXES = (".jpg", ".jpeg")

OTHER_CLASSES = ("erythroblast", "ig", "platelet")
CLASSES = tuple(sorted((*CELL_TYPES, *OTHER_CLASSES)))
"""The authors' folders."""

SUBTYPES = {
    "basophil": {"BA": ""},
    "eosinophil": {"EO": ""},
    "erythroblast": {"ERB": ""},
    "ig": {"IG": "", "MMY": "metamyelocyte", "MY": "myelocyte", "PMY": "promyelocyte"},
    "lymphocyte": {"LY": ""},
    "monocyte": {"MO": ""},
    "neutrophil": {"NEUTROPHIL": "", "BNE": "band", "SNE": "segmented"},
    "platelet": {"PLATELET": ""},
}
"""Subtype by class and file prefix; empty where the prefix adds nothing to the class."""


@dataclasses.dataclass(kw_only=True)
class PbcConfig(tfds.core.BuilderConfig):
    """Names the authors' `classes` that are read."""

    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PbcItem(building.Item):
    """An image, and what WBCAtt says of it (`described`)."""

    described: attributes.Described = attributes.NOTHING


class Builder(building.Builder):
    """Builder of pbc; see `building.Builder`.

    Records hold more features than those of other data sets: `attributes`, a text for each of
    `attributes.WORDS`, and `attributes_split`. All are empty where WBCAtt does not have the image.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First release.",
        "1.1.0": "Records hold WBCAtt's attributes and its split.",
    }

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        PbcConfig(
            name="five",
            classes=CELL_TYPES,
            description="The five types of white blood cells.",
        ),
        PbcConfig(
            name="eight",
            classes=CLASSES,
            description="All eight classes: also erythroblasts, immature granulocytes, platelets.",
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download {FOLDER}.zip at {PAGE} and unpack it so that the folder "
        f"{building.MANUAL_DIR}/{FOLDERS[0]} holds {', '.join(CELL_TYPES)} (config eight: also "
        f"{', '.join(OTHER_CLASSES)})"
    )
    page = PAGE
    folders = FOLDERS
    counted = (
        "images_with_attributes",
        "attributes_without_image",
        "excluded_records",
        "left_out_files",
    )

    @property
    def entries(self) -> tuple[str, ...]:
        return self.builder_config.classes

    def find(self, folder: epath.Path, notes: building.Notes) -> list[building.Item]:
        images = find_images(folder, self.entries)
        described = {}
        if tables := attributes.find_folder(folder):
            # A name in several classes is reported below.
            times = collections.Counter(path.stem for _, path in images)
            types = {path.stem: name for name, path in images if times[path.stem] == 1}
            described = attributes.read(tables, types, notes)
        items = [
            PbcItem(
                id=f"pbc_{path.stem}",
                path=path,
                label=CELL_TYPES.index(cell_class) if cell_class in CELL_TYPES else UNKNOWN_LABEL,
                subtype=subtype(cell_class, path.stem),
                described=described.get(path.stem, attributes.NOTHING),
            )
            for cell_class, path in images
        ]
        return building.without_repeats(items, "class", notes)

    def read(self, item: PbcItem, notes: building.Notes) -> Iterator[building.Record]:
        more = {"attributes": item.described.words, "attributes_split": item.described.split}
        for record in super().read(item, notes):
            yield record | more

    def _info(self) -> tfds.core.DatasetInfo:
        features = {**records.features(), **attributes.features()}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage=self.page,
            metadata=tfds.core.MetadataDict(),
        )


def find_images(folder: epath.Path, classes: tuple[str, ...]) -> list[tuple[str, epath.Path]]:
    """Lists (class, path) of every image of the `classes`, sorted by class and name.

    Hidden files and files that are not `.jpg` are skipped.

    Raises:
        DataError: the folder holds a folder of an unknown class, or a class has no images.
    """
    folders = [path.name for path in folder.iterdir() if path.is_dir()]
    known = (*CLASSES, attributes.FOLDER)
    if unknown := sorted(name for name in folders if name not in known and name[0] not in "._"):
        raise DataError(
            f"{folder}: {', '.join(map(repr, unknown))}: no class of this data set: allowed are "
            f"{', '.join(CLASSES)}; rename or remove the folder"
        )
    found = []
    for cell_class in classes:
        paths = sorted(
            path
            for path in (folder / cell_class).iterdir()
            if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
        )
        if not paths:
            raise DataError(
                f"{folder / cell_class}: holds no .jpg file: unpack the authors' images there"
            )
        found += [(cell_class, path) for path in paths]
    return found


def subtype(cell_class: str, stem: str) -> str:
    """Returns the subtype that the class and the prefix of the file's name give.

    `("neutrophil", "SNE_1")` gives `segmented`. For the three classes without a label, the subtype
    begins with the class: `("ig", "MY_1")` gives `ig_myelocyte`, `("platelet", "PLATELET_1")`
    gives `platelet`. A prefix that is unknown in its class is kept as it is.
    """
    prefix = stem.split("_", maxsplit=1)[0]
    finer = SUBTYPES[cell_class].get(prefix.upper(), prefix)
    if cell_class in CELL_TYPES:
        return finer
    return f"{cell_class}_{finer}" if finer else cell_class
