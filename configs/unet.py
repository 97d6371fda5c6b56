"""U-Net for nucleus and cytoplasm, on the embedded data set."""

from wbc_jax import config as config_lib


def get_config() -> config_lib.Config:
    config = config_lib.Config()
    config.data.datasets = ("wbc_synthetic",)
    config.data.image_size = 96
    config.model = config_lib.Model(name="unet", features=8, depth=4, norm="batch")
    config.augment = config_lib.Augment(
        rotation_degrees=180, zoom=0.15, stain=0.1, channel_gain=0.05
    )
    config.optimizer.learning_rate = 4e-3
    config.optimizer.ema_decay = 0.98
    config.train.batch_size = 16
    config.train.steps = 500
    config.train.evaluate_every = 100
    config.evaluate.external = (
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
        "raabin_gt",
    )
    return config
