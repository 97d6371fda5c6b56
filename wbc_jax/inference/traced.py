"""A model's whole function, from pixels to answer, as one JAX function of images of any size.

`Model.predict` resizes and cuts images with OpenCV, SciPy and scikit-image. Here JAX does it all,
so that it can be exported.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from wbc_jax.data import isolation, traced_isolation, traced_resize
from wbc_jax.inference import model as inference
from wbc_jax.training import steps

Function = Callable[[jax.Array], jax.Array]


def whole(model: inference.Model) -> Function:
    """Returns the function that `model.predict` computes.

    It maps uint8 images `[B, H, W, 3]` RGB to masks, uint8 `[B, H, W]` (0 background, 1 cytoplasm,
    2 nucleus), or to the probabilities of the types, float32 `[B, K]`. Any of the sizes may be a
    symbol of `jax.export`.

    Args:
        model: from `wbc_jax.load`.

    Raises:
        WeightsError: the segmenter that the model cuts images by is missing.
    """
    return _masks(model) if model.config.task == "segmentation" else _probabilities(model)


def _masks(model: inference.Model) -> Function:
    side = model.config.data.image_size
    logits = steps.make_logits(model.network, model.config.evaluate.flips)

    def function(images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]

        def read(logits: jax.Array) -> jax.Array:
            logits = traced_resize.resize_logits(logits, height, width)
            mask = logits.argmax(-1).astype(jnp.uint8)
            if not model.config.evaluate.middle_cell:
                return mask
            return traced_isolation.keep_middle_cell(mask)

        small = lax.map(lambda image: traced_resize.resize_whole(image, side), images)
        return lax.map(read, logits(model.weights, small))

    return function


def _probabilities(model: inference.Model) -> Function:
    side = model.config.data.image_size
    logits = steps.make_logits(model.network, model.config.evaluate.flips)
    segmenter = None if model.segmenter is None else _masks(model.segmenter)

    def cut(images: jax.Array) -> jax.Array:
        if segmenter is None:
            return lax.map(lambda image: traced_resize.resize_whole(image, side), images)
        pairs = (images, segmenter(images))
        stain = isolation.Stain.of(model.config.data)
        return lax.map(lambda pair: traced_isolation.isolate(*pair, side, stain), pairs)

    return lambda images: jax.nn.softmax(logits(model.weights, cut(images)))
