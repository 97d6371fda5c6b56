"""Paper B: its own CNN for nucleus and cytoplasm (Özcan, Uyar & Karayeğen 2024).

python -m wbc_jax.main --config=configs/paper_b_encoder_decoder.py

As in the paper: 360 × 360 pixels in colour, 22 layers (58,467 parameters and 7.30 GFLOPs, printed
are 58.5 K and 7.311), every data set split into 56/14/30 % and then pooled, no augmentation, SGD
with momentum at 3e-4, pixel cross-entropy, 10 epochs.

Not as in the paper, or not in it:

- The masks of its 13,105 images are its authors' own and not published. Here are the public ones:
  Raabin-WBC's, and both sets of segmentation_WBC.
- It leaves basophils out. Of Raabin-WBC's the masks have no nucleus, so that they are left out here
  as well; segmentation_WBC has a few, which stay.
- It prints no widths (`wbc_jax/models/encoder_decoder.py` says how ours were found) and no batch
  size: MATLAB's default, 128, does not fit its card of 6 GB at this size. Here 8. Momentum 0.9, L2
  1e-4 and a constant rate are MATLAB's defaults.

Time and scores: not measured.
"""

from wbc_jax import config as config_lib


def get_config() -> config_lib.Config:
    config = config_lib.Config()
    config.data.datasets = (
        "raabin_gt",
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
    )
    config.data.image_size = 360
    config.data.protocol = "paper_b"
    config.augment = config_lib.Augment(preset="none")
    config.model = config_lib.Model(name="encoder_decoder", norm="batch")
    config.loss = config_lib.Loss(cross_entropy=1.0, dice=0.0)
    config.optimizer = config_lib.Optimizer(
        name="sgd",
        learning_rate=3e-4,
        schedule="constant",
        warmup_steps=0,
        momentum=0.9,
        weight_decay=1e-4,
        gradient_clip=0.0,
    )
    config.train.batch_size = 8
    config.train.epochs = 10
    config.train.evaluate_every = 0
    config.evaluate.size = 360
    config.evaluate.external = ("lisc",)
    return config
