"""wbc_jax.metrics.totals: batches and processes add up to the whole."""

import dataclasses
import os
import socket
import subprocess
import sys

import numpy as np

from wbc_jax import metrics


def masks(n=6, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.repeat(rng.integers(0, 3, (n, 6, 5)), 5, 1), 5, 2).astype(np.uint8)
    truth[0] = 1
    return truth, np.roll(truth, (1, 1), axis=(1, 2))


def assert_equal(a, b):
    assert np.array_equal(a.confusion, b.confusion)
    for field in dataclasses.fields(a.bf):
        left, right = (getattr(x.bf, field.name) for x in (a, b))
        np.testing.assert_allclose(left, right, rtol=1e-12, err_msg=field.name)


def test_batches_add_up_to_the_whole():
    truth, prediction = masks()
    whole = metrics.SegmentationTotals.of(truth, prediction, 3)
    added = metrics.SegmentationTotals.zero(3)
    for start in (0, 3):
        part = slice(start, start + 3)
        added += metrics.SegmentationTotals.of(truth[part], prediction[part], 3)
    assert_equal(added, whole)
    assert np.array_equal(whole.confusion, metrics.confusion_matrix(truth, prediction, 3))
    scores = metrics.bf_score(truth, prediction, 3)
    assert np.isnan(scores[0, 0]) and np.isfinite(scores[1:]).all()
    np.testing.assert_allclose(whole.bf.class_means, np.nanmean(scores, 0), rtol=1e-12)
    np.testing.assert_allclose(whole.bf.mean, np.nanmean(scores, 1).mean(), rtol=1e-12)


def test_halves_merge_into_the_whole():
    truth, prediction = masks()
    whole = metrics.SegmentationCounts.of(truth, prediction, 3)
    halves = [
        metrics.SegmentationCounts.of(truth[half], prediction[half], 3)
        for half in (slice(0, 3), slice(3, 6))
    ]
    merged = metrics.SegmentationCounts.merge(halves)
    assert len(merged) == 6 and merged.confusion.dtype == merged.boundary.dtype == np.int64
    assert np.array_equal(merged.confusion, metrics.confusion_matrices(truth, prediction, 3))
    assert np.array_equal(merged.boundary, metrics.bf_counts(truth, prediction, 3))
    assert_equal(merged.sum(), whole.sum())
    assert_equal(halves[0].sum() + halves[1].sum(), whole.sum())
    assert_equal(whole.sum(), metrics.SegmentationTotals.of(truth, prediction, 3))
    # Each process fills the places of its own images, and the processes' counts are added.
    shares = [metrics.SegmentationCounts.zero(6, 3) for _ in range(2)]
    for rank, share in enumerate(shares):
        own = np.arange(rank, 6, 2)
        share.put(own, whole.select(own))
    assert np.array_equal(shares[0].confusion + shares[1].confusion, whole.confusion)
    assert np.array_equal(shares[0].boundary + shares[1].boundary, whole.boundary)


def test_selected_images_are_those_counted_alone():
    truth, prediction = masks()
    whole = metrics.SegmentationCounts.of(truth, prediction, 3)
    for chosen in (np.arange(6) % 2 == 0, [4, 1], slice(2, 5)):
        alone = metrics.SegmentationCounts.of(truth[chosen], prediction[chosen], 3)
        found = whole.select(chosen)
        assert np.array_equal(found.confusion, alone.confusion)
        assert np.array_equal(found.boundary, alone.boundary)


def test_counts_without_boundaries_have_no_boundary_scores():
    whole = metrics.SegmentationCounts.of(*masks(), 3)
    plain = metrics.SegmentationCounts(whole.confusion)
    assert plain.select([0, 2]).boundary is None and plain.sum().bf is None
    assert np.array_equal(plain.sum().confusion, whole.sum().confusion)
    mixed = metrics.SegmentationCounts.merge([whole, plain])
    assert len(mixed) == 12 and mixed.boundary is None
    assert (whole.sum() + plain.sum()).bf is None
    same = metrics.sum_over_hosts(plain)
    assert same.boundary is None and np.array_equal(same.confusion, whole.confusion)


def test_images_that_pad_a_batch_add_nothing():
    truth, prediction = masks()
    whole = metrics.SegmentationTotals.of(truth[:4], prediction[:4], 3)
    truth[4:] = 255
    assert_equal(metrics.SegmentationTotals.of(truth, prediction, 3), whole)


def test_one_process_has_the_sum():
    totals = metrics.SegmentationTotals.of(*masks(), 3)
    assert metrics.sum_over_hosts(totals) is totals


_PROCESS = """
import sys
import jax, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from wbc_jax import metrics
from wbc_jax.metrics import boundary
rank = jax.process_index()
counts = np.array([[[3, 4, 1, 2], [rank, rank, rank, rank]]])
mine = metrics.SegmentationTotals(
    np.array([[2**40 + rank, 1], [0, 7]]), boundary.BFTotals.from_counts(counts)
)
both = metrics.sum_over_hosts(mine)
assert both.confusion.dtype == np.int64 and both.bf.class_sum.dtype == np.float64
assert both.confusion.tolist() == [[2**41 + 1, 2], [0, 14]], both.confusion
assert both.bf.class_sum.tolist() == [2 * 0.6, 1.0], both.bf.class_sum
assert both.bf.class_images.tolist() == [2, 1]
assert float(both.bf.images) == 2 and both.bf.mean == (0.6 + 0.8) / 2
assert metrics.sum_over_hosts({"a": np.float64(0.1)})["a"] == 0.2
# Each process has counted one of two images.
counts = metrics.SegmentationCounts.zero(2, 2, boundary=False)
counts.confusion[rank] = rank + 1
counts = metrics.sum_over_hosts(counts)
assert counts.boundary is None and counts.confusion[:, 0, 0].tolist() == [1, 2]
"""


def test_two_processes_have_the_sum_of_both_in_64_bits():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, address, str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


def test_whole_cells_are_kept_apart():
    plain = metrics.SegmentationCounts(np.ones((2, 3, 3), np.int64))
    assert plain.cell_only.tolist() == [False, False]
    cells = metrics.SegmentationCounts.zero(1, 3, boundary=False, whole=True)
    cells.put(np.array([0]), metrics.SegmentationCounts(cells.confusion, None, cells.whole + 4))
    merged = metrics.SegmentationCounts.merge([plain, cells])
    assert merged.cell_only.tolist() == [False, False, True]
    assert merged.whole.tolist() == [[[0] * 3] * 2, [[0] * 3] * 2, [[4] * 3] * 2]
    chosen = merged.select([2, 0])
    assert chosen.cell_only.tolist() == [True, False] and chosen.whole[0].sum() == 24
    # A batch without whole cells clears what stood there.
    merged.put(np.array([2]), plain.select([0]))
    assert not merged.whole.any() and merged.confusion[2].sum() == 9
    assert metrics.SegmentationCounts.merge([plain, plain]).whole is None
