"""wbc_jax.data.splits: the same split everywhere, by type, with groups kept whole."""

import collections
import dataclasses

import numpy as np
import pytest

from wbc_jax import config_checks
from wbc_jax.config import Config, Data
from wbc_jax.data import pipeline, sources, splits
from wbc_jax.errors import ConfigError, DataError

FRACTIONS = (0.56, 0.14, 0.30)


def source(name="drawn", labels=(0, 1) * 10, groups=None, hashes=None):
    """A data set without pixels."""
    n = len(labels)
    ids = tuple(f"cell_{i:02d}" for i in range(n))
    return sources.Source(
        name=name,
        ids=ids,
        groups=ids if groups is None else tuple(groups),
        sources=("test",) * n,
        subtypes=("",) * n,
        label_sources=("",) * n,
        labels=np.asarray(labels, np.int64),
        has_mask=np.ones(n, bool),
        um_per_px=np.full(n, np.nan, np.float32),
        encoded=[{}] * n,
        hashes=hashes,
    )


def protocol(fractions=FRACTIONS, seed=0, **fields):
    return Data(fractions=fractions, split_seed=seed, **fields)


def pieces(fractions):
    return splits.pieces(protocol(fractions), "any")


def split_ids(s, fractions=FRACTIONS, seed=0, usable=None):
    usable = np.ones(len(s), bool) if usable is None else usable
    (parts,) = splits.split_sources([s], [usable], protocol(fractions, seed))
    return {name: [s.ids[i] for i in part] for name, part in parts.items()}


def test_golden_split():
    # Pinned: if this changes, published scores are no longer about the same test images.
    ids = [f"cell_{i:02d}" for i in range(20)]
    parts = splits.stratified(
        ids, ids, [i % 2 for i in range(20)], pieces((0.5, 0.2, 0.3)), 0, "golden"
    )
    found = {name: [int(ids[i][-2:]) for i in part] for name, part in parts.items()}
    assert found == {
        "train": [3, 4, 7, 8, 11, 13, 14, 16, 18, 19],
        "validation": [9, 10, 12, 15],
        "test": [0, 1, 2, 5, 6, 17],
    }
    assert all(part.dtype == np.int64 for part in parts.values())


def three_sets():
    """Sets `a`, `b` and `c` of 20 records: two types, frames of two, and duplicates across sets.

    `b` 0 to 2 stand in `a` as 10 to 12, and `c` 19 in `a` as 0.
    """
    hashes = {name: random_hashes(20, seed) for seed, name in enumerate("abc")}
    hashes["b"][:3] = hashes["a"][10:13]
    hashes["c"][19] = hashes["a"][0]
    return [
        source(
            name,
            [i // 2 % 2 for i in range(20)],
            [f"frame_{i // 2}" for i in range(20)],
            hashes[name],
        )
        for name in "abc"
    ]


def homes(sets, data):
    """The split of every record in the order of its ids, `-` where it is left out."""
    found = splits.split_sources(sets, [np.ones(len(s), bool) for s in sets], data)
    entries = {name: [] for name in splits.SPLITS}
    shown = {}
    for s, parts in zip(sets, found):
        letters = ["-"] * len(s)
        for name, letter in zip(splits.SPLITS, "tvT"):
            entries[name] += [s.key(int(i)) for i in parts[name]]
            for i in parts[name]:
                assert letters[i] == "-"  # in one split alone
                letters[i] = letter
        shown[s.name] = "".join(letters)
    splits.check_leaks(entries)
    return shown


# Pinned, as above: t training, v validation, T test, - left out.
GOLDEN = {
    "fractions": (
        {"fractions": (0.5, 0.2, 0.3)},
        ("ttttTTvvttTTTTTTvvtt", "TTTTTTttvvvvttTTtttt", "TTvvttttTTttttTTvvtt"),
    ),
    "paper_a": ({}, ("ttttvvttttvvTTTTtttt", "vvTTTTttttttttTTtttt", "vvttttttTTttttTTtttt")),
    "paper_b": ({}, ("ttttvvttttvvTTTTtttt", "vvTTTTttvvvvttTTtttt", "vvvvttttTTttttTTtttt")),
    "k_fold": (
        {"folds": 4, "fold": 1},
        ("ttTTvvvvTTvvttttvvtt", "vvttttTTvvvvTTtttttt", "vvvvTTTTttttttttvvtt"),
    ),
    # Tested as a whole: b and c. What stands there as well is test in a too.
    "one_source": ({"train_source": "a"}, ("TTttTTvvttTTTTTTtttt", "T" * 20, "T" * 20)),
    # ... or has no place in a, with its frame: b 0 to 2 are a 10 to 12, c 19 is a 0.
    "leave_one_out": (
        {"left_out": "b"},
        ("ttttvvtttt----vvtttt", "T" * 20, "ttttttttvvttttvvtttt"),
    ),
    "independent": (
        {"independent": ("b", "c")},
        ("--ttvvtttt----vvtttt", "T" * 20, "T" * 20),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_protocols(name):
    fields, expected = GOLDEN[name]
    data = Data(protocol=name, datasets=("a", "b", "c"), **fields)
    config_checks.validate(Config(data=data))
    assert homes(three_sets(), data) == dict(zip("abc", expected))
    # The order in which the sets are named changes nothing.
    assert homes(three_sets()[::-1], data) == dict(zip("abc", expected))


def test_papers_are_their_fractions():
    for name, fractions in (("paper_a", (0.70, 0.15, 0.15)), ("paper_b", (0.56, 0.14, 0.30))):
        s = source(labels=np.repeat([0, 1], 100))
        (parts,) = splits.split_sources([s], [np.ones(200, bool)], protocol(protocol=name))
        for part, share in zip(parts.values(), fractions):
            # Each record has a middle of its own among 100: one more or less at each bound.
            assert np.abs(np.bincount(s.labels[part]) - 100 * share).max() <= 1
        (same,) = splits.split_sources([s], [np.ones(200, bool)], protocol(fractions))
        assert all(np.array_equal(parts[n], same[n]) for n in splits.SPLITS)


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_stratified_within_one_record_of_the_share(seed):
    labels = np.repeat([-1, 0, 1, 2, 3, 4], [3, 50, 7, 21, 1, 101])
    np.random.default_rng(seed).shuffle(labels)
    s = source(labels=labels)
    (parts,) = splits.split_sources([s], [np.ones(len(s), bool)], protocol(FRACTIONS, seed))
    together = np.concatenate(list(parts.values()))
    assert sorted(together) == list(range(len(s)))
    for label, count in collections.Counter(labels.tolist()).items():
        for share, part in zip(FRACTIONS, parts.values()):
            assert abs((labels[part] == label).sum() - share * count) < 1


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_taken_apart(seed):
    rng = np.random.default_rng(seed)
    groups = [f"frame_{g}" for g in rng.integers(0, 40, 160)]
    s = source(labels=rng.integers(0, 5, 160), groups=groups)
    (parts,) = splits.split_sources([s], [np.ones(160, bool)], protocol(FRACTIONS, seed))
    homes = [{groups[i] for i in part} for part in parts.values()]
    assert sum(map(len, homes)) == len(set(groups)) == len(set.union(*homes))
    splits.check_disjoint(
        {name: [(s.name, groups[i]) for i in part] for name, part in parts.items()}
    )


def test_a_group_counts_for_its_most_frequent_type():
    # Two groups of two types each. "a" is of type 1, "b", with equal counts, of the lower type 0;
    # each is alone in its stratum, so that its middle, 1/2, falls to training.
    ids = [f"{i}" for i in range(7)]
    groups, labels = ["a"] * 3 + ["b"] * 4, [1, 0, 1, 2, 0, 0, 2]
    parts = splits.stratified(ids, groups, labels, pieces(FRACTIONS), 0, "x")
    assert parts["train"].tolist() == list(range(7))
    # Were "b" of type 1 too, the two would share a stratum and one of them would go elsewhere.
    parts = splits.stratified(ids, groups, [1, 0, 1, 1, 1, 1, 2], pieces((0.5, 0.0, 0.5)), 0, "x")
    assert sorted(map(len, parts.values())) in ([0, 3, 4],)


@pytest.mark.parametrize("seed", [0, 3])
def test_input_order_does_not_matter(seed):
    s = source(labels=[i % 3 for i in range(40)], groups=[f"g{i // 2}" for i in range(40)])
    order = np.random.default_rng(seed).permutation(40)
    arguments = (pieces(FRACTIONS), seed, s.name)
    parts = splits.stratified(s.ids, s.groups, s.labels, *arguments)
    shuffled = [tuple(values[i] for i in order) for values in (s.ids, s.groups, s.labels)]
    again = splits.stratified(*shuffled, *arguments)
    for name in splits.SPLITS:
        # The order inside a split is that of the ids as well, not only the membership.
        assert [s.ids[i] for i in parts[name]] == [shuffled[0][i] for i in again[name]]


def test_seed_and_name_draw_the_split():
    base = split_ids(source())
    assert base == split_ids(source())
    assert base != split_ids(source(), seed=1)
    assert base != split_ids(source(name="other"))


def test_records_that_cannot_be_used_are_in_no_split():
    usable = np.arange(20) % 5 != 0
    found = split_ids(source(), usable=usable)
    expected = {f"cell_{i:02d}" for i in np.flatnonzero(usable)}
    assert set().union(*found.values()) == expected
    assert sum(map(len, found.values())) == len(expected)


@pytest.mark.parametrize("fractions", [(1.0, 0.0, 0.0), (0.7, 0.0, 0.3), (0.7, 0.3, 0.0)])
def test_a_share_of_nothing_gets_nothing(fractions):
    found = split_ids(source(), fractions)
    assert [len(found[name]) for name in splits.SPLITS] == [round(20 * f) for f in fractions]


def test_another_data_set_changes_no_split(monkeypatch):
    # The second has the ids of the first, as two authors may number alike.
    known = {"drawn": source(), "other": source(name="other", labels=(2, 3) * 15)}
    monkeypatch.setattr(sources, "load", lambda name, data: known[name])

    def of_drawn(names):
        data = Data(datasets=names, fractions=FRACTIONS)
        found = pipeline.load_splits(data, 8)
        return {
            split: [s.ids[i] for s, i in part.entries if s.name == "drawn"]
            for split, part in found.items()
        }

    alone = of_drawn(("drawn",))
    assert alone == of_drawn(("drawn", "other")) == of_drawn(("other", "drawn"))
    assert alone == split_ids(known["drawn"]) | {"all": list(known["drawn"].ids)}


def random_hashes(n, seed):
    # 256 random bits: two of them differ in about 128, never in 64.
    return np.random.default_rng(seed).integers(0, 2**64, (n, 4), np.uint64)


def test_near_duplicates_stay_together():
    hashes = random_hashes(40, 0)
    # Pairs (i, i + 20), 1 to 20 bits apart.
    for i in range(20):
        hashes[20 + i] = hashes[i]
        hashes[20 + i, i % 4] ^= np.uint64(2 ** (i + 1) - 1)
    found = split_ids(source(labels=[i % 2 for i in range(40)], hashes=hashes))
    home = {cell: split for split, cells in found.items() for cell in cells}
    assert len(home) == 40
    assert all(home[f"cell_{i:02d}"] == home[f"cell_{20 + i:02d}"] for i in range(20))
    assert all(found.values())


def test_a_duplicate_elsewhere_follows_the_set_whose_name_comes_first():
    a = source("a", hashes=random_hashes(20, 1))
    # Half of b stands in a as well; its types, and so its own draw, differ.
    hashes = random_hashes(20, 2)
    hashes[:10] = a.hashes[5:15]
    b = source("b", labels=[i % 3 for i in range(20)], hashes=hashes)
    everything = np.ones(20, bool)
    (alone,) = splits.split_sources([a], [everything], protocol(FRACTIONS, 0))
    for order in ([a, b], [b, a]):
        parts = splits.split_sources(order, [everything] * 2, protocol(FRACTIONS, 0))
        of = {s.name: part for s, part in zip(order, parts)}
        home = {s: {i: n for n, part in of[s].items() for i in part.tolist()} for s in "ab"}
        assert len(home["a"]) == len(home["b"]) == 20
        assert all(home["b"][i] == home["a"][i + 5] for i in range(10))
        assert all(np.array_equal(of["a"][name], alone[name]) for name in splits.SPLITS)
        entries = {n: [s.key(i) for s in (a, b) for i in of[s.name][n]] for n in splits.SPLITS}
        splits.check_leaks(entries)


def test_groups_hold_across_the_configs_of_one_data_set_alone():
    # "cells/raw" and "cells/copies" share frames; "other" only happens to use the same names.
    sets = [
        source("cells/raw", groups=[f"frame_{i}" for i in range(20)]),
        source("cells/copies", groups=[f"frame_{i}" for i in range(20)]),
        source("other", groups=[f"frame_{i}" for i in range(20)]),
    ]
    parts = splits.split_sources(sets, [np.ones(20, bool)] * 3, protocol())
    raw, copies, other = ([sorted(part[n].tolist()) for n in splits.SPLITS] for part in parts)
    assert raw == copies != other


def test_packagings_of_one_collection_share_their_frames():
    sets = [
        source(name, groups=[f"95-5-4-1_{i}" for i in range(20)])
        for name in ("raabin_gt", "raabin_wbc/crops", "raabin_wbc/kaggle", "pbc")
    ]
    parts = splits.split_sources(sets, [np.ones(20, bool)] * 4, protocol())
    gt, crops, kaggle, pbc = ([sorted(part[n].tolist()) for n in splits.SPLITS] for part in parts)
    assert gt == crops == kaggle != pbc
    with pytest.raises(DataError, match="raabin: group '95-5-4-1_4' stands in both"):
        splits.check_leaks({"train": [sets[0].key(4)], "test": [sets[2].key(4)]})


def test_frames_known_to_show_one_cell_stay_together():
    frames = [f"95-5-5-1_{i}" for i in range(145, 165)]
    sets = [
        source("raabin_gt", groups=[frame.replace("5-5-1", "5-4-1") for frame in frames]),
        source("raabin_wbc/crops", groups=frames),
        source("pbc", groups=frames),
    ]
    # The group of 95-5-5-1_151 is that of 95-5-4-1_124 in one collection alone.
    sets[0] = dataclasses.replace(sets[0], groups=(*sets[0].groups[:-1], "95-5-4-1_124"))
    assert sets[0].key(19).split_group == sets[1].key(6).split_group == ("raabin", "95-5-4-1_124")
    assert sets[2].key(6).split_group == ("pbc", "95-5-5-1_151")
    for seed in range(20):
        gt, crops, _ = splits.split_sources(sets, [np.ones(20, bool)] * 3, protocol(seed=seed))
        for split in splits.SPLITS:
            assert (19 in gt[split]) == (6 in crops[split])
    assert splits.seen([sets[1].key(6)], [sets[0].key(18), sets[0].key(19)]) == {1}
    with pytest.raises(DataError, match="group '95-5-4-1_124' stands in both train and test"):
        splits.check_leaks({"train": [sets[0].key(19)], "test": [sets[1].key(6)]})


def test_cells_cut_otherwise_stay_together():
    s = source(labels=[i % 2 for i in range(40)], hashes=random_hashes(40, 0))
    alone = random_hashes(40, 1)
    alone[20:] = alone[:20] ^ np.array([0, 2**20 - 1, 0, 0], np.uint64)
    s = dataclasses.replace(s, cell_hashes=alone)
    found = split_ids(s)
    home = {cell: split for split, cells in found.items() for cell in cells}
    assert all(home[f"cell_{i:02d}"] == home[f"cell_{20 + i:02d}"] for i in range(20))
    assert all(found.values())
    with pytest.raises(DataError, match=r"cell_00 .* cell_20 .* \(20 bits apart\)"):
        splits.check_leaks({"train": [s.key(0)], "test": [s.key(20)]})
    assert splits.seen([s.key(1), s.key(2)], [s.key(20), s.key(21)]) == {1}


def test_check_leaks():
    s = source(hashes=random_hashes(20, 0))
    splits.check_leaks({"train": [s.key(0), s.key(1)], "test": [s.key(2)]})
    s.hashes[2] = s.hashes[1] ^ np.array([0, 7, 0, 0], np.uint64)
    with pytest.raises(DataError) as error:
        splits.check_leaks({"train": [s.key(0), s.key(1)], "test": [s.key(2)]})
    message = "drawn cell_01 (train) and drawn cell_02 (test) are near duplicates (3 bits apart)"
    assert message in str(error.value)
    splits.check_leaks({"train": [s.key(1), s.key(2)], "test": [s.key(3)]})
    # Groups are looked at where there are no hashes too, and across configs of one data set.
    one, two = source("x/a"), source("x/b")
    with pytest.raises(DataError, match="x: group 'cell_04' stands in both train and test"):
        splits.check_leaks({"train": [one.key(4)], "test": [two.key(4)]})
    splits.check_leaks({"train": [one.key(4)], "test": [source("y").key(4)]})


def test_one_source_trains_on_that_one_alone():
    sets = [source(name) for name in "abc"]
    data = protocol((0.6, 0.2, 0.2), protocol="one_source", train_source="b", datasets=tuple("abc"))
    found = homes(sets, data)
    assert found["a"] == found["c"] == "T" * 20
    # Without duplicates its own split is what it would be alone.
    alone = protocol((0.6, 0.2, 0.2), datasets=("b",))
    assert found["b"] == homes([source("b")], alone)["b"]
    assert [found["b"].count(letter) for letter in "tvT"] == [12, 4, 4]


def test_independent_sets_are_tested_whole_and_the_others_not_at_all(caplog):
    sets = [source(name, hashes=random_hashes(20, ord(name))) for name in "abcd"]
    sets[1].hashes[4:7] = sets[2].hashes[:3]
    data = protocol(
        (0.64, 0.16, 0.2), protocol="independent", independent=("c", "d"), datasets=tuple("abcd")
    )
    found = homes(sets, data)
    assert found["c"] == found["d"] == "T" * 20
    # Four to one, within each of two types; b lacks the three that stand in c.
    assert [found["a"].count(letter) for letter in "tvT-"] == [16, 4, 0, 0]
    assert found["b"][4:7] == "---" and found["b"].count("-") == 3 and "T" not in found["b"]
    assert "b: 3 records are left out" in caplog.text and "in c and d, tested" in caplog.text


def test_seen_are_near_duplicates_and_records_of_the_same_group():
    known = source("x/a", groups=[f"g{i}" for i in range(20)], hashes=random_hashes(20, 0))
    other = source("x/b", groups=[f"h{i}" for i in range(20)], hashes=random_hashes(20, 1))
    other = dataclasses.replace(other, groups=("g3", *other.groups[1:]))
    other.hashes[3] = known.hashes[7]
    entries = [other.key(i) for i in (5, 0, 3, 9)]
    assert splits.seen([known.key(i) for i in range(20)], entries) == {1, 2}
    assert splits.seen([known.key(i) for i in range(7)], entries) == {1}
    assert splits.seen([known.key(7)], entries) == {2}
    elsewhere = [dataclasses.replace(other, name="y", hashes=None).key(0)]
    assert splits.seen([known.key(i) for i in range(20)], elsewhere) == set()


def test_near_duplicates_of():
    known, other = (
        source("a", hashes=random_hashes(20, 0)),
        source("b", hashes=random_hashes(20, 1)),
    )
    other.hashes[3] = known.hashes[7]
    other.hashes[5] = other.hashes[4]  # a pair among the others is not one of the known
    entries = [other.key(i) for i in (5, 4, 3, 9)]
    assert splits.near_duplicates_of([known.key(i) for i in range(20)], entries) == {2}
    assert splits.near_duplicates_of([known.key(i) for i in range(7)], entries) == set()
    assert splits.near_duplicates_of([], entries) == set()


def test_empty_split():
    with pytest.raises(DataError) as error:
        split_ids(source(labels=(0, 0)))
    assert str(error.value) == (
        "drawn: the validation split is empty: its share is 0.14, and 2 of 2 records can be used. "
        "Records of one group, and near duplicates, are never split apart. Remedies: add images; "
        "raise the share of validation in config.data.fractions or set it to 0."
    )
    usable = np.arange(20) < 1
    with pytest.raises(DataError, match="1 of 20 records can be used"):
        split_ids(source(), usable=usable)
    with pytest.raises(DataError, match=r"train split is empty: .* 0.56, and 0 of 20"):
        split_ids(source(), usable=np.zeros(20, bool))


def test_a_remedy_of_an_empty_split_is_one_that_the_config_takes():
    with pytest.raises(DataError) as error:
        split_ids(source(labels=(0,) * 8), fractions=(0.02, 0, 0.98))
    said = str(error.value)
    assert "train split is empty: its share is 0.02, and 8 of 8 records" in said
    assert said.endswith("add images; raise the share of train in config.data.fractions.")
    # A share of 0, which the message does not advise, is refused.
    with pytest.raises(ConfigError, match="the share of train must be above 0"):
        config_checks.validate(Config(data=Data(fractions=(0, 0.02, 0.98))))
    assert split_ids(source(labels=(0,) * 8), fractions=(0.2, 0, 0.8))["train"]

    def remedies(labels=(0, 0), **fields):
        with pytest.raises(DataError) as error:
            data = protocol(**fields)
            splits.split_sources([source(labels=labels)], [np.ones(len(labels), bool)], data)
        return str(error.value).partition("Remedies: ")[2]

    assert remedies(protocol="k_fold", folds=5) == (
        "add images; set config.data.folds to a smaller number."
    )
    assert remedies(protocol="paper_b").startswith(
        "add images; set config.data.protocol to 'fractions'"
    )
    assert remedies(datasets=("drawn", "other")).endswith(
        "; leave the data set out of config.data.datasets."
    )


def test_check_disjoint():
    splits.check_disjoint({"train": [("a", "1"), ("a", "1")], "test": [("b", "1"), ("a", "2")]})
    with pytest.raises(DataError) as error:
        splits.check_disjoint({"train": [("a", "1"), ("a", "2")], "test": [("a", "2")]})
    assert "a: group '2' stands in both train and test" in str(error.value)


def test_k_folds_take_turns():
    s = source(labels=[i % 2 for i in range(50)], groups=[f"g{i // 2}" for i in range(50)])
    parts = [
        splits.split_sources([s], [np.ones(50, bool)], protocol(protocol="k_fold", fold=k))[0]
        for k in range(5)
    ]
    # Each record is tested once, validates once, and trains in the other three folds.
    for name, times in (("test", 1), ("validation", 1), ("train", 3)):
        counts = collections.Counter(i for part in parts for i in part[name].tolist())
        assert counts == dict.fromkeys(range(50), times)
    for k in range(5):
        assert parts[k]["validation"].tolist() == parts[(k + 1) % 5]["test"].tolist()
        homes = [{s.groups[i] for i in part} for part in parts[k].values()]
        assert sum(map(len, homes)) == 25


def test_leave_one_out_tests_on_the_whole_of_one_set():
    a, b = source("a", hashes=random_hashes(20, 1)), source("b", hashes=random_hashes(20, 2))
    b.hashes[:3] = a.hashes[:3]  # cells of the set left out that another set holds too
    data = protocol(protocol="leave_one_out", left_out="b", datasets=("a", "b"))
    of_a, of_b = splits.split_sources([a, b], [np.ones(20, bool)] * 2, data)
    assert of_b["test"].tolist() == list(range(20))
    assert not len(of_b["train"]) and not len(of_b["validation"]) and not len(of_a["test"])
    used = np.concatenate([of_a["train"], of_a["validation"]])
    assert sorted(used) == list(range(3, 20))
    # 0.56 : 0.14 is four to one, in each of two types.
    assert abs(len(of_a["validation"]) - 17 / 5) < 2
