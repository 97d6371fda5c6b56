"""Kaggle's blood cells (paultimothymooney/blood-cells): BCCD frames, and augmented copies."""

import collections
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import building, crops, records
from wbc_jax.data.images import decode_image, read_image_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, UNKNOWN_LABEL

PAGE = "https://www.kaggle.com/datasets/paultimothymooney/blood-cells"
FOLDERS = ("kaggle_blood_cells", "blood-cells")
TOPS = {"original": "dataset-master", "augmented": "dataset2-master"}
"""Config to the folder that it reads; Kaggle's archive holds some twice, one inside the other."""
SOURCE = "kaggle_blood_cells"
NEVER_TOGETHER = {"augmented": "original"}
"""A config whose records show the cells of another, though no file says which (see README)."""

MAX_OVERHANG = 2
"""Boxes may reach this many pixels out of the frame; they are cut off there, and counted."""

TYPES = {name.upper(): index for index, name in enumerate(CELL_TYPES)}
"""The authors' categories."""

PARTITIONS = {"TRAIN": "train", "TEST": "test", "TEST_SIMPLE": "test"}
"""Folders of the augmented copies, to the side of upstream's division that they stand on."""

_FRAME = re.compile(r"BloodImage_\d{5}")

Box = tuple[int, int, int, int]


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of kaggle_blood_cells.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. The
    metadata hold counts. Of `original`: `frames_without_cell` (no box around a white cell; no
    record), `frames_with_several_cells` and `frames_with_several_types` (label -1),
    `unlabelled_frames`, `labels_without_image`, `images_without_annotation`,
    `annotations_without_image`, `clipped_boxes`. Of both: `excluded_records` (listed in
    `exclusions.csv`), `left_out_files`.

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
        tfds.core.BuilderConfig(
            name="original", description="A square around each boxed white cell of BCCD's frames."
        ),
        tfds.core.BuilderConfig(
            name="augmented", description="Kaggle's turned, sheared and mirrored copies of frames."
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Download {PAGE} and unpack it as {FOLDERS[0]}/{TOPS['original']}/ and "
        f"{FOLDERS[0]}/{TOPS['augmented']}/ in manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(), homepage=PAGE, metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config.name
        top = TOPS[config]
        folder = building.manual_folder(dl_manager, FOLDERS, (top,))
        if folder is None:
            manual_dir = building.manual_path(dl_manager) or epath.Path("<manual_dir>")
            raise DataError(
                f"kaggle_blood_cells/{config} is not in {manual_dir}: download {PAGE} and unpack "
                f"it so that {manual_dir / FOLDERS[0] / top} exists"
            )
        entries = {
            "original": ("JPEGImages", "Annotations", "labels.csv"),
            "augmented": ("images",),
        }[config]
        inner = folder / top / top
        folder = inner if inner.is_dir() else folder / top
        if missing := [entry for entry in entries if not (folder / entry).exists()]:
            raise DataError(
                f"{folder}: lacks {', '.join(map(repr, missing))}: it must hold "
                f"{', '.join(map(repr, entries))}; unpack Kaggle's files there, unchanged"
            )
        return {"train": self._generate_examples(folder)}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        original = self.builder_config.name == "original"
        return self._generate_crops(folder) if original else self._generate_copies(folder)

    def _generate_crops(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        categories = read_labels(folder / "labels.csv")
        exclusions = building.read_exclusions(self.pkg_dir_path)
        bad = building.bad_files()
        already_bad = len(bad.files)
        images = _by_stem(folder / "JPEGImages", ".jpg")
        annotations = _by_stem(folder / "Annotations", ".xml")
        if not images:
            raise DataError(
                f"{folder / 'JPEGImages'}: holds no .jpg file: unpack Kaggle's images there"
            )
        named = []
        for stem, image_file in images.items():
            if _FRAME.fullmatch(stem):
                named.append(stem)
            else:
                bad.add(image_file, "the name is not BloodImage_ and five digits, as Kaggle's are")
        annotated = [stem for stem in named if stem in annotations]

        def read(stem: str) -> tuple[list[dict[str, object]], dict[str, int]]:
            """The records of a frame, and what is counted of it."""
            image, height, width = read_image_file(images[stem])
            boxes, clipped = read_boxes(annotations[stem], height, width)
            label, subtype = _label(categories.get(_number(stem), ()), len(boxes))
            pixels = decode_image(image)
            ids = [stem if len(boxes) == 1 else f"{stem}_{i + 1}" for i in range(len(boxes))]
            found = [
                records.example(
                    image=crops.cut(pixels, box),
                    label=label,
                    id=id,
                    group=stem,
                    source=SOURCE,
                    subtype=subtype,
                    label_source="authors" if label >= 0 else "",
                )
                for id, box in zip(ids, boxes)
                if id not in exclusions
            ]
            return found, {
                "excluded_records": len(boxes) - len(found),
                "clipped_boxes": clipped,
                "frames_without_cell": not boxes,
                "frames_with_several_cells": subtype == "several_cells",
                "frames_with_several_types": subtype == "several_types",
                "unlabelled_frames": bool(boxes) and label < 0 and not subtype,
            }

        counts = collections.Counter()
        for found, counted in building.each(read, annotated, images.get, bad):
            counts.update(counted)
            for record in found:
                yield record["id"], record
        counts["images_without_annotation"] = len(named) - len(annotated)
        counts["labels_without_image"] = len(categories.keys() - set(map(_number, named)))
        counts["annotations_without_image"] = len(annotations.keys() - images.keys())
        names = (
            *("frames_without_cell", "frames_with_several_cells", "frames_with_several_types"),
            *("unlabelled_frames", "labels_without_image", "images_without_annotation"),
            *("annotations_without_image", "clipped_boxes", "excluded_records"),
        )
        bad.finish(f"kaggle_blood_cells/original in {folder}")
        self._note({name: int(counts[name]) for name in names}, len(bad.files) - already_bad)

    def _generate_copies(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        exclusions = building.read_exclusions(self.pkg_dir_path)
        bad = building.bad_files()
        already_bad = len(bad.files)
        found = find_copies(folder / "images")
        chosen = [copy for copy in found if _copy_id(*copy) not in exclusions]

        def read(copy: tuple[str, str, epath.Path]) -> dict[str, object]:
            partition, cell_type, path = copy
            image, _, _ = read_image_file(path)
            return records.example(
                image=image,
                label=CELL_TYPES.index(cell_type),
                id=_copy_id(*copy),
                group=f"augmented_{PARTITIONS[partition]}_{cell_type}",
                source=SOURCE,
                subtype=partition.lower(),
                label_source="authors",
            )

        for record in building.each(read, chosen, lambda copy: copy[2], bad):
            yield record["id"], record
        bad.finish(f"kaggle_blood_cells/augmented in {folder}")
        self._note({"excluded_records": len(found) - len(chosen)}, len(bad.files) - already_bad)

    def _note(self, counts: dict[str, int], left_out: int) -> None:
        self.info.metadata.update(counts, left_out_files=left_out)
        for name, count in self.info.metadata.items():
            logging.info("kaggle_blood_cells/%s: %s = %d", self.builder_config.name, name, count)


def read_labels(path: epath.PathLike) -> dict[int, tuple[str, ...]]:
    """Reads `labels.csv`.

    Args:
        path: CSV with the header `,Image,Category`: an empty cell, a number, and no, one or
            several cell types, separated by commas.

    Returns:
        Image number to the types (of `labels.CELL_TYPES`), as many as the category names.

    Raises:
        DataError: no such file, another header, or wrong rows; lists up to 20 of them.
    """
    labels, wrong = {}, []
    for line, row in building.read_csv(path):
        cells = [cell.strip() for cell in row]
        if line == 1:
            if cells != ["", "Image", "Category"]:
                raise DataError(
                    f"{path}: the header is {','.join(row)!r}: allowed is ',Image,Category'"
                )
            continue
        names = [name.strip() for name in cells[-1].split(",")] if cells[-1] else []
        if len(cells) != 3 or not cells[1].isdecimal() or any(name not in TYPES for name in names):
            wrong.append(f"line {line}: {','.join(row)!r}")
            continue
        types = tuple(name.lower() for name in names)
        if labels.setdefault(int(cells[1]), types) != types:
            wrong.append(f"line {line}: {','.join(row)!r} contradicts an earlier line")
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are wrong: allowed is an image number and cell types of "
            f"{', '.join(TYPES)} (none, one, or several in quotes); mend them or fetch the file "
            "again:\n  " + "\n  ".join(wrong[:20])
        )
    return labels


def read_boxes(path: epath.PathLike, height: int, width: int) -> tuple[list[Box], int]:
    """Reads the boxes around white cells from a Pascal VOC file.

    Args:
        path: XML file; its boxes count pixels from 1, and hold their last row and column.
        height: the image's height in pixels.
        width: the image's width in pixels.

    Returns:
        Boxes `(y0, x0, y1, x1)` in the file's order, so that `image[y0:y1, x0:x1]` is the cell;
        and the number of them that reached out of the image and were cut off at its edge.

    Raises:
        DataError: no such file, no XML, an image size other than given, or a white cell's box that
            is incomplete, empty, or reaches more than 2 pixels out of the image.
    """
    try:
        root = ElementTree.fromstring(epath.Path(path).read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read as XML ({error}): fetch the file again") from error
    size = tuple((root.findtext(f"size/{side}") or "").strip() for side in ("width", "height"))
    if size != (str(width), str(height)):
        raise DataError(
            f"{path}: says that the image is {size[0]} x {size[1]} pixels (width x height), but it "
            f"is {width} x {height}: allowed is one size for both; the boxes would be elsewhere, "
            "fetch both files again"
        )
    boxes, clipped = [], 0
    for item in root.iter("object"):
        if (item.findtext("name") or "").strip() != "WBC":
            continue
        sides = ("xmin", "ymin", "xmax", "ymax")
        texts = [(item.findtext(f"bndbox/{side}") or "").strip() for side in sides]
        try:
            x0, y0, x1, y1 = map(int, texts)
        except ValueError as error:
            raise DataError(
                f"{path}: the box of a white cell is {_shown(texts)}: allowed are whole numbers; "
                "mend it or fetch the file again"
            ) from error
        x0, y0 = x0 - 1, y0 - 1
        inside = (max(y0, 0), max(x0, 0), min(y1, height), min(x1, width))
        overhang = max(-x0, -y0, x1 - width, y1 - height)
        if overhang > MAX_OVERHANG or inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise DataError(
                f"{path}: the box of a white cell is {_shown(texts)} in an image of {width} x "
                f"{height} pixels: allowed is a box that is not empty and lies in the image, or up "
                f"to {MAX_OVERHANG} pixels out of it; mend it or fetch the file again"
            )
        clipped += overhang > 0
        boxes.append(inside)
    return boxes, clipped


def find_copies(folder: epath.Path) -> list[tuple[str, str, epath.Path]]:
    """Partition (`TRAIN` ...), cell type and path of every augmented copy, sorted.

    Hidden files and folders, and files that are not `.jpeg` or `.jpg`, are passed over.

    Raises:
        DataError: a folder that is no partition or no cell type, or no image at all.
    """
    found = []
    for partition in _folders(folder, tuple(PARTITIONS)):
        for cell_type in _folders(partition, tuple(TYPES)):
            found += [
                (partition.name, cell_type.name.lower(), path)
                for path in sorted(cell_type.iterdir())
                if path.name.lower().endswith((".jpeg", ".jpg")) and path.name[0] != "."
            ]
    if not found:
        raise DataError(
            f"{folder}: holds no image: allowed are .jpeg files in {', '.join(PARTITIONS)}, in "
            f"folders named by cell type ({', '.join(TYPES)}); unpack Kaggle's images there"
        )
    return found


def _folders(folder: epath.Path, allowed: tuple[str, ...]) -> list[epath.Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    if unknown := [path.name for path in found if path.name not in allowed]:
        raise DataError(
            f"{folder}: {', '.join(map(repr, unknown))}: unknown: allowed are the folders "
            f"{', '.join(allowed)}; rename or remove the folder"
        )
    return found


def _label(types: tuple[str, ...], boxes: int) -> tuple[int, str]:
    """Label and subtype of a frame's cells, of the types that its category names."""
    if boxes > 1 or (len(types) > 1 and len(set(types)) == 1):
        # Nothing says which box is which type, or which of the cells was boxed.
        return UNKNOWN_LABEL, "several_cells"
    if len(types) > 1:
        return UNKNOWN_LABEL, "several_types"
    if not types or not boxes:
        return UNKNOWN_LABEL, ""
    return CELL_TYPES.index(types[0]), ""


def _number(stem: str) -> int:
    return int(stem.removeprefix("BloodImage_"))


def _copy_id(partition: str, cell_type: str, path: epath.Path) -> str:
    return f"{partition.lower()}_{cell_type}_{path.stem.lstrip('_')}"


def _by_stem(folder: epath.Path, suffix: str) -> dict[str, epath.Path]:
    paths = sorted(folder.iterdir(), key=lambda path: path.name)
    return {
        path.stem: path
        for path in paths
        if path.name.lower().endswith(suffix) and not path.name.startswith(".")
    }


def _shown(texts: list[str]) -> str:
    sides = ("xmin", "ymin", "xmax", "ymax")
    return ", ".join(f"{side} {text or 'missing'}" for side, text in zip(sides, texts))
