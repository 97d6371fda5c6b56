"""Reading finished runs."""

import types

import pytest
from etils import epath

from helpers import paper_runs, tiny_runs
from wbc_jax.errors import DataError, RunError
from wbc_jax.papers import runs


def test_damaged_runs_are_named(folder, tmp_path):
    paper_runs.write(tmp_path, "classifier", {"pbc": paper_runs.type_scores(1)})
    path = tmp_path / "classifier" / "report" / "metrics.json"
    path.write_text("{")
    with pytest.raises(RunError, match=f"the run in {tmp_path / 'classifier'} is damaged"):
        paper_runs.store(tmp_path).run("classifier")


def test_missing_records_are_named(tmp_path):
    config = tiny_runs.least(tmp_path, data__datasets=("raabin_gt",))
    with pytest.raises(DataError):
        runs.Run.splits(types.SimpleNamespace(config=config, folder=epath.Path(tmp_path)))
