"""Paper B: U-Net for nucleus and cytoplasm (Özcan, Uyar & Karayeğen 2024).

python -m wbc_jax.main --config=configs/paper_b_unet.py

Data, recipe and differences from the paper: see `paper_b_encoder_decoder.py`. The network is
MATLAB's `unetLayers` with 64 filters: no normalization, ReLU after the up-convolutions, dropout of
0.5 in two places. The paper states no depth; ours is 3 (7.70 M parameters), because MATLAB's
network requires sizes that can be halved evenly and 360 can be halved three times. The paper calls
the network pretrained without naming the data; ours starts from random weights.

Time and scores: not measured.
"""

from wbc_jax.config import Config, Model
from wbc_jax.configs import paper_b_encoder_decoder


def get_config() -> Config:
    config = paper_b_encoder_decoder.get_config()
    config.model = Model(name="unet", features=64, depth=3, norm="none", dropout=0.5, up_relu=True)
    return config
