"""wbc_jax.inference.traced and exporting: a file's answers are those of the package."""

import dataclasses
import json

import numpy as np
import pytest
from jax import export

import wbc_jax
from wbc_jax.inference import exporting
from wbc_jax.inference import model as inference

# Larger than the network's input on both sides, and not. Each size is compiled, some for seconds.
LARGE, SMALL = (40, 56), (20, 36)


def draw(height, width, seed):
    """Draws a violet cell on a pink slide."""
    y, x = np.ogrid[:height, :width]
    away = np.hypot(y - height / 2, x - width / 2) / min(height, width)
    colors = np.array([(225, 190, 195), (150, 120, 170), (90, 40, 110)])
    image = colors[(away < 0.35).astype(int) + (away < 0.2)]
    noise = np.random.default_rng(seed).integers(-12, 12, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def isolating(typed_run, run_weights):
    """The tiny classifier as one that cuts images to their cell."""
    model = wbc_jax.load(typed_run.workdir)
    data = dataclasses.replace(model.config.data, isolate=str(run_weights))
    config = dataclasses.replace(model.config, data=data)
    return inference.Model(config, model.network, model.weights, model.step)


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("masks", [LARGE, SMALL]),
        ("masks of one cell", [LARGE]),
        ("types", [LARGE, SMALL]),
        ("types of a cut cell", [LARGE]),
    ],
)
def test_images_of_any_size_in_batches_of_any(name, sizes, model, typed_run, run_weights):
    if name.startswith("masks"):
        case = model.with_middle_cell(name == "masks of one cell")
    else:
        cut = name == "types of a cut cell"
        case = isolating(typed_run, run_weights) if cut else wbc_jax.load(typed_run.workdir)
    exported = export.deserialize(exporting.stablehlo(case, notes={"a": ["µ", 1]}))
    assert json.loads(exported.fun_name) == {"a": ["µ", 1]}
    for count, size in enumerate(sizes, 2):
        images = np.stack([draw(*size, seed) for seed in range(count)])
        found = np.asarray(exported.call(images))
        expected = case.predict(images)
        if case.config.task == "segmentation":
            masks = np.stack([one.mask for one in expected])
            assert found.dtype == np.uint8 and found.shape == masks.shape
            assert (found != masks).sum() <= 2 * count and len(np.unique(masks)) > 1
        else:
            probabilities = np.stack([one.probabilities for one in expected])
            # Pixels that are interpolated may be one gray level off.
            np.testing.assert_allclose(found, probabilities, atol=1e-3 if size == LARGE else 5e-3)
