"""Fast convolutions on CPUs.

`convolve` computes, `disabled` and the environment variable WBC_JAX_CPU_CONVOLUTION switch the fast
code off, `compiler_options` are those of `jax.jit` around it, and `restart_with_huge_pages` is for
a program's entry point. The rest of the package uses nothing else of this folder; README.md
describes what is inside.
"""

import importlib

from wbc_jax.cpu.huge_pages import restart_with_huge_pages

_LAZY = ("compiler_options", "convolve", "disabled")
__all__ = [*_LAZY, "restart_with_huge_pages"]


def __getattr__(name: str):
    # `main` restarts before it imports JAX, which takes a second.
    if name in _LAZY:
        return getattr(importlib.import_module("wbc_jax.cpu.convolution"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
