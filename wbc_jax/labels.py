"""The names, numbers and colors that every part of the project shares."""

MASK_CLASSES = ("background", "cytoplasm", "nucleus")
BACKGROUND, CYTOPLASM, NUCLEUS = range(3)
IGNORE = 255
"""Mask value of pixels of unknown class; losses and metrics ignore them."""
CELL_ONLY = "cell_only"
"""Subtype of records whose mask marks the whole cell without its nucleus: 255 is cell, as the class
of its pixels is unknown. Losses ignore it; the cell is scored, its parts are not."""

CELL_TYPES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
UNKNOWN_LABEL = -1
"""Label of a cell of unknown type."""
UNKNOWN_TYPE = "unknown"
"""Name of the type that `UNKNOWN_LABEL` stands for."""
REVIEW = "for review"
"""Shown instead of the type of a cell that a person has to review."""
ALL = "all"
"""Name of the result over all data sets, or all cells, together."""

NUCLEUS_COLOR = (240, 228, 66)
"""RGB of a nucleus's outline: light, against the dark stain of chromatin."""
CELL_COLOR = (0, 114, 178)
"""RGB of a cell's outline: dark, against pale plasma and red cells."""


def type_name(label: float | None) -> str:
    """Returns the cell type of a label; `unknown` for -1, None, NaN and numbers without a type."""
    if label is None or not 0 <= label < len(CELL_TYPES):
        return UNKNOWN_TYPE
    return CELL_TYPES[int(label)]
