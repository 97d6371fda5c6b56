"""wbc_jax.models.resnet equals an independent PyTorch build of the same layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from helpers.parity import tnn, torch
from wbc_jax.models import resnet


class TorchBlock(tnn.Module):
    def __init__(self, before, after, norm):
        super().__init__()
        self.conv1 = tnn.Conv2d(before, after, 3, padding=1)
        self.norm1 = parity.norm(norm, after)
        self.conv2 = tnn.Conv2d(after, after, 3, padding=1)
        self.norm2 = parity.norm(norm, after)
        self.shortcut = tnn.Identity() if before == after else tnn.Conv2d(before, after, 1)

    def forward(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class TorchResNet(tnn.Module):
    def __init__(self, classes, features, depth, norm):
        super().__init__()
        widths = [features * 2**level for level in range(depth + 1)]
        self.stem = tnn.Conv2d(12, features, 3, padding=1)
        self.stem_norm = parity.norm(norm, features)
        self.blocks = tnn.ModuleList(
            TorchBlock(a, b, norm) for a, b in zip([features, *widths], widths)
        )
        self.head = tnn.Linear(widths[-1], classes)

    def forward(self, x):
        x = tnn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        x = torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        x = torch.relu(self.stem_norm(self.stem(x)))
        for level, block in enumerate(self.blocks):
            x = block(tnn.functional.avg_pool2d(x, 2) if level else x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_outputs_and_gradients_equal_pytorch(norm):
    model = parity.abstract(resnet.ResNet, 5, 12, 2, norm)
    theirs = parity.randomize(TorchResNet(5, 12, 2, norm))
    pairs = [(model.stem.conv, theirs.stem), (model.head, theirs.head)]
    for ours, their in zip(model.blocks, theirs.blocks, strict=True):
        pairs += [(ours.conv1, their.conv1), (ours.conv2, their.conv2)]
        if ours.shortcut is not None:
            pairs.append((ours.shortcut, their.shortcut))
        if norm != "none":
            pairs += [(ours.norm1, their.norm1), (ours.norm2, their.norm2)]
    if norm != "none":
        pairs.append((model.stem.norm, theirs.stem_norm))
    parity.check(model, pairs, theirs, (3, 21, 18, 3))


def test_takes_any_size():
    model = resnet.ResNet(5, 4, 1, rngs=nnx.Rngs(0))
    for size in ((8, 8), (9, 31), (4, 4)):
        logits = model(jnp.ones((2, *size, 3)))
        assert logits.shape == (2, 5) and np.isfinite(logits).all()


def test_number_of_parameters():
    model = nnx.eval_shape(lambda: resnet.ResNet(5, 32, 3, "group", rngs=nnx.Rngs(0)))
    count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))

    def conv(before, after, side=3):
        return side * side * before * after + after

    norms, blocks = 2 * 32, conv(12, 32) + conv(32, 32) * 2 + 2 * 2 * 32
    for width in (64, 128, 256):
        blocks += conv(width // 2, width) + conv(width, width) + conv(width // 2, width, 1)
        blocks += 2 * 2 * width
    assert count == norms + blocks + 256 * 5 + 5
