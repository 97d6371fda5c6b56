"""wbc_jax.data.pipeline: splits, mixtures, and batches that are a function of (seed, step)."""

import collections
import dataclasses
import itertools

import cv2
import numpy as np
import pytest

from wbc_jax.config import Data
from wbc_jax.data import isolation, pipeline, sources
from wbc_jax.data.images import encode_png
from wbc_jax.data.resize import resize_image, resize_mask

SEVEN_STEPS = {"batch_size": 4, "steps": 7, "seed": 3}


class Encoded(list):
    """Records that count how often each is read."""

    def __init__(self, values):
        super().__init__(values)
        self.reads = collections.Counter()

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


def pixels(index, height=10, width=12):
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))


def source(n=10, name="drawn", subtypes=None, has_mask=None, labels=None):
    ids = tuple(f"cell_{i:02d}" for i in range(n))
    encoded = Encoded(
        {key: encode_png(array) for key, array in zip(("image", "mask"), pixels(i))}
        for i in range(n)
    )
    return sources.Source(
        name=name,
        ids=ids,
        groups=ids,
        sources=("test",) * n,
        subtypes=("",) * n if subtypes is None else tuple(subtypes),
        label_sources=("",) * n,
        labels=np.arange(n) % 2 if labels is None else np.asarray(labels),
        has_mask=np.ones(n, bool) if has_mask is None else np.asarray(has_mask),
        um_per_px=np.full(n, np.nan, np.float32),
        encoded=encoded,
    )


def examples(n=10, image_size=8, mask_size=8, cache_megabytes=0):
    s = source(n)
    return pipeline.Examples([(s, i) for i in range(n)], image_size, mask_size, cache_megabytes)


def same(batch, other):
    return batch.keys() == other.keys() and all(
        batch[key].dtype == other[key].dtype and np.array_equal(batch[key], other[key])
        for key in batch
    )


# Examples.


def test_examples_are_the_records_resized():
    found = examples(4, image_size=16, mask_size=20)
    image, mask = pixels(2)
    assert same(
        found[2],
        {
            "image": resize_image(image, 16, 16),
            "label": np.int32(0),
            "mask": resize_mask(mask, 20, 20),
        },
    )
    assert len(found) == 4 and found.ids == [f"cell_{i:02d}" for i in range(4)]
    assert found.datasets == ["drawn"] * 4 and found.labels.tolist() == [0, 1, 0, 1]
    assert found.resized(8, 10)[2]["image"].shape == (8, 8, 3)
    assert found.resized(8, 10)[2]["mask"].shape == (10, 10)


def test_cache_reads_once_and_returns_equal_values():
    cached, plain = examples(cache_megabytes=1), examples()
    for _ in range(2):
        for i in range(10):
            assert same(cached[i], plain[i])
    assert set(cached.entries[0][0].encoded.reads.values()) == {1}
    assert set(plain.entries[0][0].encoded.reads.values()) == {2}


def test_split_larger_than_the_cache_is_not_cached():
    # 10 * (3 + 1) * 512^2 bytes are 10 MiB.
    for megabytes, reads in ((10, 1), (9, 2)):
        found = examples(10, 512, 512, cache_megabytes=megabytes)
        found[0], found[0]
        assert found.entries[0][0].encoded.reads[0] == reads


def test_augmenting_a_batch_in_place_does_not_change_the_cache():
    found = examples(cache_megabytes=1)
    before = {key: value.copy() for key, value in found[0].items()}
    for batch in (
        next(pipeline.eval_batches(found, 2)),
        pipeline.train_dataset(found, **SEVEN_STEPS)[0],
    ):
        batch["image"][:] = 0
    assert all(same(found[i], examples()[i]) for i in range(10)) and same(found[0], before)


@pytest.mark.parametrize(
    ("cell_only_masks", "expected"),
    [(False, [True, False, False, False]), (True, [True, False, True, False])],
)
def test_usable(cell_only_masks, expected):
    s = source(4, subtypes=["", "", "cell_only", "cell_only"], has_mask=[True, False, True, False])
    data = Data(cell_only_masks=cell_only_masks)
    assert pipeline.usable(s, data, "segmentation").tolist() == expected
    assert pipeline.usable(s, data, "classification").all()
    assert pipeline.usable(source(4, labels=[0, -1, 4, -1]), data, "classification").tolist() == [
        True,
        False,
        True,
        False,
    ]
    assert s.has_mask.tolist() == [True, False, True, False]  # the source is not written to


def test_a_cut_image_is_decoded_once_and_never_encoded(monkeypatch):
    # The cell, 2 x 4 pixels, has a square of 6 (8 % of 4 on both sides, rounded up) around it.
    mask = np.zeros((10, 12), np.uint8)
    mask[4:6, 3:7] = 2
    whole = source(1)
    cut = dataclasses.replace(whole, cell_masks=mask[None])
    expected = isolation.isolate(pixels(0)[0], mask)
    assert expected.shape == (6, 6, 3)
    decoded = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decoded.append(1) or decode(*given))
    monkeypatch.setattr(cv2, "imencode", lambda *_: pytest.fail("encoded"))
    found = pipeline.Examples([(cut, 0)], 6, 12)[0]
    np.testing.assert_array_equal(found["image"], expected)
    assert len(decoded) == 2 and whole.encoded.reads[0] == 1  # image and mask of one record
    pipeline.Examples([(cut, 0)], 6, 0)[0]
    assert len(decoded) == 3
    assert cut.key(0) == whole.key(0)


def test_load_splits_sizes_and_members(monkeypatch):
    subtypes = ["cell_only" if i == 7 else "" for i in range(40)]
    known = {"a": source(40, "a", subtypes, np.arange(40) != 3), "b": source(30, "b")}
    monkeypatch.setattr(sources, "load", lambda name, data: known[name])
    data = Data(datasets=("a", "b"), image_size=16)
    found = pipeline.load_splits(data, 24)
    members = {
        split: {(s.name, s.ids[i]) for s, i in part.entries} for split, part in found.items()
    }
    usable = {(s.name, i) for s in known.values() for i in s.ids}
    usable -= {("a", "cell_03"), ("a", "cell_07")}
    assert members["all"] == usable
    parts = [members[split] for split in ("train", "validation", "test")]
    assert set.union(*parts) == usable and sum(map(len, parts)) == len(usable)
    # Within a record of the share in each of four strata: two sets of two types.
    assert all(abs(len(part) - 68 * f) < 4 for part, f in zip(parts, data.fractions))
    # Only training masks have the network's size; the others have that of the scores.
    assert {split: part.mask_size for split, part in found.items()} == {
        "train": 16,
        "validation": 24,
        "test": 24,
        "all": 24,
    }
    assert {part.image_size for part in found.values()} == {16}
    assert found["all"].cell_only.sum() == 0
    known["c"] = source(3, "c", ["cell_only"] * 3, [True, True, False])
    assert pipeline.load_whole("c", data, 24).cell_only.tolist() == [True, True]
    assert data.cell_only_masks is False
    whole = pipeline.load_whole("a", data, 24)
    assert set(whole.ids) == {i for name, i in usable if name == "a"} and whole.mask_size == 24


# Training batches.


def test_batch_holds_the_examples_it_names():
    found = examples()
    batch = pipeline.train_dataset(found, **SEVEN_STEPS)[2]
    assert batch["image"].shape == (4, 8, 8, 3) and batch["mask"].shape == (4, 8, 8)
    assert batch["image"].dtype == batch["mask"].dtype == np.uint8
    assert batch["index"].dtype == batch["epoch"].dtype == np.int32
    for row, index in enumerate(batch["index"]):
        assert np.array_equal(batch["image"][row], found[index]["image"])
        assert np.array_equal(batch["mask"][row], found[index]["mask"])


def test_every_epoch_holds_every_example_once_in_another_order():
    dataset = pipeline.train_dataset(examples(), batch_size=4, steps=20, seed=0)
    assert len(dataset) == 20
    batches = [dataset[step] for step in range(20)]
    index = np.concatenate([b["index"] for b in batches]).reshape(8, 10)
    epoch = np.concatenate([b["epoch"] for b in batches])
    # Ten examples, four a batch: batches run across the end of an epoch.
    assert epoch.tolist() == np.repeat(np.arange(8), 10).tolist()
    assert (np.sort(index, 1) == np.arange(10)).all()
    assert len(np.unique(index, axis=0)) == 8


def test_a_batch_larger_than_the_data_set():
    dataset = pipeline.train_dataset(examples(3), batch_size=8, steps=3, seed=0)
    index = np.concatenate([dataset[s]["index"] for s in range(3)])
    epoch = np.concatenate([dataset[s]["epoch"] for s in range(3)])
    assert (np.sort(index.reshape(8, 3), 1) == np.arange(3)).all()
    assert epoch.tolist() == np.repeat(np.arange(8), 3).tolist()


def test_seed_draws_the_order():
    def order(seed):
        dataset = pipeline.train_dataset(examples(), batch_size=10, steps=1, seed=seed)
        return dataset[0]["index"].tolist()

    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in (0, 1, 2, 2**31 - 1)}) == 4


def test_longer_training_begins_with_the_same_batches():
    short = pipeline.train_dataset(examples(), **SEVEN_STEPS)
    long = pipeline.train_dataset(examples(), **(SEVEN_STEPS | {"steps": 30}))
    assert all(same(short[s], long[s]) for s in range(7))


@pytest.mark.parametrize("start", [0, 1, 5, 7])
@pytest.mark.parametrize("threads", [1, 3])
def test_starting_at_a_step_gives_what_comes_from_there(start, threads):
    dataset = pipeline.train_dataset(examples(), **SEVEN_STEPS)
    batches = pipeline.train_batches(dataset, start, threads)
    try:
        found = list(batches)
    finally:
        batches.close()
    assert len(found) == 7 - start
    assert all(same(batch, dataset[start + s]) for s, batch in enumerate(found))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_make_the_global_batch(hosts):
    whole = pipeline.train_dataset(examples(), **SEVEN_STEPS)
    parts = [
        pipeline.train_dataset(examples(), **SEVEN_STEPS, process_index=p, process_count=hosts)
        for p in range(hosts)
    ]
    assert {len(part) for part in parts} == {7}
    for step in range(7):
        batch = whole[step]
        for p, part in enumerate(parts):
            assert same(
                part[step], {key: np.split(value, hosts)[p] for key, value in batch.items()}
            )


# Evaluation batches.


@pytest.mark.parametrize(("n", "lengths"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3])])
def test_eval_batches(n, lengths):
    found = examples(n, image_size=8, mask_size=12)
    batches = list(pipeline.eval_batches(found, 4))
    assert len(batches) == len(lengths)
    counter = itertools.count()
    for batch, length in zip(batches, lengths):
        assert batch["image"].shape == (4, 8, 8, 3) and batch["mask"].shape == (4, 12, 12)
        assert batch["image"].dtype == batch["mask"].dtype == np.uint8
        for row in range(length):
            index = next(counter)
            assert batch["index"][row] == index
            assert np.array_equal(batch["image"][row], found[index]["image"])
            assert np.array_equal(batch["mask"][row], found[index]["mask"])
        # The filling is black, without an index, and counts in no score.
        assert batch["index"].dtype == np.int32 and (batch["index"][length:] == -1).all()
        assert (batch["mask"][length:] == 255).all() and (batch["image"][length:] == 0).all()
    assert next(counter) == n


def test_eval_batches_of_nothing():
    assert list(pipeline.eval_batches(examples(0), 4)) == []


# Mixtures.


def two_sets(**fields):
    a = source(6, "a")
    b = dataclasses.replace(source(2, "b"), labels=np.array([1, -1]))
    entries = [(a, i) for i in range(6)] + [(b, i) for i in range(2)]
    data = Data(datasets=("a", "b"), **fields)
    found = pipeline.Examples(entries, 8, 8)
    return found, pipeline.mixture(found, data)


def test_natural_mixture_is_one_part():
    found, parts = two_sets()
    assert [(p.name, p.indices.tolist(), p.share) for p in parts] == [("all", list(range(8)), 1)]
    plain = pipeline.train_dataset(found, **SEVEN_STEPS)
    mixed = pipeline.train_dataset(found, **SEVEN_STEPS, components=parts)
    assert all(same(plain[s], mixed[s]) for s in range(7))


@pytest.mark.parametrize(
    "fields, shares",
    [
        ({"mixture": "balanced"}, {"a": 0.5, "b": 0.5}),
        ({"mixture": "custom", "weights": (3.0, 1.0)}, {"a": 0.75, "b": 0.25}),
        (
            {"class_mixture": "balanced"},  # a has 6 of 8 images, half of each of two types
            {"a basophil": 0.375, "a eosinophil": 0.375, "b unknown": 0.125, "b eosinophil": 0.125},
        ),
        (
            {"mixture": "custom", "weights": (1.0, 3.0), "class_mixture": "balanced"},
            {"a basophil": 0.125, "a eosinophil": 0.125, "b unknown": 0.375, "b eosinophil": 0.375},
        ),
    ],
)
def test_mixture_is_drawn_at_its_shares(fields, shares):
    found, parts = two_sets(**fields)
    assert {p.name: p.share for p in parts} == pytest.approx(shares)
    dataset = pipeline.train_dataset(found, batch_size=8, steps=20, seed=1, components=parts)
    drawn = np.concatenate([dataset[s]["index"] for s in range(20)])
    for part in parts:
        inside = np.isin(drawn, part.indices)
        assert abs(inside.mean() - part.share) < 0.02
        # Within a part nothing comes a second time before everything came once.
        order = drawn[inside]
        for start in range(0, len(order) - len(part.indices) + 1, len(part.indices)):
            assert sorted(order[start : start + len(part.indices)]) == part.indices.tolist()


@pytest.mark.parametrize("fields", [{"weights": (1.0, 3.0, 4.0)}, {"mixture": "balanced"}])
def test_mixture_of_what_is_left_to_train_on(fields):
    found, _ = two_sets()
    # As `leave_one_out` has it: a data set all of whose records are in another split.
    data = Data(datasets=("a", "b", "left"), **{"mixture": "custom"} | fields)
    parts = pipeline.mixture(found, data)
    shares = {"a": 0.25, "b": 0.75} if "weights" in fields else {"a": 0.5, "b": 0.5}
    assert {p.name: p.share for p in parts} == pytest.approx(shares)
    pipeline.train_dataset(found, batch_size=8, steps=2, seed=1, components=parts)[0]


def test_mixture_counts_how_often_an_example_came_before():
    found, parts = two_sets(mixture="balanced")
    dataset = pipeline.train_dataset(found, batch_size=4, steps=12, seed=0, components=parts)
    seen = collections.Counter()
    for s in range(12):
        batch = dataset[s]
        for index, epoch in zip(batch["index"].tolist(), batch["epoch"].tolist()):
            assert epoch == seen[index]
            seen[index] += 1
    # The rest of the run is the same wherever it begins, and whoever reads which part of it.
    late = next(pipeline.train_batches(dataset, 9, 1))
    assert same(late, dataset[9])
    halves = [
        pipeline.train_dataset(found, 4, 12, 0, process, 2, parts)[5]["index"].tolist()
        for process in range(2)
    ]
    assert sorted(halves[0] + halves[1]) == sorted(dataset[5]["index"].tolist())
