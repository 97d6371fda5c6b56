"""The user's own images, with masks and cell types where there are any."""
