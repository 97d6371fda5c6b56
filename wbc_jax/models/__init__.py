"""The networks. `registry` lists them by the names that a config uses, and builds them.

Importing this imports no JAX; `build` does.
"""

from wbc_jax.models.registry import NETWORKS, adapts, build, embeds

__all__ = ["NETWORKS", "adapts", "build", "embeds"]
