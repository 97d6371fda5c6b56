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


def test_networks_of_one_data_set_are_tested_on_the_others(tmp_path, monkeypatch):
    there = ("pbc", "raabin_gt")  # not raabin_wbc/crops: its replacement is tested on
    monkeypatch.setattr(plans, "why_unavailable", lambda name, _: "" if name in there else "no")
    always = {*plans.INDEPENDENT, *plans.STAND_INS}
    data = plans.data_settings()
    for name, quick, full in (
        ("classifier_dataset_1", {"raabin_gt", "kaggle_blood_cells/original"},
         {"raabin_wbc/crops", "kaggle_blood_cells/original"}),
        ("classifier_dataset_2_3", {"pbc", "kaggle_blood_cells/original"},
         {"pbc", "kaggle_blood_cells/original"}),
        ("classifier", set(), set()),
        ("unet", set(), set()),
    ):  # fmt: skip
        config, _ = plans.quick_config(plans.PLANS[name], data)
        assert set(config.evaluate.external) == always | quick
        line = plans.command(plans.PLANS[name], tmp_path, "full")
        external = line.partition("--config.evaluate.external=")[2].partition(" ")[0]
        assert set(external.split(",")) == always | full
