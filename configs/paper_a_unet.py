"""Paper A: U-Net for nucleus and cytoplasm (Kirubakaran et al.).

python -m wbc_jax.main --config=configs/paper_a_unet.py

The paper gives its learning rate and its loss more than once. The default here is its section 3.1,
"Training Details", as the one meant to be reproduced: Adam at 4e-4, binary focal loss with γ = 2,
images turned grey.
The other readings:

- learning rate of section 3: `--config.optimizer.learning_rate=1e-3`
- binary cross-entropy (section 3):
  `--config.loss.binary_focal=0 --config.loss.binary_cross_entropy=1`
- categorical cross-entropy (section 3.2, and what its softmax goes with):
  `--config.loss.binary_focal=0 --config.loss.cross_entropy=1`
- colour images: `--config.model.channels=3`

As in the paper: 256 × 256 pixels, 64 … 1024 channels with batch normalisation, 70/15/15 %, batches
of 16, 60 epochs, Adam, augmentation by rotation, flips, zoom and brightness.

Not as in the paper, or not in it:

- Its 50 pairs of image and mask are not published. Its images are a packaging of Raabin-WBC; here
  are the Raabin-WBC cells whose masks experts have published (`raabin_gt`, 1145 when complete),
  without the basophils, whose masks mark the cell without its nucleus. The nearest to 50 pairs:
  `--config.data.datasets=segmentation_wbc/cellavision` (100 cells, 70 of them in training).
- The paper prints no magnitudes of augmentation, no α, and neither the rule of its early stopping
  nor its schedule. Ours: `config.PRESETS["paper_a"]`, no α, a stop after 15 epochs without a better
  validation score, a tenth of the learning rate after 5 (`plateau`).

Time and scores: not measured. The network has 31.0 M parameters: a GPU is in order.
"""

from wbc_jax import config as config_lib


def get_config() -> config_lib.Config:
    config = config_lib.Config()
    config.data.datasets = ("raabin_gt",)
    config.data.image_size = 256
    config.data.protocol = "paper_a"
    config.augment = config_lib.Augment(preset="paper_a")
    config.model = config_lib.Model(name="unet", features=64, depth=4, norm="batch", channels=1)
    config.loss = config_lib.Loss(cross_entropy=0.0, dice=0.0, binary_focal=1.0, focal_gamma=2.0)
    config.optimizer = config_lib.Optimizer(
        name="adam",
        learning_rate=4e-4,
        schedule="plateau",
        drop_factor=0.1,
        plateau_patience=5,
        warmup_steps=0,
        weight_decay=0.0,
        gradient_clip=0.0,
    )
    config.train.batch_size = 16
    config.train.epochs = 60
    config.train.evaluate_every = 0
    config.train.patience = 15
    config.evaluate.size = 256
    return config
