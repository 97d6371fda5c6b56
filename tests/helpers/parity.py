"""Compares a network with an independent build of the same layers in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install torch")
tnn = torch.nn

torch.set_num_threads(1)


class Depthwise(tnn.Conv2d):
    """PyTorch's convolution of each channel by itself, whose input is padded already."""

    def __init__(self, channels, size, stride):
        super().__init__(channels, channels, size, stride, groups=channels)


# PyTorch's name of each array, and the permutation of its axes to our layout.
_ARRAYS = {
    tnn.Conv2d: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", (0,))},
    Depthwise: {"kernel": ("weight", (1, 2, 0)), "bias": ("bias", (0,))},
    tnn.ConvTranspose2d: {"kernel": ("weight", (2, 3, 0, 1)), "bias": ("bias", (0,))},
    tnn.Linear: {"kernel": ("weight", (1, 0)), "bias": ("bias", (0,))},
    tnn.BatchNorm2d: {"scale": ("weight", (0,)), "bias": ("bias", (0,))},
    tnn.GroupNorm: {"scale": ("weight", (0,)), "bias": ("bias", (0,))},
    tnn.LayerNorm: {"scale": ("weight", (0,)), "bias": ("bias", (0,))},
}


def norm(kind, channels):
    """Returns PyTorch's layer for `wbc_jax.models.layers.norm`."""
    if kind == "batch":
        return tnn.BatchNorm2d(channels, momentum=0.1, eps=1e-5)
    if kind == "group":
        groups = max(g for g in range(1, 9) if channels % g == 0)
        return tnn.GroupNorm(groups, channels, eps=1e-6)
    return tnn.Identity()


def from_torch(tensor, axes):
    array = tensor.detach().numpy()
    if array.ndim > len(axes):  # depthwise: the axis of its one input channel
        array = array.squeeze(1)
    return array.transpose(axes)


def randomize(theirs, seed=0):
    """Gives PyTorch's arrays random values, so that no bias or scale stays at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in theirs.modules():
        if isinstance(module, (tnn.BatchNorm2d, tnn.GroupNorm, tnn.LayerNorm)):
            tnn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            tnn.init.normal_(module.bias, 0, 0.3, generator=generator)
        elif isinstance(module, tuple(_ARRAYS)):
            tnn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return theirs


def abstract(kind, *args, **options):
    """Returns a network without values: drawing them takes longer than the comparison."""
    return nnx.eval_shape(lambda: kind(*args, **options, rngs=nnx.Rngs(0)))


def copy(pairs):
    """Copies the arrays of theirs to ours; `pairs` are (ours, theirs)."""
    for ours, theirs in pairs:
        if isinstance(theirs, tnn.BatchNorm2d):
            ours.mean.set_value(jnp.asarray(from_torch(theirs.running_mean, (0,))))
            ours.var.set_value(jnp.asarray(from_torch(theirs.running_var, (0,))))
        for name, (their_name, axes) in _ARRAYS[type(theirs)].items():
            value = from_torch(getattr(theirs, their_name), axes)
            array = getattr(ours, name)
            assert array.shape == value.shape, (type(theirs), name, array.shape, value.shape)
            array.set_value(jnp.asarray(value, jnp.float32))


def check(model, pairs, theirs, shape, seed=0, tolerance=2e-5):
    """Asserts equal outputs, gradients and running statistics, in training and in prediction.

    Args:
        model: ours, from `abstract`; maps `[B, H, W, C]` to logits.
        pairs: (a layer of ours, a layer of theirs), all that have parameters.
        theirs: their whole network, in double precision; NCHW in, our layout out.
        shape: `[B, H, W, C]` of the random images.
        seed: of images and of the loss.
        tolerance: relative to the largest entry of each array; five times that for gradients. The
            smallest gradients (a bias before a norm: zero but for rounding) are compared relative
            to 1/20 of the largest.
    """
    copy(pairs)
    learnt = {id(v) for _, v in nnx.iter_graph(model) if isinstance(v, nnx.Param)}
    paired = {id(getattr(ours, name)) for ours, t in pairs for name in _ARRAYS[type(t)]}
    assert learnt == paired, "a parameter was left out of the comparison"
    assert sum(p.numel() for p in theirs.parameters()) == sum(
        x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))
    )
    theirs.double()
    rng = np.random.default_rng(seed)
    images = rng.normal(size=shape).astype(np.float32)
    tensor = torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()

    theirs.train()
    expected = theirs(tensor)
    weights = rng.normal(size=tuple(expected.shape)).astype(np.float32)
    (expected * torch.tensor(weights)).sum().backward()
    model.set_attributes(use_running_average=False, raise_if_not_found=False)

    # Gradients are taken as in training, from a graph definition and a tree of arrays.
    graph, *states = nnx.split(model, nnx.Param, ...)
    params, rest = map(nnx.to_pure_dict, states)

    def loss_fn(params, images):
        merged = nnx.merge(graph, params, rest)
        logits = merged(images)
        return (logits * weights).sum(), (logits, nnx.state(merged, nnx.BatchStat))

    step = jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True))
    (_, (logits, stats)), (grads, image_grad) = step(params, jnp.asarray(images))
    assert logits.dtype == jnp.float32
    close(logits, expected.detach().numpy(), tolerance)
    close(image_grad, from_torch(tensor.grad, (0, 2, 3, 1)), 5 * tolerance)

    derivative = nnx.merge(graph, grads, rest)  # a network whose weights are the gradients
    names = {id(m): path for path, m in nnx.iter_modules(model)}
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for ours, their in pairs:
        here = derivative
        for key in names[id(ours)]:
            here = here[key] if isinstance(key, int) else getattr(here, key)
        for name, (their_name, axes) in _ARRAYS[type(their)].items():
            gradient = from_torch(getattr(their, their_name).grad, axes)
            scale = max(np.abs(gradient).max(), 0.05 * largest)
            close(getattr(here, name)[...], gradient, 5 * tolerance, scale)

    # Ours keeps the biased variance, PyTorch the unbiased one, which is n / (n - 1) times larger.
    nnx.update(model, stats)
    counts = {}
    hooks = [
        t.register_forward_pre_hook(lambda m, x: counts.update({m: x[0].numel() // x[0].shape[1]}))
        for _, t in pairs
        if isinstance(t, tnn.BatchNorm2d)
    ]
    model.set_attributes(use_running_average=True, raise_if_not_found=False)
    theirs.eval()
    with torch.no_grad():
        theirs(tensor)
        for hook in hooks:
            hook.remove()
        for ours, their in pairs:
            if isinstance(their, tnn.BatchNorm2d):
                unbiased = (their.running_var - 0.9) / 0.1
                their.running_var.copy_(0.9 + 0.1 * unbiased * (counts[their] - 1) / counts[their])
                close(ours.mean[...], their.running_mean.numpy(), tolerance)
                close(ours.var[...], their.running_var.numpy(), tolerance)
        expected = theirs(tensor).numpy()
    close(nnx.jit(lambda m, x: m(x))(model, jnp.asarray(images)), expected, tolerance)


def close(ours, theirs, tolerance, scale=None):
    """Asserts that two arrays differ by at most `tolerance` times `scale` (their largest entry)."""
    scale = np.abs(theirs).max() if scale is None else scale
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=tolerance * scale)
