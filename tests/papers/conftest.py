"""Canned runs of all plans, and the tables made from them."""

import pytest

from helpers import paper_runs
from wbc_jax.papers import paper_a, paper_b


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with all runs."""
    folder = tmp_path_factory.mktemp("papers")
    paper_runs.everything(folder)
    return folder


@pytest.fixture(scope="session")
def built(folder):
    """All tables and figures, by paper and item."""
    store = paper_runs.store(folder)
    known = {"a": paper_a.ITEMS, "b": paper_b.ITEMS}
    return {(p, name): item.build(store) for p in known for name, item in known[p].items()}
