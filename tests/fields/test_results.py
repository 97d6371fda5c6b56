"""The differential count, checked against textbook intervals."""

import numpy as np
import pytest

from wbc_jax.fields import results
from wbc_jax.labels import CELL_TYPES, REVIEW


def test_differential():
    rows = [{"cell": 1, "type": "neutrophil"}] * 60 + [{"cell": 1, "type": "lymphocyte"}] * 20
    rows += [{"cell": 1, "type": REVIEW}] * 20 + [{"cell": None, "type": None}]
    found = {row["type"]: row for row in results.differential(rows)}
    assert list(found) == [*CELL_TYPES, REVIEW, "all"]
    assert found["neutrophil"]["percent"] == 75 and found["all"]["cells"] == 100
    assert found[REVIEW]["percent"] == 20
    # Wilson's interval of 20 in 100, as printed in textbooks.
    assert found[REVIEW]["low"] == pytest.approx(13.34, abs=0.01)
    assert found[REVIEW]["high"] == pytest.approx(28.88, abs=0.01)
    assert found["basophil"]["percent"] == 0 and found["basophil"]["high"] > 0
    assert np.isnan(results.differential([])[0]["percent"])
