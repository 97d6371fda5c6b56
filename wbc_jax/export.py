"""A run's model as one file: `python -m wbc_jax.export RUN --out=FILE`.

The ending decides what is written. `.safetensors` holds the weights, for `wbc_jax.load` anywhere.
`.stablehlo` holds the whole computation, for any program with JAX, without Flax or this package:

    exported = jax.export.deserialize(pathlib.Path("unet.stablehlo").read_bytes())
    logits = exported.call(images)  # uint8 [B, S, S, 3], any B, to float32 [B, S, S, C] or [B, C]

`.onnx` holds the same for ONNX Runtime and its like (needs the extra `onnx`):

    logits = onnxruntime.InferenceSession("unet.onnx").run(None, {"images": images})[0]
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

STABLEHLO, ONNX = ".stablehlo", ".onnx"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class ExportError(RuntimeError):
    """A model cannot be written in another form."""


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


def onnx(model: Any) -> bytes:
    """Returns a model's computation as ONNX, converted by jax2onnx and tried in ONNX Runtime.

    It maps `images` to `logits` as `stablehlo` does. A network that computes in bfloat16 does so in
    float32 here, as ONNX Runtime has no other convolution on CPUs.

    Args:
        model: from `wbc_jax.load`.

    Raises:
        ExportError: the extra `onnx` is not installed, the network holds what the converter or the
            runtime cannot do, or the runtime's logits are others than JAX's.
    """
    import jax
    from jax import export

    from wbc_jax import inference, steps
    from wbc_jax.models import fast

    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            f"{ONNX} needs jax2onnx and onnxruntime ({error}): pip install 'wbc_jax[onnx]', best "
            "in an environment of its own, as jax2onnx wants an older Orbax"
        ) from error
    config, side = model.config, model.config.data.image_size
    exact = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
    logits = steps.make_logits(inference.empty_state(exact)[0], config.evaluate.flips)
    shape = export.symbolic_shape(f"b, {side}, {side}, 3")
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)  # it warns of shapes that it leaves out
        with fast.disabled():
            converted = jax2onnx.to_onnx(
                lambda images: logits(model.weights, images),
                [jax.ShapeDtypeStruct(shape, np.uint8)],
                model_name="wbc_jax",
                input_names=["images"],
                output_names=["logits"],
            ).SerializeToString()
            expected = np.asarray(jax.jit(logits)(model.weights, images))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        found = onnxruntime.InferenceSession(converted, options).run(None, {"images": images})[0]
    except Exception as error:  # both libraries raise many kinds
        name, text = config.model.name, str(error).partition("\n")[0]
        raise ExportError(
            f"{name} cannot be converted to ONNX ({text}); {STABLEHLO} can hold it"
        ) from error
    finally:
        logger.setLevel(before)
    off = float(np.abs(found - expected).max())
    if not off <= 1e-4 * max(1.0, float(np.abs(expected).max())):
        raise ExportError(
            f"ONNX Runtime's logits of {config.model.name} are up to {off:.3g} off JAX's, which is "
            f"more than rounding; {STABLEHLO} can hold it"
        )
    return converted


def weights_file(run: epath.PathLike, path: epath.PathLike, dtype: str = "float16") -> None:
    """Writes the best checkpoint of a run as a file of weights (see `wbc_jax.weights`), and its
    abstention rule, if there is one, beside it.

    The records of the run's data sets are read again, as the file lists the images it has seen.

    Raises:
        CheckpointError, ConfigError: there is no run, or its records are split otherwise by now.
        DataError: its records are missing.
        WeightsError: `run` is no run's folder, or the weights do not fit `dtype`.
    """
    from wbc_jax import abstain, experiment, files, inference, weights
    from wbc_jax import config as config_lib

    if weights.find(run):
        raise weights.WeightsError(f"{run} is a file of weights already; name a run's folder.")
    model = inference.load(run)
    # Where the records lay is nobody else's business.
    data = dataclasses.replace(
        model.config.data, data_dir=config_lib.Data().data_dir, manual_dir=""
    )
    config = dataclasses.replace(model.config, data=data)
    seen = experiment.seen_by(run, model)
    weights.write(path, config, model.step, model.weights, seen, np.dtype(dtype))
    if (rule := abstain.place(run)).exists():
        files.write_bytes(abstain.place(path), rule.read_bytes())


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
        "--out", required=True, help=f"file to write: {weights.SUFFIX}, {STABLEHLO} or {ONNX}"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help=f"type of the weights in a {weights.SUFFIX} file",
    )
    options = parser.parse_args(arguments)
    out = epath.Path(options.out).expanduser()
    computations = {STABLEHLO: stablehlo, ONNX: onnx}
    if out.suffix not in (weights.SUFFIX, *computations):
        parser.error(f"--out={options.out} must end in {weights.SUFFIX}, {STABLEHLO} or {ONNX}")
    expected = (
        checkpoint.CheckpointError,
        config_lib.ConfigError,
        records.DataError,
        ExportError,
    )
    try:
        if out.suffix in computations:
            files.write_bytes(out, computations[out.suffix](inference.load(options.run)))
        else:
            weights_file(options.run, out, options.dtype)
    except (*expected, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.out}: {out.stat().length / 2**20:.2f} MiB", flush=True)


if __name__ == "__main__":
    main()
