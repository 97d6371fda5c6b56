"""wbc_jax.models.encoder_decoder and its transposed convolution equal PyTorch; counts."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from helpers.parity import tnn, torch
from wbc_jax.models import describe, encoder_decoder, layers


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3), (6, 6)])
def test_transposed_convolution_equals_pytorch(size):
    ours = parity.abstract(layers.TransposedConv, 3, 4)
    theirs = tnn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)

    class Permuted(tnn.Module):
        def __init__(self):
            super().__init__()
            self.layer = theirs

        def forward(self, x):
            return self.layer(x).permute(0, 2, 3, 1)

    parity.check(ours, [(ours, theirs)], Permuted(), (2, *size, 3), tolerance=2e-6)


def test_transposed_convolution_by_hand():
    layer = parity.abstract(layers.TransposedConv, 1, 1)
    layer.kernel.set_value(jnp.arange(1.0, 10).reshape(3, 3, 1, 1))
    layer.bias.set_value(jnp.zeros(1))
    out = layer(jnp.array([[1.0, 0], [0, 0]])[None, :, :, None])[0, :, :, 0]
    # The kernel's centre, 5, falls on (0, 0); what would fall outside is cropped.
    assert out.tolist() == [[5, 6, 0, 0], [8, 9, 0, 0], [0] * 4, [0] * 4]


def test_transposed_convolution_starts_at_unit_variance():
    layer = layers.TransposedConv(64, 64, rngs=nnx.Rngs(0))
    out = layer(jax.random.normal(jax.random.key(0), (4, 16, 16, 64)))
    # He: twice the variance of the input, half of which a ReLU takes away.
    assert np.isclose(out.var(), 2, rtol=0.1)


class TorchEncoderDecoder(tnn.Module):
    def __init__(self, widths, up_widths, norm):
        super().__init__()
        parts, before = [], 3
        for number, width in enumerate(widths):
            parts += [tnn.Conv2d(before, width, 3, padding=1), parity.norm(norm, width), tnn.ReLU()]
            parts += [tnn.MaxPool2d(2)] * (number % 2)
            before = width
        for width in up_widths:
            up = tnn.ConvTranspose2d(before, width, 3, stride=2, padding=1, output_padding=1)
            parts += [up, tnn.ReLU()]
            before = width
        self.layers = tnn.Sequential(*parts, tnn.Conv2d(before, 3, 1))

    def forward(self, x):
        height, width = x.shape[2:]
        x = tnn.functional.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        return self.layers(x)[:, :, :height, :width].permute(0, 2, 3, 1)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_outputs_and_gradients_equal_pytorch(norm):
    widths, up_widths = (8, 10, 6, 4), (6, 5)
    model = parity.abstract(encoder_decoder.EncoderDecoder, 3, widths, up_widths, norm)
    theirs = parity.randomize(TorchEncoderDecoder(widths, up_widths, norm))
    ours = [x for b in model.blocks for x in (b.conv, b.norm) if x is not None]
    ours += [*model.up, model.head]
    learnt = [x for x in theirs.layers if list(x.parameters())]
    parity.check(model, list(zip(ours, learnt, strict=True)), theirs, (2, 11, 14, 3))


@pytest.fixture(scope="module")
def found():
    model = parity.abstract(encoder_decoder.EncoderDecoder, 3)
    return describe.describe(model, (1, 360, 360, 3))


def test_parameters_and_flops_of_paper_b(found):
    parameters = sum(x.parameters for x in found)
    assert parameters == 58_467
    assert parameters == pytest.approx(58.5e3, rel=0.01)
    flops = sum(x.flops for x in found)
    # By hand, multiply-adds: a transposed convolution has 9 for each pixel that goes in.
    convs = 360**2 * (27 * 32 + 288 * 64 + 32 * 3) + 180**2 * (576 * 24 + 216 * 8)
    assert flops == 2 * (convs + 90**2 * 72 * 64 + 180**2 * 576 * 32)
    assert flops == pytest.approx(7.311e9, rel=0.05)


def test_22_layers_as_matlab_counts_them(found):
    kinds = collections.Counter(x.kind for x in found)
    assert kinds == {"Conv": 5, "BatchNorm": 4, "relu": 6, "max_pool": 2, "TransposedConv": 2}
    # MATLAB adds the image input, the softmax and the pixel classification.
    assert kinds.total() + 3 == 22


def test_flops_of_the_transposed_convolution_are_those_of_pytorchs_counter():
    model = parity.abstract(encoder_decoder.EncoderDecoder, 3)
    ours = sum(x.flops for x in describe.describe(model, (1, 24, 24, 3)))
    from torch.utils import flop_counter

    with flop_counter.FlopCounterMode(display=False) as counter:
        TorchEncoderDecoder((32, 64, 24, 8), (64, 32), "batch").eval()(torch.zeros(1, 3, 24, 24))
    assert ours == counter.get_total_flops()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 3), (12, 16)])
def test_any_size(size):
    model = parity.abstract(encoder_decoder.EncoderDecoder, 3)
    logits = nnx.eval_shape(lambda m, x: m(x), model, jnp.zeros((1, *size, 3)))
    assert logits.shape == (1, *size, 3)


def test_refuses_widths_that_do_not_match():
    with pytest.raises(ValueError, match="3 widths and 2 up_widths"):
        encoder_decoder.EncoderDecoder(3, (4, 4, 4), (4, 4), rngs=nnx.Rngs(0))
