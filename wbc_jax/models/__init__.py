"""The networks, by the names that a config uses (`wbc_jax.networks` lists them)."""

import importlib

from flax import nnx

from wbc_jax import config as config_lib
from wbc_jax import networks, vocabulary


def build(
    model: config_lib.Model,
    seed: int = 0,
    *,
    classes: int | None = None,
    image_size: int | None = None,
) -> nnx.Module:
    """Returns the network of `model`, its weights drawn from `seed`.

    Args:
        model: validated.
        seed: of the weights; dropout's stream is another.
        classes: logits; by default as many as the vocabulary has for the network's task.
        image_size: side of the images, px; only for networks of fixed size (the classifier).

    Raises:
        ValueError: the network needs `image_size`, and there is none.
    """
    entry = networks.NETWORKS[model.name]
    if classes is None:
        names = {
            "segmentation": vocabulary.MASK_CLASSES,
            "classification": vocabulary.CELL_TYPES,
        }
        classes = len(names[entry.task])
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
    """Whether a network tells what its logits are linear in (its method `with_embedding`)."""
    return hasattr(_class(name), "with_embedding")


def _class(name: str) -> type[nnx.Module]:
    module, _, attribute = networks.NETWORKS[name].place.partition(":")
    return getattr(importlib.import_module(module), attribute)
