"""wbc_jax.models.segnet and its unpooling equal PyTorch; every image size; layer counts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from helpers.parity import tnn, torch
from wbc_jax.models import describe, layers, segnet

SIZES = [(6, 8), (7, 8), (6, 9), (5, 7), (2, 3), (3, 2)]


def integers(shape, seed=0):
    """Returns random images of few values, so that most windows have several maxima."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


def nchw(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)).requires_grad_()


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", SIZES)
def test_pool_and_unpool_equal_pytorch_with_ties_and_odd_sizes(size):
    x = integers((2, *size, 3))
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def ours(x):
        pooled, indices = layers.max_pool_with_indices(x)
        back = layers.max_unpool(pooled * pooled, indices, size)
        return (back * weights).sum(), (pooled, indices, back)

    gradient, (pooled, indices, back) = jax.jit(jax.grad(ours, has_aux=True))(jnp.asarray(x))

    tensor = nchw(x)
    their_pooled, flat = tnn.MaxPool2d(2, return_indices=True)(tensor)
    their_back = tnn.MaxUnpool2d(2)(their_pooled * their_pooled, flat, output_size=size)
    (their_back * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()

    np.testing.assert_array_equal(pooled, nhwc(their_pooled))
    np.testing.assert_array_equal(back, nhwc(their_back))
    np.testing.assert_allclose(gradient, nhwc(tensor.grad), rtol=1e-6)
    # Their index counts the whole image's pixels, ours the window's.
    assert indices.dtype == jnp.uint8
    rows, columns = np.divmod(nhwc(flat), size[1])
    np.testing.assert_array_equal(indices, 2 * (rows % 2) + columns % 2)


def test_pool_by_hand():
    x = jnp.array([[1, 5, 9], [5, 2, 9], [9, 9, 9]], jnp.float32)[None, :, :, None]
    pooled, indices = layers.max_pool_with_indices(x)
    assert pooled.ravel().tolist() == [5] and indices.ravel().tolist() == [1]
    back = layers.max_unpool(pooled, indices, (3, 3))
    assert back[0, :, :, 0].tolist() == [[0, 5, 0], [0, 0, 0], [0, 0, 0]]


def test_pool_keeps_nan_and_infinities():
    x = jnp.array([[1, jnp.nan, -jnp.inf, -jnp.inf], [3, 2, -jnp.inf, -jnp.inf]])[None, :, :, None]
    pooled, indices = layers.max_pool_with_indices(x)
    np.testing.assert_array_equal(pooled.ravel(), [np.nan, -np.inf])
    assert indices.ravel().tolist() == [1, 0]


def test_no_scatter_or_gather_is_compiled():
    def round_trip(x):
        pooled, indices = layers.max_pool_with_indices(x)
        return layers.max_unpool(pooled, indices, x.shape[1:3]).sum()

    text = jax.jit(jax.grad(round_trip)).lower(jnp.zeros((1, 5, 5, 2))).as_text()
    assert "scatter" not in text and "gather" not in text


def test_unpool_refuses_a_size_that_does_not_fit():
    pooled, indices = layers.max_pool_with_indices(jnp.zeros((1, 4, 4, 1)))
    with pytest.raises(ValueError, match="6 × 4 pools to 3 × 2, not to the 2 × 2"):
        layers.max_unpool(pooled, indices, (6, 4))


class TorchSegNet(tnn.Module):
    """`encoder` and `decoder`: the widths of each stage's convolutions, the input's first."""

    def __init__(self, encoder, decoder, norm):
        super().__init__()
        self.down = tnn.ModuleList(self.stage(widths, norm) for widths in encoder)
        self.up = tnn.ModuleList(self.stage(widths, norm) for widths in decoder)
        # The last convolution alone gives the logits.
        del self.up[-1][-2:]

    def stage(self, widths, norm):
        parts = []
        for before, after in itertools.pairwise(widths):
            parts += [tnn.Conv2d(before, after, 3, padding=1), parity.norm(norm, after), tnn.ReLU()]
        return tnn.Sequential(*parts)

    def forward(self, x):
        memory = []
        for stage in self.down:
            x = stage(x)
            size = x.shape
            x, indices = tnn.functional.max_pool2d(x, 2, return_indices=True)
            memory.append((indices, size))
        for stage in self.up:
            indices, size = memory.pop()
            x = stage(tnn.functional.max_unpool2d(x, indices, 2, output_size=size))
        return x.permute(0, 2, 3, 1)


# layout, features, depth → widths of the encoder's and the decoder's stages, by hand.
LAYOUTS = {
    ("matlab", 8, 3): (
        [[3, 8, 8], [8, 8, 8], [8, 8, 8]],
        [[8, 8, 8], [8, 8, 8], [8, 8, 3]],
    ),
    ("vgg16", 4, 3): (
        [[3, 4, 4], [4, 8, 8], [8, 16, 16, 16]],
        [[16, 16, 16, 8], [8, 8, 4], [4, 4, 3]],
    ),
}


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x[0])
def test_outputs_and_gradients_equal_pytorch(layout, norm):
    name, features, depth = layout
    model = parity.abstract(segnet.SegNet, 3, features, depth, name, norm)
    theirs = parity.randomize(TorchSegNet(*LAYOUTS[layout], norm))
    pairs, kinds = [], (tnn.Conv2d, tnn.BatchNorm2d, tnn.GroupNorm)
    for stages, sequences in ((model.encoder, theirs.down), (model.decoder, theirs.up)):
        for stage, sequence in zip(stages, sequences, strict=True):
            ours = [x for block in stage for x in (block.conv, block.norm) if x is not None]
            if sequence is theirs.up[-1]:
                ours.append(model.head)
            layers_ = [x for x in sequence if isinstance(x, kinds)]
            pairs += zip(ours, layers_, strict=True)
    # Odd at several depths: 25 → 12 → 6 → 3 and 22 → 11 → 5 → 2.
    parity.check(model, pairs, theirs, (3, 25, 22, 3))


def count(**options):
    model = parity.abstract(segnet.SegNet, 3, **options)
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_parameter_counts():
    # matlab: 3·9·64 + 64, then 14 convolutions of 64·9·64 + 64, 15 norms of 128, the head.
    assert count() == 1792 + 14 * 36928 + 15 * 128 + (64 * 9 * 3 + 3) == 522_435
    # The article's SegNet, 29.4 M.
    assert count(layout="vgg16", depth=5) == 29_444_739


def test_sizes_at_360():
    model = parity.abstract(segnet.SegNet, 3)
    found = describe.describe(model, (1, 360, 360, 3))
    pools = [x.shape[1] for x in found if x.kind == "max_pool_with_indices"]
    unpools = [x.shape[1] for x in found if x.kind == "max_unpool"]
    assert pools == [180, 90, 45, 22] and unpools == [45, 90, 180, 360]
    assert sum(x.kind == "Conv" for x in found) == 16
    assert found[-1].shape == (1, 360, 360, 3)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (13, 4), (16, 9)])
def test_any_size(size):
    model = parity.abstract(segnet.SegNet, 3, 2, 2)
    logits = nnx.eval_shape(lambda m, x: m(x), model, jnp.zeros((1, *size, 3)))
    assert logits.shape == (1, *size, 3)


def test_errors_name_what_is_allowed():
    with pytest.raises(ValueError, match="'resnet'; allowed are 'matlab' and 'vgg16'"):
        segnet.SegNet(3, layout="resnet", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="has 5 stages, depth is 6"):
        segnet.SegNet(3, layout="vgg16", depth=6, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"3 × 9 px cannot be halved 2 times; at least 4 px"):
        parity.abstract(segnet.SegNet, 3, 2, 2)(jnp.zeros((1, 3, 9, 3)))
