"""Measures fine-tuning with corrected masks: `python benchmarks/adapt.py --masks RUN...`.

Each RUN is the folder of a segmenter that was trained without one source
(`--config.data.protocol=leave_one_out --config.data.left_out=SOURCE`). Some masks of that source
stand for a person's corrections; the scores are those of its other images, and of validation images
of the sources of the training, both shown as `wbc_jax.predict` shows them. Not measured: how well a
person paints.
"""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from wbc_jax.data import light, orientation, pipeline
from wbc_jax.inference import mask_tuning
from wbc_jax.inference import model as inference
from wbc_jax.inference.mask_tuning import Scores, Tuner, Windows

MASKS = (5, 10, 20, 40)
MOST = 60
"""Most images that are scored, of the source left out and of all others."""
COLUMNS = (
    *("source left out", "masks", "mean IoU", "N/C error", "mean IoU elsewhere"),
    *("N/C error elsewhere", "drawn cells", "seconds"),
)


def windows(examples: pipeline.Examples, places: Sequence[int]) -> Windows:
    """Returns images of one cell each, as the segmenter is shown them."""
    keys, images, truths = examples.keys, [], []
    for place in places:
        source, index = examples.entries[place]
        image, truth = source.image_and_mask(index)
        turn = orientation.find(image)
        images.append(orientation.place(light.standardize(image), turn))
        truths.append(orientation.place(truth, turn))
    return Windows(images, truths, [keys[place].group or keys[place].id for place in places])


def choose(groups: Sequence[object], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of `count` masks to correct, and of the images of other groups."""
    order = np.random.default_rng(seed).permutation(len(groups))
    own = order[:count]
    taken = {groups[i] for i in own}
    return own, np.array([i for i in order if groups[i] not in taken], np.int64)


def _row(name: str, count: int, *scores: Scores, seconds: float) -> str:
    own, others, drawn = scores
    values = [own.mean_iou, own.nc_error, others.mean_iou, others.nc_error, drawn.mean_iou]
    cells = " | ".join(f"{value:.3f}" for value in values)
    return f"| {name} | {count} | {cells} | {seconds:.0f} |"


def measure(run: str, manual_dir: str, counts: Sequence[int], draws: int) -> None:
    """Prints the rows of one segmenter; 0 masks: as it is. Scores are pooled over draws."""
    model = inference.load(run).with_flips(False).with_middle_cell(False)
    config = dataclasses.replace(model.config.data, manual_dir=manual_dir)
    found = pipeline.load_splits(config, model.config.evaluate.size)
    away, known = found["test"], found["validation"]
    rng = np.random.default_rng(0)
    others = windows(known, rng.permutation(len(known))[:MOST])
    checks = mask_tuning.draw(mask_tuning.DRAWN_CHECKS, mask_tuning.CHECK_STREAM)
    groups = [key.group or key.id for key in away.keys]
    tuner = Tuner(model)
    elsewhere = [mask_tuning.score(model, one) for one in (others, checks)]
    for count in (0, *counts):
        own, away_of = [], []
        seconds = 0.0
        for seed in range(draws):
            chosen, rest = choose(groups, count, seed)
            scored = windows(away, rest[:MOST])
            if not count:
                own.append(mask_tuning.score(model, scored))
                away_of.append(elsewhere)
                continue
            start = time.perf_counter()
            new = tuner.train(windows(away, chosen))
            seconds += (time.perf_counter() - start) / draws
            own.append(mask_tuning.score(new, scored))
            away_of.append([mask_tuning.score(new, one) for one in (others, checks)])
        parts = [own, *map(list, zip(*away_of))]
        print(_row(config.left_out, count, *map(pooled, parts), seconds=seconds), flush=True)


def pooled(parts: Sequence[Scores]) -> Scores:
    """Returns the scores of all parts together."""
    return Scores(
        np.concatenate([one.confusions for one in parts]),
        np.concatenate([one.errors for one in parts]),
    )


def main(runs: Sequence[str], manual_dir: str, counts: Sequence[int], draws: int) -> None:
    """Prints the table."""
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for run in runs:
        measure(run, manual_dir, counts, draws)
