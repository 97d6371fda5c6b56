"""Raabin-WBC's nucleus and cytoplasm ground truth (Kouzehkanan et al. 2022)."""

import re
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, records
from wbc_jax.data.images import describe_values, read_image_file, read_mask_file, unknown_values
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CELL_TYPES, CYTOPLASM, IGNORE, NUCLEUS, UNKNOWN_LABEL

PAGE = "https://raabindata.com/free-data/"
FOLDER = "raabin_gt"
SOURCE = "raabin_gt"

VALUES = {0: BACKGROUND, 120: NUCLEUS, 255: CYTOPLASM}
"""The authors' mask values. In a mask without 120, 255 is the whole cell instead."""

# slide_frame_cell (95-8-17-3_225_1) and date_time_cell (20190526_165423_0).
_NAME = re.compile(r"(?P<frame>\d+(?:-\d+)+_\d+|\d{8}_\d{6})_\d+")


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of raabin_gt.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. The
    metadata hold counts: `cell_only_masks`, `unlabelled_images`, `labels_without_image`,
    `excluded_records` (listed in `exclusions.csv`), `left_out_files`. The set is handed out by a
    web form, so nothing is downloaded.

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
        tfds.core.BuilderConfig(name="default", description="All images with a mask.")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Ask for the nucleus and cytoplasm ground truth at {PAGE} and place it as "
        f"{FOLDER}/images/*.jpg, {FOLDER}/masks/*.png and {FOLDER}/labels.csv in manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(), homepage=PAGE, metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        folder = building.manual_folder(dl_manager, (FOLDER,), ("images", "masks", "labels.csv"))
        if folder is None:
            manual_dir = building.manual_path(dl_manager) or epath.Path("<manual_dir>")
            raise DataError(
                f"raabin_gt is not in {manual_dir}: it is handed out by a web form only; ask for "
                f"the nucleus and cytoplasm ground truth at {PAGE} and place the images in "
                f"{manual_dir / FOLDER / 'images'}, the masks in {manual_dir / FOLDER / 'masks'} "
                f"and the labels in {manual_dir / FOLDER / 'labels.csv'}"
            )
        return {"train": self._generate_examples(folder)}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        labels = read_labels(folder / "labels.csv")
        exclusions = building.read_exclusions(self.pkg_dir_path)
        bad = building.bad_files()
        already_bad = len(bad.files)
        images, masks = building.pair_files(
            folder / "images", ".jpg", folder / "masks", ".png", bad
        )
        chosen = [stem for stem in images if stem not in exclusions]

        def read(stem: str) -> dict[str, object]:
            image, height, width = read_image_file(images[stem])
            mask, whole_cell = read_mask(masks[stem])
            building.check_same_size(masks[stem], mask, (height, width))
            label, label_source = labels.get(stem, (UNKNOWN_LABEL, ""))
            return records.example(
                image=image,
                mask=mask,
                label=label,
                id=stem,
                group=frame(stem),
                source=SOURCE,
                subtype="cell_only" if whole_cell else "",
                label_source=label_source,
            )

        unlabelled = cell_only = 0
        for record in building.each(read, chosen, images.get, bad):
            unlabelled += record["label"] < 0
            cell_only += record["subtype"] == "cell_only"
            yield record["id"], record
        bad.finish(f"raabin_gt in {folder}")
        self.info.metadata.update(
            cell_only_masks=cell_only,
            unlabelled_images=unlabelled,
            labels_without_image=len(labels.keys() - images.keys()),
            excluded_records=len(images) - len(chosen),
            left_out_files=len(bad.files) - already_bad,
        )
        for name, count in self.info.metadata.items():
            logging.info("raabin_gt: %s = %d", name, count)


def frame(name: str) -> str:
    """The frame that a cell was cut from: `95-8-17-3_225_1` gives `95-8-17-3_225`.

    Other names than slide_frame_cell and date_time_cell are frames of their own.
    """
    match = _NAME.fullmatch(name)
    return match["frame"] if match else name


def read_mask(path: epath.PathLike) -> tuple[np.ndarray, bool]:
    """Reads one of the authors' masks.

    Args:
        path: grey PNG: 120 nucleus, 255 cytoplasm, 0 background.

    Returns:
        The mask, uint8 `[H, W]`, and whether it is cell-only: without a nucleus (as all basophils
        are), 255 is the whole cell, of which nothing says where the nucleus is, so it becomes
        ignore.

    Raises:
        DataError: an unreadable file, or other values.
    """
    grey = read_mask_file(path)
    if unknown := unknown_values(grey, tuple(VALUES)):
        raise DataError(
            f"{path}: mask values {describe_values(unknown)} are unknown: allowed are 0 "
            "background, 120 nucleus, 255 cytoplasm; redraw or fetch the mask again"
        )
    cell_only = not (grey == 120).any()
    table = np.zeros(256, np.uint8)
    for value, code in VALUES.items():
        table[value] = code
    if cell_only:
        table[255] = IGNORE
    return table[grey], cell_only


def read_labels(path: epath.PathLike) -> dict[str, tuple[int, str]]:
    """Reads `labels.csv`.

    Args:
        path: CSV with the header `name,label,label_source`; an empty label is unknown.

    Returns:
        Name to index into `labels.CELL_TYPES` (or -1) and the label's source.

    Raises:
        DataError: no such file, another header, or wrong rows; lists up to 20 of them.
    """
    header, labels, wrong = ["name", "label", "label_source"], {}, []
    for line, row in building.read_csv(path):
        cells = [cell.strip() for cell in row]
        if line == 1:
            if cells != header:
                raise DataError(
                    f"{path}: the header is {','.join(row)!r}: allowed is {','.join(header)!r}"
                )
            continue
        if len(cells) != 3 or cells[1] not in ("", *CELL_TYPES):
            wrong.append(f"line {line}: {','.join(row)!r}")
            continue
        label = CELL_TYPES.index(cells[1]) if cells[1] else UNKNOWN_LABEL
        entry = (label, cells[2] if label >= 0 else "")
        if labels.setdefault(cells[0], entry)[0] != label:
            wrong.append(f"line {line}: {','.join(row)!r} contradicts an earlier line")
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are wrong: allowed is a name, one of "
            f"{', '.join(CELL_TYPES)} (or nothing), and a source; mend them:\n  "
            + "\n  ".join(wrong[:20])
        )
    return labels
