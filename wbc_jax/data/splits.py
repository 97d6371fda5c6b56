"""Which record goes to training, validation and test.

The draw is made by SHA-256 of seed, data set and group, so that the same ids give the same split
on every machine and every version of every library. It is stratified by cell type, and a group
(crops of one frame, augmented copies of one image) is never taken apart.
"""

import collections
import hashlib
from collections.abc import Sequence

import numpy as np

from wbc_jax.data import records, sources

SPLITS = ("train", "validation", "test")


def stratified(
    ids: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[int],
    fractions: Sequence[float],
    seed: int,
    dataset: str,
) -> dict[str, np.ndarray]:
    """Splits one data set.

    Args:
        ids: unique ids; they only order the records inside a split.
        groups: records of one group stay together.
        labels: the strata; a group belongs to its most frequent label (the lowest of equals).
        fractions: shares of train, validation and test, summing to 1.
        seed: another seed draws another split.
        dataset: mixed into the hash, so that data sets are split independently.

    Returns:
        {`train`, `validation`, `test`: int64 indices, in the order of the ids}. Within a stratum
        the groups are taken in the order of their hashes, and each goes to the split whose share
        its middle record falls into.
    """
    members = collections.defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    strata = collections.defaultdict(list)
    for group, indices in members.items():
        counts = collections.Counter(int(labels[i]) for i in indices)
        label = min(counts, key=lambda value: (-counts[value], value))
        strata[label].append(group)
    bounds = np.cumsum(fractions)
    chosen = {name: [] for name in SPLITS}
    for label in sorted(strata):
        ordered = sorted(strata[label], key=lambda group: _hash(seed, dataset, group))
        total = sum(len(members[group]) for group in ordered)
        before = 0
        for group in ordered:
            middle = (before + len(members[group]) / 2) / total
            # The last share takes what rounding leaves.
            which = min(int(np.searchsorted(bounds, middle, side="right")), len(SPLITS) - 1)
            chosen[SPLITS[which]] += members[group]
            before += len(members[group])
    return {
        name: np.asarray(sorted(indices, key=lambda i: ids[i]), np.int64)
        for name, indices in chosen.items()
    }


def split_source(
    source: sources.Source,
    usable: np.ndarray,
    fractions: Sequence[float],
    seed: int,
) -> dict[str, np.ndarray]:
    """Splits the records of `source` for which `usable` (bool `[N]`) holds.

    Raises:
        DataError: a split with a share above 0 is empty; says how many records there are.
    """
    kept = np.flatnonzero(usable)
    parts = stratified(
        [source.ids[i] for i in kept],
        [source.groups[i] for i in kept],
        source.labels[kept],
        fractions,
        seed,
        source.name,
    )
    for name, share in zip(SPLITS, fractions):
        if share > 0 and not len(parts[name]):
            raise records.DataError(
                f"{source.name}: the {name} split is empty: {len(kept)} of {len(source)} records "
                f"can be used and config.data.fractions is {tuple(fractions)}. Add images, set the "
                f"share of {name} to 0, or leave the data set out of config.data.datasets."
            )
    return {name: kept[part] for name, part in parts.items()}


def check_disjoint(parts: dict[str, Sequence[tuple[str, str]]]) -> None:
    """Checks that no (data set, group) stands in two splits.

    Raises:
        DataError: one does; names it and the splits.
    """
    where: dict[tuple[str, str], str] = {}
    for name, keys in parts.items():
        for key in set(keys):
            if key in where:
                raise records.DataError(
                    f"{key[0]}: group {key[1]!r} stands in both {where[key]} and {name}; training "
                    "on it would leak into the score. Delete the records and prepare them again."
                )
            where[key] = name


def _hash(seed: int, dataset: str, group: str) -> str:
    return hashlib.sha256(f"{seed}\0{dataset}\0{group}".encode()).hexdigest()
