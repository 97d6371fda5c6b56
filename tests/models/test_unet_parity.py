"""wbc_jax.models.unet equals an independent PyTorch build of the same layers."""

import pytest

from helpers import parity
from helpers.parity import tnn, torch
from wbc_jax.models import unet


class TorchUNet(tnn.Module):
    def __init__(self, classes, features, depth, norm, up_relu=False, channels=3):
        super().__init__()
        self.between = torch.relu if up_relu else lambda x: x
        widths = [features * 2**level for level in range(depth + 1)]
        self.down = tnn.ModuleList(
            self.block(a, b, norm) for a, b in zip([channels, *widths[:-1]], widths)
        )
        self.up, self.decode = tnn.ModuleList(), tnn.ModuleList()
        for width in widths[-2::-1]:
            self.up.append(tnn.ConvTranspose2d(2 * width, width, 2, 2))
            self.decode.append(self.block(2 * width, width, norm))
        self.head = tnn.Conv2d(features, classes, 1)

    def block(self, before, after, norm):
        layers = []
        for inputs in (before, after):
            layers += [
                tnn.Conv2d(inputs, after, 3, padding=1),
                parity.norm(norm, after),
                tnn.ReLU(),
            ]
        return tnn.Sequential(*layers)

    def forward(self, x):
        height, width = x.shape[2:]
        step = 2 ** len(self.up)
        x = tnn.functional.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        skips = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.up):
                skips.append(x)
                x = tnn.functional.max_pool2d(x, 2)
        for up, block in zip(self.up, self.decode):
            x = block(torch.cat([skips.pop(), self.between(up(x))], 1))
        return self.head(x)[:, :, :height, :width].permute(0, 2, 3, 1)


def pair_blocks(ours, theirs):
    for block, sequence in zip(ours, theirs, strict=True):
        yield block.conv1, sequence[0]
        yield block.conv2, sequence[3]
        if block.norm1 is not None:
            yield block.norm1, sequence[1]
            yield block.norm2, sequence[4]


def pairs_of(model, theirs):
    return [
        *pair_blocks(model.encoder, theirs.down),
        *pair_blocks(model.decoder, theirs.decode),
        *zip(model.up, theirs.up, strict=True),
        (model.head, theirs.head),
    ]


@pytest.mark.parametrize(
    ("norm", "up_relu"), [("batch", False), ("group", False), ("none", False), ("none", True)]
)
def test_outputs_and_gradients_equal_pytorch(norm, up_relu):
    model = parity.abstract(unet.UNet, 3, 4, 2, norm, up_relu=up_relu)
    theirs = parity.randomize(TorchUNet(3, 4, 2, norm, up_relu))
    # 13 and 10 are no multiples of 4: the padding is compared as well.
    parity.check(model, pairs_of(model, theirs), theirs, (2, 13, 10, 3))


def test_gray_input_equals_pytorch():
    model = parity.abstract(unet.UNet, 3, 4, 2, "batch", in_channels=1)

    class Gray(TorchUNet):
        def forward(self, x):
            # Pillow's and OpenCV's luma.
            return super().forward((0.299 * x[:, :1] + 0.587 * x[:, 1:2]) + 0.114 * x[:, 2:])

    theirs = parity.randomize(Gray(3, 4, 2, "batch", channels=1))
    parity.check(model, pairs_of(model, theirs), theirs, (2, 13, 10, 3))


def test_squares_of_pixels_equal_pytorch():
    side, model = 2, parity.abstract(unet.UNet, 3, 4, 2, "group", patch=2)

    class Patched(TorchUNet):
        def forward(self, x):
            height, width = x.shape[2:]
            pad = (0, -width % (4 * side), 0, -height % (4 * side))
            x = tnn.functional.pad(x, pad, mode="replicate")
            places = [(i, j) for i in range(side) for j in range(side)]
            y = super().forward(torch.cat([x[:, :, i::side, j::side] for i, j in places], 1))
            out = y.new_zeros(len(x), *x.shape[2:], 3)
            for number, (i, j) in enumerate(places):
                out[:, i::side, j::side] = y[..., 3 * number : 3 * number + 3]
            return out[:, :height, :width]

    theirs = parity.randomize(Patched(3 * side**2, 4, 2, "group", channels=3 * side**2))
    parity.check(model, pairs_of(model, theirs), theirs, (2, 13, 10, 3))
