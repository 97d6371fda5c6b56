"""Raabin-WBC's nucleus and cytoplasm ground truth."""
