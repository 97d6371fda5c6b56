"""wbc_jax.metrics.totals: sums of batches and of hosts are those of the whole."""

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


def test_images_that_fill_up_a_batch_add_nothing():
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
