"""The shipped classifier of five cell types: all labelled sources, images cut to their cell.

python -m wbc_jax.main --config=configs/release_classifier.py \\
  --config.data.manual_dir=../shared/data

The shipped segmenter first cuts each image to its cell, in white light, at one size, with a nucleus
and red cells of one optical density (`wbc_jax/data/isolation.py`). EfficientNet-Lite0 with ImageNet
weights then predicts the type. The encoder learns at a seventh of the rate of the new layers: what
it knows of images in general is what a laboratory left out of training profits from
(docs/experiments.md).
"""

from wbc_jax.config import Augment, Config, Loss, Model, Optimizer


def get_config() -> Config:
    config = Config(task="classification")
    config.data.datasets = (
        "pbc",
        "kaggle_blood_cells/original",
        "raabin_gt",
        "raabin_wbc",
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
        "wbc_synthetic",
    )
    config.data.image_size = 128
    config.data.isolate = "segmenter"
    config.data.nucleus_density = 1.7
    config.data.red_density = 0.36
    config.data.mixture = "custom"
    config.data.weights = (0.3, 0.14, 0.13, 0.13, 0.15, 0.1, 0.05)
    config.data.class_mixture = "balanced"
    config.model = Model(name="efficientnet", variant="lite0", features=256, dropout=0.2)
    config.augment = Augment(
        rotation_degrees=45,
        zoom=0.2,
        translation_px=4,
        stain=0.3,
        channel_gain=0.15,
        gamma=0.8,
        contrast=0.2,
        brightness=0.06,
        blur=2.0,
        noise=0.02,
        grayscale=0.1,
    )
    config.loss = Loss(cross_entropy=1.0, dice=0.0, label_smoothing=0.05)
    config.optimizer = Optimizer(
        learning_rate=1.5e-3, encoder_rate=0.15, warmup_steps=50, ema_decay=0.99
    )
    config.train.batch_size = 32
    config.train.steps = 1500
    config.train.evaluate_every = 250
    config.train.init_from = "imagenet"
    config.evaluate.flips = True
    return config
