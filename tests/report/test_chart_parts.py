"""What all charts share: the ground's color, and a matplotlib without state."""

import io
import subprocess
import sys

import numpy as np
from PIL import Image

from wbc_jax.report import chart_parts, nc_figures


def test_dark_figures_are_dark():
    rows = [{"truth_nc_ratio": 1, "nc_ratio": 1, "label": 4}]
    for dark in (False, True):
        image = Image.open(io.BytesIO(chart_parts.png(nc_figures.nc_scatter(rows, dark), dpi=30)))
        assert (np.asarray(image)[0, 0, :3].mean() < 60) == dark


def test_matplotlib_is_imported_late_and_without_pyplot():
    code = (
        "import sys\nfrom wbc_jax.report import chart_parts, html, nc_figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "chart_parts.png(nc_figures.nc_scatter([]), dpi=20)\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
