"""Records → batches: decode, resize and batch, with random access through Grain.

The images of step s are a pure function of (seed, s), whatever the number of hosts: the data
position in a checkpoint is the step itself.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import cv2
import grain
import numpy as np

from wbc_jax import config as config_lib
from wbc_jax import vocabulary
from wbc_jax.data import sources, splits


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W, 3]` to `[height, width, 3]`: areas when shrinking, else bilinear."""
    if image.shape[:2] == (height, width):
        return image
    smaller = height < image.shape[0] and width < image.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W]` to `[height, width]` by the nearest pixel centre."""
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


class Examples:
    """Records of one or several data sets as resized arrays, with random access.

    Attributes:
        entries: (source, index in it) of each example.
        image_size, mask_size: sides in pixels of what `[i]` returns.
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
        """Returns `image` uint8 `[S, S, 3]` and `mask` uint8 `[M, M]`."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        source, position = self.entries[index]
        record = source.encoded[position]
        image = sources.records.decode_image(record["image"])
        mask = sources.records.decode_mask(record["mask"])
        example = {
            "image": resize_image(image, self.image_size, self.image_size),
            "mask": resize_mask(mask, self.mask_size, self.mask_size),
        }
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


def usable(source: sources.Source, data: config_lib.Data) -> np.ndarray:
    """Returns bool `[N]`: the records that segmentation can use.

    Those without a mask are left out, and those whose mask marks only the whole cell, unless
    `data.cell_only_masks` keeps them.
    """
    kept = source.has_mask.copy()
    if not data.cell_only_masks:
        kept &= np.asarray([subtype != "cell_only" for subtype in source.subtypes])
    return kept


def load_splits(
    data: config_lib.Data, mask_size: int, names: Sequence[str] = ()
) -> dict[str, Examples]:
    """Opens and splits the data sets of a config (or those in `names`).

    Returns:
        {`train`, `validation`, `test`, and `all`: Examples}. Training masks have the network's
        input size; the others have `mask_size`, at which predictions are scored.

    Raises:
        DataError: records missing, a split empty or a group in two splits.
    """
    entries = {name: [] for name in (*splits.SPLITS, "all")}
    for name in names or data.datasets:
        source = sources.load(name, data)
        kept = usable(source, data)
        parts = splits.split_source(source, kept, data.fractions, data.split_seed)
        for split, indices in parts.items():
            entries[split] += [(source, int(i)) for i in indices]
        entries["all"] += [(source, int(i)) for i in np.flatnonzero(kept)]
    splits.check_disjoint(
        {s: [(source.name, source.groups[i]) for source, i in entries[s]] for s in splits.SPLITS}
    )
    return {
        split: Examples(
            part,
            data.image_size,
            data.image_size if split == "train" else mask_size,
            data.cache_megabytes,
        )
        for split, part in entries.items()
    }


@dataclasses.dataclass(frozen=True, slots=True)
class _Indexed:
    """Grain's random-access source: the example's index is all a shuffle has to move."""

    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return int(index)


def train_dataset(
    examples: Examples,
    batch_size: int,
    steps: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Returns a Grain data set whose element s is this host's part of the batch of step s.

    Every epoch is another permutation of all examples; batches run across its end, so none is
    dropped. Host p of P holds the examples p, p + P, … of each global batch.

    Args:
        examples: the training split.
        batch_size: images a step over all hosts; a multiple of `process_count`.
        steps: length of the data set.
        seed: of the permutations.

    Returns:
        Elements `image` uint8 `[B, S, S, 3]`, `mask` uint8 `[B, S, S]`, `index` int32 `[B]` (in
        `examples`) and `epoch` int32 `[B]`.
    """
    n = len(examples)
    epochs = math.ceil(steps * batch_size / n)

    def place(position: int, index: int) -> tuple[int, int]:
        return index, position // n

    def read(place: tuple[int, int]) -> dict[str, np.ndarray]:
        index, epoch = place
        return {**examples[index], "index": np.int32(index), "epoch": np.int32(epoch)}

    order = grain.MapDataset.source(_Indexed(n)).shuffle(seed=seed).repeat(epochs)
    order = order.map_with_index(place)[process_index::process_count]
    return order.map(read).batch(batch_size // process_count)[:steps]


def train_batches(
    dataset: grain.MapDataset, start_step: int, threads: int
) -> grain.DatasetIterator:
    """Returns an iterator over `dataset` from `start_step` on; close it when done."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    return iter(dataset[start_step:].to_iter_dataset(options))


def eval_batches(examples: Examples, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples in order, `batch_size` at a time, the last batch filled up.

    Yields:
        `image` uint8 `[B, S, S, 3]`, `mask` uint8 `[B, M, M]` (255 in the filling) and `index`
        int32 `[B]` (-1 in the filling).
    """
    for start in range(0, len(examples), batch_size):
        indices = range(start, min(start + batch_size, len(examples)))
        items = [examples[i] for i in indices]
        missing = batch_size - len(items)
        image = np.stack([item["image"] for item in items])
        mask = np.stack([item["mask"] for item in items])
        fill = ((0, missing), *((0, 0),) * 2)
        yield {
            "image": np.pad(image, (*fill, (0, 0))),
            "mask": np.pad(mask, fill, constant_values=vocabulary.IGNORE),
            "index": np.pad(np.asarray(indices, np.int32), (0, missing), constant_values=-1),
        }
