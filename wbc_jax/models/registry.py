"""The registry of networks.

Importing it imports no JAX, as the checks of the config need only the names.

To add a network, write a module with the class and add a line to `NETWORKS`. The class is called
with `(num_classes, **fields, in_channels=..., dtype=..., rngs=...)`; `fields` are those fields of
`config.Model` that the line names (and `image_size`). It maps float32 images `[B, H, W, 3]` to
float32 logits: `[B, H, W, num_classes]` for segmentation, `[B, num_classes]` for classification.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

from wbc_jax.labels import CELL_TYPES, MASK_CLASSES

if TYPE_CHECKING:
    from flax import nnx

    from wbc_jax.config import Model


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A network of the registry.

    Attributes:
        import_path: `module:Class`.
        fields: arguments of the class, named like the fields of `config.Model`; also `image_size`,
            in pixels, for a network of fixed size.
        task: `segmentation` or `classification`.
    """

    import_path: str
    fields: tuple[str, ...] = ()
    task: str = "segmentation"


_HERE = "wbc_jax.models"

NETWORKS: dict[str, Entry] = {
    "unet": Entry(
        f"{_HERE}.unet:UNet", ("features", "depth", "norm", "dropout", "up_relu", "patch")
    ),
    "segnet": Entry(f"{_HERE}.segnet:SegNet", ("features", "depth", "layout", "norm")),
    "encoder_decoder": Entry(f"{_HERE}.encoder_decoder:EncoderDecoder", ("norm",)),
    "classifier": Entry(
        f"{_HERE}.classifier:Classifier",
        ("image_size", "features", "blocks", "norm"),
        "classification",
    ),
    "efficientnet_unet": Entry(
        f"{_HERE}.efficientnet:EfficientUNet", ("variant", "features", "norm")
    ),
    "efficientnet": Entry(
        f"{_HERE}.efficientnet:EfficientNet",
        ("variant", "features", "dropout", "types"),
        "classification",
    ),
    "resnet": Entry(
        f"{_HERE}.resnet:ResNet", ("features", "depth", "norm", "patch"), "classification"
    ),
}


def build(
    model: Model,
    seed: int = 0,
    *,
    classes: int | None = None,
    image_size: int | None = None,
) -> nnx.Module:
    """Builds the network of a config, with initial weights.

    Args:
        model: the validated `config.model`.
        seed: for the weights; dropout has another stream.
        classes: number of logits; by default that of the network's task.
        image_size: side of the images in pixels; used for networks of fixed size only.

    Raises:
        ValueError: the network needs `image_size`, and none is given.
    """
    from flax import nnx

    entry = NETWORKS[model.name]
    if classes is None:
        classes = len({"segmentation": MASK_CLASSES, "classification": CELL_TYPES}[entry.task])
    fields = {name: getattr(model, name) for name in entry.fields if name != "image_size"}
    if "image_size" in entry.fields:
        if image_size is None:
            raise ValueError(f"models.build: {model.name} is built for one size; give image_size")
        fields["image_size"] = image_size
    return _class(model.name)(
        classes,
        **fields,
        in_channels=model.channels,
        dtype=model.dtype,
        rngs=nnx.Rngs(params=seed, dropout=seed + 1),
    )


def embeds(name: str) -> bool:
    """Returns whether a network has a method `with_embedding`.

    It returns the logits and the vector that they are a linear function of.
    """
    return hasattr(_class(name), "with_embedding")


def adapts(name: str) -> bool:
    """Returns whether a network can be adapted to a laboratory (`wbc_jax.adapt`): it has a method
    `with_features`, and takes `types`."""
    return hasattr(_class(name), "with_features")


def _class(name: str) -> type[nnx.Module]:
    module, _, attribute = NETWORKS[name].import_path.partition(":")
    return getattr(importlib.import_module(module), attribute)
