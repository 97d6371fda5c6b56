"""The registry of networks. Imports no JAX: the config looks names up before anything is slow.

To add one, write a module with the class and a line here. The class is called with
`(num_classes, **fields, in_channels=..., dtype=..., rngs=...)`, where the fields are those of
`config.Model` that the line names (and `image_size`), and maps float32 images `[B, H, W, 3]` to
float32 logits: `[B, H, W, num_classes]` for segmentation, `[B, num_classes]` for classification.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Where a network is and what it is built from.

    Attributes:
        place: `module:Class`.
        fields: arguments of the class, by the names that `config.Model` has for them;
            `image_size`, in pixels, for a network of fixed size.
        task: what the network is for.
    """

    place: str
    fields: tuple[str, ...] = ()
    task: str = "segmentation"


_HERE = "wbc_jax.models"

NETWORKS: dict[str, Entry] = {
    "unet": Entry(
        f"{_HERE}.unet:UNet", ("features", "depth", "norm", "dropout", "up_relu", "patch")
    ),
    "segnet": Entry(f"{_HERE}.segnet:SegNet", ("features", "depth", "layout", "norm")),
    "encoder_decoder": Entry(f"{_HERE}.encoder_decoder:EncoderDecoder", ("norm",)),
    "classifier": Entry(
        f"{_HERE}.classifier:Classifier",
        ("image_size", "features", "blocks", "norm"),
        "classification",
    ),
    "resnet": Entry(
        f"{_HERE}.resnet:ResNet", ("features", "depth", "norm", "patch"), "classification"
    ),
}
