"""Paper B's 22-layer encoder-decoder for nucleus and cytoplasm, on the embedded data set.

python -m wbc_jax.main --config=configs/encoder_decoder.py

428 s on two CPU cores that other work shared; mean IoU 0.916.
"""

from wbc_jax import config as config_lib
from wbc_jax.configs import unet


def get_config() -> config_lib.Config:
    config = unet.get_config()
    config.model = config_lib.Model(name="encoder_decoder", norm="batch")
    config.train.steps = 500
    return config
