"""SegNet for nucleus and cytoplasm, on the embedded data set.

python -m wbc_jax.main --config=configs/segnet.py

362 s on two CPU cores that other work shared; mean IoU 0.923.
"""

from wbc_jax import config as config_lib
from wbc_jax.configs import unet


def get_config() -> config_lib.Config:
    config = unet.get_config()
    config.model = config_lib.Model(name="segnet", features=16, depth=4, norm="batch")
    return config
