"""benchmarks/input_pipeline.py: all pipelines do the same work, and it is counted right."""

import time

import numpy as np
import pytest
from PIL import Image

from wbc_jax.data.images import decode_image, read_image_file
from wbc_jax.data.resize import resize_image

pytest.importorskip("torch")

import input_pipeline


def test_all_make_the_same_images_of_a_file(tmp_path):
    ramp = np.mgrid[:90, :120].transpose(1, 2, 0) * [2, 1]
    picture = np.dstack([ramp, ramp.sum(2) // 2]).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    encoded, _, _ = read_image_file(tmp_path / "a.jpg")
    ours = resize_image(decode_image(encoded), 32, 32).astype(int)
    files = [(str(tmp_path / "a.jpg"), 3)]
    for decoder, most in (("OpenCV", 1), ("Pillow", 12)):
        image, label = input_pipeline.Files(files, 32, decoder)[0]
        assert image.dtype == np.uint8 and image.shape == (32, 32, 3) and label == 3
        # Pillow's filter is twice as wide: it differs most at the frame's edge.
        assert np.abs(image - ours).max() <= most and np.abs(image - ours).mean() <= 1


def test_rate_and_processor_time():
    def batches():
        for _ in range(5):
            time.sleep(0.02)
            yield {"image": np.zeros((4, 2, 2, 3), np.uint8)}

    rate, busy = input_pipeline.measure(batches(), 4)
    assert 1 < rate <= 4 / 0.02  # sixteen images after the first batch
    assert busy < 20  # asleep
