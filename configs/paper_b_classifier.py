"""Paper B: classifier of the five cell types (Özcan, Uyar & Karayeğen 2024).

python -m wbc_jax.main --config=configs/paper_b_classifier.py

Same as in the paper: 360 × 360 pixels, seven blocks (17,499,781 parameters), each data set split
into 56/14/30 % and then pooled, SGD with momentum at 3e-4, cross-entropy, 500 epochs, and new
random augmentation in each epoch: rotation by up to 20°, reflection in x and y, shifts by up to 3
pixels, filled with black.

Different from the paper, or not stated in it:

- Its data sets 2 and 3 are Raabin-WBC. This config uses only the 1145 cells that have masks, which
  are quick to download. With all cells:
  `--config.data.datasets=pbc,raabin_wbc,kaggle_blood_cells/original`.
- The paper removed deformed cells and images of several cells, and prints no list of them.
  `--mode=prepare` shows our counts next to its Table 3.
- It does not state the batch size. MATLAB's default, 128, does not fit on its 6 GB card at this
  image size; ours is 32. Momentum 0.9, L2 1e-4 and a constant rate are MATLAB's defaults.
- Its independent test sets are LISC and BCD. The authors of BCD publish no cell types: add your own
  labels to it (`tfds_builders/bcd/README.md`) and add `bcd` to `evaluate.external`.
- Eight blocks fit the figures that it prints for the network (36 layers, 736 MFLOPs) better than
  seven: `--config.model.features=8 --config.model.blocks=8` (`wbc_jax/models/classifier.py`).

The paper reports 99.75 % on `pbc` alone: `--config.data.datasets=pbc`.

Time and scores: not measured. 500 epochs of the pooled data take days on one GPU.
"""

from wbc_jax.config import Augment, Config, Loss, Model, Optimizer


def get_config() -> Config:
    config = Config(task="classification")
    config.data.datasets = ("pbc", "raabin_gt", "kaggle_blood_cells/original")
    config.data.image_size = 360
    config.data.protocol = "paper_b"
    config.augment = Augment(preset="paper_b")
    config.model = Model(name="classifier", features=16, blocks=7, norm="batch")
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
    config.train.batch_size = 32
    config.train.epochs = 500
    config.train.evaluate_every = 0
    config.evaluate.external = ("lisc",)
    return config
