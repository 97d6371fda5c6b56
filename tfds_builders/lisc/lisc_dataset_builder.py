"""LISC (Rezatofighi and Soltanian-Zadeh 2011): frames with nuclei and cytoplasm drawn."""

import collections
import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from skimage import measure

from wbc_jax.data import building, crops, records
from wbc_jax.data.images import decode_image, describe_values, read_image_file, read_mask_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, CYTOPLASM, IGNORE, NUCLEUS, UNKNOWN_LABEL

PAGE = "http://users.cecs.anu.edu.au/~hrezatofighi/Data/Leukocyte%20Data.htm"
FOLDERS = ("LISC Database", "LISC_Database", "lisc")
SOURCE = "lisc"
IMAGES = "Main Dataset"
MASKS = "Ground Truth Segmentation"
MASK_FOLDER = "areaforexpert1"
MASK_SUFFIX = "_expert.bmp"

CLASSES = {
    "baso": CELL_TYPES.index("basophil"),
    "eosi": CELL_TYPES.index("eosinophil"),
    "lymp": CELL_TYPES.index("lymphocyte"),
    "mixt": UNKNOWN_LABEL,
    "mono": CELL_TYPES.index("monocyte"),
    "neut": CELL_TYPES.index("neutrophil"),
}
"""Class folders by the first four letters of their names, in lower case; `mixt` frames hold cells
of several types, and nothing says which is which."""

MAX_BORDER = 8
"""Pixels that a mask may lack at each edge of its frame (712 x 568 for 720 x 576 lacks 4)."""

MIN_CELL_PIXELS = 100
"""Smaller islands in a mask are slips of the pen: ignored and counted, never cropped."""


COUNTED = (
    *("cells", "cell_only_cells", "padded_masks", "specks", "empty_masks"),
    "excluded_records",
)


@dataclasses.dataclass(slots=True)
class Frame:
    """One frame and its mask.

    Attributes:
        id: such as `baso_12`.
        kind: key of `CLASSES`.
        image_file, mask_file: the authors' files.
    """

    id: str
    kind: str
    image_file: epath.Path
    mask_file: epath.Path


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of lisc.

    The one split is `train`, as TFDS reserves the name `all`; read it with `split="all"`. The
    metadata hold counts: `cells`, `cell_only_cells`, `padded_masks`, `specks`, `empty_masks`,
    `excluded_records`, `left_out_files`; and `nucleus_values`, the mask values taken as nucleus in
    each class folder. The terms forbid passing the files on, so nothing is downloaded.

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
        tfds.core.BuilderConfig(name="crops", description="A square around each masked cell."),
        tfds.core.BuilderConfig(name="frames", description="Whole frames."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Get the LISC database from its authors ({PAGE}) and place it as {FOLDERS[0]}/{IMAGES} "
        f"and {FOLDERS[0]}/{MASKS} in manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(), homepage=PAGE, metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        folder = building.manual_folder(dl_manager, FOLDERS, (IMAGES, MASKS))
        if folder is None:
            manual_dir = building.manual_path(dl_manager) or epath.Path("<manual_dir>")
            raise DataError(
                f"lisc is not in {manual_dir}: its terms allow its use only to those who got it "
                f"from its authors; get it at {PAGE} and unpack it so that the folder "
                f"{manual_dir / FOLDERS[0]} holds {IMAGES!r} and {MASKS!r}"
            )
        return {"train": self._generate_examples(folder)}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, dict[str, object]]]:
        bad = building.bad_files()
        already_bad = len(bad.files)
        excluded = building.read_exclusions(self.pkg_dir_path)
        whole = self.builder_config.name == "frames"
        counts = collections.Counter()
        nucleus_values = {}
        for kind, frames in find_frames(folder, bad).items():
            kept = [frame for frame in frames if frame.id not in excluded]
            counts["excluded_records"] += len(frames) - len(kept)
            order = value_order(kept)
            nucleus_values[kind] = sorted({nucleus for _, nucleus in order.values()})
            read = functools.partial(_read, whole=whole, order=order, excluded=excluded)
            for found, counted in building.each(read, kept, lambda frame: frame.image_file, bad):
                counts.update(counted)
                for record in found:
                    yield record["id"], record
        bad.finish(f"lisc/{self.builder_config.name} in {folder}")
        self.info.metadata.update(
            {name: counts[name] for name in COUNTED},
            left_out_files=len(bad.files) - already_bad,
            nucleus_values=nucleus_values,
        )
        for name, count in self.info.metadata.items():
            logging.info("lisc/%s: %s = %s", self.builder_config.name, name, count)


def find_frames(folder: epath.PathLike, bad: building.BadFiles) -> dict[str, list[Frame]]:
    """Finds frames and masks, `Main Dataset/Baso/1.bmp` with
    `Ground Truth Segmentation/Baso/areaforexpert1/1_expert.bmp`.

    Args:
        folder: the database.
        bad: collector of frames without a mask, and of masks without a frame.

    Returns:
        Frames by key of `CLASSES`, in the order of their names; classes that are not there are
        left out.

    Raises:
        DataError: a folder of unknown or of a second name for one class, or one that lacks masks.
    """
    found = {}
    image_folders, mask_folders = (_class_folders(epath.Path(folder) / n) for n in (IMAGES, MASKS))
    for kind, image_folder in image_folders.items():
        masks = mask_folders.get(kind, epath.Path(folder) / MASKS / image_folder.name) / MASK_FOLDER
        if not masks.is_dir():
            raise DataError(
                f"{masks}: does not exist: it must hold the masks of {image_folder}, such as "
                f"1{MASK_SUFFIX}; unpack the authors' files again"
            )
        images, masks = building.pair_files(image_folder, ".bmp", masks, MASK_SUFFIX, bad)
        found[kind] = [
            Frame(f"{kind}_{stem}", kind, image_file, masks[stem])
            for stem, image_file in images.items()
        ]
    if not found:
        raise DataError(
            f"{epath.Path(folder) / IMAGES}: holds no class folder: allowed are {_ALLOWED}; unpack "
            "the authors' files there"
        )
    return found


def read_frame(frame: Frame) -> tuple[np.ndarray, np.ndarray, int]:
    """Reads a frame and its mask, and lays the mask on the frame.

    Returns:
        Pixels, uint8 `[H, W, 3]`; the mask's own values, uint8 `[H, W]`; and how many pixels the
        mask lacked at each edge, where it now is 0.

    Raises:
        DataError: an unreadable file, or a mask that neither is as large as its frame nor lacks
            the same few pixels at all four edges.
    """
    encoded, height, width = read_image_file(frame.image_file)
    grey = read_mask_file(frame.mask_file)
    lack = (height - grey.shape[0], width - grey.shape[1])
    border = lack[0] // 2
    if lack[0] != lack[1] or lack[0] % 2 or not 0 <= border <= MAX_BORDER:
        building.check_same_size(frame.mask_file, grey, (height, width))
    return decode_image(encoded), np.pad(grey, border), border


def value_order(frames: list[Frame]) -> dict[tuple[int, int], tuple[int, int]]:
    """Which of the two values in a cell's mask is the nucleus: the one that is darker in the image.

    The nucleus is by far the darker part of nearly every cell in its green channel; the majority
    of a class's cells decides, so that an odd one cannot turn its own mask over.

    Args:
        frames: of one class. Those that cannot be read are passed over.

    Returns:
        By pair of values (ascending), the pair as (cytoplasm, nucleus).
    """
    votes = collections.Counter()
    for frame in frames:
        try:
            pixels, grey, _ = read_frame(frame)
        except DataError:
            continue  # told of when its record is made
        green = pixels[..., 1]
        for _, region, values in _islands(grey):
            if len(values) == 2:
                low, high = (green[region][grey[region] == value].mean() for value in values)
                votes[values] += 1 if high <= low else -1
    return {pair: pair if vote >= 0 else pair[::-1] for pair, vote in votes.items()}


def classes_and_cells(
    path: epath.PathLike, grey: np.ndarray, order: dict[tuple[int, int], tuple[int, int]]
) -> tuple[np.ndarray, list[tuple[tuple[int, int, int, int], bool]], int]:
    """A frame's mask in the project's classes, and where its cells are.

    Args:
        path: the mask's file, for messages.
        grey: the mask's own values, uint8 `[H, W]`: 0 background; a cell is a connected island of
            other values.
        order: from `value_order`.

    Returns:
        uint8 `[H, W]` of 0, 1, 2 and 255; the box `(y0, x0, y1, x1)` of each cell from top to
        bottom, and whether it is cell-only (an island of one value: nothing says where its nucleus
        is, so it becomes 255 ignore); and the number of specks, ignored as well.

    Raises:
        DataError: a cell of more than two values.
    """
    mask = np.zeros_like(grey)
    cells, specks = [], 0
    for box, region, values in _islands(grey, least=1):
        size = np.count_nonzero(region)
        if size < MIN_CELL_PIXELS:
            specks += 1
            mask[region] = IGNORE
            continue
        if len(values) > 2:
            counts = {value: int(np.count_nonzero(grey[region] == value)) for value in values}
            raise DataError(
                f"{path}: the cell at row {box[0]}, column {box[1]} has the mask values "
                f"{describe_values(counts)}: allowed are 0 background and at most two "
                "others in a cell, nucleus and cytoplasm; redraw or fetch the mask again"
            )
        if len(values) == 1:
            mask[region] = IGNORE
        else:
            cytoplasm, nucleus = order[values]
            mask[region & (grey == cytoplasm)] = CYTOPLASM
            mask[region & (grey == nucleus)] = NUCLEUS
        cells.append((box, len(values) == 1))
    return mask, cells, specks


_ALLOWED = "Baso, eosi, lymp, mixt, mono, neut (or longer, such as Basophil; in either case)"


def _class_folders(folder: epath.Path) -> dict[str, epath.Path]:
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or not path.is_dir():
            continue
        kind = path.name.lower()[:4]
        if kind not in CLASSES:
            raise DataError(
                f"{path}: the class folder is not known: allowed are {_ALLOWED}; move it elsewhere"
            )
        if kind in found:
            raise DataError(
                f"{path}: is a second folder for the class of {found[kind]}: allowed is one for "
                "each class; join the two"
            )
        found[kind] = path
    return {kind: found[kind] for kind in CLASSES if kind in found}


def _islands(
    grey: np.ndarray, least: int = MIN_CELL_PIXELS
) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray, tuple[int, ...]]]:
    """Box, pixels (bool `[H, W]`) and values of each island of at least so many pixels."""
    labelled = measure.label(grey > 0, connectivity=2)
    for island in measure.regionprops(labelled):
        if island.num_pixels >= least:
            region = labelled == island.label
            values = tuple(int(value) for value in np.unique(grey[region]))
            yield tuple(int(edge) for edge in island.bbox), region, values


def _read(
    frame: Frame,
    whole: bool,
    order: dict[tuple[int, int], tuple[int, int]],
    excluded: dict[str, str],
) -> tuple[list[dict[str, object]], dict[str, int]]:
    """The records of a frame, `whole` or of its cells, and what is counted of it."""
    pixels, grey, border = read_frame(frame)
    mask, boxes, specks = classes_and_cells(frame.mask_file, grey, order)
    if border:
        mask[:border], mask[-border:] = IGNORE, IGNORE
        mask[:, :border], mask[:, -border:] = IGNORE, IGNORE
    counted = {"padded_masks": border > 0, "specks": specks, "empty_masks": not boxes}
    if whole:
        cell_only = bool(boxes) and all(only for _, only in boxes)
        found = [_record(frame, frame.id, pixels, mask, cell_only)]
        kept = boxes
    else:
        named = [(f"{frame.id}_{number}", *cell) for number, cell in enumerate(boxes)]
        kept = [(box, only) for id, box, only in named if id not in excluded]
        found = [
            _record(frame, id, crops.cut(pixels, box), crops.cut(mask, box), only)
            for id, box, only in named
            if id not in excluded
        ]
    counted |= {
        "cells": len(kept),
        "cell_only_cells": sum(only for _, only in kept),
        "excluded_records": len(boxes) - len(kept),
    }
    return found, counted


def _record(
    frame: Frame, id: str, pixels: np.ndarray, mask: np.ndarray, cell_only: bool
) -> dict[str, object]:
    label = CLASSES[frame.kind]
    return records.example(
        image=pixels,
        mask=mask,
        label=label,
        id=id,
        group=frame.id,
        source=SOURCE,
        subtype="cell_only" if cell_only else "",
        label_source="authors" if label >= 0 else "",
    )
