"""Exports a model as one file that runs without this package: StableHLO or ONNX.

StableHLO, for any program with JAX, without Flax or this package:

    exported = jax.export.deserialize(pathlib.Path("segmenter.stablehlo").read_bytes())
    masks = exported.call(images)  # uint8 [B, H, W, 3], any B, H and W, to uint8 [B, H, W]

It holds the whole function from pixels to answer (`wbc_jax.inference.traced`), or the network
alone. ONNX, for ONNX Runtime and others, holds the network alone (needs the extra `onnx`):

    logits = onnxruntime.InferenceSession("unet.onnx").run(None, {"images": images})[0]

`wbc_jax.inference.export_notes` describes a file.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from wbc_jax import cpu
from wbc_jax.errors import ExportError
from wbc_jax.inference import model as inference
from wbc_jax.inference import traced
from wbc_jax.training import steps

STABLEHLO, ONNX = ".stablehlo", ".onnx"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def stablehlo(
    model: inference.Model, network_only: bool = False, notes: Mapping[str, Any] | None = None
) -> bytes:
    """Returns a model's computation, with its weights, as `jax.export` serializes it.

    It runs on CPU, GPU and TPU. The whole function is `traced.whole`. The network alone maps uint8
    `[B, S, S, 3]` RGB (S = `model.config.data.image_size`, any B) to float32 logits,
    `[B, S, S, C]` for masks or `[B, C]` for types. Convolutions are XLA's own.

    Args:
        model: from `wbc_jax.load`.
        network_only: export the network alone.
        notes: JSON that a reader finds in `Exported.fun_name`, the format's only text.
    """
    side = model.config.data.image_size
    if network_only:
        logits = steps.make_logits(model.network, model.config.evaluate.flips)
        function = functools.partial(logits, model.weights)
        shape = export.symbolic_shape(f"b, {side}, {side}, 3")
    else:
        function = traced.whole(model)
        shape = export.symbolic_shape("b, h, w, 3")
    with cpu.disabled():
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, np.uint8)
        )
    return dataclasses.replace(exported, fun_name=json.dumps(notes or {})).serialize()


def onnx(model: inference.Model, notes: Mapping[str, Any] | None = None) -> bytes:
    """Returns a model's network as ONNX, converted by jax2onnx and checked in ONNX Runtime.

    It maps `images` to `logits` as `stablehlo` with `network_only` does. It always computes in
    float32, even for a bfloat16 network, as ONNX Runtime has no other convolution on CPUs.

    Args:
        model: from `wbc_jax.load`.
        notes: entries of the file's `metadata_props`; what is no text is written as JSON.

    Raises:
        ExportError: the extra `onnx` is not installed, the converter or the runtime does not
            support an operation of the network, or the runtime's logits differ from JAX's.
    """
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
        logger.setLevel(logging.ERROR)  # it warns about shapes that it drops
        with cpu.disabled():
            graph = jax2onnx.to_onnx(
                lambda images: logits(model.weights, images),
                [jax.ShapeDtypeStruct(shape, np.uint8)],
                model_name="wbc_jax",
                input_names=["images"],
                output_names=["logits"],
            )
            expected = np.asarray(jax.jit(logits)(model.weights, images))
        for name, value in (notes or {}).items():
            entry = graph.metadata_props.add()
            entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
        converted = graph.SerializeToString()
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
