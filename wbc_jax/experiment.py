"""What the modes of `wbc_jax.main` do: prepare, train, evaluate."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from wbc_jax import (
    baselines,
    checkpoint,
    distributed,
    evaluate,
    files,
    inference,
    metric_writer,
    models,
    sharding,
    steps,
    train,
)
from wbc_jax import config as config_lib
from wbc_jax import weights as weights_lib
from wbc_jax.data import pipeline, records, sources, splits
from wbc_jax.models import describe as describe_lib
from wbc_jax.models import fast
from wbc_jax.papers import counts as paper_counts
from wbc_jax.report import figures, gallery, html, tables

# Fields that change no weight: another value may look at a run that was trained with the first.
FREE_FIELDS = (
    "data.data_dir",
    "data.manual_dir",
    "data.on_bad_file",
    "data.threads",
    "data.cache_megabytes",
    "train.remat",
    "train.compilation_cache",
    "mesh.data",
    "mesh.model",
    "checkpoint.keep_best",
    "checkpoint.keep_last",
    "distributed.heartbeat_seconds",
    "distributed.start_seconds",
    "evaluate.batch_size",
    "evaluate.flips",
    "evaluate.bootstrap",
    "evaluate.worst",
    "evaluate.external",
)
SHOWN_MASKS, SHOWN_WORST = 48, 16
SHOWN_MISTAKES, SHOWN_UNSURE = 40, 10
# A second pass over the network, and its pixels are far more than a calibration needs.
CALIBRATION_IMAGES = 64
SPLITS = "splits.json"

Predict = Callable[[np.ndarray], jax.Array | np.ndarray]
"""From `inference.scored`."""


def prepare(config: config_lib.Config, workdir: epath.Path | None = None) -> None:
    """Writes the records that the config needs.

    Files left out (`data.on_bad_file=skip`) are listed in `<workdir>/skipped_files.csv`.

    Raises:
        DataError: files missing or bad.
        ConfigError: there is no data set of a name in `data.datasets` or `evaluate.external`.
    """
    # A misspelt name shows before training.
    sources.check_distinct(
        dict.fromkeys(config.data.datasets + config.evaluate.external), config.data
    )
    skipped = []
    for name in config.data.datasets:
        if not sources.is_prepared(name, config.data):
            where = sources.builder(name, config.data).data_dir
            print(f"{name}: writing records to {where}", flush=True)
        skipped += [
            {"dataset": name, "path": path, "reason": reason}
            for path, reason in sources.prepare(name, config.data)
        ]
    if skipped and workdir is not None:
        path = workdir / "skipped_files.csv"
        files.write_csv(path, skipped, ("dataset", "path", "reason"))
        print(f"{len(skipped)} bad files were left out; they are listed in {path}.", flush=True)


def _prepare_on_all(config: config_lib.Config, workdir: epath.Path | None = None) -> None:
    """Of several processes the first prepares, and then each of the others what it does not find
    (hosts without a common disk)."""
    distributed.first_alone(lambda: prepare(config, workdir))
    if not distributed.is_first():
        prepare(config)


def prepare_only(config: config_lib.Config, workdir: epath.Path) -> None:
    """Prepares, draws `<workdir>/gallery.html` and prints how many records each split holds."""
    prepare(config, workdir)
    # Before the split, which refuses data that the page may explain.
    page = workdir / "gallery.html"
    gallery.write(page, [sources.load(name, config.data) for name in config.data.datasets])
    examples = pipeline.load_splits(config.data, config.evaluate.size, config.task)
    print(split_table(examples))
    # Drawn cells never stand beside a paper's.
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
    print(f"\nGallery of the masks: {page}", flush=True)


def describe(config: config_lib.Config, workdir: epath.Path) -> None:
    """Prints the network's layers, shapes, parameters and FLOPs for one image, writes nothing."""
    del workdir
    side = config.data.image_size
    model = nnx.eval_shape(lambda: models.build(config.model, image_size=side))
    print(f"{config.model.name} for images of {side} x {side} pixels:")
    found = describe_lib.describe(model, (1, side, side, 3))
    print(describe_lib.table(found, config.model.name), flush=True)


def run(config: config_lib.Config, workdir: epath.Path) -> None:
    """Prepares what is missing, trains or goes on training, evaluates, writes the report.

    Of several processes the first writes all files but records and checkpoints.
    """
    check_claim(config, workdir)
    _prepare_on_all(config, workdir)
    examples = pipeline.load_splits(config.data, config.evaluate.size, config.task)
    # Only now: a data set misspelt or missing must not claim the folder for a config that cannot
    # run, which the mended command would then be refused for.
    check_splits(workdir, examples)

    def begin() -> None:
        keep_initial(config, workdir, examples["test"])
        claim(config, workdir)
        files.write_json(workdir / SPLITS, fingerprints(examples))
        print(split_table(examples), flush=True)

    distributed.first_alone(begin)
    train.train(config_lib.in_steps(config, len(examples["train"])), workdir, examples)
    evaluate_run(config, workdir, examples)


def claim(config: config_lib.Config, workdir: epath.Path) -> None:
    """Writes `config.json`, unless the one there asks for another training.

    Raises:
        ConfigError: the folder holds another run; nothing is written.
    """
    check_claim(config, workdir)
    files.write_text(workdir / "config.json", config_lib.to_json(config))


def check_claim(config: config_lib.Config, workdir: epath.Path) -> None:
    """Checks that `workdir` is free, holds no checkpoint yet, or holds a run of the same training.

    Raises:
        ConfigError: the folder holds another run; lists the fields that differ.
    """
    path = workdir / "config.json"
    # Before its first checkpoint a run has nothing to lose, and its config may not even work.
    if path.exists() and checkpoint.any_saved(workdir):
        there = config_lib.from_json(path.read_bytes(), os.fspath(path))
        different = config_lib.differences(there, config, FREE_FIELDS)
        if different:
            raise config_lib.ConfigError(
                f"{workdir} holds a run with another config:\n  "
                + "\n  ".join(different)
                + "\nName another --workdir, or delete this one to start over."
            )


def keep_initial(config: config_lib.Config, workdir: epath.Path, test: pipeline.Examples) -> None:
    """Writes the weights that training is to begin with to `<workdir>/initial.safetensors`.

    The run then has no need of where they came from, and knows which images they have seen.

    Raises:
        CheckpointError, DataError: they, or the records that they were trained on, are missing.
        ConfigError: they are of another network, or have seen images of the test split.
    """
    path, name = workdir / weights_lib.INITIAL, config.train.init_from
    if checkpoint.any_saved(workdir):
        return
    path.unlink(missing_ok=True)  # of a run that never began
    if not name:
        return
    initial = inference.load(name)
    _, like = inference.empty_state(config)
    here = _shapes({"params": like.params, "stats": like.stats})
    there = _shapes(initial.weights)
    if there != here:
        odd = sorted(k for k in there.keys() | here.keys() if there.get(k) != here.get(k))[0]
        different = config_lib.differences(initial.config, config)
        fields = [line for line in different if line.startswith(("config.task", "config.model"))]
        raise config_lib.ConfigError(
            f"config.train.init_from is {name!r}, whose network is another one: {odd} is "
            f"{there.get(odd, 'not there')} there and {here.get(odd, 'not there')} here. Set these "
            "fields as they are there:\n  " + "\n  ".join(fields)
        )
    seen = seen_by(name, initial)
    refuse_seen(name, seen, test)
    weights_lib.write(path, initial.config, initial.step, initial.weights, seen, np.float32)


def seen_by(name: epath.PathLike, model: inference.Model) -> list[tuple[sources.Source, int]]:
    """Returns the images that a model was trained on and chosen by.

    Args:
        name: what `inference.load` made `model` of. The records of a run's data sets are read.

    Raises:
        ConfigError: the run's records are split otherwise by now.
        DataError: they are missing.
    """
    if model.seen is not None:
        return model.seen
    config, workdir = model.config, epath.Path(name).expanduser()
    examples = pipeline.load_splits(config.data, config.evaluate.size, config.task)
    check_splits(workdir, examples)
    return examples["train"].entries + examples["validation"].entries + _seen_before(workdir)


def _seen_before(workdir: epath.Path) -> list[tuple[sources.Source, int]]:
    """The images that the weights had seen which a run began with."""
    path = workdir / weights_lib.INITIAL
    return weights_lib.read(path).seen if path.exists() else []


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in weights_lib.named(tree).items()}


def refuse_seen(
    name: epath.PathLike, seen: list[tuple[sources.Source, int]], test: pipeline.Examples
) -> None:
    """Checks that no image of the test split, nor a near duplicate of one, has been seen.

    Raises:
        ConfigError: some have; names three of them.
    """
    if leaks := splits.seen(seen, test.entries):
        shown = ", ".join(f"{test.datasets[i]} {test.ids[i]}" for i in sorted(leaks)[:3])
        raise config_lib.ConfigError(
            f"{name} has seen {len(leaks)} of the {len(test)} test images in training, or near "
            f"duplicates of them ({shown}, …); their score would mean nothing. Give config.data "
            "the data sets, protocol and split_seed that it was trained with, or data sets that it "
            "has not seen."
        )


def fingerprints(examples: dict[str, pipeline.Examples]) -> dict[str, str]:
    """Returns a SHA-256 of each split's records (data set, id and perceptual hash)."""
    found = {}
    for name in splits.SPLITS:
        lines = sorted(
            f"{s.name}\0{s.ids[i]}\0{'' if s.hashes is None else s.hashes[i].tobytes().hex()}"
            for s, i in examples[name].entries
        )
        found[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def check_splits(workdir: epath.Path, examples: dict[str, pipeline.Examples]) -> None:
    """Checks that the records are still split as when the run in `workdir` began.

    Images added or removed move the bounds of the splits: what was trained on would be tested on.

    Raises:
        ConfigError: a split has changed; names it.
    """
    path = workdir / SPLITS
    if not path.exists() or not checkpoint.any_saved(workdir):
        return
    there, here = json.loads(path.read_text()), fingerprints(examples)
    changed = [name for name in splits.SPLITS if there.get(name) != here[name]]
    if changed:
        raise config_lib.ConfigError(
            f"{workdir} was trained on other records: the {', '.join(changed)} split has changed "
            "since (images added, removed or replaced). Name another --workdir, or restore the "
            "data."
        )


def evaluate_run(
    config: config_lib.Config,
    workdir: epath.Path,
    examples: dict[str, pipeline.Examples] | None = None,
) -> dict[str, Any]:
    """Scores a run's best checkpoint on the test split and writes `<workdir>/report`.

    Of several processes each scores its share, and the first writes the report.

    Returns:
        What `report/metrics.json` holds.

    Raises:
        CheckpointError: nothing was trained in `workdir`.
        ConfigError: `workdir` holds a run with another config.
    """
    stored = workdir / "config.json"
    if not stored.exists():
        raise checkpoint.CheckpointError(
            f"{workdir} holds no run (no config.json); train first, or name its --workdir."
        )
    distributed.first_alone(lambda: claim(config, workdir))
    if examples is None:
        _prepare_on_all(config, workdir)
        examples = pipeline.load_splits(config.data, config.evaluate.size, config.task)
    check_splits(workdir, examples)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        end = train.Position(**checkpoints.position(checkpoint.LAST))
    length = config_lib.in_steps(config, len(examples["train"])).train.steps
    if end.step < length and not end.stopped and distributed.is_first():
        print(
            f"Training stands at step {end.step} of {length}; its best checkpoint so far is "
            "scored.",
            flush=True,
        )
    about = {
        "trained_steps": end.step,
        "stopped_early": end.stopped,
        "train_seconds": end.seconds,
    }
    before = _seen_before(workdir)
    refuse_seen(workdir, before, examples["test"])
    trained = examples["train"].entries + examples["validation"].entries + before
    return _score(config, workdir, examples, inference.load(workdir), trained, about)


def evaluate_weights(config: config_lib.Config, workdir: epath.Path, name: str) -> dict[str, Any]:
    """Scores a file of weights on the test split of the config's data sets; writes the report.

    The network and what it is given (size, cut to the cell or not) are the file's, all else is the
    config's. The file lists what it was trained on and chosen by: a test split that holds any of
    it is refused.

    Args:
        config: its `data` and `evaluate` count; the task must be the file's.
        workdir: `<workdir>/report` is written.
        name: a `.safetensors` file, or the name of weights that the package ships.

    Returns:
        What `report/metrics.json` holds.

    Raises:
        WeightsError: there is no such file, or it is damaged.
        ConfigError: `workdir` holds a run, the task is another one, or the test split holds images
            that the weights have seen.
        DataError: records are missing.
    """
    if (workdir / "config.json").exists():
        raise config_lib.ConfigError(f"{workdir} holds a run; name another --workdir.")
    if weights_lib.find(name) is None:
        known = ", ".join(weights_lib.shipped()) or "none"
        raise weights_lib.WeightsError(
            f"--weights={name} is neither a {weights_lib.SUFFIX} file nor the name of shipped "
            f"weights (there are: {known}). `python -m wbc_jax.export RUN` writes such a file."
        )
    model = inference.load(name)
    if model.config.task != config.task:
        raise config_lib.ConfigError(
            f"config.task is {config.task!r}, but {name} is for {model.config.task!r}."
        )
    own = model.config.data
    data = dataclasses.replace(config.data, image_size=own.image_size, isolate=own.isolate)
    config = dataclasses.replace(config, data=data, model=model.config.model)
    _prepare_on_all(config)
    examples = pipeline.load_splits(config.data, config.evaluate.size, config.task)
    refuse_seen(name, model.seen, examples["test"])
    about = {"trained_steps": model.step, "stopped_early": False, "train_seconds": None}
    about["weights"] = name
    return _score(config, workdir, examples, model, model.seen, about)


def _score(
    config: config_lib.Config,
    workdir: epath.Path,
    examples: dict[str, pipeline.Examples],
    model: inference.Model,
    trained: list[tuple[sources.Source, int]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Scores a model on the test split and writes the report; returns its `metrics.json`.

    Args:
        config: of the data and the scoring; its network is the model's.
        workdir: `report` is written in it.
        examples: the splits.
        model: what is scored.
        trained: the images it was trained on and chosen by.
        about: what else the summary holds.
    """
    task = evaluate.TASKS[config.task]
    mesh = sharding.local_mesh(config.evaluate.batch_size)
    predict = inference.scored(config, model, mesh)
    batch, bootstrap = config.evaluate.batch_size, config.evaluate.bootstrap
    test = examples["test"]
    if distributed.is_first():
        print(f"Scoring the {len(test)} images of the test split.", flush=True)
    measured = task.measure_test(predict, test, batch)
    floor, floor_name = _floor(config, examples)
    external_rows: list[dict[str, Any]] = []
    external, skipped = _external(config, predict, trained, external_rows)
    summary = {
        "task": config.task,
        "model": config.model.name,
        "step": model.step,
        "parameters": model.parameters,
        "split": "test",
        "eval_size": config.evaluate.size,
        "flips": config.evaluate.flips,
        "results": task.results(measured, test, bootstrap),
        "baseline": task.results(floor, test, bootstrap),
        "baseline_name": floor_name,
        "external": external,
        "skipped": skipped,
        **about,
        "versions": _versions(),
        "hardware": _hardware(),
    }
    if config.task == "segmentation":
        some = _evenly(test, CALIBRATION_IMAGES)
        sure = task.measure_calibration(_pixel_probabilities(config, model), some, batch)
        summary["calibration"] = task.calibration(sure, some, bootstrap)
    rows = task.rows(measured, test)

    def write() -> None:
        folder = workdir / "report"
        files.write_json(folder / "metrics.json", summary)
        files.write_csv(folder / "per_image.csv", rows, task.ROW_COLUMNS)
        files.write_csv(folder / "external.csv", external_rows, task.ROW_COLUMNS)
        html.write(
            folder / "index.html",
            title=f"{config.model.name} on {', '.join(config.data.datasets)}",
            summary=files.finite(summary),
            rows=rows,
            history=metric_writer.read(workdir),
            examples=_shown(config, rows, test, predict),
            config=config_lib.flatten(config),
        )
        print(f"\n{tables.text(summary)}")
        print(f"\nReport: {folder / 'index.html'}", flush=True)

    distributed.first_alone(write)
    return summary


def _evenly(examples: pipeline.Examples, most: int) -> pipeline.Examples:
    """Returns at most so many of the examples, evenly spaced: each data set has its share."""
    places = np.linspace(0, len(examples) - 1, min(most, len(examples))).round().astype(int)
    entries = [examples.entries[place] for place in places]
    return pipeline.Examples(entries, examples.image_size, examples.mask_size)


def _pixel_probabilities(
    config: config_lib.Config, model: inference.Model
) -> Callable[[np.ndarray], jax.Array]:
    """Returns images → probabilities `[B, E, E, C]`; the prediction step picks the highest."""
    scored = steps.make_scored_logits(config, model.network, config.evaluate.flips)
    step_fn = jax.jit(
        lambda weights, images: jax.nn.softmax(scored(weights, images)),
        compiler_options=fast.compiler_options(),
    )
    return lambda images: step_fn(model.weights, images)


def _floor(
    config: config_lib.Config, examples: dict[str, pipeline.Examples]
) -> tuple[np.ndarray, str]:
    """Returns what the test split measures without a network, and what that is called."""
    test, batch = examples["test"], config.evaluate.batch_size
    if config.task == "segmentation":
        large = test.resized(config.evaluate.size, config.evaluate.size)
        return evaluate.masks.measure_test(
            baselines.otsu, large, batch
        ), "Colour thresholds alone (Otsu)"
    counts = pipeline.class_counts(examples["train"], evaluate.cell_types.CLASSES)
    return baselines.most_frequent(counts, len(test)), "Always the most frequent type of training"


def split_table(examples: dict[str, pipeline.Examples]) -> str:
    """Returns how many records of each data set each split holds, as text."""
    lines = [f"{'data set':<30}" + "".join(f"{name:>12}" for name in splits.SPLITS)]
    for dataset in dict.fromkeys(examples["all"].datasets):
        numbers = [examples[name].datasets.count(dataset) for name in splits.SPLITS]
        lines.append(f"{dataset:<30}" + "".join(f"{n:>12}" for n in numbers))
    return "\n".join(lines)


def _external(
    config: config_lib.Config,
    predict: Predict,
    trained: list[tuple[sources.Source, int]],
    rows: list[dict[str, Any]] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores whole data sets that training never saw, where they are present.

    Records that share a group with an image of `trained` (training and validation; crops of one
    frame), or are near duplicates of one, are left out; `left_out` counts them. A row an image is
    added to `rows`.
    """
    task = evaluate.TASKS[config.task]
    found, skipped = {}, {}
    for name in config.evaluate.external:
        if name in config.data.datasets:
            continue
        try:
            with records.no_downloads():  # a look aside must not wait for a network
                sources.prepare(name, config.data)
            whole = pipeline.load_whole(name, config.data, config.evaluate.size, config.task)
        except (records.DataError, OSError) as error:
            reason = str(error).splitlines()[0]
            skipped[name] = reason
            continue
        leaks = splits.seen(trained, whole.entries)
        if leaks:
            if distributed.is_first():
                print(f"{name}: {len(leaks)} images that training saw are left out.", flush=True)
            whole.entries = [e for i, e in enumerate(whole.entries) if i not in leaks]
        if not len(whole):
            skipped[name] = "training saw all of its images, or near duplicates of them"
            continue
        measured = task.measure_test(predict, whole, config.evaluate.batch_size)
        scored = task.results(measured, whole, config.evaluate.bootstrap)
        scored[name]["left_out"] = len(leaks)
        found |= scored
        if rows is not None:
            rows += task.rows(measured, whole)
    return found, skipped


def _shown(
    config: config_lib.Config,
    rows: list[dict[str, Any]],
    test: pipeline.Examples,
    predict: Predict,
) -> list[figures.Example]:
    """Test images for the report: masks, the worst (and some of each better), or types."""
    if config.task == "classification":
        return _mistakes(config, rows, test)
    side, size = config.data.image_size, config.evaluate.size
    examples = test.resized(size, size)
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["mean_iou"], rows[i]["id"]))
    if most := config.evaluate.worst:
        of = {name: [i for i in order if rows[i]["dataset"] == name] for name in test.datasets}
        places = {i for found in of.values() for i in found[:most]}
        chosen = [i for i in order if i in places]
    else:
        chosen = [order[place] for place in spread_places(len(order))]
    shown = []
    for i in chosen:
        example = examples[i]
        small = pipeline.resize_image(example["image"], side, side)
        shown.append(
            figures.Example(
                dataset=rows[i]["dataset"],
                id=rows[i]["id"],
                label=rows[i]["label"],
                image=example["image"],
                truth=example["mask"],
                prediction=np.asarray(predict(small[None]))[0],
                score=rows[i]["mean_iou"],
            )
        )
    return shown


def spread_places(images: int) -> list[int]:
    """Returns which of images sorted by error are shown: the worst, then evenly to the best."""
    if images <= SHOWN_MASKS:
        return list(range(images))
    rest = np.linspace(SHOWN_WORST, images - 1, SHOWN_MASKS - SHOWN_WORST)
    return [*range(SHOWN_WORST), *(int(place) for place in rest.round())]


def _mistakes(
    config: config_lib.Config, rows: list[dict[str, Any]], test: pipeline.Examples
) -> list[figures.Example]:
    """The test images whose type was missed with the most confidence, then the least sure hits."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["probability"], rows[i]["id"]))
    missed = [i for i in reversed(order) if not rows[i]["right"]][:SHOWN_MISTAKES]
    unsure = [i for i in order if rows[i]["right"]][:SHOWN_UNSURE]
    examples = test.resized(config.evaluate.size, 0)
    return [
        figures.Example(
            dataset=rows[i]["dataset"],
            id=rows[i]["id"],
            label=rows[i]["label"],
            image=examples[i]["image"],
            score=rows[i]["probability"],
            predicted=rows[i]["predicted"],
        )
        for i in missed + unsure
    ]


def _versions() -> dict[str, str]:
    names = ("wbc_jax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def _hardware() -> str:
    devices = jax.devices()
    kind = devices[0].device_kind
    return f"{len(devices)} x {kind} ({platform.machine()}, {os.cpu_count()} CPUs)"
