"""Paper A: U-Net for nucleus and cytoplasm (Kirubakaran et al.).

python -m wbc_jax.main --config=configs/paper_a_unet.py

The paper gives several learning rates and losses. This config follows its section 3.1, "Training
Details", which is meant for reproduction: Adam at 4e-4, binary focal loss with γ = 2, images turned
gray. The alternatives in the paper:

- learning rate of section 3: `--config.optimizer.learning_rate=1e-3`
- binary cross-entropy (section 3):
  `--config.loss.binary_focal=0 --config.loss.binary_cross_entropy=1`
- categorical cross-entropy (section 3.2; the loss that fits the paper's softmax):
  `--config.loss.binary_focal=0 --config.loss.cross_entropy=1`
- color images: `--config.model.channels=3`

Same as in the paper: 256 × 256 pixels, 64 … 1024 channels with batch normalization, 70/15/15 %,
batches of 16, 60 epochs, Adam, augmentation by rotation, flips, zoom and brightness.

Different from the paper, or not stated in it:

- Its 50 pairs of image and mask are not published. Its images are a packaging of Raabin-WBC. This
  config uses the Raabin-WBC cells with published expert masks (`raabin_gt`, 1145 cells when
  complete) without the basophils, whose masks mark the cell but not its nucleus. The data set
  nearest in size to 50 pairs is `--config.data.datasets=segmentation_wbc/cellavision` (100 cells,
  70 of them for training).
- The paper states no magnitudes of augmentation, no α, no rule for early stopping and no schedule.
  Ours: `config.PRESETS["paper_a"]`, no α, stop after 15 epochs without a better validation score,
  a tenth of the learning rate after 5 (`plateau`).

Time and scores: not measured. The network has 31.0 M parameters; use a GPU.
"""

from wbc_jax.config import Augment, Config, Loss, Model, Optimizer


def get_config() -> Config:
    config = Config()
    config.data.datasets = ("raabin_gt",)
    config.data.image_size = 256
    config.data.protocol = "paper_a"
    config.augment = Augment(preset="paper_a")
    config.model = Model(name="unet", features=64, depth=4, norm="batch", channels=1)
    config.loss = Loss(cross_entropy=0.0, dice=0.0, binary_focal=1.0, focal_gamma=2.0)
    config.optimizer = Optimizer(
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
