"""Fast convolutions on CPUs.

`convolve` and `depthwise` compute, `disabled` and the environment variable WBC_JAX_CPU_CONVOLUTION
switch the fast code off, `compiler_options` are those of `jax.jit` around it, and
`restart_with_huge_pages` is for a program's entry point. The rest of the package uses nothing else
of this folder; README.md describes what is inside.
"""

import importlib

from wbc_jax.cpu.huge_pages import restart_with_huge_pages

_LAZY = {
    "compiler_options": "convolution",
    "convolve": "convolution",
    "depthwise": "depthwise_convolution",
    "disabled": "convolution",
}
__all__ = [*_LAZY, "restart_with_huge_pages"]


def __getattr__(name: str):
    # `main` restarts before it imports JAX, which takes a second.
    if name in _LAZY:
        return getattr(importlib.import_module(f"wbc_jax.cpu.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
