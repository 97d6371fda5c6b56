"""Records → batches: decode, resize and batch, with random access through Grain.

The images of step s are a pure function of (seed, s), whatever the number of hosts: the data
position in a checkpoint is the step itself.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import cv2
import grain
import numpy as np
import scipy.sparse

from wbc_jax.config import Data
from wbc_jax.data import isolation, sources, splits
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.labels import CELL_TYPES, IGNORE, UNKNOWN_LABEL

ALL = "all"


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W, 3]` to `[height, width, 3]`: areas when shrinking, else bilinear."""
    if image.shape[:2] == (height, width):
        return image
    if height < image.shape[0] and width < image.shape[1]:
        return _shrink(image, height, width)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """What `cv2.resize` gives with `INTER_AREA`, in a third of the time: rows, then columns."""
    rows, columns, channels = image.shape
    pixels = image.reshape(rows, columns * channels).astype(np.float32)
    pixels = (_areas(rows, height) @ pixels).reshape(height, columns, channels)
    pixels = cv2.transpose(pixels).reshape(columns, height * channels)
    pixels = _areas(columns, width) @ pixels
    pixels = np.rint(pixels, out=pixels).astype(np.uint8)
    return cv2.transpose(pixels.reshape(width, height, channels))


@functools.lru_cache(maxsize=1024)
def _areas(before: int, after: int) -> scipy.sparse.csr_array:
    """float32 `[after, before]`: the part of each new pixel that each old one fills."""
    places, parts = [], []
    for new in range(after):
        # In units of 1 / after of an old pixel all ends are whole numbers.
        start, end = new * before, (new + 1) * before
        for old in range(start // after, -(-end // after)):
            places.append((new, old))
            parts.append((min(end, (old + 1) * after) - max(start, old * after)) / before)
    return scipy.sparse.csr_array((np.float32(parts), tuple(zip(*places))), shape=(after, before))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W]` to `[height, width]` by the nearest pixel centre."""
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


class Examples:
    """Records of one or several data sets as resized arrays, with random access.

    Attributes:
        entries: (source, index in it) of each example.
        image_size, mask_size: sides in pixels of what `[i]` returns; mask_size 0: no masks.
    """

    def __init__(
        self,
        entries: Sequence[tuple[sources.Source, int]],
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
        """Returns `image` uint8 `[S, S, 3]`, `label` int32 and, if any, `mask` uint8 `[M, M]`."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        source, position = self.entries[index]
        record = source.encoded[position]
        image = decode_image(record["image"])
        example = {
            "image": resize_image(image, self.image_size, self.image_size),
            "label": np.int32(source.labels[position]),
        }
        if self.mask_size:
            mask = decode_mask(record["mask"])
            example["mask"] = resize_mask(mask, self.mask_size, self.mask_size)
        if self._cache is not None:
            self._cache[index] = example
        return example

    def resized(self, image_size: int, mask_size: int) -> "Examples":
        """Returns the same examples at other sizes, uncached."""
        return Examples(self.entries, image_size, mask_size)

    @property
    def ids(self) -> list[str]:
        return [source.ids[i] for source, i in self.entries]

    @property
    def datasets(self) -> list[str]:
        return [source.name for source, _ in self.entries]

    @property
    def labels(self) -> np.ndarray:
        return np.asarray([source.labels[i] for source, i in self.entries], np.int64)


def usable(source: sources.Source, data: Data, task: str) -> np.ndarray:
    """Returns bool `[N]`: the records that a task can use.

    Classification: those whose type is known. Segmentation: those with a mask, without the ones
    whose mask marks only the whole cell, unless `data.cell_only_masks` keeps them.
    """
    if task == "classification":
        return source.labels != UNKNOWN_LABEL
    kept = source.has_mask.copy()
    if not data.cell_only_masks:
        kept &= np.asarray([subtype != "cell_only" for subtype in source.subtypes])
    return kept


def load_whole(name: str, data: Data, mask_size: int, task: str = "segmentation") -> Examples:
    """Opens all usable records of one data set, which need not be in the config.

    Raises:
        DataError: the records are missing, or none of them can be used.
    """
    (source,) = isolation.isolated([sources.load(name, data)], data)
    kept = np.flatnonzero(usable(source, data, task))
    if not len(kept):
        lacks = "a known cell type" if task == "classification" else "a mask"
        raise sources.DataError(f"{name}: none of its {len(source)} records has {lacks}.")
    entries = [(source, int(i)) for i in kept]
    size = 0 if task == "classification" else mask_size
    return Examples(entries, data.image_size, size, data.cache_megabytes)


def load_splits(data: Data, mask_size: int, task: str = "segmentation") -> dict[str, Examples]:
    """Opens and splits the data sets of a config.

    Returns:
        {`train`, `validation`, `test`, and `all`: Examples}. For segmentation, training masks have
        the network's input size; the others have `mask_size`, at which predictions are scored.

    Raises:
        DataError: records missing, a split empty or a group in two splits.
    """
    sets = isolation.isolated([sources.load(name, data) for name in data.datasets], data)
    kept = [usable(source, data, task) for source in sets]
    entries = {name: [] for name in (*splits.SPLITS, "all")}
    parts = splits.split_sources(sets, kept, data)
    for source, mask, part in zip(sets, kept, parts):
        for split, indices in part.items():
            entries[split] += [(source, int(i)) for i in indices]
        entries["all"] += [(source, int(i)) for i in np.flatnonzero(mask)]
    splits.check_leaks({split: entries[split] for split in splits.SPLITS})

    def opened(split: str) -> Examples:
        size = data.image_size if split == "train" else mask_size
        size = 0 if task == "classification" else size
        return Examples(entries[split], data.image_size, size, data.cache_megabytes)

    return {split: opened(split) for split in entries}


def class_counts(examples: Examples, classes: int) -> np.ndarray:
    """Returns int64 `[classes]`: pixels of each mask class, or images of each type without masks.

    What is unknown (255 in a mask, type -1) is not counted.
    """
    if not examples.mask_size:
        labels = examples.labels
        return np.bincount(labels[labels != UNKNOWN_LABEL], minlength=classes)
    total = np.zeros(256, np.int64)
    for i in range(len(examples)):
        total += np.bincount(examples[i]["mask"].ravel(), minlength=256)
    return total[:classes]


class _Indices:
    """Grain's random-access source: an example's index is all that a shuffle has to move."""

    def __init__(self, indices: np.ndarray):
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> int:
        return int(self._indices[place])


@dataclasses.dataclass(frozen=True, slots=True)
class Component:
    """One part of a mixture: examples that are drawn evenly among themselves.

    Attributes:
        name: data set, and cell type where types are balanced.
        indices: int64, places in the split.
        share: of all draws; the shares of a mixture sum to 1.
    """

    name: str
    indices: np.ndarray
    share: float


def mixture(examples: Examples, data: Data) -> list[Component]:
    """Returns the parts from which training draws, as `data.mixture` and `class_mixture` say.

    Data sets of which the protocol leaves nothing to train on have no part; the shares of the
    others grow alike.
    """
    names, labels = np.asarray(examples.datasets), examples.labels
    counts = {name: int((names == name).sum()) for name in data.datasets}
    if data.mixture == "custom":
        given = dict(zip(data.datasets, data.weights))
    else:
        given = counts if data.mixture == "natural" else dict.fromkeys(data.datasets, 1.0)
    given = {name: weight for name, weight in given.items() if counts[name]}
    weights = {name: weight / sum(given.values()) for name, weight in given.items()}
    parts = []
    for name, share in weights.items():
        if data.class_mixture == "natural":
            parts.append(Component(name, np.flatnonzero(names == name), share))
            continue
        present = sorted(set(labels[names == name].tolist()))
        for label in present:
            kind = "unknown" if label < 0 else CELL_TYPES[label]
            chosen = np.flatnonzero((names == name) & (labels == label))
            parts.append(Component(f"{name} {kind}", chosen, share / len(present)))
    if data.mixture == data.class_mixture == "natural":
        # All examples are alike: one permutation of them all, an epoch.
        return [Component(ALL, np.arange(len(names)), 1.0)]
    return parts


def train_dataset(
    examples: Examples,
    batch_size: int,
    steps: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    parts: Sequence[Component] = (),
) -> grain.MapDataset:
    """Returns a Grain data set whose element s is this host's part of the batch of step s.

    Every pass over a part is another permutation of all its examples, and the parts are
    interleaved at their shares; batches run across the end of a pass, so no example is dropped.
    Host p of P holds the p-th of P equal pieces of each global batch, which so has its examples in
    the same order whatever the number of hosts.

    Args:
        examples: the training split.
        batch_size: images a step over all hosts; a multiple of `process_count`.
        steps: length of the data set.
        seed: of the permutations.
        process_index, process_count: this host's number p and their number P.
        parts: from `mixture`; empty: all examples alike.

    Returns:
        Elements `image` uint8 `[B, S, S, 3]`, `label` int32 `[B]`, `mask` uint8 `[B, S, S]` (where
        the examples have one), `index` int32 `[B]` (in `examples`) and `epoch` int32 `[B]` (how
        often the example was drawn before).
    """

    def passes(part: Component, number: int) -> grain.MapDataset:
        n = len(part.indices)

        def place(position: int, index: int) -> tuple[int, int]:
            return index, position // n

        order = grain.MapDataset.source(_Indices(part.indices)).shuffle(seed=seed + number)
        return order.repeat(None).map_with_index(place)

    def read(place: tuple[int, int]) -> dict[str, np.ndarray]:
        index, epoch = place
        return {**examples[index], "index": np.int32(index), "epoch": np.int32(epoch)}

    parts = parts or [Component(ALL, np.arange(len(examples)), 1.0)]
    each = [passes(part, number) for number, part in enumerate(parts)]
    shares = [part.share for part in parts]
    order = each[0] if len(each) == 1 else grain.MapDataset.mix(each, weights=shares)
    pieces = order[: steps * batch_size].map(read).batch(batch_size // process_count)
    return pieces[process_index::process_count]


def train_batches(
    dataset: grain.MapDataset, start_step: int, threads: int
) -> grain.DatasetIterator:
    """Returns an iterator over `dataset` from `start_step` on; close it when done."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    return iter(dataset[start_step:].to_iter_dataset(options))


def eval_batches(
    examples: Examples, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples in order, `batch_size` at a time, the last batch filled up.

    Args:
        examples: of a split.
        batch_size: images of a batch.
        process_index, process_count: p and P of a process that scores its share, the batches
            p, p + P, …

    Yields:
        `image` uint8 `[B, S, S, 3]`, `index` int32 `[B]` (-1 in the filling) and, where the
        examples have one, `mask` uint8 `[B, M, M]` (255 in the filling).
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
