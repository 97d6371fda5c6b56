"""The settings of an experiment: slots dataclasses, which refuse unknown fields.

A file in `configs/` defines `get_config()` and returns a `Config`. Any field can be set from the
command line (`--config.model.features=16`). Each field stands here with its type, its default, the
values it allows and its meaning; `config_checks.validate` checks them once, before anything runs.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from wbc_jax.errors import ConfigError

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Allows the finite numbers from `low` to `high`, both included."""

    low: float
    high: float = math.inf

    def check(self, name: str, value: float) -> None:
        """Raises a ConfigError that names the field unless `value` is allowed."""
        if not self.low <= value <= self.high or value == math.inf:
            above = " and finite" if self.high == math.inf else f" and at most {self.high:g}"
            raise ConfigError(
                f"config.{name} is {value!r}; it must be at least {self.low:g}{above}."
            )


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Choices:
    """Allows a few texts."""

    values: tuple[str, ...]

    def __init__(self, *values: str):
        object.__setattr__(self, "values", values)

    def check(self, name: str, value: str) -> None:
        """Raises a ConfigError that names the field unless `value` is allowed."""
        if value not in self.values:
            allowed = ", ".join(map(repr, self.values))
            raise ConfigError(f"config.{name} is {value!r}; allowed are {allowed}.")


def _field(default: _T, allowed: Range | Choices) -> _T:
    # Metadata and not `Annotated`, which the flags of ml_collections do not understand.
    return dataclasses.field(default=default, metadata={"allowed": allowed})


PAPER_FRACTIONS = {"paper_a": (0.70, 0.15, 0.15), "paper_b": (0.56, 0.14, 0.30)}
"""The papers' shares of train, validation and test (B: Table 3, each data set by itself)."""

PRESETS: dict[str, dict[str, Any]] = {
    "none": {"flip": False, "quarter_turns": False},
    # The paper names "rotations, flips, zoom operations, and brightness modifications" without
    # numbers: the numbers are ours.
    "paper_a": {
        "flip": True,
        "quarter_turns": False,
        "rotation_degrees": 20.0,
        "zoom": 0.2,
        "brightness": 0.1,
    },
    # For paper B's classifier (MATLAB's imageDataAugmenter, which fills with 0). The paper does
    # not augment for segmentation.
    "paper_b": {
        "flip": True,
        "quarter_turns": False,
        "rotation_degrees": 20.0,
        "translation_px": 3.0,
        "fill": "zero",
    },
}
"""Values of `augment.preset`: the fields of `Augment` that each sets. All others are off."""


@dataclasses.dataclass(slots=True)
class Data:
    """The images: which, where they are, and how they are split."""

    datasets: tuple[str, ...] = ("wbc_synthetic",)
    """TFDS names, `name` or `name/config`. Each data set is split and scored by itself."""
    data_dir: str = "~/.cache/wbc_jax"
    """Folder of the prepared records (`gs://` works)."""
    manual_dir: str = ""
    """Folder with the data sets as their authors publish them; empty: `$WBC_JAX_DATA`, if set."""
    image_size: int = _field(96, Range(8, 4096))
    """Side in pixels to which images are resized for the network."""
    protocol: str = _field(
        "fractions",
        Choices(
            "fractions",
            "paper_a",
            "paper_b",
            "k_fold",
            "one_source",
            "leave_one_out",
            "independent",
        ),
    )
    """How records are divided into train, validation and test.

    - `fractions`: each data set is split by the field `fractions`.
    - `paper_a`, `paper_b`: the same, with the paper's fractions.
    - `k_fold`: test is fold `fold` of `folds`, validation is the next one.
    - `one_source`: `train_source` is split by `fractions`; every other data set is test as a whole
      (paper B's Table 8).
    - `leave_one_out`: test is the whole of `left_out`. `independent`: test is the whole of each of
      `independent` (paper B's LISC and BCD). Both split the other data sets into train and
      validation, at the ratio of their fractions.
    """
    fractions: tuple[float, float, float] = (0.56, 0.14, 0.30)
    """Shares of train, validation and test, per data set and cell type."""
    folds: int = _field(5, Range(3, 1000))
    fold: int = _field(0, Range(0, 999))
    train_source: str = ""
    """The data set of `datasets` that `one_source` trains on."""
    left_out: str = ""
    """The data set of `datasets` that `leave_one_out` tests on."""
    independent: tuple[str, ...] = ()
    """The data sets of `datasets` that `independent` tests on."""
    split_seed: int = _field(0, Range(0, 2**31 - 1))
    """Another seed draws another split."""
    cell_only_masks: bool = False
    """Keep records whose mask marks the whole cell without its nucleus (Raabin's basophils). The
    loss ignores the cell and learns the background around it; the cell as a whole is scored. An
    external data set that has no other masks is always scored so."""
    isolate: str = ""
    """Classification: a segmenter (a `.safetensors` file or the name of shipped weights) that cuts
    each image to its cell, on a plain ground in white light (`data/isolation.py`)."""
    nucleus_density: float = _field(0.0, Range(0, 4))
    """With `isolate`: natural optical density in green that each image's nucleus is brought to, by
    one factor for all densities; 0: as it is."""
    red_density: float = _field(0.0, Range(0, 1))
    """With `nucleus_density`: the same of the red cells beside the cell, by one exponent for all
    densities; 0: as they are."""
    on_bad_file: str = _field("error", Choices("error", "skip"))
    """`error` ends the run with the list of bad files; `skip` leaves them out and lists them."""
    mixture: str = _field("natural", Choices("natural", "balanced", "custom"))
    """Shares of the data sets in training: `natural` (in proportion to their size), `balanced`
    (equal) or `custom` (`weights`)."""
    weights: tuple[float, ...] = ()
    """Relative weight of each of `datasets`, in their order, for the mixture `custom`."""
    class_mixture: str = _field("natural", Choices("natural", "balanced"))
    """Shares of the cell types within a data set in training: `natural` or `balanced`."""
    threads: int = _field(4, Range(1, 256))
    """Threads that decode and resize images ahead of the training step."""
    cache_megabytes: int = _field(4096, Range(0))
    """A split whose decoded images fit into this is kept in memory."""


@dataclasses.dataclass(slots=True)
class Augment:
    """Random changes to a training image, made on the device; image and mask move together."""

    preset: str = _field("custom", Choices("custom", *PRESETS))
    """`custom`: the fields below apply. Any other name of `PRESETS` sets them all."""
    flip: bool = True
    """Reflection in x and in y, each with probability 1/2."""
    quarter_turns: bool = True
    """Rotation by 0, 90, 180 or 270 degrees."""
    rotation_degrees: float = _field(0.0, Range(0, 180))
    """Largest rotation either way."""
    zoom: float = _field(0.0, Range(0, 4))
    """Scale between 1/(1+zoom) and 1+zoom."""
    translation_px: float = _field(0.0, Range(0))
    """Largest shift in pixels, in x and in y."""
    brightness: float = _field(0.0, Range(0, 1))
    """Largest change of brightness either way, as a share of the full range."""
    contrast: float = _field(0.0, Range(0, 1))
    """Contrast between 1-c and 1+c, about the image's own mean."""
    stain: float = _field(0.0, Range(0, 1))
    """Each stain's optical density is scaled between 1-s and 1+s and shifted by up to s/10."""
    channel_gain: float = _field(0.0, Range(0, 1))
    """Each color channel is scaled between 1-g and 1+g (white balance)."""
    gamma: float = _field(0.0, Range(0, 4))
    """Each color channel is raised to a power between 1/(1+g) and 1+g, which scales its optical
    density; half of the power's logarithm is common to the channels, half is each one's own."""
    blur: float = _field(0.0, Range(0, 4))
    """Largest standard deviation of a Gaussian blur in pixels."""
    noise: float = _field(0.0, Range(0, 1))
    """Largest standard deviation of Gaussian noise, in units of the full range."""
    grayscale: float = _field(0.0, Range(0, 1))
    """Probability that the colors are replaced by their luma."""
    cutout_boxes: int = _field(0, Range(0, 64))
    """Number of squares of the image's mean color laid over it; the mask is 255 below them."""
    cutout_side: float = _field(0.25, Range(0, 1))
    """Largest side of a square, as a share of the image's shorter side."""
    fill: str = _field("reflect", Choices("reflect", "unlabelled", "zero"))
    """Content beyond the frame: `reflect` mirrors image and mask. `unlabelled` mirrors the image
    and ignores it in the loss, so that the network does not learn a mirrored cell beside a cell,
    neither as cell nor as background. `zero` is black background."""


@dataclasses.dataclass(slots=True)
class Model:
    """The network."""

    name: str = "unet"
    """A name of `NETWORKS` in `models/registry.py`: `unet`, `efficientnet_unet`, `segnet` or paper
    B's 22-layer `encoder_decoder` (its widths are fixed) for masks; paper B's `classifier`,
    `resnet` or `efficientnet` for cell types."""
    variant: str = _field("lite0", Choices("lite0", "lite1", "lite2"))
    """EfficientNet: the encoder's size."""
    features: int = _field(16, Range(1, 4096))
    """Channels of the first level; they double at each level, except in a SegNet. `efficientnet`:
    of the embedding. `efficientnet_unet`: of the expanding path's last level."""
    depth: int = _field(4, Range(1, 8))
    """U-Net, SegNet and ResNet: levels below the first. Each halves the image."""
    blocks: int = _field(7, Range(1, 12))
    """Classifier: number of blocks. Each halves the image."""
    layout: str = _field("matlab", Choices("matlab", "vgg16"))
    """SegNet's stages: `matlab` (two convolutions, all of `features` channels) or `vgg16`."""
    norm: str = _field("batch", Choices("batch", "group", "none"))
    """Normalization."""
    dropout: float = _field(0.0, Range(0, 0.99))
    """U-Net: rate after the last encoder level and the bridge (MATLAB's `unetLayers` has 0.5).
    `efficientnet`: rate on the embedding."""
    types: tuple[str, ...] = ()
    """`efficientnet`: names of a laboratory's types; `wbc_jax.adapt` sets it, not a training."""
    up_relu: bool = False
    """U-Net: ReLU after each up-convolution, as in MATLAB's `unetLayers` (paper B)."""
    patch: int = _field(1, Range(1, 8))
    """U-Net and ResNet: side in pixels of the squares that the first level sees as one position
    each. A U-Net's logits still have full size."""
    channels: int = _field(3, Range(1, 3))
    """Input channels: 3 (color) or 1 (luma; paper A's gray images)."""
    dtype: str = _field("float32", Choices("float32", "bfloat16"))
    """Type of the computation. Parameters, normalization statistics and logits are always
    float32."""


@dataclasses.dataclass(slots=True)
class Optimizer:
    """The optimizer and its learning-rate schedule."""

    name: str = _field("adamw", Choices("adamw", "adam", "sgd"))
    """`adamw` (decoupled weight decay), `adam` or `sgd` (L2 added to the gradient)."""
    learning_rate: float = _field(3e-3, Range(0))
    """Peak of the schedule; must be above 0."""
    schedule: str = _field("cosine", Choices("cosine", "constant", "step", "plateau"))
    """After the warm-up: `cosine` (to zero), `constant`, `step` (times `drop_factor` every
    `drop_every` steps) or `plateau` (times `drop_factor` when validation stops improving)."""
    warmup_steps: int = _field(50, Range(0))
    drop_every: int = _field(1000, Range(1))
    """Steps between two drops of the schedule `step`."""
    drop_factor: float = _field(0.1, Range(0, 1))
    """Factor by which a drop of the schedules `step` and `plateau` changes the learning rate."""
    plateau_patience: int = _field(5, Range(0))
    """Validation rounds without a better score that `plateau` tolerates; the next one drops."""
    momentum: float = _field(0.9, Range(0, 0.999999))
    """Momentum of `sgd`."""
    weight_decay: float = _field(1e-2, Range(0))
    """Decay of `adamw`; L2 factor of `adam` and `sgd` (MATLAB's default: 1e-4)."""
    gradient_clip: float = _field(1.0, Range(0))
    """Largest global norm of the gradient; 0: no clipping."""
    encoder_rate: float = _field(1.0, Range(0, 1))
    """Factor of the learning rate for a pretrained encoder, whose layers need less change than new
    ones; 0 freezes it. The decay of `adamw` shrinks with it."""
    ema_decay: float = _field(0.0, Range(0, 0.999999))
    """Decay of the averaged parameters that evaluation uses; 0: no averaging."""


@dataclasses.dataclass(slots=True)
class Loss:
    """Weighted sum of losses; each of the first six fields is the weight of one loss."""

    cross_entropy: float = _field(1.0, Range(0))
    """Categorical cross-entropy."""
    binary_cross_entropy: float = _field(0.0, Range(0))
    """Cross-entropy of each class against the rest."""
    focal: float = _field(0.0, Range(0))
    """Categorical focal loss; the class weights are its α."""
    binary_focal: float = _field(0.0, Range(0))
    """Focal loss of each class against the rest."""
    dice: float = _field(1.0, Range(0))
    """Soft Dice loss; for masks only, like the next one."""
    generalised_dice: float = _field(0.0, Range(0))
    """Dice loss with classes weighted by the inverse square of their size."""
    focal_gamma: float = _field(2.0, Range(0, 100))
    """Exponent of both focal losses; 0 turns them into cross-entropies."""
    focal_alpha: float = _field(0.0, Range(0, 1))
    """Weight α of the true class in `binary_focal`; the other classes have 1-α (Lin et al.: 0.25).
    0: no weights."""
    label_smoothing: float = _field(0.0, Range(0, 1))
    """Share of the target of `cross_entropy` that is spread evenly over the classes."""
    class_weights: str = _field("none", Choices("none", "inverse_frequency"))
    """`inverse_frequency` weights a pixel or cell by how rare its class is in the training split
    (`losses.inverse_frequency`). The Dice losses do not use it."""


@dataclasses.dataclass(slots=True)
class Train:
    """The training loop."""

    batch_size: int = _field(16, Range(1))
    """Images per step over all devices and hosts."""
    steps: int = _field(600, Range(1))
    """Length of training if `epochs` is 0."""
    epochs: int = _field(0, Range(0))
    """Length of training in passes over the training split; 0: `steps` applies."""
    seed: int = _field(0, Range(0, 2**31 - 1))
    init_from: str = ""
    """Initial weights: a run's folder, a `.safetensors` file, the name of shipped weights, or
    `imagenet` (an EfficientNet's encoder; the rest is random); empty: random. The optimizer starts
    anew in any case."""
    log_every: int = _field(20, Range(1))
    """Steps between two lines of `metrics.jsonl`."""
    evaluate_every: int = _field(100, Range(0))
    """Steps between two validation rounds, each of which saves a checkpoint; 0: one round per pass
    over the training split."""
    patience: int = _field(0, Range(0))
    """Validation rounds without a better score (mean IoU, or macro recall) before training stops;
    0: never."""
    accumulate: int = _field(1, Range(1))
    """Number of parts a batch is cut into, whose gradients are added up one after the other: takes
    the memory of `batch_size / accumulate` images. The update equals that of the whole batch with
    two exceptions: batch normalization normalizes each part by itself and updates its statistics
    once per part, and dropout draws other masks."""
    remat: bool = False
    """Store only the inputs of the network's blocks and recompute their inside for the gradient:
    less memory for up to a third more work. XLA on CPU computes it only once all the same."""
    compilation_cache: str = "auto"
    """Folder of JAX's cache of compiled programs, which saves a restarted run the compilation.
    `auto`: `~/.cache/wbc_jax/compiled` on accelerators, none on CPU, where the fast convolutions
    cannot be cached (`cpu/convolution.py`) and are not used with a cache. Empty: none. The
    environment variable JAX_COMPILATION_CACHE_DIR overrides `auto`."""


@dataclasses.dataclass(slots=True)
class Mesh:
    """The division of the work over the devices of all hosts."""

    data: int = _field(0, Range(0))
    """Shards of a batch; 0: as many as the devices allow and as divide it evenly."""
    model: int = _field(1, Range(1))
    """Shards of the parameters, their averages and the optimizer's state; 1: each device holds
    all."""


@dataclasses.dataclass(slots=True)
class Checkpoint:
    """The checkpoints that a run keeps while it trains."""

    keep_best: int = _field(1, Range(1))
    """Number of best checkpoints: the best one and those that were the best before it."""
    keep_last: int = _field(2, Range(1))
    """Number of newest checkpoints; a run resumes from the newest complete one."""


@dataclasses.dataclass(slots=True)
class Distributed:
    """Runs on several processes (`parallel/processes.py` says how they find each other)."""

    heartbeat_seconds: int = _field(60, Range(1, 86400))
    """A process that is silent for this long counts as dead, and the others end."""
    start_seconds: int = _field(300, Range(1, 86400))
    """Longest wait of the processes for each other at the start."""


@dataclasses.dataclass(slots=True)
class Evaluate:
    """The scoring of predictions."""

    size: int = _field(256, Range(8, 4096))
    """Segmentation: logits are resized to this side and scored against truth resized by nearest
    neighbor."""
    batch_size: int = _field(16, Range(1))
    flips: bool = False
    """Average the logits over the four reflections of each image."""
    middle_cell: bool = False
    """Segmentation: keep only the cell in the middle of an image and call all other cells
    background, as in truth that marks one cell per image. Not for fields."""
    bootstrap: int = _field(1000, Range(0, 1_000_000))
    """Bootstrap resamples of images behind each 95 % interval."""
    worst: int = _field(0, Range(0, 1000))
    """Segmentation: the report shows this many images of each data set, those with the worst
    scores; 0: the worst images and some of each better score."""
    external: tuple[str, ...] = ()
    """Data sets scored as a whole, if they are present and not trained on; the report keeps them
    apart."""


@dataclasses.dataclass(slots=True)
class Config:
    """An experiment."""

    task: str = _field("segmentation", Choices("segmentation", "classification"))
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


def _walk(section: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Yields dotted name, field and value of every field that is no section."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field, value


def flatten(config: Any) -> dict[str, Any]:
    """Returns {dotted field: value} of a config or one of its sections."""
    return {name: value for name, _, value in _walk(config)}


def limits() -> dict[str, Range | Choices]:
    """Returns {dotted field: allowed values} of the fields that have a range or choices."""
    return {
        name: field.metadata["allowed"]
        for name, field, _ in _walk(Config())
        if "allowed" in field.metadata
    }


def differences(old: Config, new: Config, ignore: Sequence[str] = ()) -> list[str]:
    """Returns a line for each field that differs, except the dotted names of `ignore`."""
    before, after = flatten(old), flatten(new)
    return [
        f"config.{name}: {before.get(name)!r} there, {value!r} here"
        for name, value in after.items()
        if before.get(name) != value and name not in ignore
    ]


def in_steps(config: Config, images: int) -> Config:
    """Returns the config with `train.steps` and `train.evaluate_every` filled in.

    Args:
        config: validated; it is not changed.
        images: number of images in the training split.
    """
    a_pass = math.ceil(images / config.train.batch_size)
    train = dataclasses.replace(
        config.train,
        steps=config.train.epochs * a_pass or config.train.steps,
        evaluate_every=config.train.evaluate_every or a_pass,
    )
    return dataclasses.replace(config, train=train)


def to_json(config: Config) -> str:
    """Returns the config as indented JSON, the content of a run's `config.json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
