"""Results of `predict` to review, made once a file; each test gets a copy of its own."""

import shutil

import pytest

from helpers import reviewed


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    return reviewed.predicted(tmp_path_factory.mktemp("reviewed"))


@pytest.fixture
def folder(predicted, tmp_path):
    return shutil.copytree(predicted, tmp_path / "results")
