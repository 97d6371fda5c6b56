"""segmentation_WBC (Zheng et al. 2018): Dataset 1 (JTSC) and Dataset 2 (CellaVision)."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.data.images import describe_values, read_image_file, read_mask_file, unknown_values
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CELL_TYPES, CYTOPLASM, NUCLEUS, UNKNOWN_LABEL

URL = "https://github.com/zxaoyou/segmentation_WBC/archive/refs/heads/master.zip"
"""Fetched where `manual_dir` lacks the set. Not yet run against the real address."""

FOLDERS = ("segmentation_WBC", "segmentation_WBC-master")

TYPES = {1: "neutrophil", 2: "lymphocyte", 3: "monocyte", 4: "eosinophil", 5: "basophil"}
"""The authors' numbers of the cell types (their README)."""

GREYS = {0: BACKGROUND, 128: CYTOPLASM, 255: NUCLEUS}
"""The authors' mask values."""

MAX_STRAY_FRACTION = 0.01
"""Masks with a larger part of other greys are errors: smoothed, or of another convention. The real
strays are few (at most 0.2% of a mask) but lie as far as 45 from the nearest value."""


@dataclasses.dataclass(kw_only=True)
class SegmentationWbcConfig(tfds.core.BuilderConfig):
    """Which of the two data sets: the authors' `number` of it."""

    number: int = 0

    @property
    def images(self) -> str:
        return f"Dataset {self.number}"

    @property
    def labels(self) -> str:
        return f"Class Labels of Dataset {self.number}.csv"


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of segmentation_WBC.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. The
    metadata hold counts: `quantised_pixels` and `quantised_images` (stray greys moved to the
    nearest of 0, 128, 255), `unlabelled_images`, `labels_without_image`, `excluded_records` (listed
    in `exclusions.csv`), `left_out_files`.

    Raises (while building):
        DataError: the set is neither in `manual_dir` nor can be downloaded, or files are bad.
    """

    # TFDS would guess both: below wbc_jax/, where this file lies only once installed from a wheel,
    # and by way of importlib_resources, which it does not install (4.9.10).
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads it on the class)
    BUILDER_CONFIGS = [  # noqa: RUF012
        SegmentationWbcConfig(
            name="jtsc", number=1, description="Dataset 1: Jiangxi Tecom, about 120 x 120 pixels."
        ),
        SegmentationWbcConfig(
            name="cellavision", number=2, description="Dataset 2: CellaVision, 300 x 300 pixels."
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(),
            homepage="https://github.com/zxaoyou/segmentation_WBC",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"train": self._generate_examples(_find(dl_manager, self.builder_config))}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        config = self.builder_config
        labels = read_labels(folder / config.labels)
        exclusions = building.read_exclusions(self.pkg_dir_path)
        bad = building.bad_files()
        already_bad = len(bad.files)
        images, masks = building.pair_files(
            folder / config.images, ".bmp", folder / config.images, ".png", bad
        )
        named = []
        for stem, image_file in images.items():
            if stem.isdecimal():
                named.append(stem)
            else:
                bad.add(image_file, "the name is not a number, as the authors' names are (001.bmp)")
        chosen = [stem for stem in named if f"{config.name}_{stem}" not in exclusions]

        def read(stem: str) -> tuple[dict[str, object], int]:
            image, height, width = read_image_file(images[stem])
            mask, moved = read_mask(masks[stem])
            building.check_same_size(masks[stem], mask, (height, width))
            label = labels.get(int(stem), UNKNOWN_LABEL)
            record = records.example(
                image=image,
                mask=mask,
                label=label,
                id=f"{config.name}_{stem}",
                source=config.name,
                label_source="authors" if label >= 0 else "",
            )
            return record, moved

        quantised = []
        unlabelled = 0
        for record, moved in building.each(read, chosen, images.get, bad):
            unlabelled += record["label"] < 0
            if moved:
                quantised.append(moved)
            yield record["id"], record
        bad.finish(f"segmentation_wbc/{config.name} in {folder}")
        self.info.metadata.update(
            quantised_pixels=sum(quantised),
            quantised_images=len(quantised),
            unlabelled_images=unlabelled,
            labels_without_image=len(labels.keys() - set(map(int, named))),
            excluded_records=len(named) - len(chosen),
            left_out_files=len(bad.files) - already_bad,
        )
        for name, count in self.info.metadata.items():
            logging.info("segmentation_wbc/%s: %s = %d", config.name, name, count)


def read_mask(path: epath.PathLike) -> tuple[np.ndarray, int]:
    """Reads one of the authors' masks.

    Args:
        path: grey PNG: 255 nucleus, 128 cytoplasm, 0 background, and a few stray greys.

    Returns:
        The mask, uint8 `[H, W]` of 0, 1, 2; and the number of pixels whose grey was moved to the
        nearest of the three.

    Raises:
        DataError: an unreadable file, or stray greys in more than 1% of the pixels.
    """
    grey = read_mask_file(path)
    strays = unknown_values(grey, tuple(GREYS))
    moved = sum(strays.values())
    if moved > MAX_STRAY_FRACTION * grey.size:
        raise DataError(
            f"{path}: mask values {describe_values(strays)} are unknown: allowed are 0, "
            f"128, 255, and other greys in at most {MAX_STRAY_FRACTION:.0%} of the pixels; redraw "
            "or fetch the mask again"
        )
    distance = np.abs(np.arange(256)[:, None] - np.array(list(GREYS)))
    table = np.array(list(GREYS.values()), np.uint8)[distance.argmin(axis=1)]
    return table[grey], moved


def read_labels(path: epath.PathLike) -> dict[int, int]:
    """Reads one of the authors' label files; its columns go by position, as headers differ.

    Args:
        path: CSV with a header (`image ID,class label` or `image ID,class`) and rows `number,1-5`.

    Returns:
        Image number to index into `labels.CELL_TYPES`.

    Raises:
        DataError: no such file, or rows that are not as above; lists up to 20 of them.
    """
    labels, wrong = {}, []
    for line, row in building.read_csv(path):
        cells = [cell.strip() for cell in row]
        if line == 1 and not cells[0].isdecimal():
            continue
        if len(cells) < 2 or not cells[0].isdecimal() or cells[1] not in map(str, TYPES):
            wrong.append(f"line {line}: {','.join(row)!r}")
            continue
        label = CELL_TYPES.index(TYPES[int(cells[1])])
        if labels.setdefault(int(cells[0]), label) != label:
            wrong.append(f"line {line}: {','.join(row)!r} contradicts an earlier line")
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are wrong: allowed is an image number and a class from 1 "
            f"to 5; mend them or fetch the file again:\n  " + "\n  ".join(wrong[:20])
        )
    return labels


def _find(dl_manager: tfds.download.DownloadManager, config: SegmentationWbcConfig) -> epath.Path:
    entries = (config.images, config.labels)
    folder = building.manual_folder(dl_manager, FOLDERS, entries)
    if folder is not None:
        return folder
    manual_dir = building.manual_path(dl_manager) or epath.Path("<manual_dir>")
    by_hand = (
        f"download {URL} and unpack it so that the folder {manual_dir / FOLDERS[0]} holds "
        f"{' and '.join(map(repr, entries))}"
    )
    if not building.may_download():
        raise DataError(f"segmentation_WBC is not in {manual_dir}: {by_hand}")
    try:
        archive = epath.Path(dl_manager.download(URL))
        root = building.unzip(archive, archive.parent / f"{archive.name}.unzipped")
    except DataError:
        raise
    except Exception as error:  # requests, urllib3 and TFDS each have their own
        raise DataError(
            f"segmentation_WBC is not in {manual_dir} and could not be downloaded ({error}): "
            f"{by_hand}"
        ) from error
    folder = root / FOLDERS[1]
    if missing := [entry for entry in entries if not (folder / entry).exists()]:
        raise DataError(
            f"{archive}: lacks {', '.join(map(repr, missing))} below {FOLDERS[1]!r}: its authors "
            f"may have changed it; {by_hand}"
        )
    return folder
