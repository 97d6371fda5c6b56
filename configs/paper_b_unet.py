"""Paper B: U-Net for nucleus and cytoplasm (Özcan, Uyar & Karayeğen 2024).

python -m wbc_jax.main --config=configs/paper_b_unet.py

Data, recipe and what differs from the paper: see `paper_b_encoder_decoder.py`. The network is
MATLAB's `unetLayers` with 64 filters: no normalisation, ReLU after the up-convolutions, dropout of
0.5 twice. The paper prints no depth; 360 pixels can be halved three times, and MATLAB's network
takes no other sizes, so 3 (7.70 M parameters). It calls the network pretrained and does not say on
what; here it starts from random weights.

Time and scores: not measured.
"""

from wbc_jax import config as config_lib
from wbc_jax.configs import paper_b_encoder_decoder


def get_config() -> config_lib.Config:
    config = paper_b_encoder_decoder.get_config()
    config.model = config_lib.Model(
        name="unet", features=64, depth=3, norm="none", dropout=0.5, up_relu=True
    )
    return config
