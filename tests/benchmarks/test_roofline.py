"""benchmarks/roofline.py: operations and bytes against sums made by hand."""

import roofline
from wbc_jax.models.describe import Layer

LAYERS = [
    Layer("conv", "Conv", (2, 4, 4, 8), 3 * 9 * 8 + 8, 2 * (2 * 4 * 4 * 8) * 27),
    Layer("norm", "BatchNorm", (2, 4, 4, 8), 16, 0),
    Layer("relu.1", "relu", (2, 4, 4, 8), 0, 0),
    Layer("head", "Conv", (2, 4, 4, 3), 8 * 3 + 3, 2 * (2 * 4 * 4 * 3) * 8),
]
VALUES, WEIGHTS = 256 + 96, 224 + 16 + 27


def test_prediction_does_each_layer_once():
    assert roofline.work(LAYERS, "predict") == (13824 + 1536, 4 * (2 * VALUES + WEIGHTS))


def test_training_leaves_out_the_gradient_of_the_images():
    flops, moved = roofline.work(LAYERS, "train")
    assert flops == 2 * 13824 + 3 * 1536
    assert moved == 4 * (6 * VALUES + 11 * WEIGHTS)


def test_rates_are_those_of_a_machine():
    rates = roofline.measured_rates(side=256, mebibytes=8, rounds=2)
    assert 1e8 < rates.flops < 1e14
    assert 1e8 < rates.bytes < 1e13
