"""Compares exported models with the package: `python benchmarks/export.py TYPES [--images=10]`.

TYPES is a folder with one folder of crops around one cell for each type, such as `neutrophil`. The
shipped models are exported as StableHLO, and predict the first images of each type. It prints

- how many types and masks the whole function has as `Model.predict` has them, and seconds an image;
- how often the network of the classifier is right if nothing but resizing comes before it;
- how much N/C changes if the segmenter's network gets images that another filter has resized.
"""

import argparse
import pathlib
import time
from collections.abc import Callable, Sequence

import cv2
import jax
import numpy as np
from jax import export
from PIL import Image

import wbc_jax
from wbc_jax.data.resize import resize_image
from wbc_jax.inference import exporting
from wbc_jax.labels import CELL_TYPES


def _cv2(method: int) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda image, side: cv2.resize(image, (side, side), interpolation=method)


def _pillow(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _jax(image: np.ndarray, side: int) -> np.ndarray:
    found = jax.image.resize(image.astype(np.float32), (side, side, 3), "bilinear")
    return np.clip(np.rint(np.asarray(found)), 0, 255).astype(np.uint8)


RESIZES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "ours": lambda image, side: resize_image(image, side, side),
    "nearest (cv2)": _cv2(cv2.INTER_NEAREST),
    "bilinear (cv2)": _cv2(cv2.INTER_LINEAR),
    "bicubic (cv2)": _cv2(cv2.INTER_CUBIC),
    "bicubic (Pillow)": _pillow,
    "bilinear (jax.image)": _jax,
}


def _exported(model: wbc_jax.Model, network_only: bool = False) -> Callable[..., jax.Array]:
    return jax.jit(export.deserialize(exporting.stablehlo(model, network_only)).call)


def _timed(predict: Callable, images: Sequence[np.ndarray]) -> tuple[list, float]:
    """Returns the results of images one by one, and the median seconds, without compilation."""
    results, seconds, seen = [], [], set()
    for image in images:
        start = time.perf_counter()
        results.append(predict(image))
        if image.shape in seen:
            seconds.append(time.perf_counter() - start)
        seen.add(image.shape)
    return results, float(np.median(seconds))


def _ratio(mask: np.ndarray) -> float:
    return (mask == 2).sum() / max(1, (mask == 1).sum())


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=10)
    options = parser.parse_args()
    paths = [p for t in CELL_TYPES for p in sorted((options.types / t).iterdir())[: options.images]]
    images = [wbc_jax.read_image(path) for path in paths]
    truth = np.array([CELL_TYPES.index(path.parent.name) for path in paths])

    model = wbc_jax.load("classifier")
    known, slow = _timed(model.predict, images)
    whole = _exported(model)
    found, quick = _timed(lambda image: np.asarray(whole(image[None]))[0], images)
    types = np.array([one.label for one in known])
    same = types == np.argmax(found, -1)
    off = max(np.abs(a.probabilities - b).max() for a, b in zip(known, found))
    print(f"{len(images)} images; Model.predict names {np.mean(types == truth):.0%} rightly")
    print(f"whole function: {same.sum()} types as there, probabilities up to {off:.1g} off")
    print(f"  {slow:.3f} s an image by Model.predict, {quick:.3f} s by the export")
    network, side = _exported(model, network_only=True), model.config.data.image_size
    small = np.stack([resize_image(image, side, side) for image in images])
    right = np.mean(np.asarray(network(small)).argmax(-1) == truth)
    print(f"network alone, after resizing only: {right:.0%} rightly", flush=True)

    model = wbc_jax.load("segmenter")
    known, slow = _timed(model.predict, images)
    whole = _exported(model)
    found, quick = _timed(lambda image: np.asarray(whole(image[None]))[0], images)
    pixels = np.array([(a.mask != b).sum() for a, b in zip(known, found)])
    print(f"whole function: {(pixels == 0).sum()} masks as there, up to {pixels.max()} pixels off")
    print(f"  {slow:.3f} s an image by Model.predict, {quick:.3f} s by the export")
    network, side = _exported(model, network_only=True), model.config.data.image_size
    for name, resize in RESIZES.items():
        logits = [np.asarray(network(resize(image, side)[None]))[0] for image in images]
        masks = [model.read(one, image.shape[:2]).mask for one, image in zip(logits, images)]
        change = [abs(_ratio(mask) / one.nc_ratio - 1) for mask, one in zip(masks, known)]
        print(
            f"resized by {name}: N/C changes by {np.median(change):.2%} (median), "
            f"{np.quantile(change, 0.9):.2%} (90th percentile), {max(change):.2%} (most)",
            flush=True,
        )


if __name__ == "__main__":
    main()
