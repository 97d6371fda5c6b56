"""The networks, by the names that a config uses."""

from flax import nnx

from wbc_jax import config as config_lib
from wbc_jax import vocabulary
from wbc_jax.models.unet import UNet

MODELS = {"unet": UNet}


def build(model: config_lib.Model, seed: int = 0) -> nnx.Module:
    """Returns the network of `model`, its weights drawn from `seed`."""
    return MODELS[model.name](
        num_classes=len(vocabulary.MASK_CLASSES),
        features=model.features,
        depth=model.depth,
        norm=model.norm,
        dropout=model.dropout,
        rngs=nnx.Rngs(params=seed, dropout=seed + 1),
    )
