"""Trains, evaluates and prepares data: `python -m wbc_jax.main --config=configs/unet.py`.

Only this command uses absl's flags: `--config.FIELD=VALUE` comes from `ml_collections`, which
needs them. All other commands use argparse.
"""

import functools
import pathlib
import sys
from typing import Any

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from wbc_jax import cli, config_checks, reproduce
from wbc_jax.config import Config

MODES = ("train", "evaluate", "prepare", "describe", "reproduce")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Registers the flags. Not done on import: another program may have flags of these names."""
    config_flags.DEFINE_config_file("config", None, "File of the experiment.", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run; runs/<name of config or scale> if unset.",
        flag_values=values,
    )
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    flags.DEFINE_string(
        "weights",
        None,
        "Mode evaluate: score this .safetensors file, or these shipped weights, instead of a run.",
        flag_values=values,
    )
    reproduce.define_flags(values)


def main(argv: list[str]) -> None:
    """Checks the flags, joins the other processes and runs the mode."""
    given = flags.FLAGS
    mode, weights = given.mode, given.weights
    reproducing = mode == "reproduce"
    if argv[1:]:
        sys.exit(f"error: unexpected argument {argv[1]!r}; set fields with --config.FIELD=VALUE")
    if weights and mode != "evaluate":
        sys.exit(f"error: --weights is for --mode=evaluate, not for --mode={mode}")
    if given.config is None and not reproducing:
        sys.exit("error: name an experiment, such as --config=configs/unet.py")
    with cli.reported_errors():
        config: Any = (
            reproduce.request(given) if reproducing else config_checks.validate(given.config)
        )
    run_mode(mode, config, _workdir(config, given), weights)


def _workdir(config: Any, given: flags.FlagValues) -> epath.Path:
    if given.workdir:
        return epath.Path(given.workdir).expanduser()
    if given.mode == "reproduce":
        return epath.Path("runs") / config.name
    stem = pathlib.Path(config_flags.get_config_filename(given["config"])).stem
    return epath.Path("runs") / (
        f"{stem}_{pathlib.Path(given.weights).stem}" if given.weights else stem
    )


def run_mode(mode: str, config: Config, workdir: epath.Path, weights: str | None = None) -> None:
    """Runs a mode and turns its errors into messages and exit codes.

    Args:
        mode: one of `MODES`.
        config: validated; a `reproduce.Request` for that mode.
        workdir: the run's folder.
        weights: for the mode `evaluate`: what to score instead of a run.
    """
    # JAX, Orbax and TFDS take seconds to import: wrong flags are reported before.
    from wbc_jax import experiment
    from wbc_jax.errors import Interrupted
    from wbc_jax.parallel import processes

    modes = {
        "train": experiment.run,
        "evaluate": experiment.evaluate_run,
        "prepare": experiment.prepare_only,
        "describe": experiment.describe,
        "reproduce": reproduce.run,
    }
    if weights:
        modes["evaluate"] = functools.partial(experiment.evaluate_weights, name=weights)
    with cli.reported_errors():
        if mode in ("train", "evaluate"):
            processes.initialize(config.distributed)
        elif processes.requested() is not None:
            sys.exit(f"error: --mode={mode} is done by one process, not by several.")
    try:
        modes[mode](config, workdir)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except cli.EXPECTED as error:
        if processes.several():
            print(f"error: {error}", file=sys.stderr)
            processes.hard_exit(1)
        sys.exit(f"error: {error}")
    except Exception as error:
        if processes.several():
            processes.abort(error, config.distributed)
        raise


def parse(argv: list[str]) -> list[str]:
    """Parses flags; a config that is no file here is looked up among those of the package."""
    packaged = pathlib.Path(__file__).parent
    for i, argument in enumerate(argv):
        name, _, path = argument.partition("=")
        if name not in ("--config", "-config") or not path or pathlib.Path(path).is_file():
            continue
        found = [root / path for root in (packaged, packaged.parent) if (root / path).is_file()]
        if not found:
            sys.exit(f"error: there is no config file {path!r}, here or in {packaged}")
        argv = [*argv[:i], f"{name}={found[0]}", *argv[i + 1 :]]
    try:
        rest = flags.FLAGS(argv)
    except (KeyError, AttributeError, TypeError, OSError) as error:
        plain = str(error.args[0] if isinstance(error, KeyError) else error)
        text = (config_checks.explain(error) or plain).rstrip(".")
        sys.exit(f"error: {text}. The fields are those of wbc_jax/config.py.")
    except flags.Error as error:
        sys.exit(f"error: {config_checks.explain(error) or error}")
    # absl would raise this to INFO, at which Orbax logs pages for each checkpoint.
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING
    return rest


def run() -> None:
    """The console entry point."""
    from wbc_jax.cpu import huge_pages

    huge_pages.restart_with_huge_pages()
    define_flags()
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
