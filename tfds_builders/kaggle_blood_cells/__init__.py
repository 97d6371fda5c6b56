"""Kaggle blood cells: BCCD frames cropped by their boxes, and augmented copies."""
