"""The modes of `wbc_jax.main`: prepare, describe, train, evaluate."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from etils import epath
from flax import nnx

from wbc_jax import evaluate, models, provenance
from wbc_jax.config import Config, in_steps
from wbc_jax.data import isolation, pipeline, preparing, sources, splits
from wbc_jax.data.keys import RecordKey
from wbc_jax.errors import CheckpointError, ConfigError, WeightsError
from wbc_jax.evaluate import scoring
from wbc_jax.inference import cell_masks
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights as weights_lib
from wbc_jax.models import describe as describe_lib
from wbc_jax.papers import counts as paper_counts
from wbc_jax.parallel import processes, sharding
from wbc_jax.report import gallery
from wbc_jax.report import run as run_report
from wbc_jax.training import checkpoint, loop
from wbc_jax.training.position import Position
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder

SKIPPED, GALLERY = "skipped_files.csv", "gallery.html"


def prepare(config: Config, workdir: epath.Path | None = None) -> None:
    """Writes the records of the config's data sets, where they are missing.

    Files left out (`data.on_bad_file=skip`) are listed in `<workdir>/skipped_files.csv`.

    Raises:
        DataError: files are missing or damaged.
        ConfigError: `data.datasets` or `evaluate.external` names a data set that does not exist.
    """
    # Checks the external ones too: a misspelt name must not wait for the end of training.
    names = dict.fromkeys(config.data.datasets + config.evaluate.external)
    sources.check_distinct(names, config.data)
    skipped = []
    for name in config.data.datasets:
        if not preparing.is_prepared(name, config.data):
            where = sources.builder(name, config.data).data_dir
            print(f"{name}: writing records to {where}", flush=True)
        skipped += [
            {"dataset": name, "path": path, "reason": reason}
            for path, reason in preparing.prepare(name, config.data)
        ]
    if skipped and workdir is not None:
        folder = OutputFolder(workdir, "--workdir")
        folder.write_csv(SKIPPED, skipped, ("dataset", "path", "reason"))
        path = workdir / SKIPPED
        print(f"{len(skipped)} bad files were left out; they are listed in {path}.", flush=True)
    cell_masks.prepare(config.data)


def load_splits(config: Config) -> dict[str, pipeline.Examples]:
    """Opens the splits of a config; `prepare` must have written its records."""
    masks = cell_masks.prepare(config.data)
    return pipeline.load_splits(config.data, config.evaluate.size, config.task, masks)


def _prepare_on_all(config: Config, workdir: epath.Path | None = None) -> None:
    """Process 0 prepares; the others then prepare what they do not see on their own disk."""
    processes.run_on_first(lambda: prepare(config, workdir))
    if not processes.is_first():
        prepare(config)


def prepare_only(config: Config, workdir: epath.Path) -> None:
    """Prepares, draws `<workdir>/gallery.html` and prints the number of records in each split."""
    folder = OutputFolder(workdir, "--workdir")
    folder.refuse_foreign([SKIPPED, GALLERY])
    prepare(config, workdir)
    # Before splitting, which refuses some data: the page may show why.
    opened = [sources.load(name, config.data) for name in config.data.datasets]
    gallery.write(folder, GALLERY, opened)
    examples = load_splits(config)
    print(split_table(examples))
    # Drawn cells are never compared with a paper's.
    labels = {
        name: [
            int(label)
            for label, dataset in zip(examples[name].labels, examples[name].datasets)
            if not dataset.startswith("wbc_synthetic")
        ]
        for name in splits.SPLITS
    }
    if any(labels.values()):
        print("\n" + paper_counts.compare(paper_counts.by_type(labels)))
    print(f"\nGallery of the masks: {workdir / GALLERY}", flush=True)


def describe(config: Config, workdir: epath.Path) -> None:
    """Prints the network's layers, shapes, parameters and FLOPs for one image; writes nothing."""
    del workdir
    side = config.data.image_size
    model = nnx.eval_shape(lambda: models.build(config.model, image_size=side))
    print(f"{config.model.name} for images of {side} x {side} pixels:")
    found = describe_lib.describe(model, (1, side, side, 3))
    print(describe_lib.table(found, config.model.name), flush=True)


def run(config: Config, workdir: epath.Path) -> None:
    """Prepares missing records, trains or resumes training, evaluates and writes the report.

    With several processes, process 0 writes all files but records and checkpoints.
    """
    provenance.check_claim(config, workdir)
    processes.run_on_first(lambda: refuse_foreign(workdir, [SKIPPED, *run_report.FILES]))
    _prepare_on_all(config, workdir)
    examples = load_splits(config)
    provenance.check_splits(workdir, examples)

    # The folder is claimed only after the data sets were found: otherwise the config without the
    # misspelt name would be refused as another run's.
    def begin() -> None:
        provenance.keep_initial(config, workdir, examples["test"])
        provenance.claim(config, workdir)
        atomic.write_json(workdir / provenance.SPLITS_FILE, provenance.fingerprints(examples))
        print(split_table(examples), flush=True)

    processes.run_on_first(begin)
    initial = functools.partial(_initial_weights, workdir) if config.train.init_from else None
    in_full = in_steps(config, len(examples["train"]))
    loop.train(in_full, workdir, examples, evaluate.TASKS[config.task], initial)
    evaluate_run(config, workdir, examples)


def _initial_weights(workdir: epath.Path) -> dict[str, Any]:
    return inference.load(workdir / weights_lib.INITIAL).weights


def refuse_foreign(workdir: epath.Path, names: Sequence[str]) -> None:
    """Checks that the files which a mode writes do not exist, or were written by us.

    Args:
        workdir: the run's folder. Runs of a version without a manifest are known by their config.
        names: of the files.

    Raises:
        InputError: a file is a person's.
    """
    folder = OutputFolder(workdir, "--workdir")
    if (workdir / "config.json").exists():
        folder.adopt(names)
    folder.refuse_foreign(names)


def evaluate_run(
    config: Config,
    workdir: epath.Path,
    examples: dict[str, pipeline.Examples] | None = None,
) -> dict[str, Any]:
    """Scores a run's best checkpoint on the test split and writes `<workdir>/report`.

    With several processes, each scores its share and process 0 writes the report.

    Returns:
        The content of `report/metrics.json`.

    Raises:
        CheckpointError: nothing was trained in `workdir`.
        ConfigError: `workdir` holds a run with another config.
    """
    if not (workdir / "config.json").exists():
        raise CheckpointError(
            f"{workdir} holds no run (no config.json); train first, or name its --workdir."
        )
    processes.run_on_first(lambda: provenance.claim(config, workdir))
    processes.run_on_first(lambda: refuse_foreign(workdir, run_report.FILES))
    if examples is None:
        _prepare_on_all(config, workdir)
        examples = load_splits(config)
    provenance.check_splits(workdir, examples)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        end = Position.from_saved(checkpoints.position(checkpoint.LAST))
    length = in_steps(config, len(examples["train"])).train.steps
    if end.step < length and not end.stopped:
        processes.print0(
            f"Training stands at step {end.step} of {length}; its best checkpoint so far is scored."
        )
    about = {"trained_steps": end.step, "stopped_early": end.stopped, "train_seconds": end.seconds}
    before = provenance.seen_before(workdir)
    provenance.refuse_seen(workdir, before, examples["test"])
    trained = examples["train"].keys + examples["validation"].keys + before
    return _score(config, workdir, examples, inference.load(workdir), trained, about)


def evaluate_weights(config: Config, workdir: epath.Path, name: str) -> dict[str, Any]:
    """Scores a file of weights on the test split of the config's data sets; writes the report.

    The file decides the network, the image size and whether images are cut to their cell; the
    config decides the rest. The file lists the images that it was trained on and chosen by: a test
    split that holds any of them is refused.

    Args:
        config: `data` and `evaluate` are used; the task must be the file's.
        workdir: `<workdir>/report` is written.
        name: a `.safetensors` file, or the name of shipped weights.

    Returns:
        The content of `report/metrics.json`.

    Raises:
        WeightsError: there is no such file, or it is damaged.
        ConfigError: `workdir` holds a run, the weights are for another task, or they have seen
            images of the test split.
        DataError: records are missing.
    """
    if (workdir / "config.json").exists():
        raise ConfigError(f"{workdir} holds a run; name another --workdir.")
    processes.run_on_first(lambda: refuse_foreign(workdir, run_report.FILES))
    if weights_lib.find(name) is None:
        known = ", ".join(weights_lib.shipped()) or "none"
        raise WeightsError(
            f"--weights={name} is neither a {weights_lib.SUFFIX} file nor the name of shipped "
            f"weights (there are: {known}). `python -m wbc_jax.export RUN` writes such a file."
        )
    model = inference.load(name)
    if model.config.task != config.task:
        raise ConfigError(
            f"config.task is {config.task!r}, but {name} is for {model.config.task!r}."
        )
    own = model.config.data
    data = dataclasses.replace(isolation.cut_as(config.data, own), image_size=own.image_size)
    config = dataclasses.replace(config, data=data, model=model.config.model)
    _prepare_on_all(config)
    examples = load_splits(config)
    provenance.refuse_seen(name, model.seen, examples["test"])
    about = {"trained_steps": model.step, "stopped_early": False, "train_seconds": None}
    about["weights"] = name
    return _score(config, workdir, examples, model, model.seen, about)


def _score(
    config: Config,
    workdir: epath.Path,
    examples: dict[str, pipeline.Examples],
    model: inference.Model,
    trained: list[RecordKey],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Scores a model and writes the report; returns its `metrics.json`.

    Args:
        config: `data` and `evaluate` are used; the network is the model's.
        workdir: `<workdir>/report` is written.
        examples: the splits.
        model: the model to score.
        trained: the images that it was trained on and chosen by.
        about: further entries of `metrics.json`.
    """
    mesh = sharding.local_mesh(config.evaluate.batch_size)
    predict = inference.scored(config, model, mesh)
    scores = scoring.score(config, examples, model, predict, trained, about)
    test = examples["test"]
    processes.run_on_first(lambda: run_report.write(config, workdir, scores, test, predict))
    return scores.summary


def split_table(examples: dict[str, pipeline.Examples]) -> str:
    """Returns the number of records in each split by data set, as a text table."""
    lines = [f"{'data set':<30}" + "".join(f"{name:>12}" for name in splits.SPLITS)]
    for dataset in dict.fromkeys(examples["all"].datasets):
        numbers = [examples[name].datasets.count(dataset) for name in splits.SPLITS]
        lines.append(f"{dataset:<30}" + "".join(f"{n:>12}" for n in numbers))
    return "\n".join(lines)
