"""U-Net for nucleus and cytoplasm, on the embedded data set.

python -m wbc_jax.main --config=configs/unet.py

173 s on two CPU cores, installation included; mean IoU 0.946.
"""

from wbc_jax import config as config_lib


def get_config() -> config_lib.Config:
    config = config_lib.Config()
    config.data.datasets = ("wbc_synthetic",)
    config.data.image_size = 96
    config.model = config_lib.Model(name="unet", features=8, depth=4, norm="batch")
    config.augment = config_lib.Augment(
        rotation_degrees=45, zoom=0.2, stain=0.12, channel_gain=0.08, contrast=0.1, brightness=0.05
    )
    config.optimizer = config_lib.Optimizer(learning_rate=3e-3, warmup_steps=50, ema_decay=0.99)
    config.train.batch_size = 16
    config.train.steps = 700
    config.train.evaluate_every = 100
    config.evaluate.flips = True
    config.evaluate.external = (
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
        "raabin_gt",
    )
    return config
