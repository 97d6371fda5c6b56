"""Paper B: SegNet for nucleus and cytoplasm (Özcan, Uyar & Karayeğen 2024).

python -m wbc_jax.main --config=configs/paper_b_segnet.py

Data, recipe and differences from the paper: see `paper_b_encoder_decoder.py`. The network is
MATLAB's `segnetLayers` with 64 filters in every stage. The paper states no depth; ours is 4
(522,435 parameters, 360 → 180 → 90 → 45 → 22). The paper calls the network pretrained, which
suggests the other layout: VGG-16's, with ImageNet weights. The same network from random weights:
`--config.model.layout=vgg16 --config.model.depth=5`.

Time and scores: not measured.
"""

from wbc_jax.config import Config, Model
from wbc_jax.configs import paper_b_encoder_decoder


def get_config() -> Config:
    config = paper_b_encoder_decoder.get_config()
    config.model = Model(name="segnet", features=64, depth=4, layout="matlab", norm="batch")
    return config
