"""Fixtures that several test files use."""

import os
import pathlib

import pytest

_DEFAULT = pathlib.Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real images (WBC_JAX_DATA, or ../shared/data); skips where it is missing."""
    folder = pathlib.Path(os.environ.get("WBC_JAX_DATA", _DEFAULT)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist; set WBC_JAX_DATA to their folder")
    return folder
