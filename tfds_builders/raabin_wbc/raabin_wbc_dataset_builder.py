"""Raabin-WBC's cropped cells (Kouzehkanan et al. 2022), from the authors or by way of Kaggle."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.data.images import read_image_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.raabin_gt.raabin_gt_dataset_builder import frame

SOURCE = "raabin_wbc"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

SPLITS = {"train": "Train", "test_a": "Test-A", "test_b": "Test-B"}
"""Split to the folder's name, of which case, hyphens, underscores and spaces do not matter."""


@dataclasses.dataclass(kw_only=True)
class RaabinWbcConfig(tfds.core.BuilderConfig):
    """Whose packaging: the page that hands it out, and names of its folder."""

    page: str = ""
    folders: tuple[str, ...] = ()


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of raabin_wbc.

    The splits are upstream's: `train`, `test_a`, `test_b`, those whose folder is there. The
    metadata hold counts over all splits: `frames_in_several_splits` (frames with cells in more
    than one split), `excluded_records` (listed in `exclusions.csv`), `left_out_files`.

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
        RaabinWbcConfig(
            name="crops",
            description="The authors' Train, TestA and TestB.",
            page="https://raabindata.com/free-data/",
            folders=("raabin_wbc", "Raabin-WBC", "RaabinWBC"),
        ),
        RaabinWbcConfig(
            name="kaggle",
            description="Kaggle's repackaging: Train, Test-A and Test-B.",
            page="https://www.kaggle.com/datasets/masoudnickparvar/white-blood-cells-dataset",
            folders=("white-blood-cells-dataset", "raabin_wbc_kaggle"),
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "crops: ask for Train, TestA and TestB at https://raabindata.com/free-data/ and unpack "
        "them as raabin_wbc/<split>/<type>/*.jpg in manual_dir. kaggle: download "
        "https://www.kaggle.com/datasets/masoudnickparvar/white-blood-cells-dataset and unpack it "
        "as white-blood-cells-dataset/<split>/<type>/*.jpg in manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(),
            homepage=self.builder_config.page,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        folder, splits = _find(dl_manager, self.builder_config)
        if missing := [name for split, name in SPLITS.items() if split not in splits]:
            logging.warning("%s: there is no %s", folder, " and no ".join(missing))
        found = {split: find_images(splits[split]) for split in SPLITS if split in splits}
        places = collections.Counter(
            name for images in found.values() for name in {frame(path.stem) for _, path in images}
        )
        self.info.metadata.update(
            frames_in_several_splits=sum(count > 1 for count in places.values()),
            excluded_records=0,
            left_out_files=0,
        )
        return {
            split: self._generate_examples(splits[split], split, images)
            for split, images in found.items()
        }

    def _generate_examples(
        self, folder: epath.Path, split: str, images: Sequence[tuple[str, epath.Path]]
    ) -> Iterator[tuple[str, dict[str, object]]]:
        exclusions = building.read_exclusions(self.pkg_dir_path)
        bad = building.bad_files()
        already_bad = len(bad.files)
        places = collections.defaultdict(list)
        for _, path in images:
            places[path.stem].append(path)
        excluded = 0
        chosen = []
        for cell_type, path in images:
            if f"{split}_{path.stem}" in exclusions:
                excluded += 1
            elif others := [str(other) for other in places[path.stem] if other != path]:
                bad.add(path, f"has the name of {', '.join(others)}: allowed is one type a cell")
            else:
                chosen.append((cell_type, path))

        def read(entry: tuple[str, epath.Path]) -> dict[str, object]:
            cell_type, path = entry
            image, _, _ = read_image_file(path)
            return records.example(
                image=image,
                label=CELL_TYPES.index(cell_type),
                id=f"{split}_{path.stem}",
                group=frame(path.stem),
                source=SOURCE,
                label_source="authors",
            )

        for record in building.each(read, chosen, lambda entry: entry[1], bad):
            yield record["id"], record
        name = f"raabin_wbc/{self.builder_config.name}"
        bad.finish(f"{name} in {folder}")
        metadata = self.info.metadata
        metadata["excluded_records"] += excluded
        metadata["left_out_files"] += len(bad.files) - already_bad
        for key, count in metadata.items():
            logging.info("%s, up to split %s: %s = %d", name, split, key, count)


def split_folders(folder: epath.Path) -> dict[str, epath.Path]:
    """The folders of the splits: `Train`, `Test-A` or `TestA`, `Test-B` or `TestB`, in any case.

    Raises:
        DataError: two folders of one split.
    """
    wanted = {_plain(name): split for split, name in SPLITS.items()}
    found = {}
    for path in sorted(folder.iterdir()):
        split = wanted.get(_plain(path.name))
        if split is None or not path.is_dir():
            continue
        if split in found:
            raise DataError(
                f"{folder}: holds both {found[split].name!r} and {path.name!r}: allowed is one "
                f"folder of the split {SPLITS[split]}; remove one of them"
            )
        found[split] = path
    return found


def find_images(folder: epath.Path) -> list[tuple[str, epath.Path]]:
    """Cell type and path of every image of a split, sorted by type and name.

    Hidden files and files that are no images by their suffix are passed over. A split need not
    have all types.

    Raises:
        DataError: a folder that is no cell type, or no image at all.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name[0] in "._":
            continue
        if path.name.lower() not in CELL_TYPES:
            raise DataError(
                f"{path}: {path.name!r} is no cell type: allowed are "
                f"{', '.join(CELL_TYPES)} (in any case); rename or remove the folder"
            )
        found += [
            (path.name.lower(), file)
            for file in path.iterdir()
            if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")
        ]
    if not found:
        raise DataError(
            f"{folder}: holds no image: allowed are {', '.join(SUFFIXES)} files in folders named "
            f"by cell type ({', '.join(CELL_TYPES)}); unpack the authors' images there"
        )
    return sorted(found, key=lambda entry: (entry[0], entry[1].name))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _find(
    dl_manager: tfds.download.DownloadManager, config: RaabinWbcConfig
) -> tuple[epath.Path, dict[str, epath.Path]]:
    manual_dir = building.manual_path(dl_manager)
    if manual_dir is not None:
        for name in (*config.folders, ""):
            folder = manual_dir / name if name else manual_dir
            if not folder.is_dir():
                continue
            if splits := split_folders(folder):
                return folder, splits
            if name:
                raise DataError(
                    f"{folder}: holds none of {', '.join(SPLITS.values())}: unpack the folders of "
                    f"{config.page} there, unchanged"
                )
    manual_dir = manual_dir or epath.Path("<manual_dir>")
    raise DataError(
        f"raabin_wbc/{config.name} is not in {manual_dir}: fetch it at {config.page} and unpack it "
        f"so that the folder {manual_dir / config.folders[0]} holds {', '.join(SPLITS.values())}, "
        "each with one folder a cell type"
    )
