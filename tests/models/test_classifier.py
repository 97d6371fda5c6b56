"""wbc_jax.models.classifier and its pool equal PyTorch; paper B's counts."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from helpers.parity import tnn, torch
from wbc_jax.models import classifier, describe, layers


@pytest.mark.parametrize("size", [(6, 8), (7, 8), (5, 3), (2, 9)])
def test_average_pool_equals_pytorch(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    tensor = torch.tensor(x.transpose(0, 3, 1, 2)).requires_grad_()
    expected = tnn.AvgPool2d(2)(tensor)
    (expected**2).sum().backward()
    ours, gradient = jax.value_and_grad(lambda x: (layers.avg_pool(x) ** 2).sum())(jnp.asarray(x))
    np.testing.assert_allclose(ours, (expected**2).sum().item(), rtol=1e-6)
    np.testing.assert_allclose(
        layers.avg_pool(x), expected.detach().numpy().transpose(0, 2, 3, 1), atol=1e-6
    )
    np.testing.assert_allclose(gradient, tensor.grad.numpy().transpose(0, 2, 3, 1), atol=1e-6)


class TorchClassifier(tnn.Module):
    def __init__(self, classes, size, features, blocks, norm):
        super().__init__()
        parts, before = [], 3
        for level in range(blocks):
            width = features * 2**level
            parts += [tnn.Conv2d(before, width, 5, padding=2), parity.norm(norm, width)]
            parts += [tnn.LeakyReLU(0.01), tnn.AvgPool2d(2)]
            before, size = width, size // 2
        self.layers = tnn.Sequential(*parts)
        self.head = tnn.Linear(size * size * before, classes)

    def forward(self, x):
        # Ours flattens with the channels last.
        return self.head(self.layers(x).permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_outputs_and_gradients_equal_pytorch(norm):
    model = parity.abstract(classifier.Classifier, 5, 22, 4, 3, norm)  # 22 → 11 → 5 → 2
    theirs = parity.randomize(TorchClassifier(5, 22, 4, 3, norm))
    ours = [x for b in model.blocks for x in (b.conv, b.norm) if x is not None]
    learnt = [x for x in theirs.layers if list(x.parameters())]
    pairs = [*zip(ours, learnt, strict=True), (model.head, theirs.head)]
    parity.check(model, pairs, theirs, (3, 22, 22, 3))


def found(**options):
    model = parity.abstract(classifier.Classifier, 5, 360, **options)
    return describe.describe(model, (1, 360, 360, 3))


def test_counts_of_seven_blocks():
    rows = found()
    assert sum(x.parameters for x in rows) == 17_499_781
    assert sum(x.flops for x in rows) == 2 * 2_520_366_080
    kinds = collections.Counter(x.kind for x in rows)
    assert kinds == {"Conv": 7, "BatchNorm": 7, "leaky_relu": 7, "avg_pool": 7, "Linear": 1}
    # With the image input, the softmax and the classification: not yet the paper's 36.
    assert kinds.total() + 3 == 32
    assert [x.shape[1] for x in rows if x.kind == "avg_pool"] == [180, 90, 45, 22, 11, 5, 2]


def test_eight_blocks_of_half_the_width_fit_all_of_paper_bs_figures():
    rows = found(features=8, blocks=8)
    assert len(rows) + 3 == 36
    parameters = sum(x.parameters for x in rows)
    assert parameters == 17_487_045 and round(parameters / 1e6, 1) == 17.5
    multiply_adds = sum(x.flops for x in rows) // 2
    assert multiply_adds == pytest.approx(736e6, rel=0.025)


def test_errors_name_the_sizes():
    with pytest.raises(ValueError, match="100 × 100 px cannot be halved 7 times; at least 128 px"):
        classifier.Classifier(5, 100, rngs=nnx.Rngs(0))
    model = parity.abstract(classifier.Classifier, 5, 8, 2, 2)
    with pytest.raises(ValueError, match="built for 8 × 8 px, given 8 × 12 px"):
        model(jnp.zeros((1, 8, 12, 3)))
