"""Kaggle blood cells: BCCD frames cropped by their boxes, augmented copies, and masks."""
