"""Which record goes to training, validation and test.

The draw is made by SHA-256 of seed, data set and group, so that the same ids give the same split
on every machine and every version of every library. It is stratified by cell type, and a group
(crops of one frame, augmented copies of one image) is never taken apart.
"""

import collections
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
from absl import logging

from wbc_jax.config import PAPER_FRACTIONS, Data
from wbc_jax.data import duplicates, sources
from wbc_jax.errors import DataError

SPLITS = ("train", "validation", "test")

FAMILIES = {"raabin_gt": "raabin", "raabin_wbc": "raabin"}
"""Data sets that hand out the same frames, named alike: their groups are compared."""

Pieces = Sequence[tuple[float, str]]
"""(upper end, split) in ascending order: how the stretch from 0 to 1 is shared out."""


def tested_whole(data: Data) -> frozenset[str]:
    """Returns the data sets of which the protocol trains on nothing: they are test as a whole."""
    if data.protocol == "leave_one_out":
        return frozenset({data.left_out})
    if data.protocol == "independent":
        return frozenset(data.independent)
    if data.protocol == "one_source":
        return frozenset(data.datasets) - {data.train_source}
    return frozenset()


def pieces(data: Data, dataset: str) -> Pieces:
    """Returns how the protocol of `data` shares out a data set's records."""
    train, validation, _ = PAPER_FRACTIONS.get(data.protocol, data.fractions)
    if data.protocol == "k_fold":
        test = data.fold
        others = {test: "test", (test + 1) % data.folds: "validation"}
        return [((k + 1) / data.folds, others.get(k, "train")) for k in range(data.folds)]
    if dataset in tested_whole(data):
        return [(1.0, "test")]
    if data.protocol in ("leave_one_out", "independent"):
        return [(train / (train + validation), "train"), (1.0, "validation")]
    return [(train, "train"), (train + validation, "validation"), (1.0, "test")]


def stratified(
    ids: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[int],
    shares: Pieces,
    seed: int,
    dataset: str,
) -> dict[str, np.ndarray]:
    """Splits one data set.

    Args:
        ids: unique ids; they only order the records inside a split.
        groups: records of one group stay together.
        labels: the strata; a group belongs to its most frequent label (the lowest of equals).
        shares: from `pieces`.
        seed: another seed draws another split.
        dataset: mixed into the hash, so that data sets are split independently.

    Returns:
        {`train`, `validation`, `test`: int64 indices, in the order of the ids}. Within a stratum
        the groups are laid end to end in the order of their hashes, and each goes to the split
        of the piece that its middle record falls into.
    """
    members = collections.defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    strata = collections.defaultdict(list)
    for group, indices in members.items():
        counts = collections.Counter(int(labels[i]) for i in indices)
        label = min(counts, key=lambda value: (-counts[value], value))
        strata[label].append(group)
    ends = [end for end, _ in shares]
    chosen = {name: [] for name in SPLITS}
    for label in sorted(strata):
        ordered = sorted(strata[label], key=lambda group: _hash(seed, dataset, group))
        total = sum(len(members[group]) for group in ordered)
        before = 0
        for group in ordered:
            middle = (before + len(members[group]) / 2) / total
            # The last piece takes what rounding leaves.
            which = min(int(np.searchsorted(ends, middle, side="right")), len(ends) - 1)
            chosen[shares[which][1]] += members[group]
            before += len(members[group])
    return {
        name: np.asarray(sorted(indices, key=lambda i: ids[i]), np.int64)
        for name, indices in chosen.items()
    }


def split_sources(
    sets: Sequence[sources.Source], usable: Sequence[np.ndarray], data: Data
) -> list[dict[str, np.ndarray]]:
    """Splits several data sets, each by itself, keeping duplicates in one split.

    Groups that a near duplicate ties together are one group, also across data sets: there the set
    whose name comes first decides, and the others' records follow. Sets that are tested as a whole
    (`tested_whole`) decide before all others and stay whole; a duplicate of theirs elsewhere
    follows them into the test part (`one_source`), or is left out of its own set where that has no
    test part (`leave_one_out`, `independent`), with a warning that counts them.

    Args:
        sets: the data sets.
        usable: bool `[N]` of each; the other records are in no split.
        data: protocol, its settings and the seed of the draw.

    Returns:
        {split: int64 indices} of each data set.

    Raises:
        DataError: a split with a share above 0 is empty; says how many records there are.
    """
    kept = [np.flatnonzero(mask) for mask in usable]
    members = cluster(sets, kept)
    whole = tested_whole(data)
    decided: dict[int, str] = {}
    found: dict[int, dict[str, np.ndarray]] = {}
    for which in sorted(range(len(sets)), key=lambda i: (sets[i].name not in whole, sets[i].name)):
        source, indices, owners = sets[which], kept[which], members[which]
        # Named after its first group in this set, a cluster hashes alike whatever else is loaded.
        names: dict[int, str] = {}
        for owner, group in sorted(zip(owners, (source.groups[i] for i in indices))):
            names.setdefault(owner, group)
        free = np.asarray([owner not in decided for owner in owners], bool)
        shares = pieces(data, source.name)
        parts = stratified(
            [source.ids[i] for i in indices[free]],
            [names[owner] for owner, f in zip(owners, free) if f],
            source.labels[indices[free]],
            shares,
            data.split_seed,
            source.name,
        )
        split = {name: indices[free][part] for name, part in parts.items()}
        for name in {name for _, name in shares}:
            follow = [i for i, o in zip(indices, owners) if decided.get(o) == name]
            split[name] = np.concatenate([split[name], np.asarray(follow, np.int64)])
        owner_of = {int(i): owner for i, owner in zip(indices, owners)}
        for name, part in split.items():
            decided |= {owner_of[int(i)]: name for i in part}
        _check_not_empty(source, split, shares, len(indices))
        if lost := len(indices) - sum(map(len, split.values())):
            logging.warning(
                "%s: %d records are left out, being near duplicates (or of a group) of records"
                " in %s, tested as a whole.",
                source.name,
                lost,
                " and ".join(sorted(whole)),
            )
        found[which] = split
    return [found[i] for i in range(len(sets))]


def group_key(source: sources.Source, index: int) -> tuple[str, str]:
    """Returns (data set, group) of a record: what must not stand in two splits.

    The data set is named without its config: groups hold across the configs of one data set (an
    original and its copies), not across data sets, where equal names mean nothing. Packagings of
    one collection whose frames have the same names count as one data set (`FAMILIES`).
    """
    base = source.name.partition("/")[0]
    return FAMILIES.get(base, base), source.groups[index]


def cluster(sets: Sequence[sources.Source], kept: Sequence[np.ndarray]) -> list[list[int]]:
    """Returns for each kept record of each set the number of its cluster of groups and duplicates.

    Groups are compared by `group_key`.
    """
    groups = [
        "\0".join(group_key(source, i)) for source, indices in zip(sets, kept) for i in indices
    ]
    entries = [(source, int(i)) for source, indices in zip(sets, kept) for i in indices]
    owners = duplicates.clusters(groups, _near_pairs(entries))
    ends = np.cumsum([0, *(len(indices) for indices in kept)])
    return [owners[start:end] for start, end in itertools.pairwise(ends)]


def _check_not_empty(
    source: sources.Source, split: dict[str, np.ndarray], shares: Pieces, kept: int
) -> None:
    begins = [0.0, *(end for end, _ in shares)]
    wanted = {name for begin, (end, name) in zip(begins, shares) if end > begin}
    for name in SPLITS:
        if name in wanted and not len(split[name]):
            raise DataError(
                f"{source.name}: the {name} split is empty: {kept} of {len(source)} records can be "
                "used. Add images, set the share "
                f"of {name} in config.data.fractions to 0, or leave the data set out of "
                "config.data.datasets."
            )


def check_disjoint(parts: dict[str, Sequence[tuple[str, str]]]) -> None:
    """Checks that no (data set, group) stands in two splits.

    Raises:
        DataError: one does; names it and the splits.
    """
    where: dict[tuple[str, str], str] = {}
    for name, keys in parts.items():
        for key in set(keys):
            if key in where:
                raise DataError(
                    f"{key[0]}: group {key[1]!r} stands in both {where[key]} and {name}; training "
                    "on it would leak into the score. Delete the records and prepare them again."
                )
            where[key] = name


def check_leaks(parts: dict[str, Sequence[tuple[sources.Source, int]]]) -> None:
    """Checks that no group, and no near duplicate, stands in two splits: the last look before use.

    Computed afresh from the groups and hashes of the chosen records, not from how they were split.

    Raises:
        DataError: names two records and their splits.
    """
    check_disjoint(
        {name: [group_key(*entry) for entry in entries] for name, entries in parts.items()}
    )
    flat = [(name, s, i) for name, entries in parts.items() for s, i in entries]
    for i, j, bits in _near_pairs([entry for _, *entry in flat]):
        (one, s, k), (two, t, m) = flat[i], flat[j]
        if one != two:
            raise DataError(
                f"{s.name} {s.ids[k]} ({one}) and {t.name} {t.ids[m]} ({two}) are near duplicates "
                f"({bits} bits apart); training on one would leak into the score of the other. "
                "Leave one of the data sets out, or exclude one of the records."
            )


def seen(
    known: Sequence[tuple[sources.Source, int]], others: Sequence[tuple[sources.Source, int]]
) -> set[int]:
    """Returns the places in `others` of records that `known` gives away.

    These are near duplicates of a record in `known`, and records of a group that has one there
    (crops of one frame): what a score of `others` must leave out if `known` was trained on.
    """
    groups = {group_key(*entry) for entry in known}
    found = {i for i, entry in enumerate(others) if group_key(*entry) in groups}
    return found | near_duplicates_of(known, others)


def near_duplicates_of(
    known: Sequence[tuple[sources.Source, int]], others: Sequence[tuple[sources.Source, int]]
) -> set[int]:
    """Returns the places in `others` of records that are near duplicates of one in `known`."""
    if not known or not others:
        return set()
    n = len(known)
    return {j - n for i, j, _ in _near_pairs([*known, *others]) if i < n <= j}


def _near_pairs(entries: Sequence[tuple[sources.Source, int]]) -> list[tuple[int, int, int]]:
    """Returns (i, j, bits) of the near duplicates among records, of which all have hashes."""
    if not entries or any(source.hashes is None for source, _ in entries):
        return []
    cells = None
    if all(source.cell_hashes is not None for source, _ in entries):
        cells = np.stack([source.cell_hashes[i] for source, i in entries])
    return duplicates.same_cells(np.stack([source.hashes[i] for source, i in entries]), cells)


def _hash(seed: int, dataset: str, group: str) -> str:
    return hashlib.sha256(f"{seed}\0{dataset}\0{group}".encode()).hexdigest()
