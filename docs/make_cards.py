"""Model cards of the shipped weights, from what was measured.

    python docs/make_cards.py --collect=RUN --name=segmenter

keeps what `--mode=evaluate --weights=segmenter --workdir=RUN` wrote, with the SHA-256 of the
weights that were scored, as `wbc_jax/shipped/segmenter.json`;

    python docs/make_cards.py

writes the cards beside the weights from `docs/cards/*.md.j2`, these files and `docs/results/`.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import numpy as np

from wbc_jax.evaluate import cell_types
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import tables
from wbc_jax.utils import atomic

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "wbc_jax" / "shipped"
RESULTS = ROOT / "docs" / "results"
NAMES = ("segmenter", "classifier")
_LEFT_OUT_AT_LEAST = 20  # cells of a type, for its recall to count where a source was left out

MASK_KEYS = {
    "mean IoU": ("mean_iou", lambda r: r["mean_iou"]),
    "nucleus Dice": ("dice_nucleus", lambda r: r["dice"]["nucleus"]),
    "cytoplasm Dice": ("dice_cytoplasm", lambda r: r["dice"]["cytoplasm"]),
    "BF score": ("bf_score_mean", lambda r: r["bf_score"]["mean"]),
    "N/C median error": (
        "nc_median_relative_error",
        lambda r: r["nc"]["median_relative_error"],
    ),
}
TYPE_KEYS = {
    "accuracy": ("accuracy", lambda r: r["accuracy"]),
    "macro recall": ("macro_recall", lambda r: r["macro_recall"]),
    "macro F1": ("macro_f1", lambda r: r["macro_f1"]),
}


def sha256(name: str) -> str:
    """Returns the digest of shipped weights."""
    return hashlib.sha256((SHIPPED / f"{name}.safetensors").read_bytes()).hexdigest()


def collect(run: pathlib.Path, name: str) -> None:
    """Keeps the figures of an evaluation of shipped weights."""
    report = run / "report"
    summary = json.loads((report / "metrics.json").read_text())
    if summary.get("weights") != name:
        raise SystemExit(f"error: {run} scored {summary.get('weights')!r}, not {name!r}")
    kept = {key: summary[key] for key in ("task", "model", "step", "parameters", "flips")}
    kept |= {key: summary[key] for key in ("results", "external", "versions", "hardware")}
    if summary["task"] == "classification":
        kept["by_label_source"] = by_label_source(report / "per_image.csv")
    if summary["task"] == "segmentation":
        kept["eval_size"] = summary["eval_size"]
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=ROOT)
    kept |= {"weights": name, "weights_sha256": sha256(name), "commit": commit.strip()}
    atomic.write_json(SHIPPED / f"{name}.json", kept)


def by_label_source(per_image: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the summaries of the data sets whose labels are of more than one origin."""
    with per_image.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, dict[str, Any]] = {}
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == dataset]
        origins = sorted({row["label_source"] for row in own})
        for origin in origins if len(origins) > 1 else ():
            some = [row for row in own if row["label_source"] == origin]
            labels = np.array([int(row["label"]) for row in some])
            columns = [f"probability_{kind}" for kind in CELL_TYPES]
            probabilities = np.array([[float(row[c]) for c in columns] for row in some])
            found[f"{dataset}, labels {origin or 'as published'}"] = cell_types.summarize(
                labels, probabilities, 1000
            )
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _cell(value: float | None, ends: Sequence[float] | None, percent: bool = False) -> str:
    form = tables.percent if percent else tables.decimal
    return f"{form(value)} {tables.interval(*(ends or (None, None)), form)}".strip()


def scores(results: dict[str, dict[str, Any]], task: str, label: str = "data set") -> str:
    """A table with a row a data set, with 95 % bootstrap intervals."""
    keys: dict[str, tuple[str, Callable[[Any], Any]]]
    keys = MASK_KEYS if task == "segmentation" else TYPE_KEYS
    rows = []
    for name, result in results.items():
        intervals = result.get("intervals", {})
        cells = [
            _cell(value(result), intervals.get(key), key.startswith("nc_"))
            for key, value in keys.values()
        ]
        rows.append([name, str(result["images"]), *cells])
    return markdown([label, "images", *keys], rows)


def by_type(results: dict[str, dict[str, Any]], task: str) -> str:
    """A table with a row a data set and cell type."""
    rows = []
    for dataset, result in results.items():
        for kind, own in result.get("by_type", {}).items():
            if not own.get("images"):
                continue
            intervals = own.get("intervals", {})
            if task == "segmentation":
                keys = ("mean IoU", "nucleus Dice", "N/C median error")
                cells = [
                    _cell(MASK_KEYS[k][1](own), intervals.get(MASK_KEYS[k][0]), k.startswith("N/C"))
                    for k in keys
                ]
            else:
                keys = ("recall", "precision", "f1")
                cells = [_cell(own[k], intervals.get(k), False) for k in keys]
            rows.append([dataset, kind, str(own["images"]), *cells])
    return markdown(["data set", "type", "images", *keys], rows)


def frequent_recall(result: dict[str, Any]) -> tuple[float, list[str]]:
    """Returns the mean recall of the types with at least 20 cells, and their names."""
    kept = {k: v for k, v in result["by_type"].items() if v["images"] >= _LEFT_OUT_AT_LEAST}
    return float(np.mean([v["recall"] for v in kept.values()])), list(kept)


def load(name: str) -> dict[str, Any] | None:
    """Returns `docs/results/NAME.json`; None where that was not run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def render(name: str) -> str:
    """Returns the text of a card.

    Raises:
        SystemExit: the figures are of other weights than those shipped.
    """
    found = json.loads((SHIPPED / f"{name}.json").read_text())
    if found["weights_sha256"] != sha256(name):
        raise SystemExit(f"error: {name}.json is of other weights; evaluate and collect again")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "docs" / "cards"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    size = (SHIPPED / f"{name}.safetensors").stat().st_size
    return environment.get_template(f"{name}.md.j2").render(
        found=found,
        size=f"{size / 1e6:.1f} MB",
        scores=scores,
        by_type=by_type,
        frequent_recall=frequent_recall,
        load=load,
        table=markdown,
        cell=_cell,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collect", type=pathlib.Path, help="a --workdir of --mode=evaluate")
    parser.add_argument("--name", choices=NAMES, help="of the weights that it scored")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, options.name)
    for name in NAMES:
        if (SHIPPED / f"{name}.json").exists():
            atomic.write_text(SHIPPED / f"{name}.md", render(name))
            print(SHIPPED / f"{name}.md")


if __name__ == "__main__":
    main()
