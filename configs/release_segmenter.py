"""The shipped segmenter: five sources of real masks, and drawn cells.

python -m wbc_jax.main --config=configs/release_segmenter.py --config.data.manual_dir=../shared/data

A U-Net on the encoder of EfficientNet-Lite0 with ImageNet weights, 192×192 images. Augmentation
varies color, scale and sharpness far beyond a single scanner. docs/experiments.md has what was
tried; the segmenter of 0.1, a plain U-Net trained on three sources, is there, too.
"""

from wbc_jax.config import Augment, Config, Model, Optimizer


def get_config() -> Config:
    config = Config()
    config.data.datasets = (
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
        "raabin_gt",
        "all_idb/white_cells",
        "kaggle_blood_cells/masks",
        "wbc_synthetic",
    )
    config.data.image_size = 192
    config.data.mixture = "custom"
    config.data.weights = (0.2, 0.15, 0.22, 0.15, 0.2, 0.08)
    config.model = Model(name="efficientnet_unet", variant="lite0", features=16, norm="group")
    config.augment = Augment(
        rotation_degrees=45,
        zoom=0.35,
        translation_px=12,
        stain=0.3,
        channel_gain=0.15,
        gamma=0.8,
        contrast=0.12,
        brightness=0.05,
        blur=0.8,
        noise=0.015,
        grayscale=0.1,
        fill="unlabelled",
    )
    config.optimizer = Optimizer(
        learning_rate=1.5e-3, encoder_rate=0.3, warmup_steps=50, ema_decay=0.99
    )
    config.train.batch_size = 16
    config.train.steps = 2000
    config.train.evaluate_every = 500
    config.train.init_from = "imagenet"
    config.evaluate.flips = True
    config.evaluate.middle_cell = True
    return config
