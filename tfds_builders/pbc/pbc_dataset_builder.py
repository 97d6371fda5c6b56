"""PBC_dataset_normal_DIB (Acevedo et al. 2020): normal peripheral blood cells."""

import collections
import dataclasses
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.data.images import read_image_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, UNKNOWN_LABEL

PAGE = "https://data.mendeley.com/datasets/snkd93bnjr/1"
FOLDER = "PBC_dataset_normal_DIB"
FOLDERS = (f"pbc/{FOLDER}", FOLDER, "pbc")
SOURCE = "pbc"
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
"""Class to file prefix to subtype; empty where the prefix says no more than the class."""


@dataclasses.dataclass(kw_only=True)
class PbcConfig(tfds.core.BuilderConfig):
    """Which of the authors' `classes` are read."""

    classes: tuple[str, ...] = ()


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of pbc.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. The
    metadata hold counts: `excluded_records` (listed in `exclusions.csv`), `left_out_files`.

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
        f"Download {FOLDER}.zip at {PAGE} and unpack it as pbc/{FOLDER}/<class>/*.jpg in "
        "manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(), homepage=PAGE, metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        classes = self.builder_config.classes
        folder = building.manual_folder(dl_manager, FOLDERS, classes)
        if folder is None:
            manual_dir = building.manual_path(dl_manager) or epath.Path("<manual_dir>")
            raise DataError(
                f"pbc is not in {manual_dir}: download {FOLDER}.zip at {PAGE} and unpack it so "
                f"that the folder {manual_dir / 'pbc' / FOLDER} holds {', '.join(classes)}"
            )
        return {"train": self._generate_examples(folder)}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        name = f"pbc/{self.builder_config.name}"
        exclusions = building.read_exclusions(self.pkg_dir_path)
        bad = building.bad_files()
        already_bad = len(bad.files)
        found = find_images(folder, self.builder_config.classes)
        places = collections.Counter(path.stem for _, path in found)
        excluded = 0
        chosen = []
        for cell_class, path in found:
            if f"pbc_{path.stem}" in exclusions:
                excluded += 1
            elif places[path.stem] > 1:
                others = [str(p) for _, p in found if p.stem == path.stem and p != path]
                bad.add(path, f"has the name of {', '.join(others)}: allowed is one class a cell")
            else:
                chosen.append((cell_class, path))
        for record in building.each(_record, chosen, lambda entry: entry[1], bad):
            yield record["id"], record
        bad.finish(f"{name} in {folder}")
        self.info.metadata.update(
            excluded_records=excluded, left_out_files=len(bad.files) - already_bad
        )
        for key, count in self.info.metadata.items():
            logging.info("%s: %s = %d", name, key, count)


def _record(entry: tuple[str, epath.Path]) -> dict[str, object]:
    cell_class, path = entry
    image, _, _ = read_image_file(path)
    label = UNKNOWN_LABEL
    if cell_class in CELL_TYPES:
        label = CELL_TYPES.index(cell_class)
    return records.example(
        image=image,
        label=label,
        id=f"pbc_{path.stem}",
        source=SOURCE,
        subtype=subtype(cell_class, path.stem),
        label_source="authors" if label >= 0 else "",
    )


def find_images(folder: epath.Path, classes: tuple[str, ...]) -> list[tuple[str, epath.Path]]:
    """Class and path of every image of the `classes`, sorted by class and name.

    Hidden files and files that are not `.jpg` are passed over.

    Raises:
        DataError: the folder holds one of a class that is unknown, or a class without images.
    """
    folders = [path.name for path in folder.iterdir() if path.is_dir()]
    if unknown := sorted(name for name in folders if name not in CLASSES and name[0] not in "._"):
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
    """What the class and the prefix of the file's name say beyond the cell type.

    `("neutrophil", "SNE_1")` gives `segmented`. Of the three classes without a label the subtype
    begins with the class: `("ig", "MY_1")` gives `ig_myelocyte`, `("platelet", "PLATELET_1")`
    gives `platelet`. A prefix that is not known in its class is kept as it is.
    """
    prefix = stem.split("_", maxsplit=1)[0]
    finer = SUBTYPES[cell_class].get(prefix.upper(), prefix)
    if cell_class in CELL_TYPES:
        return finer
    return f"{cell_class}_{finer}" if finer else cell_class
