"""Palettes: the colors of a stain and camera."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Palette:
    """Colors (RGB, 0-255) of one stain and camera, and how red cells look under it."""

    name: str
    plasma: tuple[int, int, int]
    red: tuple[int, int, int]
    red_rim: float
    """Extra absorption at a red cell's edge, as a share of the red cell's own."""
    pallor: tuple[float, float]
    """Range of the share of absorption missing at a red cell's center."""
    red_density: tuple[float, float]
    """Red cells per square micrometer."""
    clear: tuple[int, int, int]
    """Cytoplasm of granulocytes."""
    blue: tuple[int, int, int]
    """Cytoplasm of lymphocytes and monocytes."""
    nucleus_dark: tuple[int, int, int]
    nucleus_light: tuple[int, int, int]
    orange: tuple[int, int, int]
    """Eosinophil granules."""
    violet: tuple[int, int, int]
    """Basophil granules, and dye specks."""
    pink: tuple[int, int, int]
    """Fine granules of neutrophils; platelets."""
    rim: float
    """Darkening of a leukocyte's edge."""
    blur_um: tuple[float, float]
    """Range of the defocus, standard deviation in micrometers."""


PALETTES: tuple[Palette, ...] = (
    Palette(
        "yellow", (253, 241, 150), (241, 222, 130), 2.0, (0.2, 0.9), (0.014, 0.026),
        (205, 158, 112), (178, 150, 118), (74, 14, 80), (150, 50, 86),
        (168, 70, 64), (66, 20, 84), (164, 92, 84), 0.38, (0.20, 0.34),
    ),
    Palette(
        "white", (252, 250, 252), (244, 214, 232), 1.0, (0.2, 0.8), (0.010, 0.022),
        (206, 128, 176), (176, 142, 196), (84, 20, 118), (132, 62, 154),
        (188, 70, 112), (78, 24, 122), (172, 84, 150), 0.16, (0.18, 0.30),
    ),
    Palette(
        "peach", (250, 226, 200), (214, 158, 162), 0.18, (0.1, 0.75), (0.018, 0.034),
        (222, 184, 188), (190, 174, 190), (74, 30, 128), (136, 84, 158),
        (194, 96, 112), (66, 22, 110), (182, 124, 160), 0.10, (0.12, 0.22),
    ),
    Palette(
        "mauve", (234, 208, 190), (176, 122, 138), 0.15, (0.1, 0.75), (0.022, 0.042),
        (196, 158, 176), (170, 154, 180), (80, 30, 124), (128, 68, 152),
        (190, 84, 112), (62, 18, 104), (160, 100, 148), 0.10, (0.12, 0.22),
    ),
    Palette(
        "rose", (222, 188, 176), (150, 104, 128), 0.10, (0.6, 1.0), (0.020, 0.036),
        (202, 146, 158), (198, 146, 168), (112, 16, 104), (168, 44, 124),
        (180, 92, 112), (92, 16, 92), (172, 100, 132), 0.08, (0.15, 0.26),
    ),
    Palette(
        "slate", (190, 176, 170), (122, 112, 138), 0.10, (0.6, 1.0), (0.020, 0.036),
        (180, 128, 152), (160, 126, 164), (78, 14, 98), (130, 40, 126),
        (152, 88, 120), (72, 18, 84), (146, 84, 126), 0.08, (0.15, 0.26),
    ),
)  # fmt: skip
