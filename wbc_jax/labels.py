"""The names and numbers that every part of the project shares."""

MASK_CLASSES = ("background", "cytoplasm", "nucleus")
BACKGROUND, CYTOPLASM, NUCLEUS = range(3)
IGNORE = 255
"""Mask value of pixels whose class is not known; left out of losses and metrics."""

CELL_TYPES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
UNKNOWN_LABEL = -1
"""Label of a cell whose type is not known."""
REVIEW = "for review"
"""What stands for the type of a cell that is left to a person."""
