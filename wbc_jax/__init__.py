"""White-blood-cell segmentation, N/C ratio and cell type from microscope images, in JAX.

import wbc_jax
model = wbc_jax.load("runs/unet")
prediction = model.predict(wbc_jax.read_image("cell.png"))
prediction.mask, prediction.nc_ratio
"""

import importlib

_LAZY = {
    "analyze": "wbc_jax.fields.analyze",
    "load": "wbc_jax.inference.model",
    "read_image": "wbc_jax.data.images",
    "release_models": "wbc_jax.fields.analyze",
    "Model": "wbc_jax.inference.model",
    "Prediction": "wbc_jax.inference.model",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str):
    # JAX and Orbax take seconds to import; whoever only asks for the package does not wait.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'wbc_jax' has no attribute {name!r}")
