"""Trains, evaluates and prepares data: `python -m wbc_jax.main --config=configs/unet.py`.

Only this command uses absl's flags: `--config.FIELD=VALUE` comes from `ml_collections`, which
needs them. All other commands use argparse.
"""

import contextlib
import functools
import pathlib
import sys
from typing import Any

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from wbc_jax import cli, config_checks, reproduce
from wbc_jax.errors import InputError, Interrupted

MODES = ("train", "evaluate", "prepare", "describe", "reproduce")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Registers the flags. Not done on import: another program may have flags of these names."""
    text = functools.partial(flags.DEFINE_string, default=None, flag_values=values)
    config_flags.DEFINE_config_file("config", None, "File of the experiment.", flag_values=values)
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    text("workdir", help="Folder of the run; runs/<name of config or scale> if unset.")
    text("weights", help="Mode evaluate: score this file, or these shipped weights, not a run.")
    reproduce.define_flags(values)


def main(argv: list[str]) -> None:
    """Checks the flags, joins the other processes and runs the mode."""
    given = flags.FLAGS
    with cli.reported_errors():
        if argv[1:]:
            hint = "set fields with --config.FIELD=VALUE"
            raise InputError(f"unexpected argument {argv[1]!r}; {hint}")
        if given.weights and given.mode != "evaluate":
            raise InputError(f"--weights is for --mode=evaluate, not for --mode={given.mode}")
        if given.mode == "reproduce":
            config: Any = reproduce.request(given)
        elif given.config is None:
            raise InputError("name an experiment, such as --config=configs/unet.py")
        else:
            config = config_checks.validate(given.config)
        _run_mode(given.mode, config, _workdir(config, given), given.weights)


def _workdir(config: Any, given: flags.FlagValues) -> epath.Path:
    if given.workdir:
        return epath.Path(given.workdir).expanduser()
    if given.mode == "reproduce":
        return epath.Path("runs") / config.name
    name = pathlib.Path(config_flags.get_config_filename(given["config"])).stem
    if given.weights:
        name += f"_{pathlib.Path(given.weights).stem}"
    return epath.Path("runs") / name


def _run_mode(mode: str, config: Any, workdir: epath.Path, weights: str | None) -> None:
    """Runs a mode.

    Args:
        mode: one of `MODES`.
        config: validated; a `reproduce.Request` for that mode.
        workdir: the run's folder.
        weights: for the mode `evaluate`: the weights to score instead of a run's.
    """
    # JAX, Orbax and TFDS take seconds to import: wrong flags are reported before.
    from wbc_jax import experiment
    from wbc_jax.parallel import environment, processes
    from wbc_jax.utils.output_folder import OutputFolder

    modes = {
        "train": experiment.run,
        "evaluate": experiment.evaluate_run,
        "prepare": experiment.prepare_only,
        "describe": experiment.describe,
        "reproduce": reproduce.run,
    }
    if weights:
        modes["evaluate"] = functools.partial(experiment.evaluate_weights, name=weights)
    if mode in ("train", "evaluate"):
        processes.initialize(config.distributed)
    elif environment.requested() is not None:
        raise InputError(f"--mode={mode} is done by one process, not by several.")
    # One process writes a run's folder; the others of the same run only read it.
    writes = mode != "describe" and processes.is_first()
    folder = OutputFolder(workdir, "--workdir") if writes else contextlib.nullcontext()
    try:
        with folder:
            modes[mode](config, workdir)
    except Exception as error:
        if not processes.several() or isinstance(error, Interrupted):
            raise
        # The other processes may be waiting for this one: it must end without them.
        if isinstance(error, cli.EXPECTED):
            print(f"error: {error}", file=sys.stderr)
            processes.hard_exit(1)
        processes.abort(error, config.distributed)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; a config that is not a file here is looked up in the package."""
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
    except (KeyError, AttributeError, TypeError, OSError, flags.Error) as error:
        text = config_checks.explain(error)
        if text is None and isinstance(error, flags.Error):
            sys.exit(f"error: {error}")
        plain = str(error.args[0] if isinstance(error, KeyError) else error).rstrip(".")
        sys.exit(f"error: {text or f'{plain}.'} All fields are described in wbc_jax/config.py.")
    # absl would raise this to INFO, at which Orbax logs pages for each checkpoint.
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING
    return rest


def run() -> None:
    """The console entry point."""
    from wbc_jax import cpu

    cpu.restart_with_huge_pages()
    define_flags()
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
