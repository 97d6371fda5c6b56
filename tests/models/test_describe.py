"""wbc_jax.models.describe: layers counted by hand, and agreement with the network itself."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from wbc_jax.models import classifier, describe, segnet, unet
from wbc_jax.papers import printed


class Tiny(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.grouped = nnx.Conv(4, 8, (3, 1), feature_group_count=2, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 5, (2, 2), strides=(2, 2), rngs=rngs)
        self.dense = nnx.Linear(5, 7, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.grouped(self.conv(x)))
        return self.dense(self.up(x)) @ jnp.ones((7, 2))


def test_by_hand():
    model = nnx.eval_shape(lambda: Tiny(nnx.Rngs(0)))
    found = describe.describe(model, (2, 8, 6, 3))
    assert found == [
        describe.Layer("conv", "Conv", (2, 4, 3, 4), 27 * 4 + 4, 2 * 24 * 4 * 27),
        describe.Layer("grouped", "Conv", (2, 4, 3, 8), 3 * 2 * 8 + 8, 2 * 24 * 8 * 3 * 2),
        describe.Layer("relu.1", "relu", (2, 4, 3, 8), 0, 0),
        describe.Layer("up", "ConvTranspose", (2, 8, 6, 5), 4 * 8 * 5 + 5, 2 * 24 * 4 * 8 * 5),
        describe.Layer("dense", "Linear", (2, 8, 6, 7), 5 * 7 + 7, 2 * 96 * 5 * 7),
        describe.Layer("(outside layers)", "Tiny", (2, 8, 6, 2), 0, 2 * 96 * 7 * 2),
    ]


def test_unet_of_paper_a():
    model = nnx.eval_shape(lambda: unet.UNet(3, rngs=nnx.Rngs(0)))
    found = describe.describe(model, (1, 256, 256, 3))
    assert sum(x.parameters for x in found) == 31_043_651
    assert found[-1] == describe.Layer("head", "Conv", (1, 256, 256, 3), 195, 2 * 256**2 * 192)
    up = next(x for x in found if x.name == "up.0")
    assert up.flops == 2 * 16**2 * 4 * 1024 * 512 and up.shape == (1, 32, 32, 512)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_leaves_network_and_library_unchanged(norm):
    model = nnx.eval_shape(
        lambda: unet.UNet(3, 2, 2, norm, dropout=0.5, rngs=nnx.Rngs(params=0, dropout=1))
    )
    before = nnx.to_pure_dict(nnx.state(model))
    relu, call = nnx.relu, nnx.Conv.__call__
    found = describe.describe(model, (2, 9, 7, 3))
    assert nnx.relu is relu and nnx.Conv.__call__ is call
    assert not model.dropouts[0].deterministic
    after = nnx.to_pure_dict(nnx.state(model))
    assert jax.tree.all(jax.tree.map(lambda old, new: old is new, before, after))
    size = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert sum(x.parameters for x in found) == size
    assert sum(x.kind == "Dropout" for x in found) == 2


def test_flops_grow_with_batch_and_area():
    model = nnx.eval_shape(lambda: segnet.SegNet(3, 2, 2, rngs=nnx.Rngs(0)))
    one, many = (sum(x.flops for x in describe.describe(model, s)) for s in SHAPES)
    assert many == 6 * one


SHAPES = ((1, 8, 8, 3), (3, 16, 8, 3))


def test_raises_the_networks_own_errors_and_restores():
    call = nnx.Conv.__call__
    model = nnx.eval_shape(lambda: classifier.Classifier(5, 8, 2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="built for 8 × 8 px"):
        describe.describe(model, (1, 12, 12, 3))
    assert nnx.Conv.__call__ is call


def test_table():
    model = nnx.eval_shape(lambda: classifier.Classifier(5, 8, 2, 2, rngs=nnx.Rngs(0)))
    found = describe.describe(model, (1, 8, 8, 3))
    lines = describe.table(found, "classifier").splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "FLOPs"]
    # 8 × 8 × 2 outputs of 75 products each, twice.
    assert lines[2].split() == ["blocks.0.conv", "Conv", *"1×8×8×2", "152", "19,200"]
    parameters = 152 + 4 + 204 + 8 + (2 * 2 * 4 * 5 + 5)
    assert f"{parameters} parameters;" in lines[-2] and "17.5 M" in lines[-1]
    assert len(describe.table(found).splitlines()) == len(lines) - 1


@pytest.mark.parametrize(
    ("name", "row"), [("encoder_decoder", "proposed CNN"), ("classifier", "classifier")]
)
def test_the_papers_figures_are_those_of_the_papers_text(name, row):
    text = printed.load("b", "text")
    layers, parameters, letter, operations, unit = re.fullmatch(
        r"paper B prints (\d+) layers, ([\d.]+) ([KM]) parameters, ([\d.]+) (\w+) at 360 × 360",
        describe.PAPERS[name],
    ).groups()
    assert layers == text[row, "layers"].value
    found = text[row, "parameters"]
    assert (parameters, {"K": "thousand", "M": "million"}[letter]) == (found.value, found.unit)
    found = text[row, "operations an image"]
    assert (operations, unit) == (found.value, found.unit)
