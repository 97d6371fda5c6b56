"""Trains a model on a few images of your own, and scores it on the others before and after.

    python examples/finetune.py my_cells/ --model=segmenter --images=20 --out=runs/my_cells

The folder holds images/ and masks/ with the same names, and each image has one cell in the middle
(the layout of the data set `folder`, tfds_builders/folder/README.md). The script trains on --images
of them, a fifth of which only serve to choose the best checkpoint, and scores all others. The new
model is `wbc_jax.load("<out>/after")`.
"""

import argparse
import dataclasses
import pathlib
import sys

from etils import epath

import wbc_jax
from wbc_jax import config_checks, experiment
from wbc_jax.config import Config
from wbc_jax.errors import CheckpointError, ConfigError, DataError
from wbc_jax.evaluate import paired
from wbc_jax.inference import weights
from wbc_jax.report import comparison


def recipe(model: wbc_jax.Model, given: argparse.Namespace) -> Config:
    """Returns the model's own config, with the user's images and a short, gentle training."""
    total = sum(not path.name.startswith(".") for path in (given.folder / "masks").rglob("*.png"))
    if total < given.images + 5:
        sys.exit(
            f"error: {given.folder / 'masks'} holds {total} PNG masks; {given.images} to train on "
            "and 5 or more to score are needed. Lower --images, or add masks."
        )
    share = given.images / total
    config = dataclasses.replace(model.config)
    config.data = dataclasses.replace(
        config.data,
        datasets=("folder",),
        manual_dir=str(given.folder.resolve()),
        data_dir=str((given.out / "records").resolve()),
        protocol="fractions",
        fractions=(0.8 * share, 0.2 * share, 1 - share),
        **{"left_out": "", "train_source": "", "independent": ()},
        **{"mixture": "natural", "weights": (), "class_mixture": "natural"},
    )
    config.optimizer = dataclasses.replace(
        config.optimizer, learning_rate=given.learning_rate, schedule="cosine", warmup_steps=10
    )
    config.train = dataclasses.replace(
        config.train,
        init_from=given.model,
        batch_size=min(8, max(1, int(0.8 * given.images))),
        accumulate=1,
        steps=given.steps,
        epochs=0,
        evaluate_every=max(1, given.steps // 6),
        patience=0,
    )
    config.evaluate = dataclasses.replace(config.evaluate, external=())
    return config_checks.validate(config)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--model", default="segmenter", help="run, .safetensors file or name")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/finetuned"))
    given = parser.parse_args(argv)
    before, after = epath.Path(given.out / "before"), epath.Path(given.out / "after")
    try:
        config = recipe(wbc_jax.load(given.model), given)
        experiment.run(config, after)
        experiment.evaluate_weights(config, before, str(after / weights.INITIAL))
        found = paired.compare(paired.read(before), paired.read(after))
    except (CheckpointError, ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    print(f"\nBefore (A) and after (B):\n\n{comparison.text(found)}")


if __name__ == "__main__":
    main()
