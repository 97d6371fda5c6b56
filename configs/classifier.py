"""Paper B's classifier of the five cell types, on the embedded data set.

python -m wbc_jax.main --config=configs/classifier.py

135 s on two CPU cores that other work shared; accuracy 0.994.
"""

from wbc_jax import config as config_lib


def get_config() -> config_lib.Config:
    config = config_lib.Config(task="classification")
    config.data.datasets = ("wbc_synthetic",)
    config.data.image_size = 96
    config.model = config_lib.Model(name="classifier", features=8, blocks=5, norm="batch")
    config.augment = config_lib.Augment(
        rotation_degrees=45, zoom=0.2, stain=0.12, channel_gain=0.08, contrast=0.1, brightness=0.05
    )
    config.loss = config_lib.Loss(cross_entropy=1.0, dice=0.0)
    config.optimizer = config_lib.Optimizer(learning_rate=3e-3, warmup_steps=50, ema_decay=0.99)
    config.train.batch_size = 32
    config.train.steps = 600
    config.train.evaluate_every = 100
    config.evaluate.flips = True
    return config
