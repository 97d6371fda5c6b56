"""The references of the benchmarks: the same networks and steps in PyTorch, channels-last."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import cases
from wbc_jax.models import efficientnet

SLOPE = 0.01


class Block(nn.Sequential):
    """Convolution, batch normalization (or that of 8 groups) and ReLU."""

    def __init__(
        self, before: int, after: int, size: int = 3, slope: float = 0.0, norm: str = "batch"
    ):
        super().__init__(
            nn.Conv2d(before, after, size, padding=size // 2),
            nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(8, after, eps=1e-6),
            nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """`wbc_jax.models.unet.UNet` with batch normalization, for sizes divisible by 2^depth."""

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
        # Our network flattens with the channels last.
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


class SameConv(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's 'same' padding of images of even size."""

    def __init__(self, before: int, after: int, size: int, groups: int = 1):
        super().__init__(before, after, size, stride=2, groups=groups)
        self.around = ((size - 2) // 2, (size - 1) // 2) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, self.around))


class Inverted(nn.Module):
    """`wbc_jax.models.efficientnet.Inverted`."""

    def __init__(self, before: int, after: int, size: int, stride: int, expansion: int):
        super().__init__()
        middle = before * expansion
        self.expand = nn.Conv2d(before, middle, 1) if expansion > 1 else None
        if stride == 2:
            self.depthwise = SameConv(middle, middle, size, middle)
        else:
            self.depthwise = nn.Conv2d(middle, middle, size, padding=size // 2, groups=middle)
        self.project = nn.Conv2d(middle, after, 1)
        self.shortcut = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else nn.functional.relu6(self.expand(x), inplace=True)
        y = self.project(nn.functional.relu6(self.depthwise(y), inplace=True))
        return x + y if self.shortcut else y


class Encoder(nn.Module):
    """`wbc_jax.models.efficientnet.Encoder` of the variant lite0, for sizes divisible by 32."""

    def __init__(self):
        super().__init__()
        self.stem = SameConv(3, efficientnet.STEM, 3)
        before, blocks = efficientnet.STEM, []
        self.ends, self.widths = [], []
        for stage, (repeats, size, stride, expansion, after) in enumerate(efficientnet.STAGES):
            for n in range(repeats):
                blocks.append(Inverted(before, after, size, 1 if n else stride, expansion))
                before = after
            if stage in efficientnet.LEVEL_ENDS:
                self.ends.append(len(blocks) - 1)
                self.widths.append(after)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = nn.functional.relu6(self.stem(x), inplace=True)
        levels = []
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n in self.ends:
                levels.append(x)
        return levels


class EfficientNet(nn.Module):
    """`wbc_jax.models.efficientnet.EfficientNet` without dropout."""

    def __init__(self, classes: int, features: int):
        super().__init__()
        self.encoder = Encoder()
        width = sum(self.encoder.widths[2:])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.hidden = nn.Linear(width, features)
        self.head = nn.Linear(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat([level.mean((2, 3)) for level in self.encoder(x / 2)[2:]], 1)
        return self.head(nn.functional.relu(self.hidden(self.norm(pooled))))


class EfficientUNet(nn.Module):
    """`wbc_jax.models.efficientnet.EfficientUNet`; with `norm="group"` for features that are a
    multiple of 8."""

    def __init__(self, classes: int, features: int, norm: str = "batch"):
        super().__init__()
        self.encoder = Encoder()
        outputs = [features * factor for factor in (6, 4, 2, 1)]
        inputs = [self.encoder.widths[-1], *outputs]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in zip(inputs, outputs))
        skips = self.encoder.widths[-2::-1]
        self.decoder = nn.ModuleList(Block(a + b, b, norm=norm) for a, b in zip(skips, outputs))
        self.last = Block(features, features, norm=norm)
        self.head = nn.Conv2d(features, classes * 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, x = self.encoder(x / 2)
        for up, block in zip(self.up, self.decoder):
            x = block(torch.cat([skips.pop(), up(x)], 1))
        x = self.head(self.last(x))
        # Our channels are ordered by row, column and class, PyTorch's by class, row and column.
        batch, channels, height, width = x.shape
        x = x.view(batch, 4, channels // 4, height, width).transpose(1, 2)
        return nn.functional.pixel_shuffle(x.reshape(batch, channels, height, width), 2)


def build(case: cases.Case) -> nn.Module:
    """Returns the network of a case."""
    classes = cases.CLASSES[case.task]
    if case.network == "unet":
        return UNet(classes, case.features)
    if case.network == "segnet":
        return SegNet(classes, case.features)
    if case.network == "encoder_decoder":
        return EncoderDecoder(classes)
    if case.network == "efficientnet":
        return EfficientNet(classes, case.features)
    if case.network == "efficientnet_unet":
        return EfficientUNet(classes, case.features)
    return Classifier(classes, case.size, case.features)


def pairs(subject: Any, reference: nn.Module) -> Iterator[tuple[Any, nn.Module]]:
    """Yields each layer with parameters of our network, and its partner in the reference."""
    partners = [m for m in reference.modules() if any(True for _ in m.parameters(recurse=False))]
    layers: list[Any] = []
    if isinstance(reference, EfficientNet | EfficientUNet):
        layers.append(subject.encoder.stem)
        for block in subject.encoder.blocks:
            layers += [block.expand] if block.expand is not None else []
            layers += [block.depthwise, block.project]
        if isinstance(reference, EfficientNet):
            layers += [subject.norm, subject.hidden]
        else:
            layers += list(subject.up)
            for block in (*subject.decoder, subject.last):
                layers += [block.conv, block.norm]
    elif isinstance(reference, UNet):
        for block in subject.encoder:
            layers += [block.conv1, block.norm1, block.conv2, block.norm2]
        layers += list(subject.up)
        for block in subject.decoder:
            layers += [block.conv1, block.norm1, block.conv2, block.norm2]
    else:
        if isinstance(reference, SegNet):
            stages = [*subject.encoder, *subject.decoder]
            blocks = [block for stage in stages for block in stage]
        else:
            blocks = list(subject.blocks)
        for block in blocks:
            layers += [block.conv, block.norm]
        layers += list(getattr(subject, "up", []))
    yield from zip([*layers, subject.head], partners, strict=True)


# The permutation of a weight's axes to our layout.
_AXES = {nn.Conv2d: (2, 3, 1, 0), nn.ConvTranspose2d: (2, 3, 0, 1), nn.Linear: (1, 0)}
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def arrays(layer: nn.Module, gradients: bool = False) -> dict[str, np.ndarray]:
    """Returns a layer's parameters (or their gradients) by our names, in our layout."""
    values = {"weight": layer.weight, "bias": layer.bias}
    if gradients:
        values = {name: value.grad for name, value in values.items()}
    weight, bias = (values[name].detach().cpu().numpy() for name in ("weight", "bias"))
    if isinstance(layer, _NORMS):
        return {"scale": weight, "bias": bias}
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return {"kernel": weight[:, 0].transpose(1, 2, 0), "bias": bias}
    axes = next(axes for kind, axes in _AXES.items() if isinstance(layer, kind))
    return {"kernel": weight.transpose(axes), "bias": bias}


def fill(reference: nn.Module, subject: Any) -> nn.Module:
    """Gives a reference the weights and running statistics of our network; returns it."""

    def put(target: torch.Tensor, value: Any) -> None:
        target.copy_(torch.from_numpy(np.array(value)))

    with torch.no_grad():
        for layer, partner in pairs(subject, reference):
            put(partner.bias, layer.bias[...])
            if isinstance(partner, _NORMS):
                put(partner.weight, layer.scale[...])
                if isinstance(partner, nn.BatchNorm2d):
                    put(partner.running_mean, layer.mean[...])
                    put(partner.running_var, layer.var[...])
                continue
            kernel = np.asarray(layer.kernel[...])
            if isinstance(partner, nn.Conv2d) and partner.groups > 1:
                put(partner.weight, kernel.transpose(2, 0, 1)[:, None])
                continue
            axes = next(axes for kind, axes in _AXES.items() if isinstance(partner, kind))
            put(partner.weight, kernel.transpose(np.argsort(axes)))
    return reference


def loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy, for masks plus the soft Dice loss, as our default is."""
    entropy = nn.functional.cross_entropy(logits.float(), truth)
    if logits.ndim == 2:
        return entropy
    probabilities = logits.float().softmax(1)
    hot = nn.functional.one_hot(truth, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    overlap = (probabilities * hot).sum((2, 3))
    total = probabilities.sum((2, 3)) + hot.sum((2, 3))
    return entropy + (1 - (2 * overlap + 1) / (total + 1)).mean()


def tensors(batch: dict[str, np.ndarray], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns normalized images, channels last, and their truth."""
    images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).float() / 255
    images = ((images - 0.5) * 4).contiguous(memory_format=torch.channels_last)
    truth = torch.from_numpy(batch["mask"] if "mask" in batch else batch["label"]).long()
    return images.to(device), truth.to(device)


def kinds() -> list[str]:
    """Returns the references that can run here: PyTorch as it is, and compiled.

    On a CPU its compiler (inductor) needs a C++ compiler, of which `CXX` may name one.
    """
    compiler = os.environ.get("CXX", "g++")
    if torch.cuda.is_available() or shutil.which(compiler):
        return ["PyTorch", "PyTorch compiled"]
    print(f"note: no {compiler}: PyTorch is not compiled", file=sys.stderr, flush=True)
    return ["PyTorch"]


def make(case: cases.Case, mode: str, kind: str, batch: dict[str, np.ndarray]) -> cases.Side:
    """Returns the side: one step of training, or the logits of a batch.

    It runs in bfloat16 autocast on a GPU, on CPU in float32 with a thread a processor.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True
    model = build(case).to(device, memory_format=torch.channels_last)
    forward = torch.compile(model) if kind == "PyTorch compiled" else model
    images, truth = tensors(batch, device)

    def autocast() -> contextlib.AbstractContextManager:
        if device == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()

    def peak() -> int:
        return torch.cuda.max_memory_allocated() if device == "cuda" else cases.process_peak()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if mode == "predict":
        model.eval()

        def predict() -> None:
            with torch.inference_mode(), autocast():
                forward(images)
            wait()

        return cases.Side(predict, peak)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            value = loss(forward(images), truth)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value.item()

    return cases.Side(step, peak)
