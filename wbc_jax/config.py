"""The settings of an experiment: slots dataclasses that reject what they do not know.

A file in `configs/` defines `get_config()` and returns a `Config`; any field can be set from the
command line (`--config.model.features=16`). `validate` is called once before anything runs, so
that a bad value ends the run with the field's name, what was found and what is allowed.
"""

import dataclasses
import json
import math
import typing
from collections.abc import Sequence
from typing import Any

from wbc_jax.networks import NETWORKS


class ConfigError(ValueError):
    """A field of the configuration holds a value that is not allowed."""


PAPER_FRACTIONS = {"paper_a": (0.70, 0.15, 0.15), "paper_b": (0.56, 0.14, 0.30)}
"""Shares of train, validation and test in the papers (B: Table 3, each data set by itself)."""


@dataclasses.dataclass(slots=True)
class Data:
    """Which images, where they lie, how they are split."""

    datasets: tuple[str, ...] = ("wbc_synthetic",)
    """TFDS names, `name` or `name/config`; each is split by itself and named in the results."""
    data_dir: str = "~/.cache/wbc_jax"
    """Where the records are written and read (`gs://` works)."""
    manual_dir: str = ""
    """Folder with the data sets as their authors publish them; empty: `$WBC_JAX_DATA`, if set."""
    image_size: int = 96
    """Side in pixels to which images are resized for the network."""
    protocol: str = "fractions"
    """How records come into train, validation and test. `fractions`: every data set is split by
    `fractions`. `paper_a`, `paper_b`: so too, by the papers' own fractions. `k_fold`: test is fold
    `fold` of `folds`, validation the next one. `one_source`: `train_source` is split by
    `fractions`, and the whole of every other data set is test as well (paper B's Table 8).
    `leave_one_out`: test is the whole of `left_out`; `independent`: the whole of each of
    `independent` (as paper B's LISC and BCD); in both the others are split into train and
    validation at the ratio of their fractions."""
    fractions: tuple[float, float, float] = (0.56, 0.14, 0.30)
    """Shares of train, validation and test, per data set and cell type."""
    folds: int = 5
    fold: int = 0
    train_source: str = ""
    """The one of `datasets` that `one_source` trains on."""
    left_out: str = ""
    """The one of `datasets` that `leave_one_out` tests on."""
    independent: tuple[str, ...] = ()
    """Those of `datasets` that `independent` tests on."""
    split_seed: int = 0
    """Another number draws another split."""
    cell_only_masks: bool = False
    """Keep records whose mask marks the whole cell without its nucleus (Raabin's basophils)."""
    isolate: str = ""
    """Classification: weights of a segmenter, a `.safetensors` file or the name of shipped ones, by
    which each image is cut to its cell, on a plain ground in white light (`data/isolation.py`)."""
    on_bad_file: str = "error"
    """`error` ends with the list of bad files, `skip` leaves them out and lists them."""
    mixture: str = "natural"
    """Shares of the data sets in training: `natural` (as many as each has), `balanced` (equal) or
    `custom` (`weights`)."""
    weights: tuple[float, ...] = ()
    """Relative weight of each of `datasets`, in their order, for the mixture `custom`."""
    class_mixture: str = "natural"
    """Shares of the cell types within a data set in training: `natural` or `balanced`."""
    threads: int = 4
    """Threads that decode and resize images ahead of the step."""
    cache_megabytes: int = 4096
    """Decoded images are kept in memory while a split needs no more than this."""


@dataclasses.dataclass(slots=True)
class Augment:
    """What happens to a training image on the device; image and mask move together."""

    preset: str = "custom"
    """`custom`: the fields below. Another name of `PRESETS` sets them all."""
    flip: bool = True
    """Reflection in x and in y, each with probability 1/2."""
    quarter_turns: bool = True
    """Rotation by 0, 90, 180 or 270 degrees."""
    rotation_degrees: float = 0.0
    """Rotation by up to this much either way."""
    zoom: float = 0.0
    """Scale between 1/(1+zoom) and 1+zoom."""
    translation_px: float = 0.0
    """Shift of up to this many pixels in x and in y."""
    brightness: float = 0.0
    """Added brightness, up to this much of the full range either way."""
    contrast: float = 0.0
    """Contrast between 1-c and 1+c, about the image's own mean."""
    stain: float = 0.0
    """Each stain's optical density is scaled between 1-s and 1+s and shifted by up to s/10."""
    channel_gain: float = 0.0
    """Each colour channel is scaled between 1-g and 1+g (white balance)."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur in pixels."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, in units of the full range."""
    grayscale: float = 0.0
    """Probability that the colours are replaced by their luma."""
    cutout_boxes: int = 0
    """Squares of the image's mean colour laid over it; what they hide is 255 in the mask."""
    cutout_side: float = 0.25
    """Largest side of these, as a share of the image's shorter side."""
    fill: str = "reflect"
    """What lies beyond the frame: `reflect` mirrors image and mask; `unlabelled` mirrors the image,
    where no loss counts, so that a mirrored cell beside a cell is learnt neither as a cell nor as
    background; `zero` is black background."""


@dataclasses.dataclass(slots=True)
class Model:
    """Which network."""

    name: str = "unet"
    """`unet`, `segnet`, paper B's 22-layer `encoder_decoder`, whose widths are fixed, or, for cell
    types, paper B's `classifier` or `resnet`; a network of your own once it is in
    `networks.NETWORKS`."""
    features: int = 16
    """Channels of the first level; in all but a SegNet they double at each level."""
    depth: int = 4
    """U-Net, SegNet and ResNet, levels below the first: the image is halved this many times."""
    blocks: int = 7
    """Classifier: how many times the image is halved."""
    layout: str = "matlab"
    """SegNet's stages: `matlab` (two convolutions, all of `features` channels) or `vgg16`."""
    norm: str = "batch"
    """`batch`, `group` or `none`."""
    dropout: float = 0.0
    """U-Net: after the last encoder level and the bridge (MATLAB's `unetLayers` has 0.5)."""
    up_relu: bool = False
    """U-Net: ReLU after each up-convolution, as MATLAB's `unetLayers` has it (paper B)."""
    patch: int = 1
    """U-Net and ResNet: side in pixels of the squares that the first level sees as one position
    each; a U-Net's logits have full size all the same."""
    channels: int = 3
    """What the network sees: 3 (colour) or 1 (its luma; paper A's grey images)."""
    dtype: str = "float32"
    """Of the computation: `float32` or `bfloat16`. Parameters, statistics of normalisation and
    logits are float32 in either case."""


@dataclasses.dataclass(slots=True)
class Optimizer:
    """How the parameters are moved."""

    name: str = "adamw"
    """`adamw` (decoupled weight decay), `adam` or `sgd` (L2 added to the gradient)."""
    learning_rate: float = 3e-3
    """Peak of the schedule."""
    schedule: str = "cosine"
    """After the warm-up: `cosine` (to zero), `constant`, `step` (times `drop_factor` every
    `drop_every` steps) or `plateau` (times `drop_factor` when validation stops improving)."""
    warmup_steps: int = 50
    drop_every: int = 1000
    """Steps between two drops of the schedule `step`."""
    drop_factor: float = 0.1
    """What a drop of the schedules `step` and `plateau` multiplies the learning rate by."""
    plateau_patience: int = 5
    """Looks at validation without a better score that `plateau` lets pass; the next one drops."""
    momentum: float = 0.9
    """Of `sgd`."""
    weight_decay: float = 1e-2
    """Decay of `adamw`; L2 factor of `adam` and `sgd` (MATLAB's default: 1e-4)."""
    gradient_clip: float = 1.0
    """Largest global norm of the gradient; 0: no clipping."""
    ema_decay: float = 0.0
    """Decay of the averaged parameters that evaluation uses; 0: no averaging."""


@dataclasses.dataclass(slots=True)
class Loss:
    """Weighted sum of losses; each of the first six fields is the weight of one."""

    cross_entropy: float = 1.0
    """Categorical cross-entropy."""
    binary_cross_entropy: float = 0.0
    """Cross-entropy of each class against the rest."""
    focal: float = 0.0
    """Categorical focal loss; its α are the class weights."""
    binary_focal: float = 0.0
    """Focal loss of each class against the rest."""
    dice: float = 1.0
    """Soft Dice loss; for masks only, as the next one."""
    generalised_dice: float = 0.0
    """Dice loss with classes weighted by the inverse square of their size."""
    focal_gamma: float = 2.0
    """Exponent of both focal losses; 0: they are cross-entropies."""
    focal_alpha: float = 0.0
    """Weight of the true class in `binary_focal`, 1 less it that of the others (Lin et al.: 0.25);
    0: no weights."""
    label_smoothing: float = 0.0
    """Share of the target of `cross_entropy` that is spread evenly over the classes."""
    class_weights: str = "none"
    """`inverse_frequency`: a pixel or cell counts by how rare its class is in the training split
    (`losses.inverse_frequency`); the Dice losses are left as they are."""


@dataclasses.dataclass(slots=True)
class Train:
    """How long, and what is kept."""

    batch_size: int = 16
    """Images a step over all devices and hosts."""
    steps: int = 600
    """Length of training, where `epochs` is 0."""
    epochs: int = 0
    """Length of training in passes over the training split; 0: `steps` decides."""
    seed: int = 0
    init_from: str = ""
    """Weights to begin with: a run's folder, a `.safetensors` file or the name of weights that the
    package ships; empty: drawn at random. The optimizer starts afresh in either case."""
    log_every: int = 20
    """Steps between two lines of `metrics.jsonl`."""
    evaluate_every: int = 100
    """Steps between two looks at the validation split; a checkpoint is saved at each. 0: one look
    a pass over the training split."""
    patience: int = 0
    """Looks without a better validation score (mean IoU, or macro recall) before training stops;
    0: never."""
    accumulate: int = 1
    """Parts into which a batch is cut, whose gradients are added up one after the other: memory for
    `batch_size / accumulate` images. The update is that of the whole batch, but for batch
    normalisation, which normalises each part by itself and moves its statistics once a part, and
    for dropout, which draws other masks."""
    remat: bool = False
    """Keep only what goes into the network's blocks, and compute what is inside again for the
    gradient: less memory for up to a third more work. XLA on CPU computes it once all the same."""
    compilation_cache: str = "auto"
    """Folder of JAX's cache of compiled programs, which spares a run that starts again the
    compilation. `auto`: `~/.cache/wbc_jax/compiled` on accelerators, none on CPU, where the fast
    convolutions cannot be cached (`models/fast.py`) and are not used with a cache; empty: none.
    The variable JAX_COMPILATION_CACHE_DIR comes before `auto`."""


@dataclasses.dataclass(slots=True)
class Mesh:
    """How devices, of all hosts together, share the work."""

    data: int = 0
    """Parts into which a batch is divided; 0: as many as there are devices for, and as divide it
    evenly."""
    model: int = 1
    """Parts into which parameters, their averages and the optimizer's state are divided; 1: every
    device has them whole."""


@dataclasses.dataclass(slots=True)
class Checkpoint:
    """What is kept of a run while it goes on."""

    keep_best: int = 1
    """The best checkpoint, and so many less 1 of those that were the best before it."""
    keep_last: int = 2
    """The newest checkpoints; of these the newest whole one is gone on from."""


@dataclasses.dataclass(slots=True)
class Distributed:
    """Of runs on several processes (see `distributed.py` for how they find each other)."""

    heartbeat_seconds: int = 60
    """A process that is not heard of for so long is dead, and the others end."""
    start_seconds: int = 300
    """How long processes wait for each other at the start."""


@dataclasses.dataclass(slots=True)
class Evaluate:
    """How predictions are scored."""

    size: int = 256
    """Segmentation: logits are resized to this side and scored against truth resized by nearest
    neighbour."""
    batch_size: int = 16
    flips: bool = False
    """Average the logits over the four reflections of each image."""
    middle_cell: bool = False
    """Segmentation: of several cells in an image only that in its middle is one; what else the
    network marks is background, as in truth that shows one cell an image. Not for fields."""
    bootstrap: int = 1000
    """Resamples of images behind each 95 % interval."""
    worst: int = 0
    """Segmentation: the report shows so many images of each data set, those that came out worst; 0:
    the worst of all and some of each better score."""
    external: tuple[str, ...] = ()
    """Data sets scored whole, where they are present and not trained on; apart in the report."""


@dataclasses.dataclass(slots=True)
class Config:
    """An experiment."""

    task: str = "segmentation"
    """`segmentation` (masks of nucleus and cytoplasm) or `classification` (the cell's type)."""
    data: Data = dataclasses.field(default_factory=Data)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    distributed: Distributed = dataclasses.field(default_factory=Distributed)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)


# Both papers' settings and none at all; what a preset does not name is off.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {"flip": False, "quarter_turns": False},
    # "Rotations, flips, zoom operations, and brightness modifications", without numbers: the
    # numbers are ours.
    "paper_a": {
        "flip": True,
        "quarter_turns": False,
        "rotation_degrees": 20.0,
        "zoom": 0.2,
        "brightness": 0.1,
    },
    # Of its classifier (MATLAB's imageDataAugmenter, which fills with 0); segmentation has none.
    "paper_b": {
        "flip": True,
        "quarter_turns": False,
        "rotation_degrees": 20.0,
        "translation_px": 3.0,
        "fill": "zero",
    },
}

CHOICES = {
    "task": ("segmentation", "classification"),
    "data.on_bad_file": ("error", "skip"),
    "data.protocol": (
        "fractions",
        "paper_a",
        "paper_b",
        "k_fold",
        "one_source",
        "leave_one_out",
        "independent",
    ),
    "data.mixture": ("natural", "balanced", "custom"),
    "data.class_mixture": ("natural", "balanced"),
    "augment.preset": ("custom", *PRESETS),
    "augment.fill": ("reflect", "unlabelled", "zero"),
    "model.name": NETWORKS,
    "model.layout": ("matlab", "vgg16"),
    "model.norm": ("batch", "group", "none"),
    "model.dtype": ("float32", "bfloat16"),
    "loss.class_weights": ("none", "inverse_frequency"),
    "optimizer.name": ("adamw", "adam", "sgd"),
    "optimizer.schedule": ("cosine", "constant", "step", "plateau"),
}

# field: (lowest, highest), both allowed.
RANGES: dict[str, tuple[float, float]] = {
    "data.image_size": (8, 4096),
    "data.split_seed": (0, 2**31 - 1),
    "data.folds": (3, 1000),
    "data.fold": (0, 999),
    "data.threads": (1, 256),
    "data.cache_megabytes": (0, math.inf),
    "augment.rotation_degrees": (0, 180),
    "augment.zoom": (0, 4),
    "augment.translation_px": (0, math.inf),
    "augment.brightness": (0, 1),
    "augment.contrast": (0, 1),
    "augment.stain": (0, 1),
    "augment.channel_gain": (0, 1),
    "augment.blur": (0, 4),
    "augment.noise": (0, 1),
    "augment.grayscale": (0, 1),
    "augment.cutout_boxes": (0, 64),
    "augment.cutout_side": (0, 1),
    "model.features": (1, 4096),
    "model.depth": (1, 8),
    "model.patch": (1, 8),
    "model.blocks": (1, 12),
    "model.dropout": (0, 0.99),
    "model.channels": (1, 3),
    "loss.cross_entropy": (0, math.inf),
    "loss.binary_cross_entropy": (0, math.inf),
    "loss.focal": (0, math.inf),
    "loss.binary_focal": (0, math.inf),
    "loss.dice": (0, math.inf),
    "loss.generalised_dice": (0, math.inf),
    "loss.focal_gamma": (0, 100),
    "loss.focal_alpha": (0, 1),
    "loss.label_smoothing": (0, 1),
    "optimizer.learning_rate": (0, math.inf),
    "optimizer.warmup_steps": (0, math.inf),
    "optimizer.drop_every": (1, math.inf),
    "optimizer.drop_factor": (0, 1),
    "optimizer.plateau_patience": (0, math.inf),
    "optimizer.momentum": (0, 0.999999),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.gradient_clip": (0, math.inf),
    "optimizer.ema_decay": (0, 0.999999),
    "train.batch_size": (1, math.inf),
    "train.steps": (1, math.inf),
    "train.epochs": (0, math.inf),
    "train.seed": (0, 2**31 - 1),
    "train.log_every": (1, math.inf),
    "train.evaluate_every": (0, math.inf),
    "train.patience": (0, math.inf),
    "train.accumulate": (1, math.inf),
    "mesh.data": (0, math.inf),
    "mesh.model": (1, math.inf),
    "checkpoint.keep_best": (1, math.inf),
    "checkpoint.keep_last": (1, math.inf),
    "distributed.heartbeat_seconds": (1, 86400),
    "distributed.start_seconds": (1, 86400),
    "evaluate.size": (8, 4096),
    "evaluate.batch_size": (1, math.inf),
    "evaluate.bootstrap": (0, 1_000_000),
    "evaluate.worst": (0, 1000),
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted field: value} of a config or one of its sections."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def validate(config: Config) -> Config:
    """Checks every field; a comma-separated text among the data sets is taken apart.

    Returns:
      `config` itself.

    Raises:
      ConfigError: a field is of another type, out of its range or not one of its choices; the
        message names it.
    """
    _check_types(config)
    # `--config.data.datasets=a,b` arrives as the tuple ("a,b",).
    config.data.datasets = _split_names(config.data.datasets)
    config.data.independent = _split_names(config.data.independent)
    config.evaluate.external = _split_names(config.evaluate.external)
    flat = flatten(config)
    for name, value in flat.items():
        if name in CHOICES and value not in CHOICES[name]:
            allowed = ", ".join(repr(c) for c in CHOICES[name])
            raise ConfigError(f"config.{name} is {value!r}; allowed are {allowed}.")
        if name in RANGES:
            low, high = RANGES[name]
            if not low <= value <= high or value == math.inf:
                above = " and finite" if high == math.inf else f" and at most {high:g}"
                raise ConfigError(
                    f"config.{name} is {value!r}; it must be at least {low:g}{above}."
                )
    fractions = config.data.fractions
    if len(fractions) != 3 or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise ConfigError(
            f"config.data.fractions is {fractions!r}; it must hold three shares (train, validation,"
            " test) that are not negative and sum to 1, such as (0.56, 0.14, 0.30)."
        )
    if not fractions[0]:
        raise ConfigError(
            f"config.data.fractions is {fractions!r}; the share of train must be above 0."
        )
    if not config.data.datasets:
        raise ConfigError(
            "config.data.datasets is empty; name at least one, such as wbc_synthetic."
        )
    if config.data.fold >= config.data.folds:
        raise ConfigError(
            f"config.data.fold is {config.data.fold}; the {config.data.folds} folds are numbered"
            f" 0 to {config.data.folds - 1}."
        )
    _check_protocol(config.data)
    weights = config.data.weights
    if config.data.mixture == "custom":
        if len(weights) != len(config.data.datasets) or not all(0 < w < math.inf for w in weights):
            raise ConfigError(
                f"config.data.weights is {weights!r}; the mixture 'custom' needs one finite number"
                f" above 0 for each of the {len(config.data.datasets)} data sets."
            )
    elif weights:
        raise ConfigError(
            f"config.data.weights is {weights!r}, but config.data.mixture is"
            f" {config.data.mixture!r}; set it to 'custom', or leave the weights empty."
        )
    for name in ("data.datasets", "data.independent", "evaluate.external"):
        values = flat[name]
        if len(set(values)) != len(values):
            raise ConfigError(f"config.{name} names a data set twice: {values!r}; name each once.")
    if config.optimizer.learning_rate == 0:
        raise ConfigError("config.optimizer.learning_rate is 0; it must be above 0.")
    if config.train.batch_size % config.train.accumulate:
        raise ConfigError(
            f"config.train.accumulate is {config.train.accumulate}; it must divide"
            f" config.train.batch_size, {config.train.batch_size}, evenly."
        )
    _apply_preset(config.augment)
    _check_model(config)
    _check_loss(config)
    return config


def _apply_preset(augment: Augment) -> None:
    """Sets the fields that a named preset stands for.

    Raises:
      ConfigError: one of them was also set, to something else.
    """
    if augment.preset == "custom":
        return
    default = Augment()
    off = Augment(preset=augment.preset, flip=False, quarter_turns=False)
    preset = dataclasses.replace(off, **PRESETS[augment.preset])
    for field in dataclasses.fields(Augment):
        value, wanted = getattr(augment, field.name), getattr(preset, field.name)
        if value not in (wanted, getattr(default, field.name)):
            raise ConfigError(
                f"config.augment.{field.name} is {value!r}, but the preset {augment.preset!r} sets"
                f" it to {wanted!r}; leave it out, or set config.augment.preset to 'custom'."
            )
        setattr(augment, field.name, wanted)


def _check_model(config: Config) -> None:
    """Checks that the fields of the network fit it, the task and the images."""
    model, size = config.model, config.data.image_size
    network = NETWORKS[model.name]
    if network.task != config.task:
        there = ", ".join(name for name, other in NETWORKS.items() if other.task == config.task)
        raise ConfigError(
            f"config.model.name is {model.name!r}, a network for the task {network.task!r}, but"
            f" config.task is {config.task!r}; choose one of {there}, or the other task."
        )
    # Sizes that a network does not have are passed over, so that its name alone can be changed.
    for name in ("layout", "dropout", "up_relu", "patch"):
        value, off = getattr(model, name), getattr(Model(), name)
        if value != off and name not in network.fields:
            raise ConfigError(
                f"config.model.{name} is {value!r}, but {model.name} has none; set it to {off!r}."
            )
    if model.channels == 2:
        raise ConfigError("config.model.channels is 2; it must be 3 (colour) or 1 (grey).")
    if model.name == "segnet" and model.layout == "vgg16" and model.depth > 5:
        raise ConfigError(
            f"config.model.depth is {model.depth}; the layout 'vgg16' has 5 stages, so at most 5."
        )
    if model.name == "segnet" and size < 2**model.depth:
        raise ConfigError(
            f"config.model.depth is {model.depth}; a SegNet halves the image that often, and"
            f" config.data.image_size is {size}: choose a depth of at most {size.bit_length() - 1}."
        )
    if model.name == "classifier" and size < 2**model.blocks:
        raise ConfigError(
            f"config.model.blocks is {model.blocks}; a classifier halves the image that often, and"
            f" config.data.image_size is {size}: choose at most {size.bit_length() - 1} blocks."
        )


def _check_loss(config: Config) -> None:
    """Checks that there is a loss, and that it suits the task."""
    loss = config.loss
    terms = ("cross_entropy", "binary_cross_entropy", "focal", "binary_focal")
    mask_terms = ("dice", "generalised_dice")
    if config.task == "classification":
        for name in mask_terms:
            if getattr(loss, name):
                raise ConfigError(
                    f"config.loss.{name} is {getattr(loss, name)!r}, but it compares masks and"
                    " config.task is 'classification'; set it to 0."
                )
    else:
        terms += mask_terms
    if not any(getattr(loss, name) for name in terms):
        raise ConfigError(
            f"config.loss has no term above 0; set {', '.join(terms[:-1])} or {terms[-1]}."
        )
    if loss.label_smoothing and not loss.cross_entropy:
        raise ConfigError(
            f"config.loss.label_smoothing is {loss.label_smoothing!r}, but it belongs to"
            " cross_entropy, which is 0; set one of them."
        )


# Protocol: the field that names its data sets, and what it must be.
_NAMED_BY = {
    "one_source": ("train_source", "one of at least two"),
    "leave_one_out": ("left_out", "one of at least two"),
    "independent": ("independent", "some, but not all, of the"),
}


def _check_protocol(data: Data) -> None:
    papers = PAPER_FRACTIONS.get(data.protocol, data.fractions)
    if data.fractions not in (papers, Data().fractions):
        raise ConfigError(
            f"config.data.fractions is {data.fractions!r}, but the protocol {data.protocol!r} has"
            f" {papers!r}; set config.data.protocol to 'fractions', or leave the fractions alone."
        )
    for protocol, (field, needed) in _NAMED_BY.items():
        value = getattr(data, field)
        chosen = {value} if isinstance(value, str) else set(value)
        if data.protocol == protocol:
            if not chosen < set(data.datasets) or not chosen:
                raise ConfigError(
                    f"config.data.{field} is {value!r}; {protocol} needs {needed}"
                    f" config.data.datasets, here {', '.join(data.datasets)}."
                )
        elif value:
            raise ConfigError(
                f"config.data.{field} is {value!r}, but config.data.protocol is"
                f" {data.protocol!r}; set it to {protocol!r}, or leave {field} empty."
            )


def _split_names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for name in names for part in name.split(",") if part.strip())


def to_json(config: Config) -> str:
    """Returns the config as indented JSON, the content of a run's `config.json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str | bytes, where: str = "config.json") -> Config:
    """Returns the config that `to_json` wrote.

    Raises:
      ConfigError: not JSON, an unknown field or a value of another type; names `where`.
    """
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not JSON ({error}).") from None
    return validate(_build(Config, values, where, "config"))


def _build(cls: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix} is {values!r}; it must be an object with fields.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"{where}: {prefix} has no field {unknown[0]!r}; it has {', '.join(hints)}."
        )
    built = {}
    for name, value in values.items():
        hint, field = hints[name], f"{prefix}.{name}"
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, value, where, field)
        else:
            built[name] = _typed(hint, value, f"{where}: {field}")
    return cls(**built)


def _check_types(section: Any, prefix: str = "config") -> None:
    """Checks what a config file has assigned; dataclasses themselves take anything."""
    for name, hint in typing.get_type_hints(type(section)).items():
        value, field = getattr(section, name), f"{prefix}.{name}"
        if not dataclasses.is_dataclass(hint):
            setattr(section, name, _typed(hint, value, field))
        elif isinstance(value, hint):
            _check_types(value, field)
        else:
            raise ConfigError(f"{field} is {value!r}; it must be a wbc_jax.config.{hint.__name__}.")


def _typed(hint: Any, value: Any, field: str) -> Any:
    """Returns `value` as `hint` wants it: lists as tuples, whole numbers as floats.

    Raises:
      ConfigError: another type; names `field`.
    """
    kind = typing.get_origin(hint) or hint
    if kind is tuple and isinstance(value, list | tuple):
        of = typing.get_args(hint)[0]  # all of one type: (str, ...) or three floats
        return tuple(_typed(of, part, f"{field}[{i}]") for i, part in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{field} is {value!r}; it must be of type {kind.__name__}.")
    return value


def in_steps(config: Config, images: int) -> Config:
    """Returns the config with `train.steps` and `train.evaluate_every` filled in.

    Args:
        config: validated; left as it is.
        images: in the training split.
    """
    a_pass = math.ceil(images / config.train.batch_size)
    train = dataclasses.replace(
        config.train,
        steps=config.train.epochs * a_pass or config.train.steps,
        evaluate_every=config.train.evaluate_every or a_pass,
    )
    return dataclasses.replace(config, train=train)


def differences(old: Config, new: Config, ignore: Sequence[str] = ()) -> list[str]:
    """Returns one line a field in which the configs differ, `ignore`d dotted names left out."""
    before, after = flatten(old), flatten(new)
    return [
        f"config.{name}: {before.get(name)!r} there, {value!r} here"
        for name, value in after.items()
        if before.get(name) != value and name not in ignore
    ]
