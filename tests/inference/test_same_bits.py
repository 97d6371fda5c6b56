"""The shipped models, compiled as for users: one image, one result, to the last bit."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

import wbc_jax
from helpers import compilation, tiny_runs
from wbc_jax.data.resize import resize_image
from wbc_jax.tfds_builders.wbc_synthetic import render

pytestmark = pytest.mark.usefixtures("optimized")


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_shipped_models_result_depends_on_no_other_image(task):
    """Really compiled, group normalization and all; also where hardly any light is left."""
    model = wbc_jax.load("segmenter" if task == "segmentation" else "classifier")
    side = model.config.data.image_size
    images = [render.render_cell(3, i).image for i in range(4)]
    images = [resize_image(image, side, side) for image in images]
    images += [image // 40 for image in images]
    x = np.stack(images)
    together, embeddings = model.start(x)()
    assert len(np.unique(together)) > 30
    for i in (0, 3, 5, 7):
        alone, embedding = model.start(x[i : i + 1])()
        np.testing.assert_array_equal(alone[0], together[i])
        if embeddings is not None:
            np.testing.assert_array_equal(embedding[0], embeddings[i])
    np.testing.assert_array_equal(model.logits(x[::-1])[::-1], together)
    np.testing.assert_array_equal(model.logits(x[2:5]), together[2:5])


_PRINT_HASH = """
import hashlib, os, sys
import numpy as np
import wbc_jax
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]))
side = 96
x = (np.arange(2 * side * side * 3) * 7919 % 251).astype(np.uint8).reshape(2, side, side, 3)
print(hashlib.sha256(wbc_jax.load("classifier").logits(x).tobytes()).hexdigest())
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors, and a system that can take one away",
)
def test_the_number_of_threads_does_not_matter():
    """With oneDNN's convolutions, as JAX's cache on disk is off."""
    environment = compilation.as_users(tiny_runs.environment())
    hashes = [
        subprocess.run(
            [sys.executable, "-c", _PRINT_HASH, count],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout
        for count in ("1", "2")
    ]  # fmt: skip
    assert len(hashes[0].strip()) == 2 * hashlib.sha256().digest_size
    assert hashes[0] == hashes[1]
