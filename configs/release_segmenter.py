"""The shipped segmenter: the second of two trainings.

python -m wbc_jax.main --config=configs/release_segmenter_broad.py \\
  --config.data.manual_dir=../shared/data
python -m wbc_jax.main --config=configs/release_segmenter.py --config.data.manual_dir=../shared/data

The first training varies color, scale and blur far beyond a single scanner and uses many synthetic
cells. The second continues from its best checkpoint with milder augmentation, mostly on real cells.
"""

from wbc_jax.config import Augment, Config
from wbc_jax.configs import release_segmenter_broad


def get_config() -> Config:
    config = release_segmenter_broad.get_config()
    config.train.init_from = "runs/release_segmenter_broad"
    config.data.weights = (0.3, 0.25, 0.35, 0.1)
    config.augment = Augment(
        rotation_degrees=45,
        zoom=0.25,
        translation_px=8,
        stain=0.15,
        channel_gain=0.1,
        contrast=0.1,
        brightness=0.05,
        blur=0.5,
        noise=0.01,
        fill="unlabelled",
    )
    config.optimizer.learning_rate = 2e-3
    config.train.steps = 3000
    config.train.evaluate_every = 250
    return config
