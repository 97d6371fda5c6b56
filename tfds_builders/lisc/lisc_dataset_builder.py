"""LISC (Rezatofighi and Soltanian-Zadeh 2011): frames with nuclei and cytoplasm drawn."""

import dataclasses
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from wbc_jax.data import building, crops, reading, records
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_ONLY, CELL_TYPES, IGNORE, UNKNOWN_LABEL
from wbc_jax.tfds_builders.lisc import masks

PAGE = "http://users.cecs.anu.edu.au/~hrezatofighi/Data/Leukocyte%20Data.htm"
FOLDERS = ("LISC Database", "LISC_Database", "lisc")
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
"""Labels by the first four letters of the class folder's name, in lower case. `mixt` frames hold
cells of several types without saying which is which."""

_ALLOWED = "Baso, eosi, lymp, mixt, mono, neut (or longer, such as Basophil; in either case)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame(building.Item):
    """A frame, its mask, and the order of the values in the masks of its class."""

    order: masks.Order


class Builder(building.Builder):
    """Builder of lisc; see `building.Builder`.

    The terms forbid passing the files on, so nothing is downloaded. The metadata also hold
    `nucleus_values`: the mask values taken as nucleus, by class folder.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it on the class)
        tfds.core.BuilderConfig(name="crops", description="A square around each masked cell."),
        tfds.core.BuilderConfig(name="frames", description="Whole frames."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "its terms allow its use only to those who got it from its authors; get it at "
        f"{PAGE} and unpack it so that the folder {building.MANUAL_DIR}/{FOLDERS[0]} holds "
        f"{IMAGES!r} and {MASKS!r}"
    )
    page = PAGE
    folders = FOLDERS
    entries = (IMAGES, MASKS)
    counted = (
        *("cells", "cell_only_cells", "padded_masks", "specks", "empty_masks"),
        *("excluded_records", "left_out_files", "nucleus_values"),
    )

    def find(self, folder: epath.Path, notes: building.Notes) -> list[Frame]:
        items, nucleus_values = [], {}
        for kind, files in find_files(folder, notes.bad).items():
            named = {f"{kind}_{stem}": pair for stem, pair in files.items()}
            order = masks.value_order(
                pair for id, pair in named.items() if id not in notes.excluded
            )
            nucleus_values[kind] = sorted({nucleus for _, nucleus in order.values()})
            items += [
                Frame(id=id, path=path, mask=mask, label=CLASSES[kind], group=id, order=order)
                for id, (path, mask) in named.items()
            ]
        self.info.metadata["nucleus_values"] = nucleus_values
        return items

    def read(self, item: Frame, notes: building.Notes) -> Iterator[building.Record]:
        pixels, gray, border = masks.read_frame(item.path, item.mask)
        mask, cells, specks = masks.classes_and_cells(item.mask, gray, item.order)
        if border:
            mask[:border], mask[-border:] = IGNORE, IGNORE
            mask[:, :border], mask[:, -border:] = IGNORE, IGNORE
        notes.counts.update(padded_masks=border > 0, specks=specks, empty_masks=not cells)

        def record(id, pixels, mask, cell_only):
            return records.example(
                image=pixels,
                mask=mask,
                label=item.label,
                id=id,
                group=item.group,
                source=self.source,
                subtype=CELL_ONLY if cell_only else "",
                label_source="authors" if item.label >= 0 else "",
            )

        whole = self.builder_config.name == "frames"
        if whole:
            yield record(item.id, pixels, mask, bool(cells) and all(only for _, only in cells))
        for number, (box, cell_only) in enumerate(cells):
            id = f"{item.id}_{number}"
            if whole or id not in notes.excluded:
                notes.counts.update(cells=1, cell_only_cells=cell_only)
            if not whole:
                yield record(id, crops.cut(pixels, box), crops.cut(mask, box), cell_only)


def find_files(
    folder: epath.PathLike, bad: reading.BadFiles
) -> dict[str, dict[str, tuple[epath.Path, epath.Path]]]:
    """Finds frames and masks: `Main Dataset/Baso/1.bmp` belongs to
    `Ground Truth Segmentation/Baso/areaforexpert1/1_expert.bmp`.

    Args:
        folder: the database.
        bad: collector of frames without a mask, and of masks without a frame.

    Returns:
        By key of `CLASSES` and by stem, in the order of names: frame and mask. Classes that are
        not there are left out.

    Raises:
        DataError: a class folder is unknown, is the second of its class, or lacks masks.
    """
    found = {}
    image_folders, mask_folders = (_class_folders(epath.Path(folder) / n) for n in (IMAGES, MASKS))
    for kind, image_folder in image_folders.items():
        mask_folder = mask_folders.get(kind, epath.Path(folder) / MASKS / image_folder.name)
        mask_folder /= MASK_FOLDER
        if not mask_folder.is_dir():
            raise DataError(
                f"{mask_folder}: does not exist: it must hold the masks of {image_folder}, such as "
                f"1{MASK_SUFFIX}; unpack the authors' files again"
            )
        pairs = reading.pair_files(image_folder, ".bmp", mask_folder, MASK_SUFFIX, bad)
        found[kind] = {stem: (path, pairs[1][stem]) for stem, path in pairs[0].items()}
    if not found:
        raise DataError(
            f"{epath.Path(folder) / IMAGES}: holds no class folder: allowed are {_ALLOWED}; unpack "
            "the authors' files there"
        )
    return found


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
