"""Paper B: SegNet for nucleus and cytoplasm (Özcan, Uyar & Karayeğen 2024).

python -m wbc_jax.main --config=configs/paper_b_segnet.py

Data, recipe and what differs from the paper: see `paper_b_encoder_decoder.py`. The network is
MATLAB's `segnetLayers` with 64 filters in every stage. The paper prints no depth; 4 here (522,435
parameters, 360 → 180 → 90 → 45 → 22). It calls the network pretrained, which would be the other
layout, VGG-16's, from ImageNet's weights: `--config.model.layout=vgg16 --config.model.depth=5` is
that network from random weights.

Time and scores: not measured.
"""

from wbc_jax import config as config_lib
from wbc_jax.configs import paper_b_encoder_decoder


def get_config() -> config_lib.Config:
    config = paper_b_encoder_decoder.get_config()
    config.model = config_lib.Model(
        name="segnet", features=64, depth=4, layout="matlab", norm="batch"
    )
    return config
