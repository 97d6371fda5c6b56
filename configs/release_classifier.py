"""The shipped classifier of five cell types: all labelled sources, images cut to their cell.

python -m wbc_jax.main --config=configs/release_classifier.py \\
  --config.data.manual_dir=../shared/data

The shipped segmenter first cuts each image to its cell, in white light and at one size
(`wbc_jax/data/isolation.py`). A residual network with group normalization then predicts the type.
"""

from wbc_jax.config import Augment, Config, Loss, Model, Optimizer


def get_config() -> Config:
    config = Config(task="classification")
    config.data.datasets = (
        "pbc",
        "kaggle_blood_cells/original",
        "raabin_gt",
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
        "wbc_synthetic",
    )
    config.data.image_size = 96
    config.data.isolate = "segmenter"
    config.data.mixture = "custom"
    config.data.weights = (0.4, 0.1, 0.2, 0.12, 0.08, 0.1)
    config.data.class_mixture = "balanced"
    config.model = Model(name="resnet", features=32, depth=3, norm="group", patch=2)
    config.augment = Augment(
        rotation_degrees=45,
        zoom=0.2,
        translation_px=4,
        stain=0.3,
        channel_gain=0.12,
        contrast=0.2,
        brightness=0.06,
        blur=1.0,
        noise=0.02,
    )
    config.loss = Loss(cross_entropy=1.0, dice=0.0, label_smoothing=0.05)
    config.optimizer = Optimizer(learning_rate=2e-3, warmup_steps=100, ema_decay=0.995)
    config.train.batch_size = 32
    config.train.steps = 2000
    config.train.evaluate_every = 200
    config.evaluate.flips = True
    return config
