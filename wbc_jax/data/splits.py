"""Assigns records to training, validation and test.

The draw is a SHA-256 of seed, data set and group, so the same ids give the same split on every
machine and with every version of every library. It is stratified by cell type. A group (crops of
one frame, augmented copies of one image) is never divided.
"""

import collections
import hashlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from wbc_jax.config import PAPER_FRACTIONS, Data
from wbc_jax.data import duplicates
from wbc_jax.data.keys import RecordKey
from wbc_jax.data.sources import Source
from wbc_jax.errors import DataError

SPLITS = ("train", "validation", "test")

Pieces = Sequence[tuple[float, str]]
"""(upper end, split) in ascending order: the intervals that divide 0 to 1 among the splits."""


def tested_whole(data: Data) -> frozenset[str]:
    """Returns the data sets that the protocol never trains on: all their records are test."""
    if data.protocol == "leave_one_out":
        return frozenset({data.left_out})
    if data.protocol == "independent":
        return frozenset(data.independent)
    if data.protocol == "one_source":
        return frozenset(data.datasets) - {data.train_source}
    return frozenset()


def pieces(data: Data, dataset: str) -> Pieces:
    """Returns the intervals by which the protocol of `data` divides a data set's records."""
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

    The groups of a stratum are laid end to end in the order of their hashes. Each group goes to the
    split whose interval holds the group's middle record.

    Args:
        ids: unique ids; they only order the records inside a split.
        groups: records of one group stay together.
        labels: the strata; a group belongs to its most frequent label (the lowest of equals).
        shares: from `pieces`.
        seed: another seed draws another split.
        dataset: mixed into the hash, so that data sets are split independently.

    Returns:
        {`train`, `validation`, `test`: int64 indices, in the order of the ids}.
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
            # The last interval takes what rounding leaves.
            which = min(int(np.searchsorted(ends, middle, side="right")), len(ends) - 1)
            chosen[shares[which][1]] += members[group]
            before += len(members[group])
    return {
        name: np.asarray(sorted(indices, key=lambda i: ids[i]), np.int64)
        for name, indices in chosen.items()
    }


def split_sources(
    sets: Sequence[Source], usable: Sequence[np.ndarray], data: Data
) -> list[dict[str, np.ndarray]]:
    """Splits several data sets, each by itself, and keeps duplicates in one split.

    Groups that hold near duplicates of each other count as one group, also across data sets: the
    data set whose name comes first decides, and the records of the others follow. Data sets that
    are tested as a whole (`tested_whole`) decide before all others and stay whole. A duplicate of
    theirs in another data set follows them into the test split (`one_source`). Where that data set
    has no test split (`leave_one_out`, `independent`) the duplicate is left out, and a warning
    counts such records.

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
        # A cluster is named after its first group in this data set, so that its hash does not
        # depend on the other data sets.
        names: dict[int, str] = {}
        for owner, group in sorted(zip(owners, (source.groups[i] for i in indices))):
            names.setdefault(owner, group)
        free = np.asarray([owner not in decided for owner in owners], bool)
        shares = pieces(data, source.name)
        drawn = stratified(
            [source.ids[i] for i in indices[free]],
            [names[owner] for owner, f in zip(owners, free) if f],
            source.labels[indices[free]],
            shares,
            data.split_seed,
            source.name,
        )
        split = {name: indices[free][places] for name, places in drawn.items()}
        for name in {name for _, name in shares}:
            follow = [i for i, o in zip(indices, owners) if decided.get(o) == name]
            split[name] = np.concatenate([split[name], np.asarray(follow, np.int64)])
        owner_of = {int(i): owner for i, owner in zip(indices, owners)}
        for name, places in split.items():
            decided |= {owner_of[int(i)]: name for i in places}
        _check_not_empty(source, split, shares, len(indices), data)
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


def cluster(sets: Sequence[Source], kept: Sequence[np.ndarray]) -> list[list[int]]:
    """Numbers the clusters of records that share a group or are near duplicates.

    Args:
        sets: the data sets.
        kept: int `[K]` of each, the records to look at.

    Returns:
        The cluster's number of each kept record of each data set.
    """
    keys = [source.key(int(i)) for source, indices in zip(sets, kept) for i in indices]
    owners = duplicates.clusters(["\0".join(key.split_group) for key in keys], _near_pairs(keys))
    ends = np.cumsum([0, *(len(indices) for indices in kept)])
    return [owners[start:end] for start, end in itertools.pairwise(ends)]


def _check_not_empty(
    source: Source, split: dict[str, np.ndarray], shares: Pieces, kept: int, data: Data
) -> None:
    wanted: dict[str, float] = {}
    for begin, (end, name) in zip([0.0, *(end for end, _ in shares)], shares):
        wanted[name] = wanted.get(name, 0) + end - begin
    for name in SPLITS:
        if wanted.get(name, 0) <= 0 or len(split[name]):
            continue
        remedies = ["add images"]
        if data.protocol == "k_fold":
            remedies.append("set config.data.folds to a smaller number")
        elif data.protocol in PAPER_FRACTIONS:
            remedies.append("set config.data.protocol to 'fractions' and choose other shares")
        else:
            remedies.append(f"raise the share of {name} in config.data.fractions")
            if name != "train":  # which must be above 0
                remedies[-1] += " or set it to 0"
        if len(data.datasets) > 1:
            remedies.append("leave the data set out of config.data.datasets")
        raise DataError(
            f"{source.name}: the {name} split is empty: its share is {wanted[name]:.3g}, and "
            f"{kept} of {len(source)} records can be used. Records of one group, and near "
            f"duplicates, are never split apart. Remedies: {'; '.join(remedies)}."
        )


def check_disjoint(groups: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Checks that no group stands in two splits.

    Args:
        groups: `RecordKey.split_group` of the records of each split.

    Raises:
        DataError: one does; names it and the splits.
    """
    where: dict[tuple[str, str], str] = {}
    for name, keys in groups.items():
        for key in set(keys):
            if key in where:
                raise DataError(
                    f"{key[0]}: group {key[1]!r} stands in both {where[key]} and {name}; training "
                    "on it would leak into the score. Delete the records and prepare them again."
                )
            where[key] = name


def check_leaks(records: Mapping[str, Sequence[RecordKey]]) -> None:
    """Checks that no group, and no pair of near duplicates, stands in two splits.

    This last check before use starts from the groups and hashes of the chosen records, not from the
    way they were split.

    Args:
        records: of each split.

    Raises:
        DataError: names two records and their splits.
    """
    check_disjoint({name: [key.split_group for key in keys] for name, keys in records.items()})
    flat = [(name, key) for name, keys in records.items() for key in keys]
    for i, j, bits in _near_pairs([key for _, key in flat]):
        (one, first), (two, second) = flat[i], flat[j]
        if one != two:
            raise DataError(
                f"{first.dataset} {first.id} ({one}) and {second.dataset} {second.id} ({two}) are "
                f"near duplicates ({bits} bits apart); training on one would leak into the score "
                "of the other. Leave one of the data sets out, or exclude one of the records."
            )


def seen(known: Sequence[RecordKey], others: Sequence[RecordKey]) -> set[int]:
    """Returns the places in `others` of records that a model trained on `known` has seen.

    These are near duplicates of a known record, and records that share its group (crops of one
    frame). A score on `others` must leave them out.
    """
    groups = {key.split_group for key in known}
    found = {i for i, key in enumerate(others) if key.split_group in groups}
    return found | near_duplicates_of(known, others)


def near_duplicates_of(known: Sequence[RecordKey], others: Sequence[RecordKey]) -> set[int]:
    """Returns the places in `others` of records that are near duplicates of one in `known`."""
    if not known or not others:
        return set()
    n = len(known)
    return {j - n for i, j, _ in _near_pairs([*known, *others]) if i < n <= j}


def _near_pairs(keys: Sequence[RecordKey]) -> list[tuple[int, int, int]]:
    """Returns (i, j, bits) of the near duplicates; none if a record has no hash."""
    hashes = _stacked([key.hash for key in keys])
    if hashes is None:
        return []
    return duplicates.same_cells(hashes, _stacked([key.cell_hash for key in keys]))


def _stacked(hashes: Sequence[bytes | None]) -> np.ndarray | None:
    """Returns hashes as uint64 `[N, 4]`; None if one is unknown or there are none."""
    if not hashes or None in hashes:
        return None
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), -1)


def _hash(seed: int, dataset: str, group: str) -> str:
    return hashlib.sha256(f"{seed}\0{dataset}\0{group}".encode()).hexdigest()
