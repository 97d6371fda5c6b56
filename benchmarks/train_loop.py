"""Measures the whole training loop beside a plain one in PyTorch.

python benchmarks/train_loop.py [--rounds=5] [--steps=100] [--out=FILE.json]

A run is `--steps` steps of `configs/unet.py` and an evaluation, of as large a part of the
validation split as the steps are of those between two evaluations (100). Both sides

- read the same images and masks, encoded as in the records of `wbc_synthetic`; ours from its
  records by Grain with `config.data.threads` threads, PyTorch's from files by a shuffling
  `DataLoader`, in the training process and with a worker process a processor: the faster counts;
- decode and resize each image again in every pass (our cache of decoded images is off; `ours,
  cached` has it, as training does by default);
- augment by the same changes, drawn at random (`torch_augment.py`), in batches of 16;
- do the step of `train_step.py`, with a moving average of the weights, the schedule of the learning
  rate, and the confusion matrix of the batch, and read the loss of every step;
- evaluate the averaged weights: logits resized to the evaluation's size, classes, confusion
  matrices, mean IoU. PyTorch's evaluation takes 16 images at once, ours one, as in training.

Neither writes checkpoints or logs, and compiling is not measured. PyTorch runs in its own memory
layout for speed, channels-last, with as many threads as there are processors. Each side has its
own process, and all are measured alternately. `ratio` is ours / the faster PyTorch by the clock,
`CPU time` the same by processor time, workers included.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import math
import os
import pathlib
import statistics
import tempfile
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

import cases
import interleave
import references
import torch_augment
from wbc_jax import config_checks, models
from wbc_jax.config import Config
from wbc_jax.cpu import huge_pages
from wbc_jax.data import pipeline, preparing
from wbc_jax.evaluate import masks as scores
from wbc_jax.labels import MASK_CLASSES
from wbc_jax.parallel import sharding
from wbc_jax.training import steps as training

CLASSES = len(MASK_CLASSES)
Files = list[tuple[str, str]]
"""Path of each image and of its mask."""


def load_config() -> Config:
    """Returns the config of `configs/unet.py`."""
    path = pathlib.Path(__file__).parents[1] / "configs" / "unet.py"
    spec = importlib.util.spec_from_file_location("unet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return config_checks.validate(module.get_config())


def splits(config: Config, steps: int, cached: bool = False) -> dict[str, pipeline.Examples]:
    """Returns the training split, and the part of the validation split that `steps` deserve."""
    data = config.data if cached else dataclasses.replace(config.data, cache_megabytes=0)
    found = pipeline.load_splits(data, config.evaluate.size, config.task)
    validation = found["validation"]
    part = math.ceil(len(validation) * min(1, steps / config.train.evaluate_every))
    kept = pipeline.Examples(
        validation.entries[:part], validation.image_size, validation.mask_size, data.cache_megabytes
    )
    return {"train": found["train"], "validation": kept}


# ---- Ours ----------------------------------------------------------------------------------------


def make_ours(steps: int, cached: bool) -> cases.Side:
    """Returns our side: what `wbc_jax.training.loop` does, without checkpoints and logs."""
    config = load_config()
    examples = splits(config, steps, cached)
    size = config.train.batch_size
    mesh = sharding.make_mesh(size)
    model = models.build(config.model, image_size=config.data.image_size)
    network, weights = training.split_network(model)
    state = training.init_state(config, weights, mesh)
    step = training.make_train_step(config, network, mesh)
    local = sharding.local_mesh(config.evaluate.batch_size)
    predict = training.make_predict_step(config, network, mesh=local)
    dataset = pipeline.train_dataset(examples["train"], size, 10**6, config.train.seed)
    batches = pipeline.train_batches(dataset, 0, config.data.threads)

    def run() -> float:
        nonlocal state
        pending = None
        for batch in itertools.islice(batches, steps):
            state, report = step(state, sharding.put_batch(batch, mesh))
            if pending is not None:
                _check(float(pending["loss"]))
            pending = report
        _check(float(pending["loss"]))
        averaged = sharding.to_local(state.weights(), mesh, local)
        validation = examples["validation"]
        measured = scores.measure(
            lambda images: predict(averaged, images), validation, config.evaluate.batch_size
        )
        return scores.validation(measured, validation)["score"]

    return cases.Side(run, cases.process_peak)


def _check(loss: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError("the loss is not finite")


# ---- PyTorch -------------------------------------------------------------------------------------


def write_files(examples: pipeline.Examples, folder: pathlib.Path) -> Files:
    """Writes the encoded images and masks of records as files."""
    folder.mkdir()
    files = []
    for number, (source, position) in enumerate(examples.entries):
        record = source.encoded[position]
        paths = folder / f"{number}.image", folder / f"{number}.mask"
        for path, content in zip(paths, (record["image"], record["mask"])):
            path.write_bytes(content)
        files.append((os.fspath(paths[0]), os.fspath(paths[1])))
    return files


class Masked(torch.utils.data.Dataset):
    """Images uint8 `[S, S, 3]` and masks uint8 `[M, M]` of files."""

    def __init__(self, files: Files, image_size: int, mask_size: int):
        self._files, self._image_size, self._mask_size = files, image_size, mask_size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image_file, mask_file = self._files[index]
        image = cv2.cvtColor(cv2.imread(image_file), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(mask_file, cv2.IMREAD_UNCHANGED)
        shrinks = self._image_size < min(image.shape[:2])
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, (self._image_size,) * 2, interpolation=how)
        side = (self._mask_size,) * 2
        return image, cv2.resize(mask, side, interpolation=cv2.INTER_NEAREST_EXACT)


def images_of(pixels: torch.Tensor) -> torch.Tensor:
    """Returns uint8 `[B, S, S, 3]` as float `[B, 3, S, S]` in [0, 1], channels last."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def confusion(truth: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Returns a confusion matrix an image, int64 `[B, C, C]` of classes `[B, H, W]`."""
    images = torch.arange(len(truth))[:, None, None]
    cells = (images * CLASSES + truth) * CLASSES + found
    counts = torch.bincount(cells.flatten(), minlength=len(truth) * CLASSES**2)
    return counts.view(-1, CLASSES, CLASSES)


def mean_iou(total: torch.Tensor) -> float:
    """Returns the mean IoU of a confusion matrix `[C, C]`."""
    hits = total.diagonal()
    return float((hits / (total.sum(0) + total.sum(1) - hits)).mean())


def rate(config: Config, step: int) -> float:
    """Returns the factor of the learning rate: a linear warm-up, then a cosine to zero."""
    warmup = config.optimizer.warmup_steps
    if step < warmup:
        return step / warmup
    done = min(1.0, (step - warmup) / (config.train.steps - warmup))
    return (1 + math.cos(math.pi * done)) / 2


def make_pytorch(files: dict[str, Files], steps: int, workers: int) -> cases.Side:
    """Returns PyTorch's side; `workers`: processes that read, 0: the training process reads."""
    config = load_config()
    processors = len(os.sched_getaffinity(0))
    torch.set_num_threads(processors)
    cv2.setNumThreads(0)
    size, optimizer = config.train.batch_size, config.optimizer
    model = references.UNet(CLASSES, config.model.features, config.model.depth)
    model = model.to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(optimizer.ema_decay),
        use_buffers=True,
    )
    update = torch.optim.AdamW(
        model.parameters(), optimizer.learning_rate, weight_decay=optimizer.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(update, lambda step: rate(config, step))
    generator = torch.Generator().manual_seed(config.train.seed)
    training_set = torch.utils.data.DataLoader(
        Masked(files["train"], config.data.image_size, config.data.image_size),
        batch_size=size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    validation_set = torch.utils.data.DataLoader(
        Masked(files["validation"], config.data.image_size, config.evaluate.size),
        batch_size=config.evaluate.batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from training_set

    batches = endless()

    def evaluate() -> float:
        average.eval()
        total = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
        with torch.inference_mode():
            for pixels, truth in validation_set:
                logits = average((images_of(pixels) - 0.5) * 4)
                logits = nn.functional.interpolate(
                    logits, size=truth.shape[1:], mode="bilinear", align_corners=False
                )
                total += confusion(truth, logits.argmax(1)).sum(0)
        return mean_iou(total)

    def run() -> float:
        model.train()
        for pixels, masks in itertools.islice(batches, steps):
            draws = torch_augment.draw(config.augment, len(pixels), generator)
            images, masks = torch_augment.apply(images_of(pixels), masks, draws)
            truth = masks.long()
            update.zero_grad(set_to_none=True)
            images = ((images - 0.5) * 4).contiguous(memory_format=torch.channels_last)
            logits = model(images)
            loss = references.loss(logits, truth)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), optimizer.gradient_clip)
            update.step()
            schedule.step()
            average.update_parameters(model)
            confusion(truth, logits.detach().argmax(1)).sum(0)
            _check(loss.item())
        return evaluate()

    return cases.Side(run, cases.process_peak)


# ---- Both ----------------------------------------------------------------------------------------


def compare(steps: int, rounds: int) -> dict[str, Any]:
    """Measures all sides and returns medians, ratios and rounds."""
    config = load_config()
    preparing.prepare(config.data.datasets[0], config.data)
    about, examples = cases.hardware(), splits(config, steps)
    workers = len(os.sched_getaffinity(0))
    beside = f"PyTorch, {workers} worker{'s' * (workers > 1)}"
    with tempfile.TemporaryDirectory() as folder:
        files = {k: write_files(v, pathlib.Path(folder) / k) for k, v in examples.items()}
        sides = {
            "ours": (make_ours, (steps, False)),
            "ours, cached": (make_ours, (steps, True)),
            "PyTorch": (make_pytorch, (files, steps, 0)),
            beside: (make_pytorch, (files, steps, workers)),
        }
        found = interleave.rounds(sides, rounds)
    images = steps * config.train.batch_size
    return {
        "hardware": about | {"load_after": os.getloadavg()[0]},
        "steps": steps,
        "images": images,
        "validation_images": len(examples["validation"]),
        **summary(found, images),
        "rounds": found,
    }


def summary(found: dict[str, Any], images: int) -> dict[str, Any]:
    """Returns medians, and those of the ratios to the faster PyTorch, round by round.

    Args:
        found: from `interleave.rounds`.
        images: images that are trained on in a run.
    """
    medians = {name: statistics.median(side["seconds"]) for name, side in found.items()}
    best = min((name for name in found if name.startswith("PyTorch")), key=medians.__getitem__)

    def ratio(name: str, key: str) -> float:
        return statistics.median(a / b for a, b in zip(found[name][key], found[best][key]))

    return {
        "reference": best,
        "median": {
            name: {
                "images_per_second": images / medians[name],
                "processor_ms_per_image": 1e3
                / images
                * statistics.median(side["processor_seconds"]),
                "ratio": ratio(name, "seconds"),
                "processor_ratio": ratio(name, "processor_seconds"),
            }
            for name, side in found.items()
        },
    }


def main() -> None:
    from wbc_jax.utils import atomic

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", help="JSON file for all figures")
    options = parser.parse_args()
    result = compare(options.steps, options.rounds)
    print(f"{'':24}{'images/s':>10}{'CPU ms an image':>17}{'ratio':>8}{'CPU time':>10}")
    for name, row in result["median"].items():
        print(
            f"{name:24}{row['images_per_second']:10.1f}{row['processor_ms_per_image']:17.2f}"
            f"{row['ratio']:8.2f}{row['processor_ratio']:10.2f}"
        )
    if options.out:
        atomic.write_json(options.out, result)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
