import math

import pytest

from wbc_jax.labels import type_name


@pytest.mark.parametrize(
    "label, name",
    [
        (0, "basophil"),
        (4, "neutrophil"),
        (-1, "unknown"),
        (5, "unknown"),
        (None, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_type_name(label, name):
    assert type_name(label) == name
