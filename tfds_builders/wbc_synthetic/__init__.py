"""Drawn white-blood-cell images with exact masks."""
