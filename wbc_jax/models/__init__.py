"""The networks, by the names that a config uses."""

from collections.abc import Callable

from flax import nnx

from wbc_jax import config as config_lib
from wbc_jax import vocabulary
from wbc_jax.models.encoder_decoder import EncoderDecoder
from wbc_jax.models.segnet import SegNet
from wbc_jax.models.unet import UNet

Make = Callable[[config_lib.Model, int, nnx.Rngs], nnx.Module]

MODELS: dict[str, Make] = {
    "unet": lambda m, classes, rngs: UNet(
        classes, m.features, m.depth, m.norm, m.dropout, rngs=rngs
    ),
    "segnet": lambda m, classes, rngs: SegNet(
        classes, m.features, m.depth, m.layout, m.norm, rngs=rngs
    ),
    "encoder_decoder": lambda m, classes, rngs: EncoderDecoder(classes, norm=m.norm, rngs=rngs),
}


def build(model: config_lib.Model, seed: int = 0) -> nnx.Module:
    """Returns the network of `model`, its weights drawn from `seed`."""
    rngs = nnx.Rngs(params=seed, dropout=seed + 1)
    return MODELS[model.name](model, len(vocabulary.MASK_CLASSES), rngs)
