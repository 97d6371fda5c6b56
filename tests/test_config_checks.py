"""Bad values end a run at once, with the field's name, the value found and the values allowed."""

import json
import math

import pytest
from absl import flags
from ml_collections import config_flags

from wbc_jax import config_checks
from wbc_jax.config import (
    PRESETS,
    Augment,
    Choices,
    Config,
    Data,
    Evaluate,
    Loss,
    Model,
    Optimizer,
    Range,
    Train,
    flatten,
    limits,
    to_json,
)
from wbc_jax.errors import ConfigError
from wbc_jax.models import registry

RANGES = {k: v for k, v in limits().items() if isinstance(v, Range)}
CHOICES = {
    "model.name": tuple(registry.NETWORKS),
    **{k: v.values for k, v in limits().items() if isinstance(v, Choices)},
}


def _set(config, name, value):
    *sections, field = name.split(".")
    for section in sections:
        config = getattr(config, section)
    setattr(config, field, value)


INVALID = [
    *((name, "no such", "'segmentation'" if name == "task" else "") for name in CHOICES),
    *((name, of.low - 1, f"at least {of.low:g}") for name, of in RANGES.items()),
    *(
        (name, of.high + 1, f"at most {of.high:g}")
        for name, of in RANGES.items()
        if of.high != math.inf
    ),
    ("optimizer.learning_rate", 0, "above 0"),
    ("optimizer.learning_rate", float("nan"), "at least 0"),
    ("optimizer.learning_rate", float("inf"), "finite"),
    ("augment.zoom", float("nan"), "at least 0"),
    ("data.fractions", (0.5, 0.5), "three shares"),
    ("data.fractions", (0.5, 0.2, 0.2), "sum to 1"),
    ("data.fractions", (1.2, -0.4, 0.2), "not negative"),
    ("data.fractions", (0.5, float("nan"), 0.5), "sum to 1"),
    ("data.fractions", (0.0, 0.5, 0.5), "share of train must be above 0"),
    ("data.fractions", ("a", "b", "c"), "of type float"),
    ("data.datasets", (), "name at least one"),
    ("data.datasets", (" , ",), "name at least one"),
    ("data.datasets", ("a", "b", "a"), "each once"),
    ("data.datasets", "wbc_synthetic", "of type tuple"),
    ("data.datasets", (3,), "of type str"),
    ("evaluate.external", ("a,a",), "each once"),
    ("train.steps", "100", "of type int"),
    ("train.steps", 100.5, "of type int"),
    ("train.steps", True, "of type int"),
    ("augment.flip", 1, "of type bool"),
    ("augment.zoom", None, "of type float"),
    ("data.data_dir", None, "of type str"),
    ("model", None, "wbc_jax.config.Model"),
]


@pytest.mark.parametrize("name, value, allowed", INVALID)
def test_invalid_values(name, value, allowed):
    config = Config()
    _set(config, name, value)
    with pytest.raises(ConfigError) as caught:
        config_checks.validate(config)
    text = str(caught.value)
    assert text.startswith(f"config.{name}")
    assert allowed in text
    if name in CHOICES:
        assert all(repr(choice) in text for choice in CHOICES[name])
    if isinstance(value, str | int | float) or value is None:
        assert f"config.{name} is {value!r}" in text  # a float field shows 3 as 3.0


def message_of(config):
    with pytest.raises(ConfigError) as caught:
        config_checks.validate(config)
    return str(caught.value)


@pytest.fixture
def classification():
    """A config of the other task that is valid as it stands."""
    config = Config(
        task="classification",
        data=Data(image_size=128),
        model=Model(name="classifier"),
        loss=Loss(dice=0.0),
    )
    assert config_checks.validate(config) is config
    return config


def test_no_loss_at_all(classification):
    none = Loss(cross_entropy=0.0, dice=0.0)
    text = message_of(Config(loss=none))
    assert text.startswith("config.loss has no term above 0; set cross_entropy, ")
    assert text.endswith("binary_focal, dice or generalised_dice.")
    classification.loss = none
    assert message_of(classification).endswith(
        "set cross_entropy, binary_cross_entropy, focal or binary_focal."
    )


@pytest.mark.parametrize("name", ["dice", "generalised_dice"])
def test_cell_types_have_no_dice(classification, name):
    setattr(classification.loss, name, 0.5)
    assert message_of(classification) == (
        f"config.loss.{name} is 0.5, but it compares masks and config.task is 'classification'; set"
        " it to 0."
    )


def test_label_smoothing_belongs_to_cross_entropy():
    config = Config()
    config.loss.label_smoothing, config.loss.cross_entropy = 0.1, 0.0
    assert message_of(config).startswith("config.loss.label_smoothing is 0.1, but it belongs to")


def test_networks_fit_the_task_and_the_images(classification):
    config = Config(model=Model(name="classifier"))
    assert message_of(config) == (
        "config.model.name is 'classifier', a network for the task 'classification', but"
        " config.task is 'segmentation'; choose one of unet, segnet, encoder_decoder,"
        " efficientnet_unet, or the other"
        " task."
    )
    classification.data.image_size = 127
    assert "config.model.blocks is 7; a classifier halves" in message_of(classification)
    assert "choose at most 6 blocks" in message_of(classification)
    classification.model.name = "unet"
    assert "config.model.name is 'unet', a network for the task 'segmenta" in message_of(
        classification
    )


def test_a_network_of_ones_own_can_be_named(monkeypatch):
    config = Config(model=Model(name="mine"))
    assert "'mine'; allowed are 'unet', 'segnet'," in message_of(config)
    monkeypatch.setitem(registry.NETWORKS, "mine", registry.Entry("somewhere:Mine"))
    assert config_checks.validate(config) is config


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_every_field(name):
    config = Config(augment=Augment(preset=name, zoom=0.0))
    config_checks.validate(config)
    first = flatten(config.augment)
    off = flatten(Augment(preset=name, flip=False, quarter_turns=False))
    assert {k: v for k, v in first.items() if v != off[k]} == {
        k: v for k, v in PRESETS[name].items() if v != off[k]
    }
    # What is stored with a run can be read again.
    assert config_checks.from_json(to_json(config)) == config


def test_paper_bs_preset():
    config = Config(augment=Augment(preset="paper_b"))
    assert config_checks.validate(config).augment == Augment(
        preset="paper_b",
        flip=True,
        quarter_turns=False,
        rotation_degrees=20.0,
        translation_px=3.0,
        fill="zero",
    )


def test_a_preset_is_not_mixed_with_other_values():
    config = Config(augment=Augment(preset="paper_b", zoom=0.3))
    assert message_of(config) == (
        "config.augment.zoom is 0.3, but the preset 'paper_b' sets it to 0.0; leave it out, or set"
        " config.augment.preset to 'custom'."
    )
    config.augment = Augment(preset="paper_b", rotation_degrees=20)
    config_checks.validate(config)
    # Another preset on the command line over a config file that was already validated.
    config.augment.preset = "none"
    assert "config.augment.rotation_degrees is 20.0, but the preset 'none'" in message_of(config)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"fold": 5}, "config.data.fold is 5; the 5 folds are numbered 0 to 4"),
        (
            {"protocol": "leave_one_out", "datasets": ("a", "b"), "left_out": "c"},
            "config.data.left_out is 'c'; leave_one_out needs one of at least two",
        ),
        (
            {"protocol": "leave_one_out", "datasets": ("a",), "left_out": "a"},
            "config.data.left_out is 'a'; leave_one_out needs one of at least two",
        ),
        (
            {"left_out": "wbc_synthetic"},
            "'fractions'; set it to 'leave_one_out', or leave left_out",
        ),
        (
            {"protocol": "one_source", "datasets": ("a", "b"), "train_source": "c"},
            "config.data.train_source is 'c'; one_source needs one of at least two",
        ),
        (
            {"protocol": "one_source", "datasets": ("a",), "train_source": "a"},
            "config.data.train_source is 'a'; one_source needs one of at least two",
        ),
        ({"train_source": "wbc_synthetic"}, "config.data.train_source is 'wbc_synthetic', but"),
        (
            {"protocol": "independent", "datasets": ("a", "b"), "independent": ("a", "b")},
            "config.data.independent is ('a', 'b'); independent needs some, but not all",
        ),
        (
            {"protocol": "independent", "datasets": ("a", "b"), "independent": ("c",)},
            "config.data.independent is ('c',); independent needs some, but not all",
        ),
        (
            {"protocol": "independent", "datasets": ("a", "b")},
            "config.data.independent is (); independent needs some",
        ),
        ({"independent": ("wbc_synthetic",)}, "set it to 'independent', or leave independent"),
        (
            {"protocol": "independent", "datasets": ("a", "b"), "independent": ("b", "b")},
            "config.data.independent names a data set twice",
        ),
        (
            {"protocol": "paper_a", "fractions": (0.6, 0.2, 0.2)},
            "the protocol 'paper_a' has (0.7, 0.15, 0.15); set config.data.protocol to 'fractions'",
        ),
        ({"nucleus_density": 1.5}, "1.5, but config.data.isolate is empty: without a mask"),
        ({"red_density": 0.4}, "nucleus_density is 0: nuclei are darker than red cells. Set"),
        ({"weights": (1.0,)}, "config.data.mixture is 'natural'; set it to 'custom'"),
        ({"mixture": "custom"}, "config.data.weights is (); the mixture 'custom' needs one"),
        ({"mixture": "custom", "weights": (0.0,)}, "finite number above 0 for each of the 1"),
        ({"mixture": "custom", "weights": (float("nan"),)}, "config.data.weights is (nan,)"),
        ({"mixture": "custom", "weights": (1.0, 1.0)}, "for each of the 1 data sets"),
    ],
)
def test_data_fields_that_must_fit_each_other(fields, expected):
    config = Config(data=Data(**fields))
    with pytest.raises(ConfigError) as caught:
        config_checks.validate(config)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"name": "segnet", "dropout": 0.5}, "config.model.dropout is 0.5, but segnet has none"),
        ({"name": "segnet", "up_relu": True}, "config.model.up_relu is True, but segnet has none"),
        ({"layout": "vgg16"}, "config.model.layout is 'vgg16', but unet has none; set it to 'mat"),
        ({"channels": 2}, "config.model.channels is 2; it must be 3 (colour) or 1 (grey)"),
        ({"name": "segnet", "depth": 7}, "config.model.depth is 7; a SegNet halves the image"),
        ({"name": "segnet", "layout": "vgg16", "depth": 6}, "config.model.depth is 6"),
    ],
)
def test_model_fields_that_must_fit_each_other(fields, expected):
    config = Config(model=Model(**fields))
    with pytest.raises(ConfigError) as caught:
        config_checks.validate(config)
    assert expected in str(caught.value)


def test_defaults_and_bounds_are_valid():
    for end in (0, 1):
        config = Config()
        assert config_checks.validate(config) is config
        for name, of in RANGES.items():
            kind, bound = type(flatten(config)[name]), (of.low, of.high)[end]
            if bound != math.inf and name != "optimizer.learning_rate":
                _set(config, name, kind(bound))
        config.loss.dice = 1.0
        config.data.isolate = "segmenter"  # without it there is no nucleus's density
        config.data.red_density = min(config.data.red_density, config.data.nucleus_density / 2)
        config_checks.validate(config)


def test_comma_separated_data_sets():
    config = Config()
    config.data.datasets = ("a/b, c", "d,")
    config.evaluate.external = ["e,f"]
    config_checks.validate(config)
    assert config.data.datasets == ("a/b", "c", "d")
    assert config.evaluate.external == ("e", "f")


def test_whole_numbers_and_lists_of_a_config_file_are_taken():
    config = Config()
    config.augment.zoom = 1
    config.data.fractions = [1, 0, 0]
    config_checks.validate(config)
    assert repr(config.augment.zoom) == "1.0"
    assert config.data.fractions == (1.0, 0.0, 0.0)


def test_json_round_trip():
    config = Config(
        data=Data(datasets=("a", "b/c"), fractions=(0.5, 0.25, 0.25), data_dir="ü"),
        augment=Augment(flip=False, zoom=0.1),
        optimizer=Optimizer(learning_rate=1 / 3),
        evaluate=Evaluate(external=("d",)),
    )
    again = config_checks.from_json(to_json(config))
    assert again == config
    assert isinstance(again.data.datasets, tuple)
    assert json.loads(to_json(config))["optimizer"]["learning_rate"] == 1 / 3


def test_fields_that_json_lacks_have_their_defaults():
    config = config_checks.from_json('{"train": {"steps": 7}, "optimizer": {"learning_rate": 1}}')
    assert config == Config(train=Train(steps=7), optimizer=Optimizer(learning_rate=1.0))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{", "there.json is not JSON"),
        ("", "there.json is not JSON"),
        (b"\xff\x00\x81{", "there.json is not JSON"),
        ("[]", "there.json: config is []; it must be an object"),
        ('{"stepps": 3}', "there.json: config has no field 'stepps'; it has task, data, augment"),
        ('{"train": {"stepps": 3}}', "config.train has no field 'stepps'; it has batch_size"),
        ('{"train": {"stepps": 3}}', "compilation_cache. Did you mean config.train.steps?"),
        ('{"features": 3}', "evaluate. Did you mean config.model.features?"),
        ('{"a.b": 3}', "there.json: config has no field 'a.b'; it has task, data"),
        ('{"train": 3}', "there.json: config.train is 3; it must be an object"),
        ('{"train": {"steps": "3"}}', "config.train.steps is '3'; it must be of type int"),
        ('{"train": {"steps": 3.0}}', "config.train.steps is 3.0; it must be of type int"),
        ('{"train": {"steps": true}}', "config.train.steps is True; it must be of type int"),
        ('{"train": {"steps": null}}', "config.train.steps is None; it must be of type int"),
        ('{"train": {"steps": 0}}', "config.train.steps is 0; it must be at least 1"),
        ('{"augment": {"zoom": false}}', "config.augment.zoom is False; it must be of type float"),
        ('{"augment": {"flip": 1}}', "config.augment.flip is 1; it must be of type bool"),
        ('{"data": {"datasets": "a"}}', "config.data.datasets is 'a'; it must be of type tuple"),
        ('{"data": {"datasets": [1]}}', "config.data.datasets[0] is 1; it must be of type str"),
        ('{"data": {"fractions": [1, "x", 0]}}', "config.data.fractions[1] is 'x'; it must be"),
    ],
)
def test_damaged_json(text, expected):
    with pytest.raises(ConfigError) as caught:
        config_checks.from_json(text, "there.json")
    assert expected in str(caught.value)


def test_a_batch_is_accumulated_in_equal_parts():
    config = Config()
    config.train.batch_size, config.train.accumulate = 16, 3
    assert message_of(config) == (
        "config.train.accumulate is 3; it must divide config.train.batch_size, 16, evenly."
    )
    config.train.accumulate = 4
    assert config_checks.validate(config) is config


def test_a_run_of_a_version_without_these_sections_can_be_read():
    values = json.loads(to_json(Config()))
    for section in ("mesh", "checkpoint", "distributed"):
        del values[section]
    for field in ("accumulate", "remat", "compilation_cache"):
        del values["train"][field]
    assert config_checks.from_json(json.dumps(values)) == Config()


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("train.stepz", "train.steps"),
        ("model.feature", "model.features"),
        ("loss.generalized_dice", "loss.generalised_dice"),
        ("trian.steps", "train.steps"),
        ("modle", "model"),
        ("features", "model.features"),
        ("train.learning_rate", "optimizer.learning_rate"),
        # A name of several sections: the section decides.
        ("optimiser.name", "optimizer.name"),
        ("evaluat.batch_size", "evaluate.batch_size"),
        ("evaluate.batchsize", "evaluate.batch_size"),
        ("train.lr", None),
        ("zzz", None),
    ],
)
def test_the_nearest_field(name, nearest):
    assert config_checks.nearest_field(name) == nearest


def test_the_message_about_an_unknown_field():
    assert config_checks.unknown_field_message("checkpoint.kep_last") == (
        "config.checkpoint has no field 'kep_last'; it has keep_best, keep_last. Did you mean"
        " config.checkpoint.keep_last?"
    )
    assert config_checks.unknown_field_message("zzz") == (
        "config has no field 'zzz'; it has task, data, augment, model, loss, optimizer, train,"
        " mesh, checkpoint, distributed, evaluate."
    )
    text = config_checks.unknown_field_message("trian.steps")
    assert text.startswith("config has no field 'trian.steps'; it has task, ")
    assert text.endswith(" Did you mean config.train.steps?")
    text = config_checks.unknown_field_message("train.steps.x")
    assert text.startswith("config.train has no field 'steps.x'; it has batch_size, ")


def parsed(tmp_path, lines=(), arguments=()):
    """Returns the config that ml_collections makes of a file with these lines and of arguments."""
    path = tmp_path / "config.py"
    path.write_text(
        "\n    ".join(
            [
                "from wbc_jax import config as config_lib\n\ndef get_config():",
                "config = config_lib.Config()",
                *lines,
                "return config",
            ]
        )
    )
    values, argv = flags.FlagValues(), ["main", f"--config={path}", *arguments]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return holder.value


def test_flags_set_and_type_the_fields(tmp_path):
    config = parsed(
        tmp_path,
        ["config.train.steps = 7"],
        [
            "--config.model.features=12",
            "--config.augment.zoom=1",
            "--noconfig.augment.flip",
            "--config.data.protocol=k_fold",
            "--config.data.datasets=a,b",
        ],
    )
    assert config_checks.validate(config) == Config(
        data=Data(datasets=("a", "b"), protocol="k_fold"),
        augment=Augment(zoom=1.0, flip=False),
        model=Model(features=12),
        train=Train(steps=7),
    )
    with pytest.raises(flags.IllegalFlagValueError, match=r"--config\.model\.features=1\.5"):
        parsed(tmp_path, arguments=["--config.model.features=1.5"])


@pytest.mark.parametrize(
    "line, argument, expected",
    [
        ("config.model.feature = 3", None, "config.model.features"),
        ("config.modle.features = 3", None, "config.model"),
        ("config.model = config_lib.Model(feature=3)", None, "config.model.features"),
        ("config = config_lib.Config(tsk='')", None, "config.task"),
        (None, "--config.model.feature=3", "config.model.features"),
        (None, "--config.modle.features=3", "config.model"),
        (None, "--noconfig.augment.flp", "config.augment.flip"),
    ],
)
def test_unknown_fields_are_explained(tmp_path, line, argument, expected):
    with pytest.raises(Exception) as caught:
        parsed(tmp_path, [line] if line else [], [argument] if argument else [])
    text = config_checks.explain(caught.value)
    assert text.endswith(f" Did you mean {expected}?")
    # Line 5 of the file: import, blank, def, config, and then the line.
    place = f"{tmp_path}/config.py, line 5: " if line else ""
    section = expected.rpartition(".")[0] or "config"
    assert text.startswith(f"{place}{section} has no field ")


@pytest.mark.parametrize(
    "line, argument",
    [
        ("config.model.features = 1 / 0", None),
        ("''.stepz", None),
        ("int(stepz=3)", None),
        (None, "--config.train.steps=many"),
        (None, "--config.train.steps.x=3"),
        (None, "--stepz=3"),
    ],
)
def test_other_errors_are_not_explained(tmp_path, line, argument):
    with pytest.raises(Exception) as caught:
        parsed(tmp_path, [line] if line else [], [argument] if argument else [])
    assert config_checks.explain(caught.value) is None
