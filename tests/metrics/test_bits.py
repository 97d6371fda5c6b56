"""wbc_jax.metrics.bits: against NumPy's bit packing."""

import numpy as np
import pytest

from wbc_jax.metrics import bits


@pytest.mark.parametrize("classes", [1, 3, 6])
def test_bits_are_those_of_numpy(classes):
    rng = np.random.default_rng(classes)
    mask = rng.integers(-1, classes + 1, (2, 32, 5)).astype(np.int32)
    mask[0, :, 0] = 255
    packed = np.asarray(bits.class_bits(bits.codes(mask, classes), classes))
    assert packed.dtype == np.uint32 and packed.shape == (classes, 2, 5)
    for label in range(classes):
        rows = np.packbits(mask == label, axis=1, bitorder="little")  # bytes of 8 rows
        words = sum(rows[:, i].astype(np.uint32) << 8 * i for i in range(4))
        assert np.array_equal(packed[label], words)
        assert np.array_equal(bits.count(words).sum(), (mask == label).sum())


def test_what_is_no_class_gets_the_code_after_the_last():
    codes = bits.codes(np.array([-1, 0, 1, 2, 3, 255]), 3)
    assert codes.dtype == np.uint8 and codes.tolist() == [3, 0, 1, 2, 3, 3]
    assert bits.codes(np.array([False, True]), 2).tolist() == [0, 1]
