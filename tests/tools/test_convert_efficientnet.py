"""tools/convert_efficientnet.py: batch normalization folded into the convolution, by hand."""

import numpy as np
import pytest

import convert_efficientnet


def test_fold_by_hand():
    # Two channels from one, 1 × 2 taps: y = (w·x − mean) · weight / √(var + ε) + bias.
    conv = np.array([[[[1.0, 2.0]]], [[[3.0, 4.0]]]])
    norm = {
        "weight": np.array([2.0, 3.0]),
        "bias": np.array([0.5, -1.0]),
        "running_mean": np.array([10.0, 20.0]),
        "running_var": np.array([3.0, 8.0]),
    }
    kernel, bias = convert_efficientnet.fold(conv, norm, 1.0)
    # The gains are 2 / √4 = 1 and 3 / √9 = 1; then with a variance of 15 the first is 2 / √16.
    assert kernel.shape == (1, 2, 1, 2)
    np.testing.assert_allclose(kernel[0, :, 0], [[1, 3], [2, 4]])
    np.testing.assert_allclose(bias, [0.5 - 10, -1 - 20])
    norm["running_var"] = np.array([15.0, 8.0])
    kernel, bias = convert_efficientnet.fold(conv, norm, 1.0)
    np.testing.assert_allclose(kernel[0, :, 0], [[0.5, 3], [1, 4]])
    np.testing.assert_allclose(bias, [0.5 - 5, -1 - 20])


def state():
    """A `state_dict` of lite0 as PyTorch's package names it, all zeros but the variances."""
    from wbc_jax.models import efficientnet

    found, before, n = {}, 32, 0

    def put(conv, norm, shape):
        found[f"{conv}.weight"] = np.zeros(shape, np.float32)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{kind}"] = np.full(shape[0], kind == "running_var", np.float32)
        found[f"{norm}.num_batches_tracked"] = np.array(0)

    put("_conv_stem", "_bn0", (32, 3, 3, 3))
    for number, (repeats, size, _, expansion, after) in enumerate(efficientnet.STAGES):
        for _ in range(repeats):
            middle, where = before * expansion, f"_blocks.{n}"
            if number:
                put(f"{where}._expand_conv", f"{where}._bn0", (middle, before, 1, 1))
            put(f"{where}._depthwise_conv", f"{where}._bn1", (middle, 1, size, size))
            put(f"{where}._project_conv", f"{where}._bn2", (after, middle, 1, 1))
            before, n = after, n + 1
    put("_conv_head", "_bn1", (1280, 320, 1, 1))
    return found | {"_fc.weight": np.ones((1000, 1280), np.float32), "_fc.bias": np.arange(1000.0)}


def test_every_array_has_its_place():
    stored = state()
    stored["_blocks.1._depthwise_conv.weight"][5, 0, 2, 1] = 7
    stored["_blocks.1._bn1.weight"][5] = 2
    network = convert_efficientnet.convert(stored, "lite0", 0.0)
    kernel = np.asarray(network.encoder.blocks[1].depthwise.kernel[...])
    assert kernel.shape == (3, 3, 96) and kernel[2, 1, 5] == 14 and np.count_nonzero(kernel) == 1
    assert network.head.kernel.shape == (1280, 1000) and network.head.bias[...][3] == 3


def test_an_array_without_a_place_or_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"no place for _blocks\.16\._expand_conv\.weight"):
        convert_efficientnet.convert(
            state() | {"_blocks.16._expand_conv.weight": np.zeros(1)}, "lite0", 0.0
        )
    odd = state() | {"_conv_stem.weight": np.zeros((32, 3, 5, 5))}
    with pytest.raises(ValueError, match=r"_conv_stem is \(5, 5, 3, 32\); \(3, 3, 3, 32\)"):
        convert_efficientnet.convert(odd, "lite0", 0.0)
