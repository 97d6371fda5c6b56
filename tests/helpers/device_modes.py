"""Runs every mode on all devices of this process; started by tests/test_devices.py.

`python -m helpers.device_modes RUN TYPED WEIGHTS RECORDS IMAGES OUT` with the folders of a run of
each task, a file of weights, the folder of records and one of images; each mode writes to a folder
of its own in OUT. It prints the number of devices as JSON.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys

import jax
from etils import epath

from helpers import tiny_runs
from wbc_jax import compare, config_checks, experiment, predict
from wbc_jax.inference import model as inference

EVALUATION_BATCH = 5
"""Divides neither among two nor four devices, and the test split is no multiple of it."""


def train(records: str, out: pathlib.Path) -> None:
    """Trains and evaluates by plain gradient descent: others divide by the size of gradients."""
    config = tiny_runs.least(
        records,
        optimizer__name="sgd",
        optimizer__learning_rate=0.1,
        train__evaluate_every=3,
        evaluate__batch_size=EVALUATION_BATCH,
    )
    experiment.run(config, epath.Path(out))


def evaluate(run: str, out: pathlib.Path) -> None:
    """Evaluates a copy of a run."""
    shutil.copytree(run, out)
    stored = config_checks.from_json((out / "config.json").read_bytes(), run)
    evaluation = dataclasses.replace(stored.evaluate, batch_size=EVALUATION_BATCH)
    experiment.evaluate_run(dataclasses.replace(stored, evaluate=evaluation), epath.Path(out))


def share_programs() -> None:
    """Compiles each network once for each of its meshes: the modes load the same models again."""
    use, programs = inference.Model._use, {}

    def shared(self: inference.Model, mesh: jax.sharding.Mesh) -> None:
        use(self, mesh)
        program = repr(self.config.model), self.config.evaluate.flips, mesh
        self._outputs = programs.setdefault(program, self._outputs)

    inference.Model._use = shared


def main() -> None:
    run, typed, weights, records, images, out = sys.argv[1:]
    out = pathlib.Path(out)
    share_programs()
    with contextlib.redirect_stdout(sys.stderr):
        train(records, out / "train")
        evaluate(run, out / "evaluate")
        evaluate(typed, out / "evaluate_types")
        config = tiny_runs.config(records, evaluate__batch_size=3, evaluate__external=())
        experiment.evaluate_weights(config, epath.Path(out / "weights"), weights)
        two = [str(out / "evaluate"), str(out / "weights"), f"--out={out / 'compare'}"]
        compare.main([*two, "--bootstrap=50"])
        predict.main([images, f"--out={out / 'csv'}", "--find=no"])
        parquet = [images, "--format=parquet", "--part_size=4"]
        sizes = [("segmenter", 3), ("classifier", 3)]
        if jax.device_count() == 1:
            sizes.append(("segmenter", 1))
        for model, size in sizes:
            name = f"--out={out / f'{model}_{size}'}"
            predict.main([*parquet, f"--model={model}", f"--batch_size={size}", name])
    print(json.dumps(jax.device_count()))


if __name__ == "__main__":
    main()
