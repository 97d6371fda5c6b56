"""The registry of networks.

Importing it imports no JAX: the config's checks look names up before anything slow happens.

To add a network, write a module with the class and add a line here. The class is called with
`(num_classes, **fields, in_channels=..., dtype=..., rngs=...)`, where the fields are those of
`config.Model` that the line names (and `image_size`), and maps float32 images `[B, H, W, 3]` to
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
    """Where a network is and what it is built from.

    Attributes:
        import_path: `module:Class`.
        fields: arguments of the class, by the names that `config.Model` has for them;
            `image_size`, in pixels, for a network of fixed size.
        task: what the network is for.
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
    """Returns the network of `model`, its weights drawn from `seed`.

    Args:
        model: validated.
        seed: of the weights; dropout's stream is another.
        classes: number of logits; by default that of the network's task.
        image_size: side of the images in pixels; only for networks of fixed size (the classifier).

    Raises:
        ValueError: the network needs `image_size`, and there is none.
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
    """Returns whether a network has an embedding, from which its logits follow linearly.

    Such a network has a method `with_embedding`.
    """
    return hasattr(_class(name), "with_embedding")


def _class(name: str) -> type[nnx.Module]:
    module, _, attribute = NETWORKS[name].import_path.partition(":")
    return getattr(importlib.import_module(module), attribute)
