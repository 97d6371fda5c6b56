"""The first training of the shipped segmenter, for scanners that it has never seen.

python -m wbc_jax.main --config=configs/release_segmenter_broad.py \\
  --config.data.manual_dir=../shared/data

A U-Net with group normalization on 256×256 images; its first level sees 2×2 pixels as one position.
Augmentation varies color, scale and sharpness far beyond a single scanner. A quarter of the images
are synthetic cells, whose stains and magnifications differ more than those of the real sources.
"""

from wbc_jax.config import Augment, Config, Model, Optimizer


def get_config() -> Config:
    config = Config()
    config.data.datasets = (
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
        "raabin_gt",
        "wbc_synthetic",
    )
    config.data.image_size = 256
    config.data.mixture = "custom"
    config.data.weights = (0.25, 0.2, 0.3, 0.25)
    config.model = Model(name="unet", features=16, depth=4, norm="group", patch=2)
    config.augment = Augment(
        rotation_degrees=45,
        zoom=0.4,
        translation_px=16,
        stain=0.25,
        channel_gain=0.15,
        contrast=0.15,
        brightness=0.06,
        blur=1.0,
        noise=0.02,
    )
    config.optimizer = Optimizer(learning_rate=3e-3, warmup_steps=100, ema_decay=0.995)
    config.train.batch_size = 16
    config.train.steps = 2400
    config.train.evaluate_every = 200
    config.evaluate.flips = True
    config.evaluate.middle_cell = True
    return config
