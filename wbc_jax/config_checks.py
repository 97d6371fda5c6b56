"""Checks of a config: types, ranges, choices, and the rules between fields.

`validate` is called once before anything runs, so that a bad value ends the run with the field's
name, the value found and the values allowed. Imports no JAX: a bad config fails at once.
"""

import dataclasses
import difflib
import json
import math
import re
import traceback
import typing
from collections.abc import Sequence
from typing import Any

from wbc_jax import config as config_lib
from wbc_jax.config import PAPER_FRACTIONS, PRESETS, Augment, Choices, Config, Data, Model, flatten
from wbc_jax.errors import ConfigError
from wbc_jax.models import registry


def validate(config: Config) -> Config:
    """Checks every field, splits comma-separated names of data sets and applies the preset.

    Returns:
      `config` itself.

    Raises:
      ConfigError: a field has the wrong type, is out of its range or not one of its choices, or
        does not fit another field; the message names it.
    """
    _check_types(config)
    # `--config.data.datasets=a,b` arrives as the tuple ("a,b",).
    config.data.datasets = _split_names(config.data.datasets)
    config.data.independent = _split_names(config.data.independent)
    config.evaluate.external = _split_names(config.evaluate.external)
    flat = flatten(config)
    # The registry is read here and not at the field: a network can be added while a program runs.
    limits = config_lib.limits() | {"model.name": Choices(*registry.NETWORKS)}
    for name, value in flat.items():
        if name in limits:
            limits[name].check(name, value)
    _check_data(config.data)
    _check_protocol(config.data)
    _check_mixture(config.data)
    for name in ("data.datasets", "data.independent", "evaluate.external"):
        values = flat[name]
        if len(set(values)) != len(values):
            raise ConfigError(f"config.{name} names a data set twice: {values!r}; name each once.")
    if config.optimizer.learning_rate == 0:
        raise ConfigError("config.optimizer.learning_rate is 0; it must be above 0.")
    if config.train.batch_size % config.train.accumulate:
        raise ConfigError(
            f"config.train.accumulate is {config.train.accumulate}; it must divide"
            f" config.train.batch_size, {config.train.batch_size}, evenly."
        )
    _apply_preset(config.augment)
    _check_model(config)
    _check_loss(config)
    return config


def _split_names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for name in names for part in name.split(",") if part.strip())


def _check_data(data: Data) -> None:
    if data.nucleus_density and not data.isolate:
        raise ConfigError(
            f"config.data.nucleus_density is {data.nucleus_density:g}, but config.data.isolate is "
            "empty: without a mask there is no nucleus. Set isolate, or nucleus_density to 0."
        )
    if data.red_density and not data.red_density < data.nucleus_density:
        raise ConfigError(
            f"config.data.red_density is {data.red_density:g}, but config.data.nucleus_density is "
            f"{data.nucleus_density:g}: nuclei are darker than red cells. Set nucleus_density to "
            "more, or red_density to 0."
        )
    fractions = data.fractions
    if len(fractions) != 3 or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise ConfigError(
            f"config.data.fractions is {fractions!r}; it must hold three shares (train, validation,"
            " test) that are not negative and sum to 1, such as (0.56, 0.14, 0.30)."
        )
    if not fractions[0]:
        raise ConfigError(
            f"config.data.fractions is {fractions!r}; the share of train must be above 0."
        )
    if not data.datasets:
        raise ConfigError(
            "config.data.datasets is empty; name at least one, such as wbc_synthetic."
        )
    if data.fold >= data.folds:
        raise ConfigError(
            f"config.data.fold is {data.fold}; the {data.folds} folds are numbered"
            f" 0 to {data.folds - 1}."
        )


# Protocol: the field that names its data sets, and the data sets that it needs.
_NAMED_BY = {
    "one_source": ("train_source", "one of at least two"),
    "leave_one_out": ("left_out", "one of at least two"),
    "independent": ("independent", "some, but not all, of the"),
}


def _check_protocol(data: Data) -> None:
    papers = PAPER_FRACTIONS.get(data.protocol, data.fractions)
    if data.fractions not in (papers, Data().fractions):
        raise ConfigError(
            f"config.data.fractions is {data.fractions!r}, but the protocol {data.protocol!r} has"
            f" {papers!r}; set config.data.protocol to 'fractions', or leave the fractions alone."
        )
    for protocol, (field, needed) in _NAMED_BY.items():
        value = getattr(data, field)
        chosen = {value} if isinstance(value, str) else set(value)
        if data.protocol == protocol:
            if not chosen < set(data.datasets) or not chosen:
                raise ConfigError(
                    f"config.data.{field} is {value!r}; {protocol} needs {needed}"
                    f" config.data.datasets, here {', '.join(data.datasets)}."
                )
        elif value:
            raise ConfigError(
                f"config.data.{field} is {value!r}, but config.data.protocol is"
                f" {data.protocol!r}; set it to {protocol!r}, or leave {field} empty."
            )


def _check_mixture(data: Data) -> None:
    weights = data.weights
    if data.mixture == "custom":
        if len(weights) != len(data.datasets) or not all(0 < w < math.inf for w in weights):
            raise ConfigError(
                f"config.data.weights is {weights!r}; the mixture 'custom' needs one finite number"
                f" above 0 for each of the {len(data.datasets)} data sets."
            )
    elif weights:
        raise ConfigError(
            f"config.data.weights is {weights!r}, but config.data.mixture is"
            f" {data.mixture!r}; set it to 'custom', or leave the weights empty."
        )


def _apply_preset(augment: Augment) -> None:
    """Sets the fields that a named preset stands for.

    Raises:
      ConfigError: one of them was also set, to another value.
    """
    if augment.preset == "custom":
        return
    default = Augment()
    off = Augment(preset=augment.preset, flip=False, quarter_turns=False)
    preset = dataclasses.replace(off, **PRESETS[augment.preset])
    for field in dataclasses.fields(Augment):
        value, wanted = getattr(augment, field.name), getattr(preset, field.name)
        if value not in (wanted, getattr(default, field.name)):
            raise ConfigError(
                f"config.augment.{field.name} is {value!r}, but the preset {augment.preset!r} sets"
                f" it to {wanted!r}; leave it out, or set config.augment.preset to 'custom'."
            )
        setattr(augment, field.name, wanted)


def _check_model(config: Config) -> None:
    """Checks that the network's fields fit the network, the task and the image size."""
    model, size = config.model, config.data.image_size
    network = registry.NETWORKS[model.name]
    if network.task != config.task:
        there = ", ".join(
            name for name, other in registry.NETWORKS.items() if other.task == config.task
        )
        raise ConfigError(
            f"config.model.name is {model.name!r}, a network for the task {network.task!r}, but"
            f" config.task is {config.task!r}; choose one of {there}, or the other task."
        )
    # Sizes that a network does not have are ignored, so that its name alone can be changed.
    for name in ("layout", "dropout", "up_relu", "patch", "variant", "types"):
        value, off = getattr(model, name), getattr(Model(), name)
        if value != off and name not in network.fields:
            raise ConfigError(
                f"config.model.{name} is {value!r}, but {model.name} has none; set it to {off!r}."
            )
    if model.channels == 2:
        raise ConfigError("config.model.channels is 2; it must be 3 (colour) or 1 (grey).")
    if model.name == "segnet" and model.layout == "vgg16" and model.depth > 5:
        raise ConfigError(
            f"config.model.depth is {model.depth}; the layout 'vgg16' has 5 stages, so at most 5."
        )
    if model.name == "segnet" and size < 2**model.depth:
        raise ConfigError(
            f"config.model.depth is {model.depth}; a SegNet halves the image that often, and"
            f" config.data.image_size is {size}: choose a depth of at most {size.bit_length() - 1}."
        )
    if model.name == "classifier" and size < 2**model.blocks:
        raise ConfigError(
            f"config.model.blocks is {model.blocks}; a classifier halves the image that often, and"
            f" config.data.image_size is {size}: choose at most {size.bit_length() - 1} blocks."
        )


def _check_loss(config: Config) -> None:
    """Checks that at least one loss is above 0 and that all fit the task."""
    loss = config.loss
    terms = ("cross_entropy", "binary_cross_entropy", "focal", "binary_focal")
    mask_terms = ("dice", "generalised_dice")
    if config.task == "classification":
        for name in mask_terms:
            if getattr(loss, name):
                raise ConfigError(
                    f"config.loss.{name} is {getattr(loss, name)!r}, but it compares masks and"
                    " config.task is 'classification'; set it to 0."
                )
    else:
        terms += mask_terms
    if not any(getattr(loss, name) for name in terms):
        raise ConfigError(
            f"config.loss has no term above 0; set {', '.join(terms[:-1])} or {terms[-1]}."
        )
    if loss.label_smoothing and not loss.cross_entropy:
        raise ConfigError(
            f"config.loss.label_smoothing is {loss.label_smoothing!r}, but it belongs to"
            " cross_entropy, which is 0; set one of them."
        )


def from_json(text: str | bytes, where: str = "config.json") -> Config:
    """Returns the validated config that `config.to_json` wrote; absent fields have their defaults.

    Raises:
      ConfigError: not JSON, an unknown field, a value of the wrong type (these name `where`), or a
        value that `validate` refuses.
    """
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not JSON ({error}).") from None
    return validate(_build(Config, values, where, "config"))


def _build(cls: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix} is {values!r}; it must be an object with fields.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        field = f"{prefix}.{unknown[0]}".removeprefix("config.")
        raise ConfigError(f"{where}: {unknown_field_message(field)}")
    built = {}
    for name, value in values.items():
        hint, field = hints[name], f"{prefix}.{name}"
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, value, where, field)
        else:
            built[name] = _typed(hint, value, f"{where}: {field}")
    return cls(**built)


def _check_types(section: Any, prefix: str = "config") -> None:
    """Checks the values that a config file has assigned: dataclasses themselves check no types."""
    for name, hint in typing.get_type_hints(type(section)).items():
        value, field = getattr(section, name), f"{prefix}.{name}"
        if not dataclasses.is_dataclass(hint):
            setattr(section, name, _typed(hint, value, field))
        elif isinstance(value, hint):
            _check_types(value, field)
        else:
            raise ConfigError(f"{field} is {value!r}; it must be a wbc_jax.config.{hint.__name__}.")


def _typed(hint: Any, value: Any, field: str) -> Any:
    """Returns `value` as type `hint`; only list to tuple and int to float are converted.

    Raises:
      ConfigError: another type; names `field`.
    """
    kind = typing.get_origin(hint) or hint
    if kind is tuple and isinstance(value, list | tuple):
        of = typing.get_args(hint)[0]  # all of one type: (str, ...) or three floats
        return tuple(_typed(of, part, f"{field}[{i}]") for i, part in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{field} is {value!r}; it must be of type {kind.__name__}.")
    return value


def nearest_field(name: str) -> str | None:
    """Returns the field or section that a misspelt dotted name most likely means, if any.

    A similar name in the same section comes first ("train.stepz": "train.steps"), then one in
    another section ("features": "model.features").
    """
    section, _, field = name.rpartition(".")
    sections = [known.name for known in dataclasses.fields(Config)]
    names = [*flatten(Config()), *sections]
    for among in ([known for known in names if known.rpartition(".")[0] == section], names):
        fields = {known.rpartition(".")[2] for known in among}
        for close in difflib.get_close_matches(field, fields, n=1, cutoff=0.7):
            # Some names stand in several sections, such as `batch_size`.
            same = [known for known in among if known.rpartition(".")[2] == close]
            return difflib.get_close_matches(name, same, n=1, cutoff=0)[0]
    return None


def unknown_field_message(name: str) -> str:
    """Returns a message about a dotted name that is not a field: the fields there, the nearest."""
    section, place = Config(), "config"
    parts = name.split(".")
    while len(parts) > 1 and dataclasses.is_dataclass(getattr(section, parts[0], None)):
        place += f".{parts[0]}"
        section = getattr(section, parts.pop(0))
    fields = ", ".join(field.name for field in dataclasses.fields(section))
    nearest = nearest_field(name)
    hint = f" Did you mean config.{nearest}?" if nearest else ""
    return f"{place} has no field {'.'.join(parts)!r}; it has {fields}.{hint}"


# The errors that an unknown field raises have no attributes for section and field, so that their
# texts are parsed.
_IN_A_FILE = (
    r"'(?P<section>\w+)' object has no attribute '(?P<field>\w+)'",  # config.train.stepz = 3
    r"(?P<section>\w+)\.__init__\(\) got an unexpected keyword argument '(?P<field>\w+)'",
)
_ON_THE_COMMAND_LINE = (
    r"Field (?P<field>\w+) not found on dataclass <class '[\w.]*\.(?P<section>\w+)'>",
    r"Attribute <class '[\w.]*\.(?P<section>\w+)'>\.(?P<field>\w+) does not exist",
)


def explain(error: Exception) -> str | None:
    """Returns the message about an unknown field for an error from parsing flags or a config file.

    It names file and line if a config file has the unknown field. None: another error.
    """
    sections = {"Config": ""} | {
        field.type.__name__: f"{field.name}."
        for field in dataclasses.fields(Config)
        if dataclasses.is_dataclass(field.type)
    }
    for pattern in (*_IN_A_FILE, *_ON_THE_COMMAND_LINE):
        found = re.search(pattern, str(error))
        if not found or found["section"] not in sections:
            continue
        message = unknown_field_message(sections[found["section"]] + found["field"])
        if pattern in _ON_THE_COMMAND_LINE:
            return message
        # ml_collections replaces a TypeError of a config file by one whose text is the traceback:
        # the last line number in the printed error is the place in either case.
        printed = "".join(traceback.format_exception(error))
        file, line = re.findall(r'File "(.+)", line (\d+)', printed)[-1]
        return f"{file}, line {line}: {message}"
    return None
