"""The same networks in PyTorch, for the benchmarks: NCHW in, logits out, channels-last inside."""

import torch
from torch import nn

SLOPE = 0.01


class Block(nn.Sequential):
    """Convolution, batch normalisation and ReLU."""

    def __init__(self, before: int, after: int, size: int = 3, slope: float = 0.0):
        super().__init__(
            nn.Conv2d(before, after, size, padding=size // 2),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """`wbc_jax.models.unet.UNet` with batch normalisation, for sizes divisible by 2^depth."""

    def __init__(self, classes: int, features: int, depth: int = 4):
        super().__init__()
        widths = [features * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            nn.Sequential(Block(a, b), Block(b, b)) for a, b in zip([3, *widths], widths)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.decoder = nn.ModuleList(
            nn.Sequential(Block(2 * w, w), Block(w, w)) for w in widths[-2::-1]
        )
        self.head = nn.Conv2d(features, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x)
            if level < len(self.up):
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
        for up, block in zip(self.up, self.decoder):
            x = block(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class SegNet(nn.Module):
    """`wbc_jax.models.segnet.SegNet` in the layout `matlab`."""

    def __init__(self, classes: int, features: int, depth: int = 4):
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Sequential(Block(before, features), Block(features, features))
            for before in [3] + [features] * (depth - 1)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(*[Block(features, features) for _ in range(2 if level else 1)])
            for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(features, classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pools = []
        for block in self.encoder:
            x = block(x)
            size = x.shape[2:]
            x, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
            pools.append((indices, size))
        for block in self.decoder:
            indices, size = pools.pop()
            x = block(nn.functional.max_unpool2d(x, indices, 2, output_size=size))
        return self.head(x)


class EncoderDecoder(nn.Module):
    """`wbc_jax.models.encoder_decoder.EncoderDecoder` with its default widths."""

    def __init__(self, classes: int, widths=(32, 64, 24, 8), up_widths=(64, 32)):
        super().__init__()
        self.blocks = nn.ModuleList(Block(a, b) for a, b in zip([3, *widths], widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, 2, 1, 1)
            for a, b in zip([widths[-1], *up_widths], up_widths)
        )
        self.head = nn.Conv2d(up_widths[-1], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number % 2:
                x = nn.functional.max_pool2d(x, 2)
        for up in self.up:
            x = nn.functional.relu(up(x), inplace=True)
        return self.head(x)


class Classifier(nn.Module):
    """`wbc_jax.models.classifier.Classifier`."""

    def __init__(self, classes: int, size: int, features: int, blocks: int = 7):
        super().__init__()
        widths = [features * 2**level for level in range(blocks)]
        self.blocks = nn.ModuleList(Block(a, b, 5, SLOPE) for a, b in zip([3, *widths], widths))
        left = size // 2**blocks
        self.head = nn.Linear(left * left * widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = nn.functional.avg_pool2d(block(x), 2)
        # Ours flattens with the channels last.
        return self.head(x.permute(0, 2, 3, 1).flatten(1))
