"""The runs that the tables need."""

import pytest

from wbc_jax.papers import plans


@pytest.mark.parametrize("name", plans.PLANS)
def test_quick_configs_are_valid_and_keep_stand_ins_out_of_training(name, monkeypatch):
    monkeypatch.setattr(plans, "why_unavailable", lambda name, data: "")
    config, why = plans.quick_config(plans.PLANS[name], plans.data_settings())
    assert not why and config.task == plans.PLANS[name].task
    assert not set(config.data.datasets) & {*plans.STAND_INS, *plans.INDEPENDENT}
    assert set(plans.STAND_INS) <= set(config.evaluate.external)
    assert config.data.protocol == "paper_b"


def test_lacking_says_what_is_not_there(tmp_path):
    data = plans.data_settings()
    data.data_dir, data.manual_dir = str(tmp_path / "records"), str(tmp_path)
    assert "lisc/crops is not in" in plans.why_unavailable("lisc/crops", data)


def test_data_set_names():
    assert plans.same_dataset("pbc", "pbc") and plans.same_dataset("pbc/five", "pbc")
    assert plans.same_dataset("lisc", "lisc/crops")
    assert not plans.same_dataset("raabin_wbc/kaggle", "raabin_wbc/crops")
    assert not plans.same_dataset("pbc_other", "pbc")
