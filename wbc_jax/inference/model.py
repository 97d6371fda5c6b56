"""Loads trained models and predicts images of any size with them."""

import copy
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import jax
import numpy as np
import scipy.special
from etils import epath
from flax import nnx

from wbc_jax import config_checks, cpu, metrics, models
from wbc_jax.config import Config
from wbc_jax.data import isolation
from wbc_jax.data.images import check_image
from wbc_jax.data.keys import RecordKey
from wbc_jax.data.resize import resize_image
from wbc_jax.errors import CheckpointError, ConfigError
from wbc_jax.inference import weights as weights_lib
from wbc_jax.labels import CELL_TYPES
from wbc_jax.parallel import sharding
from wbc_jax.training import steps


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of one cell; None for outputs that the model does not have.

    Attributes:
        mask: uint8 `[H, W]` at the image's own size: 0 background, 1 cytoplasm, 2 nucleus.
        nucleus_px, cytoplasm_px: areas in pixels of that size.
        nc_ratio: nucleus / cytoplasm; +inf without cytoplasm, NaN without nucleus.
        nucleus_share: N / (N + C); NaN without nucleus.
        flag: empty, or the reason why the ratio is +inf or NaN (`no_cytoplasm`, `no_nucleus`,
            `no_cell`).
        label: the cell's type, an index of `types`.
        probabilities: float32 `[K]`, one per cell type.
        logits: float32 `[K]`; the probabilities are their softmax.
        embedding: float32 `[D]`, the input of the network's last linear layer.
        types: the types' names, in the order of the labels.
    """

    mask: np.ndarray | None = None
    nucleus_px: int | None = None
    cytoplasm_px: int | None = None
    nc_ratio: float | None = None
    nucleus_share: float | None = None
    flag: str = ""
    label: int | None = None
    probabilities: np.ndarray | None = None
    logits: np.ndarray | None = None
    embedding: np.ndarray | None = None
    types: tuple[str, ...] = CELL_TYPES

    def without_cell(self) -> "Prediction":
        """Returns the prediction of an image that shows no cell."""
        if self.mask is None:
            return Prediction(flag="no_cell")
        return Prediction(np.zeros_like(self.mask), 0, 0, math.nan, math.nan, "no_cell")

    @property
    def type(self) -> str | None:
        """The cell type's name, such as `monocyte`."""
        return None if self.label is None else self.types[self.label]


class Model:
    """A trained network with the settings of its training; `load` makes one.

    Attributes:
        config: of the run.
        network, weights: the network's structure and its arrays.
        step: number of training steps.
        seen: the images it was trained on and selected by, as listed in its weights file; None if
            it was loaded from a run's folder, whose config determines them.
        file: the weights file it was read from; None if there is none.
    """

    def __init__(
        self,
        config: Config,
        network: steps.Network,
        weights: dict[str, Any],
        step: int,
        seen: list[RecordKey] | None = None,
        features: bool = False,
        file: epath.Path | None = None,
    ):
        self.config, self.network, self.weights = config, network, weights
        self.step, self.seen, self.file, self._features = step, seen, file, features
        if config.data.isolate:
            weights_lib.find_segmenter(config.data.isolate)  # raises early if it is missing
        self._segmenter: Model | None = None
        self._lock = threading.Lock()
        self._use(sharding.local_mesh(1))

    def _use(self, mesh: jax.sharding.Mesh) -> None:
        """Lets the devices of `mesh` share the images."""
        self.weights = jax.device_put(self.weights, sharding.replicated(mesh))
        embeds = self.embedding_size is not None
        logits = steps.make_logits(
            self.network, self.config.evaluate.flips, embedding=embeds, features=self._features
        )
        self._outputs = sharding.InGroups(
            logits if embeds else lambda *given: (logits(*given), None),
            mesh,
            cpu.compiler_options(training=False),
        )

    def with_flips(self, flips: bool) -> "Model":
        """Returns the same model with or without averaging logits over the four reflections."""
        return self._evaluated(flips=flips)

    def with_middle_cell(self, middle_cell: bool) -> "Model":
        """Returns the same model, which keeps only the middle cell of a mask or keeps all cells."""
        return self._evaluated(middle_cell=middle_cell)

    def with_features(self) -> "Model":
        """Returns the same model, whose embeddings are followed by the means that all layers after
        the encoder see; only for networks that `models.adapts` names."""
        return self._of(self.config, features=True)

    def with_weights(self, weights: dict[str, Any]) -> "Model":
        """Returns the same model with other weights of the same shapes; both share the compiled
        program."""
        other = copy.copy(self)
        other.weights = jax.device_put(weights, jax.tree.map(lambda a: a.sharding, self.weights))
        return other

    def _evaluated(self, **changes: Any) -> "Model":
        evaluate = dataclasses.replace(self.config.evaluate, **changes)
        if evaluate == self.config.evaluate:
            return self
        config = dataclasses.replace(self.config, evaluate=evaluate)
        return self._of(config, self._features)

    def _of(self, config: Config, features: bool) -> "Model":
        known = self.network, self.weights, self.step, self.seen
        return Model(config, *known, features, self.file)

    @property
    def segmenter(self) -> "Model | None":
        """The model that finds the cell that images are cut to; None without `data.isolate`.

        A classifier that was adapted together with a segmenter has that one.

        Raises:
            WeightsError: it is not beside the classifier, or is another one.
        """
        isolate = self.config.data.isolate
        with self._lock:  # loaded once, not once per thread
            if isolate and self._segmenter is None:
                own = weights_lib.own_segmenter(self.file) if self.file else None
                self._segmenter = load_segmenter(str(own or isolate))
            return self._segmenter

    @property
    def adapted(self) -> bool:
        """Whether it is a classifier that `wbc_jax.adapt` made."""
        return bool(self.config.model.types)

    @property
    def types(self) -> tuple[str, ...]:
        """Names of a classifier's types; those of an adapted one may be more than `CELL_TYPES`."""
        return self.config.model.types or CELL_TYPES

    @property
    def embedding_size(self) -> int | None:
        """Length of an embedding; None if the network has none."""
        if not models.embeds(self.config.model.name):
            return None
        return self.weights["params"]["head"]["kernel"].shape[0]

    @property
    def head_kernel(self) -> np.ndarray:
        """Float32 `[D, K]` of the last linear layer, of a network with embeddings."""
        return np.asarray(self.weights["params"]["head"]["kernel"], np.float32)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(int(leaf.size) for leaf in jax.tree.leaves(self.weights["params"]))

    def predict(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        batch_size: int = 16,
        masks: Sequence[np.ndarray] | None = None,
    ) -> Prediction | list[Prediction]:
        """Segments or classifies one image or several, of any sizes.

        Images are resized to the network's input, and the logits of masks back to each image's own
        size. An image's prediction depends neither on the others nor on their number.

        Args:
            images: uint8 `[H, W, 3]` RGB, or a list (or `[N, H, W, 3]`) of such.
            batch_size: images whose logits are in memory at once.
            masks: for a model that cuts images to their cell, the masks to cut by, uint8 `[H, W]`
                of any size (one mask for one image); None: its segmenter predicts them.

        Returns:
            One `Prediction`, or a list of them.

        Raises:
            ValueError: an image has another type or shape, or no pixels.
        """
        if isinstance(images, np.ndarray) and images.ndim != 4:
            return self.predict([images], batch_size, None if masks is None else [masks])[0]
        found = []
        for image in images:
            check_image(image)
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            if self.config.data.isolate:
                if masks is None:
                    known = [one.mask for one in self.segmenter.predict(batch, batch_size)]
                else:
                    known = masks[start : start + batch_size]
                batch = [self._cut(image, mask) for image, mask in zip(batch, known)]
            found += self._predict_batch(batch)
        return found

    def spread(self) -> int:
        """Distributes all further images over all devices of this process.

        Returns:
            The number of devices.
        """
        mesh = sharding.local_mesh()
        self._use(mesh)
        return mesh.size

    def fit(self, image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Resizes an image to the network's input, uint8 `[S, S, 3]`.

        Args:
            image: uint8 `[H, W, 3]` RGB.
            mask: for a model that cuts images to their cell first, the mask to cut by, uint8
                `[H, W]`; None: its segmenter predicts it.
        """
        if self.config.data.isolate:
            found = self.segmenter.predict(image).mask if mask is None else mask
            image = self._cut(image, found)
        return self._resize(image)

    def _cut(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return isolation.isolate(image, mask, isolation.Stain.of(self.config.data))

    def _resize(self, image: np.ndarray) -> np.ndarray:
        side = self.config.data.image_size
        return resize_image(image, side, side)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Runs the network on uint8 images `[B, S, S, 3]`, as `fit` makes them.

        Returns:
            Float32 logits, `[B, S, S, 3]` or `[B, K]`.
        """
        return self.start(images)()[0]

    def start(self, images: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """Starts the network on uint8 images `[B, S, S, 3]`, as `fit` makes them.

        Returns:
            The function that waits for the logits, float32 `[B, S, S, 3]` or `[B, K]`, and the
            embeddings, float32 `[B, D]` (None if the network has none).
        """
        with self._lock:  # one compilation, not one per thread
            return self._outputs.start(self.weights, images)

    def read(self, logits: np.ndarray, size: tuple[int, int]) -> Prediction:
        """Returns the prediction that one image's logits mean.

        Args:
            logits: float32 `[S, S, 3]` or `[K]`.
            size: height and width of the original image, px.
        """
        if self.config.task == "classification":
            return _typed(logits, self.types)
        return _segmented(logits, size, self.config.evaluate.middle_cell)

    def _predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        logits, embeddings = self.start(np.stack([self._resize(image) for image in images]))()
        if embeddings is None:
            embeddings = itertools.repeat(None)
        return [
            dataclasses.replace(self.read(one, image.shape[:2]), embedding=embedding)
            for one, embedding, image in zip(logits, embeddings, images)
        ]


def scored(
    config: Config, model: Model, mesh: jax.sharding.Mesh | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that evaluation scores, from uint8 images `[B, S, S, 3]` to predictions.

    It returns the output of `steps.make_predict_step`, but keeps only the middle cell of masks if
    `config.evaluate.middle_cell` is set.

    Args:
        config: of the scoring; the network is the model's.
        model: the model to score.
        mesh: devices that share the images (`sharding.local_mesh`); None: one device.
    """
    mesh = mesh or sharding.local_mesh(1)
    step = steps.make_predict_step(config, model.network, config.evaluate.flips, mesh)
    weights = jax.device_put(model.weights, sharding.replicated(mesh))
    if config.task != "segmentation" or not config.evaluate.middle_cell:
        return lambda images: step(weights, images)

    def middle_cells(images: np.ndarray) -> np.ndarray:
        return np.stack([isolation.keep_middle_cell(mask) for mask in step(weights, images)])

    return middle_cells


def load(path: epath.PathLike) -> Model:
    """Loads the best checkpoint of a run's folder, or a weights file.

    Each call reads the files and returns a model of its own, which compiles its program when it
    first predicts: keep the model.

    Args:
        path: the run's `--workdir`, a `.safetensors` file that `wbc_jax.export` wrote, or the name
            of weights that the package ships.

    Raises:
        CheckpointError: the run or its checkpoint is missing; names the folder.
        ConfigError: the run's `config.json` is damaged.
        WeightsError: the weights file is missing, damaged or something else.
    """
    if file := weights_lib.find(path):
        return _load_file(file)
    folder = epath.Path(path).expanduser()
    stored = folder / "config.json"
    if not stored.exists():
        raise CheckpointError(
            f"{folder} holds no run (no config.json). Name the --workdir of a finished training, "
            f"such as runs/unet, {_or_shipped()}."
        )
    # Imported here, as it imports Orbax, a tenth of what `predict` would import before it starts.
    from wbc_jax.training import checkpoint

    config = config_checks.from_json(stored.read_bytes(), str(stored))
    network, like = empty_state(config)
    with checkpoint.Checkpoints(folder) as checkpoints:
        state, _ = checkpoints.restore(checkpoint.BEST, like)
    return Model(config, network, state.weights(), int(state.step))


def load_segmenter(name: str) -> Model:
    """Loads the segmenter that `config.data.isolate` names.

    It predicts without test-time flips, as a box does not need them, and keeps every cell:
    `isolation.isolate` chooses the middle one.

    Raises:
        WeightsError: the file does not exist.
        ConfigError: the model is not a segmenter.
    """
    model = load(weights_lib.find_segmenter(name)).with_flips(False).with_middle_cell(False)
    if model.config.task != "segmentation":
        raise ConfigError(
            f"config.data.isolate is {name!r}, weights for {model.config.task}; it must name a "
            "segmenter's."
        )
    return model


def _or_shipped() -> str:
    names, file = weights_lib.shipped(), f"a {weights_lib.SUFFIX} file"
    return f"{file}, or one of {', '.join(names)}" if names else f"or {file}"


def _load_file(path: epath.Path) -> Model:
    stored = weights_lib.read(path)
    network, like = empty_state(stored.config)
    shapes = {"params": like.params, "stats": like.stats}
    weights = weights_lib.fill(shapes, stored, path)
    return Model(stored.config, network, weights, stored.step, stored.seen, file=path)


def empty_state(config: Config) -> tuple[steps.Network, steps.TrainState]:
    """Returns the network and the shapes of its state.

    Initializing weights only to replace them would take most of the loading time.
    """

    def build() -> nnx.Module:
        side = config.data.image_size
        return models.build(config.model, config.train.seed, image_size=side)

    network, weights = steps.split_network(nnx.eval_shape(build))
    if jax.tree.leaves(network.other):  # the streams of dropout cannot be shapes
        network = dataclasses.replace(network, other=jax.tree.map(_stream, network.other))
    mesh = sharding.local_mesh(1)
    shapes = jax.eval_shape(lambda w: steps.init_state(config, w, mesh), weights)
    where = sharding.replicated(mesh)
    return network, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes
    )


def _stream(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns a part of a random stream, of any value: training seeds it, prediction draws none."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(np.zeros((*leaf.shape, 2), np.uint32))
    return jax.numpy.zeros(leaf.shape, leaf.dtype)


def _typed(logits: np.ndarray, types: tuple[str, ...] = CELL_TYPES) -> Prediction:
    given = {"probabilities": scipy.special.softmax(logits), "logits": logits, "types": types}
    return Prediction(label=int(logits.argmax()), **given)


def _segmented(logits: np.ndarray, size: tuple[int, int], middle_cell: bool) -> Prediction:
    height, width = size
    if logits.shape[:2] != size:
        logits = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
    mask = logits.argmax(-1).astype(np.uint8)
    if middle_cell:
        mask = isolation.keep_middle_cell(mask)
    return measured(mask)


def measured(mask: np.ndarray) -> Prediction:
    """Returns the prediction of a mask, uint8 `[H, W]`, with its areas and ratios."""
    nc = metrics.nc_ratio(mask[None])
    return Prediction(
        mask=mask,
        nucleus_px=int(nc.nucleus_px[0]),
        cytoplasm_px=int(nc.cytoplasm_px[0]),
        nc_ratio=float(nc.nc_ratio[0]),
        nucleus_share=float(nc.nucleus_share[0]),
        flag=str(nc.flag[0]),
    )
