"""Trains, evaluates and prepares data: `python -m wbc_jax.main --config=configs/unet.py`."""

import functools
import os
import pathlib
import sys

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from wbc_jax import config as config_lib
from wbc_jax import memory, reproduce

MODES = ("train", "evaluate", "prepare", "describe", "reproduce")
_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the experiment.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; runs/<name of config or scale> if unset."
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Mode evaluate: score this .safetensors file, or these shipped weights, instead of a run.",
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        sys.exit(f"error: {argv[1]!r} is no flag; fields are set with --config.FIELD=VALUE")
    reproducing = _MODE.value == "reproduce"
    if _WEIGHTS.value and _MODE.value != "evaluate":
        sys.exit(f"error: --weights is for --mode=evaluate, not for --mode={_MODE.value}")
    if _CONFIG.value is None and not reproducing:
        sys.exit("error: name an experiment, such as --config=configs/unet.py")
    try:
        config = reproduce.request() if reproducing else config_lib.validate(_CONFIG.value)
    except config_lib.ConfigError as error:
        sys.exit(f"error: {error}")
    # JAX, Orbax and TFDS take seconds to import: what is wrong so far is told before.
    from wbc_jax import checkpoint, distributed, experiment, train
    from wbc_jax.data import records

    try:
        if _MODE.value in ("train", "evaluate"):
            distributed.initialize(config.distributed)
        elif distributed.requested() is not None:
            sys.exit(f"error: --mode={_MODE.value} is done by one process, not by several.")
    except (config_lib.ConfigError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    if reproducing:
        stem = config.name
    else:
        stem = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        if _WEIGHTS.value:
            stem += f"_{pathlib.Path(_WEIGHTS.value).stem}"
    workdir = epath.Path(_WORKDIR.value or f"runs/{stem}").expanduser()
    do = {
        "train": experiment.run,
        "evaluate": experiment.evaluate_run,
        "prepare": experiment.prepare_only,
        "describe": experiment.describe,
        "reproduce": reproduce.run,
    }
    if _WEIGHTS.value:
        do["evaluate"] = functools.partial(experiment.evaluate_weights, name=_WEIGHTS.value)
    expected = (config_lib.ConfigError, records.DataError, checkpoint.CheckpointError)
    try:
        do[_MODE.value](config, workdir)
    except train.Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except (*expected, train.NonFiniteLossError, distributed.PeerError, OSError) as error:
        if distributed.several():
            print(f"error: {error}", file=sys.stderr)
            distributed.quit_now(1)
        sys.exit(f"error: {error}")
    except Exception as error:
        if distributed.several():
            distributed.end_with(error, config.distributed)
        raise


def parse(argv: list[str]) -> list[str]:
    """Parses flags; a config that is no file here is looked up among those of the package."""
    packaged = pathlib.Path(__file__).parent
    for i, argument in enumerate(argv):
        name, _, path = argument.partition("=")
        if name not in ("--config", "-config") or not path or os.path.isfile(path):
            continue
        found = [root / path for root in (packaged, packaged.parent) if (root / path).is_file()]
        if not found:
            sys.exit(f"error: there is no config file {path!r}, here or in {packaged}")
        argv = [*argv[:i], f"{name}={found[0]}", *argv[i + 1 :]]
    try:
        rest = flags.FLAGS(argv)
    except (KeyError, AttributeError, TypeError, OSError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        sys.exit(f"error: {text}. The fields are those of wbc_jax/config.py.")
    except flags.Error as error:
        sys.exit(f"error: {error}")
    # absl would raise this to INFO, at which Orbax writes pages a checkpoint.
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING
    return rest


def run() -> None:
    """The console entry point."""
    memory.restart_with_huge_pages()
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
