"""What the modes of `wbc_jax.main` do: prepare, train, evaluate."""

import importlib.metadata
import os
import platform
from typing import Any

import jax
import numpy as np
from etils import epath

from wbc_jax import (
    baselines,
    checkpoint,
    evaluate,
    files,
    inference,
    metric_writer,
    steps,
    train,
)
from wbc_jax import config as config_lib
from wbc_jax.data import pipeline, records, sources, splits
from wbc_jax.papers import counts as paper_counts
from wbc_jax.report import figures, gallery, html, tables

# Fields that change no weight: another value may look at a run that was trained with the first.
FREE_FIELDS = (
    "data.data_dir",
    "data.manual_dir",
    "data.on_bad_file",
    "data.threads",
    "data.cache_megabytes",
    "evaluate.batch_size",
    "evaluate.flips",
    "evaluate.bootstrap",
    "evaluate.external",
)
SHOWN_PER_GROUP = 6


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


def prepare_only(config: config_lib.Config, workdir: epath.Path) -> None:
    """Prepares, draws `<workdir>/gallery.html` and prints how many records each split holds."""
    prepare(config, workdir)
    # Before the split, which refuses data that the page may explain.
    page = workdir / "gallery.html"
    gallery.write(page, [sources.load(name, config.data) for name in config.data.datasets])
    examples = pipeline.load_splits(config.data, config.evaluate.size)
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


def run(config: config_lib.Config, workdir: epath.Path) -> None:
    """Prepares what is missing, trains or goes on training, evaluates, writes the report."""
    check_claim(config, workdir)
    prepare(config, workdir)
    examples = pipeline.load_splits(config.data, config.evaluate.size)
    # Only now: a data set misspelt or missing must not claim the folder for a config that cannot
    # run, which the mended command would then be refused for.
    claim(config, workdir)
    print(split_table(examples), flush=True)
    train.train(config, workdir, examples)
    evaluate_run(config, workdir, examples)


def claim(config: config_lib.Config, workdir: epath.Path) -> None:
    """Writes `config.json`, unless the one there asks for another training.

    Raises:
        ConfigError: the folder holds another run; nothing is written.
    """
    check_claim(config, workdir)
    files.write_text(workdir / "config.json", config_lib.to_json(config))


def check_claim(config: config_lib.Config, workdir: epath.Path) -> None:
    """Checks that `workdir` is free or holds a run of the same training.

    Raises:
        ConfigError: the folder holds another run; lists the fields that differ.
    """
    path = workdir / "config.json"
    if path.exists():
        there = config_lib.from_json(path.read_bytes(), os.fspath(path))
        different = config_lib.differences(there, config, FREE_FIELDS)
        if different:
            raise config_lib.ConfigError(
                f"{workdir} holds a run with another config:\n  "
                + "\n  ".join(different)
                + "\nName another --workdir, or delete this one to start over."
            )


def evaluate_run(
    config: config_lib.Config,
    workdir: epath.Path,
    examples: dict[str, pipeline.Examples] | None = None,
) -> dict[str, Any]:
    """Scores a run's best checkpoint on the test split and writes `<workdir>/report`.

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
    claim(config, workdir)
    if examples is None:
        prepare(config)
        examples = pipeline.load_splits(config.data, config.evaluate.size)
    model = inference.load(workdir)
    step_fn = steps.make_predict_step(model.network, config.evaluate.size, config.evaluate.flips)

    def predict(images: np.ndarray) -> jax.Array:
        return step_fn(model.weights, images)

    batch, bootstrap = config.evaluate.batch_size, config.evaluate.bootstrap
    test = examples["test"]
    print(f"Scoring the {len(test)} images of the test split.", flush=True)
    counts = evaluate.confusions(predict, test, batch)
    floor = test.resized(config.evaluate.size, config.evaluate.size)
    floor_counts = evaluate.confusions(baselines.otsu, floor, batch)
    external, skipped = _external(config, predict, examples)
    summary = {
        "task": config.task,
        "model": config.model.name,
        "step": model.step,
        "parameters": model.parameters,
        "split": "test",
        "eval_size": config.evaluate.size,
        "flips": config.evaluate.flips,
        "results": evaluate.results(counts, test, bootstrap),
        "baseline": evaluate.results(floor_counts, test, bootstrap),
        "external": external,
        "skipped": skipped,
        "train_seconds": model.train_seconds,
        "versions": _versions(),
        "hardware": _hardware(),
    }
    rows = evaluate.rows(counts, test)
    folder = workdir / "report"
    files.write_json(folder / "metrics.json", summary)
    files.write_csv(folder / "per_image.csv", rows, evaluate.ROW_COLUMNS)
    html.write(
        folder / "index.html",
        title=f"{config.model.name} on {', '.join(config.data.datasets)}",
        summary=files.finite(summary),
        rows=rows,
        history=metric_writer.read(workdir),
        examples=_shown(rows, floor, predict, config.data.image_size),
        config=config_lib.flatten(config),
    )
    print(f"\nTest split, scored at {config.evaluate.size} x {config.evaluate.size}:")
    print(tables.results_table(summary["results"]))
    print("\nBy cell type:")
    print(tables.type_table(summary["results"]))
    print("\nColour thresholds alone (Otsu), same images:")
    print(tables.results_table(summary["baseline"]))
    if external or skipped:
        print("\nData sets that training never saw, whole:")
        if external:
            print(tables.results_table(external))
        for name, reason in skipped.items():
            print(f"  {name}: {reason}")
    print(f"\nReport: {folder / 'index.html'}", flush=True)
    return summary


def split_table(examples: dict[str, pipeline.Examples]) -> str:
    """Returns how many records of each data set each split holds, as text."""
    lines = [f"{'data set':<30}" + "".join(f"{name:>12}" for name in splits.SPLITS)]
    for dataset in dict.fromkeys(examples["all"].datasets):
        numbers = [examples[name].datasets.count(dataset) for name in splits.SPLITS]
        lines.append(f"{dataset:<30}" + "".join(f"{n:>12}" for n in numbers))
    return "\n".join(lines)


def _external(
    config: config_lib.Config,
    predict: evaluate.Predict,
    examples: dict[str, pipeline.Examples],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores whole data sets that training never saw, where they are present.

    Near duplicates of a training or validation image are left out, and counted on the screen.
    """
    seen = examples["train"].entries + examples["validation"].entries
    found, skipped = {}, {}
    for name in config.evaluate.external:
        if name in config.data.datasets:
            continue
        try:
            with records.no_downloads():  # a look aside must not wait for a network
                sources.prepare(name, config.data)
            whole = pipeline.load_whole(name, config.data, config.evaluate.size)
        except records.DataError as error:
            reason = str(error).splitlines()[0]
            skipped[name] = reason
            continue
        leaks = splits.near_duplicates_of(seen, whole.entries)
        if leaks:
            print(f"{name}: {len(leaks)} near duplicates of training images are left out.")
            whole.entries = [e for i, e in enumerate(whole.entries) if i not in leaks]
        if not len(whole):
            skipped[name] = "all of its images are near duplicates of training images"
            continue
        counts = evaluate.confusions(predict, whole, config.evaluate.batch_size)
        found |= evaluate.results(counts, whole, config.evaluate.bootstrap)
    return found, skipped


def _shown(
    rows: list[dict[str, Any]], examples: pipeline.Examples, predict: evaluate.Predict, side: int
) -> list[figures.Example]:
    """The best, the median and the worst test images, with their predictions."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["mean_iou"], rows[i]["id"]))
    n, middle = min(SHOWN_PER_GROUP, len(order)), len(order) // 2
    chosen = order[:n] + order[max(0, middle - n // 2) :][:n] + order[-n:]
    shown = []
    for i in dict.fromkeys(chosen):
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


def _versions() -> dict[str, str]:
    names = ("wbc_jax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def _hardware() -> str:
    devices = jax.devices()
    kind = devices[0].device_kind
    return f"{len(devices)} x {kind} ({platform.machine()}, {os.cpu_count()} CPUs)"
