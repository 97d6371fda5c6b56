"""Paper B: its own CNN for nucleus and cytoplasm (Özcan, Uyar & Karayeğen 2024).

python -m wbc_jax.main --config=configs/paper_b_encoder_decoder.py

Same as in the paper: 360 × 360 pixels in color, 22 layers (58,467 parameters and 7.30 GFLOPs; the
paper prints 58.5 K and 7.311), each data set split into 56/14/30 % and then pooled, no
augmentation, SGD with momentum at 3e-4, pixel cross-entropy, 10 epochs.

Different from the paper, or not stated in it:

- The authors made the masks of its 13,105 images themselves and did not publish them. This config
  uses the public masks: those of Raabin-WBC and of both sets of segmentation_WBC.
- The paper leaves basophils out. Raabin-WBC's are left out here too, because their masks have no
  nucleus; segmentation_WBC has a few, which stay.
- It states no widths (`wbc_jax/models/encoder_decoder.py` explains ours) and no batch size.
  MATLAB's default, 128, does not fit on its 6 GB card at this image size; ours is 8. Momentum 0.9,
  L2 1e-4 and a constant rate are MATLAB's defaults.

Time and scores: not measured.
"""

from wbc_jax.config import Augment, Config, Loss, Model, Optimizer


def get_config() -> Config:
    config = Config()
    config.data.datasets = (
        "raabin_gt",
        "segmentation_wbc/jtsc",
        "segmentation_wbc/cellavision",
    )
    config.data.image_size = 360
    config.data.protocol = "paper_b"
    config.augment = Augment(preset="none")
    config.model = Model(name="encoder_decoder", norm="batch")
    config.loss = Loss(cross_entropy=1.0, dice=0.0)
    config.optimizer = Optimizer(
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
