"""The jitted steps, train and predict: pure functions of state and batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from wbc_jax import cpu, metrics
from wbc_jax.config import Config
from wbc_jax.data import augment
from wbc_jax.parallel import sharding
from wbc_jax.training import losses, optimizers

# Dropout has a random key of its own: switching it on changes no augmentation.
_DROPOUT_STREAM = 1
_REFLECTIONS = ((), (1,), (2,), (1, 2))
"""Axes of `[B, H, W, C]` along which each of the four views of an image is flipped."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class TrainState:
    """Everything that a training step changes.

    Attributes:
        step: int32 scalar, steps done.
        params: learned arrays, as nested dictionaries.
        stats: running statistics of batch normalization, as nested dictionaries.
        opt_state: the state of the Optax optimizer.
        average: {`params`, `stats`} averaged over steps, or None.
        rate_scale: float32 scalar that multiplies the schedule's learning rate; the schedule
            `plateau` lowers it.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    average: Any
    rate_scale: jax.Array

    def weights(self) -> dict[str, Any]:
        """Returns the {`params`, `stats`} to evaluate and ship: the average, if there is one."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "stats": self.stats}


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """A network without its weights.

    Attributes:
        graph: static description (`nnx.GraphDef`).
        other: arrays that are neither learned nor averaged (random streams of dropout).
    """

    graph: Any
    other: Any

    def merge(self, params: Any, stats: Any) -> nnx.Module:
        """Returns the network with these weights."""
        return nnx.merge(self.graph, params, stats, self.other)


def split_network(model: nnx.Module) -> tuple[Network, dict[str, Any]]:
    """Returns the network without its weights, and its {`params`, `stats`} as dictionaries."""
    graph, params, stats, other = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    weights = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
    return Network(graph, nnx.to_pure_dict(other)), weights


def init_state(config: Config, weights: dict[str, Any], mesh: Mesh) -> TrainState:
    """Returns the state before the first step, on the devices of `mesh` (`sharding.place`)."""
    tx = optimizers.build(config.optimizer, config.train.steps)
    # The average is a copy: the step donates the state's buffers, and each can be donated once.
    average = jax.tree.map(jnp.copy, weights) if config.optimizer.ema_decay else None
    params = weights["params"]
    state = TrainState(
        jnp.int32(0), params, weights["stats"], tx.init(params), average, jnp.float32(1)
    )
    return sharding.place(state, mesh)


def normalize(images: jax.Array) -> jax.Array:
    """Maps float32 images in [0, 1] to [-2, 2], the input of the networks."""
    return (images - 0.5) * 4.0


def make_train_step(
    config: Config,
    network: Network,
    mesh: Mesh,
    class_weights: jax.Array | None = None,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted training step, which maps (state, batch) to (state, report).

    The batch has `image` uint8 `[B, S, S, 3]`, the truth (`mask` uint8 `[B, S, S]` for
    segmentation, `label` int32 `[B]` for classification), `index` and `epoch` int32 `[B]`. The
    report has `loss` and `gradient_norm` (float32 scalars), `confusion` (int32 `[C, C]`, of the
    augmented batch) and `index` (int32 `[B]`: every process gets the whole batch's, to name its
    images). The step donates the state.

    Args:
        config: validated, with its length in steps.
        network: from `split_network`.
        mesh: where the state and the batch are placed.
        class_weights: float32 `[C]`, for `losses.total`.
    """
    tx = optimizers.build(config.optimizer, config.train.steps)
    seed, decay = config.train.seed, config.optimizer.ema_decay
    accumulate = config.train.accumulate

    def gradients(params, stats, step, batch, part=None):
        """Returns (report, new statistics, gradient) of a batch, or of part `part` of one."""
        keys = augment.example_keys(seed, batch["epoch"], batch["index"])
        images = batch["image"].astype(jnp.float32) / 255
        images, masks = augment.augment(config.augment, keys, images, batch.get("mask"))
        images = normalize(images)
        truth = batch["label"] if masks is None else masks

        def loss_fn(params):
            model = network.merge(params, stats)
            _set_mode(model, training=True)
            model.set_attributes(remat=config.train.remat, raise_if_not_found=False)
            key = jax.random.fold_in(jax.random.key(seed), _DROPOUT_STREAM)
            key = jax.random.fold_in(key, step)
            nnx.reseed(model, dropout=key if part is None else jax.random.fold_in(key, part))
            logits = model(images)
            loss = losses.total(config.loss, logits, truth, class_weights).mean()
            return loss, (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (loss, (logits, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        # A label is an image of one pixel.
        shape = (len(truth), -1, 1)
        confusion = metrics.confusion_matrices(
            truth.reshape(shape), logits.argmax(-1).reshape(shape), logits.shape[-1]
        ).sum(0)
        return {"loss": loss, "confusion": confusion}, stats, grads

    def accumulated(state: TrainState, batch):
        """Returns the same as `gradients`, computed from the parts of a batch one by one."""

        def divided(x):
            # Part p takes the images p, p + parts, ...: no image moves to another device.
            x = jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0)
            return jax.lax.with_sharding_constraint(x, sharding.batched(mesh, axis=1))

        def add(before, given):
            part, batch = given
            sums, stats, grads = before
            more, stats, more_grads = gradients(state.params, stats, state.step, batch, part)
            return (
                jax.tree.map(jnp.add, sums, more),
                stats,
                jax.tree.map(jnp.add, grads, more_grads),
            ), None

        parts = jnp.arange(accumulate), jax.tree.map(divided, batch)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(
            lambda part, batch: gradients(state.params, state.stats, state.step, batch, part),
            *first,
        )
        sums, _, grads = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (sums, stats, grads), _ = jax.lax.scan(add, (sums, state.stats, grads), parts)
        sums["loss"] /= accumulate
        return sums, stats, jax.tree.map(lambda g: g / accumulate, grads)

    def step_fn(state: TrainState, batch):
        if accumulate > 1:
            report, stats, grads = accumulated(state, batch)
        else:
            report, stats, grads = gradients(state.params, state.stats, state.step, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda update: update * state.rate_scale, updates)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if decay:
            # Decays faster at first, as TensorFlow's ExponentialMovingAverage does.
            done = state.step.astype(jnp.float32)
            keep = jnp.minimum(decay, (1.0 + done) / (10.0 + done))
            average = jax.tree.map(
                lambda old, new: keep * old + (1 - keep) * new,
                average,
                {"params": params, "stats": stats},
            )
        report["gradient_norm"] = optax.tree.norm(grads)
        report["index"] = batch["index"]
        after = TrainState(state.step + 1, params, stats, opt_state, average, state.rate_scale)
        return sharding.constrain(after, mesh), report

    whole = sharding.replicated(mesh)
    # None: where parameters are sharded, each array of the state keeps its own sharding.
    placed = None if sharding.divides_parameters(mesh) else whole
    return jax.jit(
        step_fn,
        in_shardings=(placed, sharding.batched(mesh)),
        out_shardings=(placed, whole),
        donate_argnums=0,
        compiler_options=cpu.compiler_options(),
    )


def make_logits(
    network: Network, flips: bool = False, embedding: bool = False, features: bool = False
) -> Callable[[Any, jax.Array], Any]:
    """Returns the unjitted function (weights, uint8 images `[B, S, S, 3]`) → float32 logits.

    The logits are `[B, S, S, C]` for segmentation and `[B, K]` for classification.

    Args:
        network: from `split_network`.
        flips: average the logits over the four reflections.
        embedding: return (logits, embeddings `[B, D]`); the logits are linear in the embeddings.
            Only for networks that have them (`models.embeds`).
        features: return (logits, embeddings followed by features, `[B, D + F]`) instead
            (`models.adapts`).
    """

    def logits_fn(weights, images):
        model = network.merge(weights["params"], weights["stats"])
        _set_mode(model, training=False)
        x = normalize(images.astype(jnp.float32) / 255)
        call = model.with_embedding if embedding else model
        call = model.with_features if features else call
        if not flips:
            return call(x)
        # One batch: the network is compiled once, and packs its weights once.
        views = jnp.concatenate([jnp.flip(x, axes) for axes in _REFLECTIONS])
        return jax.tree.map(_mean_of_views, call(views))

    return logits_fn


def _mean_of_views(found: jax.Array) -> jax.Array:
    """Averages `[4 B, ...]` over `_REFLECTIONS`; masks `[4 B, H, W, C]` are flipped back."""
    views = found.reshape(len(_REFLECTIONS), -1, *found.shape[1:])
    if found.ndim == 4:
        views = [jnp.flip(view, axes) for view, axes in zip(views, _REFLECTIONS)]
    return sum(views) / len(_REFLECTIONS)


def make_scored_logits(
    config: Config, network: Network, flips: bool = False
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the function of `make_logits`, with the logits of masks resized to `[B, E, E, C]`.

    They are resized bilinearly to `config.evaluate.size`, the size E at which masks are scored.
    """
    logits_fn, size = make_logits(network, flips), config.evaluate.size

    def scored(weights, images):
        logits = logits_fn(weights, images)
        if config.task == "classification":
            return logits
        # Logits of that size already are returned unchanged.
        return jax.image.resize(logits, (len(logits), size, size, logits.shape[-1]), "bilinear")

    return scored


def make_predict_step(
    config: Config,
    network: Network,
    flips: bool = False,
    mesh: Mesh | None = None,
) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Returns the function whose predictions are scored; an image's depends on no other image.

    It maps (weights, uint8 images `[B, S, S, 3]`) to uint8 classes `[B, E, E]` for segmentation,
    and to float32 probabilities `[B, K]` for classification. E is `config.evaluate.size`; the
    logits are resized to it, not the classes.

    Args:
        config: `task` and `evaluate.size` are used.
        network: from `split_network`.
        flips: average the logits over the four reflections.
        mesh: devices that share the images (`sharding.local_mesh`); None: one device.
    """
    scored = make_scored_logits(config, network, flips)

    def step_fn(weights, images):
        logits = scored(weights, images)
        if config.task == "classification":
            return jax.nn.softmax(logits)
        return logits.argmax(-1).astype(jnp.uint8)

    return sharding.InGroups(
        step_fn, mesh or sharding.local_mesh(1), cpu.compiler_options(training=False)
    )


def _set_mode(model: nnx.Module, training: bool) -> None:
    """Switches dropout and batch normalization, where a network has them."""
    model.set_attributes(
        deterministic=not training, use_running_average=not training, raise_if_not_found=False
    )
