"""What people say of the cells that `wbc_jax.predict` found: types, masks, and who agrees."""
