"""The networks. `registry` lists them by the names that a config uses, and builds them.

Importing this imports no JAX; `build` does.
"""

from wbc_jax.models.registry import NETWORKS, build, embeds

__all__ = ["NETWORKS", "build", "embeds"]
