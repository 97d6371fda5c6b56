"""Turns records into batches: decodes, resizes and batches them, with random access through Grain.

The images of step s are a pure function of (seed, s), for any number of hosts. So the data position
in a checkpoint is the step itself.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from wbc_jax.config import Data
from wbc_jax.data import isolation, sources, splits
from wbc_jax.data.keys import RecordKey
from wbc_jax.data.resize import resize_image, resize_mask
from wbc_jax.data.sources import Source
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_ONLY, CELL_TYPES, IGNORE, UNKNOWN_LABEL

ALL = "all"
"""Name of what holds every usable record: a key of `load_splits`, a component of a mixture."""

CellMasks = Mapping[str, np.ndarray]
"""uint8 `[N, h, w]` by data set: a segmenter's masks, by which images are cut to their cell."""


class Examples:
    """Records of one or several data sets as resized arrays, with random access.

    Attributes:
        entries: (source, index in it) of each example.
        image_size, mask_size: sides of the images and masks in pixels; mask_size 0: no masks.
    """

    def __init__(
        self,
        entries: Sequence[tuple[Source, int]],
        image_size: int,
        mask_size: int,
        cache_megabytes: int = 0,
    ):
        self.entries = list(entries)
        self.image_size, self.mask_size = image_size, mask_size
        bytes_needed = len(self.entries) * (3 * image_size**2 + mask_size**2)
        self._cache = {} if bytes_needed <= cache_megabytes * 2**20 else None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns `image` uint8 `[S, S, 3]`, `label` int32 and `mask` uint8 `[M, M]`, if any."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        source, position = self.entries[index]
        if self.mask_size:
            image, mask = source.image_and_mask(position)
        else:
            image, mask = source.image(position), None
        example = {
            "image": resize_image(image, self.image_size, self.image_size),
            "label": np.int32(source.labels[position]),
        }
        if mask is not None:
            example["mask"] = resize_mask(mask, self.mask_size, self.mask_size)
        if self._cache is not None:
            self._cache[index] = example
        return example

    def resized(self, image_size: int, mask_size: int) -> "Examples":
        """Returns the same examples at other sizes, uncached."""
        return Examples(self.entries, image_size, mask_size)

    @property
    def keys(self) -> list[RecordKey]:
        """The identity of each record."""
        return [source.key(i) for source, i in self.entries]

    @property
    def ids(self) -> list[str]:
        return [source.ids[i] for source, i in self.entries]

    @property
    def datasets(self) -> list[str]:
        return [source.name for source, _ in self.entries]

    @property
    def labels(self) -> np.ndarray:
        return np.asarray([source.labels[i] for source, i in self.entries], np.int64)

    @property
    def cell_only(self) -> np.ndarray:
        """Bool `[N]`: the mask marks the whole cell alone, where it is not background."""
        return np.asarray([source.subtypes[i] == CELL_ONLY for source, i in self.entries], bool)


def usable(source: Source, data: Data, task: str) -> np.ndarray:
    """Returns bool `[N]`: the records that a task can use.

    Classification uses records of known type. Segmentation uses records with a mask, but skips
    masks that mark only the whole cell unless `data.cell_only_masks` is set.
    """
    if task == "classification":
        return source.labels != UNKNOWN_LABEL
    kept = source.has_mask.copy()
    if not data.cell_only_masks:
        kept &= np.asarray([subtype != CELL_ONLY for subtype in source.subtypes])
    return kept


def _check_usable(source: Source, kept: np.ndarray, data: Data, task: str) -> None:
    """Raises `DataError` where bool `kept` `[N]` has no record; says what the task lacks."""
    if kept.any():
        return
    if task == "classification":
        lacks, what = "a known cell type", "types"
    elif source.has_mask.any() and not data.cell_only_masks:
        lacks, what = (
            "a mask with nucleus and cytoplasm: all mark the whole cell alone. Set "
            "config.data.cell_only_masks to use these",
            "",
        )
    else:
        lacks, what = "a mask", "masks"
    advice = sources.advice(source.name, what)
    raise DataError(f"{source.name}: none of its {len(source)} records has {lacks}.{advice}")


def load_whole(
    name: str,
    data: Data,
    mask_size: int,
    task: str = "segmentation",
    masks: CellMasks | None = None,
) -> Examples:
    """Opens all usable records of one data set, which need not be in the config.

    Where all its masks mark the whole cell alone, these are used: nothing is trained on them.

    Args:
        name: of the data set.
        data: settings of the data.
        mask_size: side of the masks in pixels; unused for classification.
        task: `segmentation` or `classification`.
        masks: as for `load_splits`.

    Raises:
        DataError: the records are missing, or none of them can be used.
    """
    source = _open(name, data, masks)
    usable_records = usable(source, data, task)
    if not usable_records.any():
        usable_records = usable(source, dataclasses.replace(data, cell_only_masks=True), task)
    _check_usable(source, usable_records, data, task)
    kept = np.flatnonzero(usable_records)
    entries = [(source, int(i)) for i in kept]
    size = 0 if task == "classification" else mask_size
    return Examples(entries, data.image_size, size, data.cache_megabytes)


def load_splits(
    data: Data,
    mask_size: int,
    task: str = "segmentation",
    masks: CellMasks | None = None,
) -> dict[str, Examples]:
    """Opens and splits the data sets of a config.

    Args:
        data: settings of the data.
        mask_size: side in pixels of validation and test masks, at which predictions are scored.
            Training masks have the network's input size. Classification has no masks.
        task: `segmentation` or `classification`.
        masks: from `inference.cell_masks.prepare`; needed if `data.isolate` is set.

    Returns:
        {`train`, `validation`, `test`, and `all`: Examples}.

    Raises:
        DataError: records are missing, a split is empty, or a group stands in two splits.
    """
    sets = [_open(name, data, masks) for name in data.datasets]
    kept = [usable(source, data, task) for source in sets]
    for source, mask in zip(sets, kept):
        _check_usable(source, mask, data, task)
    entries = {name: [] for name in (*splits.SPLITS, ALL)}
    for source, mask, split in zip(sets, kept, splits.split_sources(sets, kept, data)):
        for name, indices in split.items():
            entries[name] += [(source, int(i)) for i in indices]
        entries[ALL] += [(source, int(i)) for i in np.flatnonzero(mask)]

    def opened(name: str) -> Examples:
        size = data.image_size if name == "train" else mask_size
        size = 0 if task == "classification" else size
        return Examples(entries[name], data.image_size, size, data.cache_megabytes)

    found = {name: opened(name) for name in entries}
    splits.check_leaks({name: found[name].keys for name in splits.SPLITS})
    return found


def _open(name: str, data: Data, masks: CellMasks | None) -> Source:
    source = sources.load(name, data)
    if not data.isolate:
        return source
    if masks is None or name not in masks:
        raise DataError(
            f"{name}: config.data.isolate is {data.isolate!r}, but the masks that cut its images "
            "to their cell are missing. Pass the result of inference.cell_masks.prepare."
        )
    return dataclasses.replace(source, cell_masks=masks[name], stain=isolation.Stain.of(data))


def class_counts(examples: Examples, classes: int) -> np.ndarray:
    """Counts the pixels of each mask class, or the images of each type if there are no masks.

    Unknown pixels (255) and types (-1) are not counted.

    Returns:
        int64 `[classes]`.
    """
    if not examples.mask_size:
        labels = examples.labels
        return np.bincount(labels[labels != UNKNOWN_LABEL], minlength=classes)
    total = np.zeros(256, np.int64)
    for i in range(len(examples)):
        total += np.bincount(examples[i]["mask"].ravel(), minlength=256)
    return total[:classes]


class _Indices:
    """Random-access source of Grain that holds only indices, as a shuffle needs no more."""

    def __init__(self, indices: np.ndarray):
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> int:
        return int(self._indices[place])


@dataclasses.dataclass(frozen=True, slots=True)
class Component:
    """One component of a mixture: examples that are drawn with equal probability.

    Attributes:
        name: data set, and cell type if types are balanced.
        indices: int64, places in the split.
        share: of all draws; the shares of a mixture sum to 1.
    """

    name: str
    indices: np.ndarray
    share: float


def mixture(examples: Examples, data: Data) -> list[Component]:
    """Returns the components that training draws from, by `data.mixture` and `class_mixture`.

    Data sets without training records have no component; the others keep their relative shares.
    """
    names, labels = np.asarray(examples.datasets), examples.labels
    counts = {name: int((names == name).sum()) for name in data.datasets}
    if data.mixture == "custom":
        given = dict(zip(data.datasets, data.weights))
    else:
        given = counts if data.mixture == "natural" else dict.fromkeys(data.datasets, 1.0)
    given = {name: weight for name, weight in given.items() if counts[name]}
    weights = {name: weight / sum(given.values()) for name, weight in given.items()}
    components = []
    for name, share in weights.items():
        if data.class_mixture == "natural":
            components.append(Component(name, np.flatnonzero(names == name), share))
            continue
        present = sorted(set(labels[names == name].tolist()))
        for label in present:
            kind = "unknown" if label < 0 else CELL_TYPES[label]
            chosen = np.flatnonzero((names == name) & (labels == label))
            components.append(Component(f"{name} {kind}", chosen, share / len(present)))
    if data.mixture == data.class_mixture == "natural":
        # All examples are drawn alike: an epoch is one permutation of them.
        return [Component(ALL, np.arange(len(names)), 1.0)]
    return components


def train_dataset(
    examples: Examples,
    batch_size: int,
    steps: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    components: Sequence[Component] = (),
) -> grain.MapDataset:
    """Returns a Grain data set whose element s is this host's piece of the batch of step s.

    Every pass over a component is another permutation of all its examples, and the components are
    interleaved by their shares. Batches run across the end of a pass, so no example is dropped.
    Host p of P gets the p-th of P equal pieces of each global batch. So the order of the examples
    in a global batch is the same for any number of hosts.

    Args:
        examples: the training split.
        batch_size: images per step over all hosts; a multiple of `process_count`.
        steps: length of the data set.
        seed: of the permutations.
        process_index, process_count: this host's number p and the number of hosts P.
        components: from `mixture`; empty: all examples are drawn alike.

    Returns:
        Elements `image` uint8 `[B, S, S, 3]`, `label` int32 `[B]`, `mask` uint8 `[B, S, S]` (if
        the examples have one), `index` int32 `[B]` (in `examples`) and `epoch` int32 `[B]` (number
        of times that the example was drawn before).
    """

    def passes(component: Component, number: int) -> grain.MapDataset:
        n = len(component.indices)

        def place(position: int, index: int) -> tuple[int, int]:
            return index, position // n

        order = grain.MapDataset.source(_Indices(component.indices)).shuffle(seed=seed + number)
        return order.repeat(None).map_with_index(place)

    def read(place: tuple[int, int]) -> dict[str, np.ndarray]:
        index, epoch = place
        return {**examples[index], "index": np.int32(index), "epoch": np.int32(epoch)}

    components = components or [Component(ALL, np.arange(len(examples)), 1.0)]
    each = [passes(component, number) for number, component in enumerate(components)]
    shares = [component.share for component in components]
    order = each[0] if len(each) == 1 else grain.MapDataset.mix(each, weights=shares)
    pieces = order[: steps * batch_size].map(read).batch(batch_size // process_count)
    return pieces[process_index::process_count]


def train_batches(
    dataset: grain.MapDataset, start_step: int, threads: int
) -> grain.DatasetIterator:
    """Returns an iterator over `dataset` from `start_step` on. Close it after use."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    return iter(dataset[start_step:].to_iter_dataset(options))


def eval_batches(
    examples: Examples, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples in order, `batch_size` at a time, and pads the last batch.

    Args:
        examples: of a split.
        batch_size: images per batch.
        process_index, process_count: p and P of a process that scores the batches p, p + P, …

    Yields:
        `image` uint8 `[B, S, S, 3]`, `index` int32 `[B]` (-1 in the padding) and, if the examples
        have one, `mask` uint8 `[B, M, M]` (255 in the padding).
    """
    for start in range(process_index * batch_size, len(examples), process_count * batch_size):
        indices = range(start, min(start + batch_size, len(examples)))
        items = [examples[i] for i in indices]
        missing = batch_size - len(items)
        fill = ((0, missing), *((0, 0),) * 2)
        batch = {
            "image": np.pad(np.stack([item["image"] for item in items]), (*fill, (0, 0))),
            "index": np.pad(np.asarray(indices, np.int32), (0, missing), constant_values=-1),
        }
        if "mask" in items[0]:
            mask = np.stack([item["mask"] for item in items])
            batch["mask"] = np.pad(mask, fill, constant_values=IGNORE)
        yield batch
