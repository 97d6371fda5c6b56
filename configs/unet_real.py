"""U-Net for nucleus and cytoplasm, on the three public sets with masks."""

from wbc_jax import config as config_lib


def get_config() -> config_lib.Config:
    config = config_lib.Config()
    config.data.datasets = ("segmentation_wbc/jtsc", "segmentation_wbc/cellavision", "raabin_gt")
    config.data.image_size = 128
    config.model = config_lib.Model(name="unet", features=16, depth=4, norm="batch")
    config.augment = config_lib.Augment(
        rotation_degrees=30, zoom=0.2, stain=0.1, channel_gain=0.06, contrast=0.1, brightness=0.04
    )
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.ema_decay = 0.99
    config.train.batch_size = 16
    config.train.steps = 2400
    config.train.evaluate_every = 200
    config.evaluate.flips = True
    return config
