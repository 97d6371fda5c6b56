"""A run's model as one file: `python -m wbc_jax.export RUN --out=FILE`.

The ending decides what is written. `.safetensors` holds the weights, for `wbc_jax.load` anywhere.
`.stablehlo` holds the whole computation, for any program with JAX, without Flax or this package:

    exported = jax.export.deserialize(pathlib.Path("unet.stablehlo").read_bytes())
    logits = exported.call(images)  # uint8 [B, S, S, 3], any B, to float32 [B, S, S, C] or [B, C]
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

STABLEHLO = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def stablehlo(model: Any) -> bytes:
    """Returns a model's computation as `jax.export` serialises it, for CPU, GPU and TPU.

    It maps uint8 `[B, S, S, 3]` RGB (S = `model.config.data.image_size`, any B) to float32 logits,
    `[B, S, S, C]` of masks or `[B, C]` of types, weights included. Convolutions are XLA's own.

    Args:
        model: from `wbc_jax.load`.
    """
    import jax
    from jax import export

    from wbc_jax import steps
    from wbc_jax.models import fast

    side = model.config.data.image_size
    logits = steps.make_logits(model.network, model.config.evaluate.flips)
    shape = export.symbolic_shape(f"b, {side}, {side}, 3")
    with fast.disabled():
        exported = export.export(
            jax.jit(lambda images: logits(model.weights, images)), platforms=PLATFORMS
        )(jax.ShapeDtypeStruct(shape, np.uint8))
    return exported.serialize()


def weights_file(run: epath.PathLike, path: epath.PathLike, dtype: str = "float16") -> None:
    """Writes the best checkpoint of a run as a file of weights (see `wbc_jax.weights`).

    The records of the run's data sets are read again, as the file lists the images it has seen.

    Raises:
        CheckpointError, ConfigError: there is no run, or its records are split otherwise by now.
        DataError: its records are missing.
        WeightsError: `run` is no run's folder, or the weights do not fit `dtype`.
    """
    from wbc_jax import config as config_lib
    from wbc_jax import experiment, inference, weights
    from wbc_jax.data import pipeline

    if weights.find(run):
        raise weights.WeightsError(f"{run} is a file of weights already; name a run's folder.")
    model = inference.load(run)
    config = model.config
    examples = pipeline.load_splits(config.data, config.evaluate.size, config.task)
    experiment.check_splits(epath.Path(run).expanduser(), examples)
    seen = examples["train"].entries + examples["validation"].entries
    # Where the records lay is nobody else's business.
    nowhere = dataclasses.replace(config.data, data_dir=config_lib.Data().data_dir, manual_dir="")
    config = dataclasses.replace(config, data=nowhere)
    weights.write(path, config, model.step, model.weights, seen, np.dtype(dtype))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: see the module's text."""
    from wbc_jax import checkpoint, files, inference, weights
    from wbc_jax import config as config_lib
    from wbc_jax.data import records

    parser = argparse.ArgumentParser(
        "python -m wbc_jax.export", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", help="the --workdir of a training, or weights")
    parser.add_argument(
        "--out", required=True, help=f"file to write: {weights.SUFFIX} or {STABLEHLO}"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help=f"type of the weights in a {weights.SUFFIX} file",
    )
    options = parser.parse_args(arguments)
    out = epath.Path(options.out).expanduser()
    if out.suffix not in (weights.SUFFIX, STABLEHLO):
        parser.error(f"--out={options.out} must end in {weights.SUFFIX} or {STABLEHLO}")
    expected = (checkpoint.CheckpointError, config_lib.ConfigError, records.DataError)
    try:
        if out.suffix == STABLEHLO:
            files.write_bytes(out, stablehlo(inference.load(options.run)))
        else:
            weights_file(options.run, out, options.dtype)
    except (*expected, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.out}: {out.stat().length / 2**20:.2f} MiB", flush=True)


if __name__ == "__main__":
    main()
