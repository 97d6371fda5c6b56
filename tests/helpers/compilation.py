"""How tests compile: quickly, or as users do. Imports no JAX, which reads what is set here."""

import contextlib
import os
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

_QUICKLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"
_EMITTERS = "xla_cpu_use_fusion_emitters"
_FLAG = f"--{_EMITTERS}=false"


def quicken(environment: MutableMapping[str, str]) -> None:
    """Sets the variables with which programs compile fast and run slowly.

    Tests compile far more than they compute. Without most optimizations, and with XLA's older
    emitter of fused operations, the training step of `tiny_runs.config` compiles in 1.3 s of
    processor time instead of 6.7 s.
    """
    environment.setdefault(_QUICKLY, "1")
    if _EMITTERS not in environment.get("XLA_FLAGS", ""):
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {_FLAG}".strip()


def as_users(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment with none of JAX's variables, and without what `quicken` set."""
    found = {k: v for k, v in environment.items() if not k.startswith("JAX_")}
    return found | {"XLA_FLAGS": _unquickened(environment)}


def _unquickened(environment: Mapping[str, str]) -> str:
    return environment.get("XLA_FLAGS", "").replace(_FLAG, "").strip()


def optimized() -> contextlib.AbstractContextManager[None]:
    """Compiles as users do, in this process and in those that it starts."""
    return _compiling("", {_EMITTERS: True})


def summing_exactly() -> contextlib.AbstractContextManager[None]:
    """Compiles sums as exactly as users do, and the rest quickly; otherwise as `optimized`.

    The training step of `tiny_runs.config` runs as fast as the optimized one, and it and the first
    weights compile in 6.8 s of processor time instead of 21 s.
    """
    options = {
        _EMITTERS: False,
        "xla_backend_optimization_level": 1,
        "xla_llvm_disable_expensive_passes": True,
    }
    return _compiling(" ".join(f"--{k}={str(v).lower()}" for k, v in options.items()), options)


@contextlib.contextmanager
def _compiling(flags: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Compiles with optimizations and XLA's options: as flags for processes, by name for this."""
    import jax
    import pytest
    from jax._src import compiler

    original = compiler.get_compile_options

    def with_options(*arguments, env_options_overrides=None, **others):
        chosen = dict(options) | (env_options_overrides or {})  # goes before XLA_FLAGS
        return original(*arguments, env_options_overrides=chosen, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_QUICKLY, "0")
        patch.setenv("XLA_FLAGS", f"{_unquickened(os.environ)} {flags}".strip())
        patch.setattr(compiler, "get_compile_options", with_options)
        jax.config.update("jax_disable_most_optimizations", False)
        yield
    jax.config.update("jax_disable_most_optimizations", True)
