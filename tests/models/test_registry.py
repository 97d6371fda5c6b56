"""wbc_jax.models.registry: every network, and a new one, trains a step and predicts."""

import pathlib
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from helpers import tiny_runs
from wbc_jax import models
from wbc_jax.config import Loss, Model
from wbc_jax.models import efficientnet, registry
from wbc_jax.parallel import sharding
from wbc_jax.training import losses, steps


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    """An EfficientNet of few channels and a block a level, as the others are tiny as well."""
    expansions, strides = (1, 2, 2, 2, 2), (1, 2, 2, 2, 2)
    monkeypatch.setattr(
        efficientnet, "STAGES", [(1, 3, *each, 8) for each in zip(strides, expansions)]
    )
    monkeypatch.setattr(efficientnet, "LEVEL_ENDS", range(5))
    monkeypatch.setattr(efficientnet, "STEM", 8)


SEGMENTATION = [name for name, entry in registry.NETWORKS.items() if entry.task == "segmentation"]


def losses_of_six_steps(config):
    """Trains on one batch whose brightness gives the class; returns state and losses."""
    network, weights = steps.split_network(models.build(config.model))
    before = jax.tree.map(np.array, weights)
    mesh = sharding.make_mesh(config.train.batch_size)
    state = steps.init_state(config, weights, mesh)
    step = steps.make_train_step(config, network, mesh)
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (8, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    batch = {
        "image": np.repeat((mask * 100)[..., None], 3, -1),
        "mask": mask,
        "index": np.arange(8, dtype=np.int32),
        "epoch": np.zeros(8, np.int32),
    }
    batch = sharding.put_batch(batch, mesh)
    values = []
    for _ in range(6):
        state, report = step(state, batch)
        values.append(float(report["loss"]))
    return network, before, state, values


def tiny(folder, **fields):
    off = {"optimizer__ema_decay": 0.0, "optimizer__warmup_steps": 0, "augment__flip": False}
    return tiny_runs.config(folder, **(off | fields))


@pytest.mark.parametrize("name", SEGMENTATION)
def test_a_step_moves_parameters_and_statistics_and_lowers_the_loss(name, tmp_path):
    rate = 3e-2 if name == "efficientnet_unet" else 1e-2  # a deep one with few channels
    config = tiny(tmp_path, model__name=name, model__norm="batch", optimizer__learning_rate=rate)
    network, before, state, values = losses_of_six_steps(config)
    assert values[-1] < 0.8 * values[0]
    after = jax.tree.map(np.array, {"params": state.params, "stats": state.stats})
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    # The gradient of a bias before batch normalization is rounding; everything else must move.
    assert all(jax.tree.leaves(moved["stats"]))
    assert np.mean(jax.tree.leaves(moved["params"])) > 0.6
    config.evaluate.size = 24
    predict = steps.make_predict_step(config, network)
    images = np.random.default_rng(0).integers(0, 256, (2, 21, 33, 3)).astype(np.uint8)
    assert predict(state.weights(), images).shape == (2, 24, 24)


def test_dropout_differs_between_steps_and_repeats_between_runs(tmp_path):
    config = tiny(
        tmp_path,
        model__depth=1,
        model__norm="none",
        model__dropout=0.5,
        model__up_relu=True,
        augment__quarter_turns=False,
        optimizer__learning_rate=1e-12,
        optimizer__schedule="constant",
    )
    *_, values = losses_of_six_steps(config)
    assert len(set(values)) == 6  # nothing else changes from step to step
    *_, again = losses_of_six_steps(config)
    assert values == again


def fields_of(name):
    """The smallest settings of each network."""
    return Model(name=name, features=4, depth=2, blocks=3)


def forward(graph):
    """Returns the function from (state, images) to the logits and the new state."""

    def apply(state, images):
        model = nnx.merge(graph, state)
        return model(images), nnx.state(model, (nnx.Param, nnx.BatchStat))

    return apply


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("name", registry.NETWORKS)
def test_bfloat16_is_the_type_of_all_but_parameters_statistics_and_logits(name, norm):
    of = fields_of(name)
    of.norm, of.dtype = norm, "bfloat16"
    graph, state = nnx.split(nnx.eval_shape(lambda: models.build(of, 0, image_size=16)))
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    # Flax's group normalization promotes bfloat16 to the float32 of its parameters.
    with jax.numpy_dtype_promotion("standard" if norm == "group" else "strict"):
        kernels = convolutions(jax.make_jaxpr(forward(graph))(state, images).jaxpr)
        found = jax.tree.leaves(jax.eval_shape(forward(graph), state, images))
    assert len(kernels) >= 2 and kernels[-1] == jnp.float32
    assert set(kernels[:-1]) == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in found} == {jnp.dtype(jnp.float32)}


def test_bfloat16_is_close_to_float32():
    of = fields_of("unet")
    of.depth, of.dtype = 1, "bfloat16"
    narrow, state = nnx.split(models.build(of))
    of.dtype = "float32"
    wide, _ = nnx.split(nnx.eval_shape(lambda: models.build(of)))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    ours, expected = (jax.jit(forward(graph))(state, images)[0] for graph in (narrow, wide))
    error = np.abs(ours - expected)
    assert 0 < error.mean() < 0.02 * np.abs(expected).max()


def convolutions(jaxpr):
    """Returns the types of the kernels of all convolutions and matrix products, in order."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            found.append(equation.invars[1].aval.dtype)
        for called in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            called = getattr(called, "jaxpr", called)
            if hasattr(called, "eqns"):
                found += convolutions(called)
    return found


def test_a_classifier_learns_cell_types():
    model = models.build(fields_of("classifier"), 0, image_size=16)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    labels = jnp.arange(8) % 5
    images = jnp.ones((8, 16, 16, 3)) * labels.astype(jnp.float32)[:, None, None, None]
    settings = Loss(dice=0.0)
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        def loss_fn(params):
            logits = nnx.merge(graph, params, rest)(images)
            assert logits.shape == (8, 5)  # the number of cell types
            return losses.total(settings, logits, labels).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        with jax.numpy_dtype_promotion("standard"):  # as in the fixture optax_promotes
            updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, values = tx.init(params), []
    for _ in range(15):
        params, state, loss = step(params, state)
        values.append(float(loss))
    assert values[-1] < 0.3 * values[0]


def test_a_network_of_fixed_size_needs_one():
    with pytest.raises(ValueError, match="classifier is built for one size; give image_size"):
        models.build(fields_of("classifier"))


def test_classes_and_channels_are_those_asked_for():
    of = fields_of("unet")
    of.channels = 1
    network = nnx.eval_shape(lambda: models.build(of, classes=7))
    assert network.encoder[0].conv1.kernel.shape == (3, 3, 1, 4)
    assert nnx.eval_shape(lambda m, x: m(x), network, jnp.zeros((1, 8, 8, 3))).shape[-1] == 7


def test_importing_the_registry_imports_no_jax():
    code = "import sys, wbc_jax.models.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "flax"} & set(done.stdout.split())


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_rematerialization_changes_no_gradient(name, summing_exactly):
    network = models.build(fields_of(name), 0, image_size=16)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    found = []
    for remat in (False, True):
        network.set_attributes(remat=remat)  # raises if no block has it
        graph, params, rest = nnx.split(network, nnx.Param, ...)
        rest = nnx.to_pure_dict(rest)

        def score(params, graph=graph, rest=rest):
            return (nnx.merge(graph, params, rest)(images) ** 2).sum()

        assert ("remat" in str(jax.make_jaxpr(score)(params))) == remat
        found.append(jax.tree.leaves(jax.jit(jax.grad(score))(params)))
    for stored, again in zip(*found, strict=True):
        atol = 1e-4 * max(float(jnp.abs(x).max()) for x in found[0])
        np.testing.assert_allclose(again, stored, rtol=1e-3, atol=atol)


# ---- A network of one's own, as CONTRIBUTING.md shows it --------------------------------------

CONTRIBUTING = pathlib.Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def test_a_network_of_ones_own_is_one_file_and_one_line(tmp_path, monkeypatch):
    text = CONTRIBUTING.read_text(encoding="utf-8")
    code = re.search(r"```python\n(import jax\n.*?)```", text, re.DOTALL)[1]
    name, entry = re.search(r'"(plain)": (Entry\(.*?\)\))', text).groups()
    module = types.ModuleType("wbc_jax.models.plain")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.NETWORKS, name, eval(entry, {"Entry": registry.Entry}))
    config = tiny(tmp_path, model__name="plain", model__features=8)
    _, _, state, values = losses_of_six_steps(config)
    assert values[-1] < 0.9 * values[0]
    assert state.params["blocks"][0]["conv"]["kernel"].shape == (3, 3, 3, 8)
