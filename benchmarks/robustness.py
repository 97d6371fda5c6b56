"""Measures how much harmless changes of an image move the N/C ratio and the type of its cells.

python benchmarks/robustness.py --data_dir=DIR [--manual_dir=../shared/data] [--cells=40]
    [--split=test] [--sources=NAME,NAME] [--changes=NAME,NAME] [--flips] [--out=FILE.json]

The cells are drawn evenly from the test split of the shipped classifier's config, and from crops of
BCD, which no training saw. Each is a crop around one cell (`find=no`). `bccd_fields` are the whole
fields of BCCD's test cells; a cell there is matched to the one it overlaps most after the change.
All go through `wbc_jax.fields.analyze.analyze` with the shipped models, as in
`python -m wbc_jax.predict`. DIR holds or receives the records of the data sets.

It prints a row for each change: the median and 90th percentile of the relative change of N/C and
N/(N+C) (a cell that is lost, or has no ratio any more, counts as infinitely changed), and the share
of cells with another type: of those that got a type before and after, and of all by the best guess,
whether they are left for review or not. The JSON has these figures by source, too.
"""

import argparse
import collections
import dataclasses
import functools
import importlib.metadata
import itertools
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from wbc_jax.configs import release_classifier
from wbc_jax.data import isolation, pipeline, preparing, sources
from wbc_jax.data.images import read_image
from wbc_jax.fields import analyze as fields
from wbc_jax.fields.cells import Cell, Field
from wbc_jax.labels import REVIEW
from wbc_jax.utils import atomic

FIELDS, BCCD, UNSEEN = "bccd_fields", "kaggle_blood_cells/original", "bcd/crops"
BATCH = 16
CROPPED_PX = 5
MIN_OVERLAP = 0.3
"""IoU from which two cells of a field are the same before and after a change."""

Function = Callable[[np.ndarray], np.ndarray]


def _unmoved(labels: np.ndarray) -> np.ndarray:
    return labels


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A change that does not change what a person sees in an image.

    Attributes:
        name: for the table.
        pixels: maps uint8 `[H, W, 3]` to the changed image.
        places: maps labels `[H, W]` to where the same cells lie in the changed image.
    """

    name: str
    pixels: Function
    places: Function = _unmoved


def changes() -> list[Change]:
    """Returns all changes, in the order of the table."""
    moved = [(f"turn {90 * k}°", functools.partial(_turned, quarters=k)) for k in (1, 2, 3)]
    moved += [("flip up-down", _upside_down), ("flip left-right", _mirrored)]
    found = [Change(name, move, move) for name, move in moved]
    for gain in (0.7, 0.85, 1.15, 1.3):
        found.append(Change(f"brightness ×{gain}", functools.partial(lit, gains=(gain,) * 3)))
    for gamma in (0.8, 1.25):
        found.append(Change(f"gamma {gamma}", functools.partial(with_gamma, gamma=gamma)))
    for channel, color in ((0, "red"), (2, "blue")):
        for gain in (0.9, 1.1):
            gains = np.where(np.arange(3) == channel, gain, 1.0)
            found.append(Change(f"{color} ×{gain}", functools.partial(lit, gains=gains)))
    for quality in (75, 30, 10):
        found.append(Change(f"JPEG {quality}", functools.partial(as_jpeg, quality=quality)))
    for sigma in (1, 2):
        found.append(Change(f"blur {sigma} px", functools.partial(_blurred, sigma=sigma)))
    for deviation in (5, 10):
        found.append(Change(f"noise {deviation}", functools.partial(_noisy, deviation=deviation)))
    for factor in (0.5, 0.71, 1.41, 2):
        image = functools.partial(scaled, factor=factor)
        found.append(Change(f"scale ×{factor}", image, image))
    return [*found, Change(f"cut by {CROPPED_PX} px", cut, cut)]


def lit(image: np.ndarray, gains: Sequence[float]) -> np.ndarray:
    """Multiplies each channel by its gain and clips, as a camera does."""
    return np.clip(np.rint(image * np.asarray(gains)), 0, 255).astype(np.uint8)


def with_gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    """Raises the light, as a share of white, to a power; below 1 is brighter."""
    return np.rint(255 * (image / 255) ** gamma).astype(np.uint8)


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Returns what a JPEG file of this quality shows."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """Resamples an image; labels `[H, W]` take the nearest pixel."""
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way if image.ndim == 3 else cv2.INTER_NEAREST)


def cut(image: np.ndarray) -> np.ndarray:
    """Takes `CROPPED_PX` pixels away at each side."""
    inside = slice(CROPPED_PX, -CROPPED_PX)
    return np.ascontiguousarray(image[inside, inside])


def _turned(image: np.ndarray, quarters: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(image, quarters))


def _upside_down(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[::-1])


def _mirrored(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _noisy(image: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def matched(before: Field, after: Field, places: Function) -> list[tuple[Cell, Cell | None]]:
    """Pairs each cell of an image with the same cell after a change; None if it is lost.

    Args:
        before, after: the analyzed image and the analyzed changed image.
        places: of the change.
    """
    if before.one_cell and after.one_cell:
        return [(cell, next(iter(after.cells), None)) for cell in before.cells]
    moved = places(before.labels)
    counts = collections.Counter(zip(moved.ravel().tolist(), after.labels.ravel().tolist()))
    areas, others = (np.bincount(labels.ravel()) for labels in (moved, after.labels))
    ious = {
        pair: common / (areas[pair[0]] + others[pair[1]] - common)
        for pair, common in counts.items()
        if all(pair)
    }
    partner: dict[int, int] = {}
    for (one, other), iou in sorted(ious.items(), key=lambda item: -item[1]):
        if iou >= MIN_OVERLAP and one not in partner and other not in partner.values():
            partner[one] = other
    by_number = {cell.cell: cell for cell in after.cells}
    return [(cell, by_number.get(partner.get(cell.cell, 0))) for cell in before.cells]


def relative_change(before: float | None, after: float | None) -> float:
    """Returns |after - before| / before; NaN if there was no ratio, infinite if there is none."""
    if before is None or not (math.isfinite(before) and before > 0):
        return math.nan
    if after is None or not math.isfinite(after):
        return math.inf
    return abs(after - before) / before


def summarize(pairs: Sequence[tuple[Cell, Cell | None]]) -> dict[str, Any]:
    """Returns the figures of one change.

    Args:
        pairs: from `matched`.

    Returns:
        `cells`; `lost`; `nc_ratio` and `nucleus_share`, each with `median` and `p90` of the
        relative change and the number of `cells` behind them; `typed`, `typed_otherwise`: cells
        with a type before and after, and those of them with another one; `guessed_otherwise`:
        cells with another best guess, left for review or not.
    """
    found: dict[str, Any] = {"cells": len(pairs), "lost": sum(b is None for _, b in pairs)}
    for name in ("nc_ratio", "nucleus_share"):
        values = np.array([relative_change(getattr(a, name), getattr(b, name, None))
                           for a, b in pairs], float)  # fmt: skip
        values = np.sort(values[~np.isnan(values)])
        found[name] = {"cells": len(values)}
        for key, part in (("median", 0.5), ("p90", 0.9)):
            # A value that occurs: infinite ones cannot be interpolated.
            place = max(0, math.ceil(part * len(values)) - 1)
            found[name][key] = float(values[place]) if len(values) else math.nan
    both = [(a, b) for a, b in pairs if b is not None]
    typed = [(a, b) for a, b in both if REVIEW not in (a.type, b.type)]
    found["typed"] = len(typed)
    found["typed_otherwise"] = sum(a.type != b.type for a, b in typed)
    found["guessed_otherwise"] = sum(a.best_guess != b.best_guess for a, b in both)
    return found


def images_of(options: argparse.Namespace) -> Iterator[tuple[str, list[np.ndarray], str]]:
    """Yields (source, images, how cells are found) of each source that is asked for."""
    data = release_classifier.get_config().data
    data.datasets = tuple(name for name in data.datasets if name != "wbc_synthetic")
    data.data_dir, data.manual_dir = options.data_dir, options.manual_dir
    # A config cuts images to their cell; here `analyze` does so.
    data = isolation.whole(data)
    data.mixture, data.weights = "natural", ()
    for name in (*data.datasets, UNSEEN):
        preparing.prepare(name, data)
    entries = pipeline.load_splits(data, 256, "classification")[options.split].entries
    unseen = sources.load(UNSEEN, data)
    by_source = {
        name: [entry for entry in entries if entry[0].name == name] for name in data.datasets
    } | {UNSEEN: [(unseen, i) for i in range(len(unseen))]}
    wanted = options.sources.split(",") if options.sources else [*by_source, FIELDS]
    for name in wanted:
        chosen = _evenly(by_source[BCCD if name == FIELDS else name], options.cells)
        if name == FIELDS:
            folder = f"{options.manual_dir}/kaggle_blood_cells/dataset-master/JPEGImages"
            yield name, [read_image(f"{folder}/{s.groups[i]}.jpg") for s, i in chosen], "auto"
        else:
            yield name, [source.image(i) for source, i in chosen], "no"


def _evenly(values: Sequence[Any], most: int) -> list[Any]:
    places = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[place] for place in places]


def measure(
    images: Sequence[np.ndarray], find: str, models: fields.Models, wanted: Sequence[Change]
) -> Iterator[tuple[Change, list[tuple[Cell, Cell | None]]]]:
    """Yields each change and the pairs of cells before and after it."""

    def analyzed(images: Sequence[np.ndarray]) -> list[Field]:
        batches = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        return [field for batch in batches for field in fields.analyze(batch, models, find)]

    before = analyzed(images)
    for change in wanted:
        after = analyzed([change.pixels(image) for image in images])
        yield change, [
            pair for a, b in zip(before, after) for pair in matched(a, b, change.places)
        ]  # fmt: skip


def line(name: str, row: dict[str, Any]) -> str:
    """Returns a row of the table in Markdown."""
    numbers = [
        row[key][part] for key in ("nc_ratio", "nucleus_share") for part in ("median", "p90")
    ]
    cells = [f"{100 * value:.1f} %" if math.isfinite(value) else "lost" for value in numbers]
    counts = f"{row['typed_otherwise']} of {row['typed']}"
    return (
        f"| {name} | {' | '.join(cells)} | {counts} | {row['guessed_otherwise']} | {row['lost']} |"
    )


HEADER = (
    "| change | N/C, median | 90 % | N/(N+C), median | 90 % | another type, of typed | another "
    "best guess | lost |\n|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="folder of the records")
    parser.add_argument("--manual_dir", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--cells", type=int, default=40, help="images of each source")
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument("--sources", help="names, joined by commas; by default all")
    parser.add_argument("--changes", help="names, joined by commas; by default all")
    parser.add_argument("--flips", action="store_true", help="as in wbc_jax.predict")
    parser.add_argument("--out", help="JSON file for all figures")
    options = parser.parse_args()
    wanted = changes()
    if options.changes:
        known = {change.name: change for change in wanted}
        if unknown := set(options.changes.split(",")) - known.keys():
            parser.error(f"--changes has {sorted(unknown)}; there are {', '.join(known)}")
        wanted = [known[name] for name in options.changes.split(",")]
    models = fields.load_models(flips=options.flips)
    pairs: dict[str, dict[str, list[tuple[Cell, Cell | None]]]] = collections.defaultdict(dict)
    for source, images, find in images_of(options):
        print(f"\n{source}, {len(images)} images\n\n{HEADER}", flush=True)
        for change, found in measure(images, find, models, wanted):
            pairs[change.name][source] = found
            print(line(change.name, summarize(found)), flush=True)
    total = {
        name: summarize(list(itertools.chain(*found.values()))) for name, found in pairs.items()
    }
    print(f"\nall sources\n\n{HEADER}")
    for name, row in total.items():
        print(line(name, row))
    if options.out:
        by_source = {
            name: {source: summarize(found) for source, found in rows.items()}
            for name, rows in pairs.items()
        }
        about = {"split": options.split, "cells": options.cells, "flips": options.flips}
        atomic.write_json(
            options.out, {"all": total, "by_source": by_source, **about, **_environment()}
        )


def _environment() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        command = ("git", "-C", os.path.dirname(__file__), *arguments)
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip()

    packages = ("wbc_jax", "jax", "flax", "numpy", "opencv-python-headless")
    versions = {name: importlib.metadata.version(name) for name in packages}
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    return {
        "commit": git("rev-parse", "HEAD") + "+changes" * changed,
        "versions": {"python": platform.python_version()} | versions,
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
