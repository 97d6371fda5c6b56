"""Writes the model cards of the shipped weights.

    python tools/make_cards.py --collect=RUN --name=segmenter

summarizes the report of `--mode=evaluate --weights=segmenter --workdir=RUN`, with the SHA-256 of
the scored weights, in `wbc_jax/shipped/segmenter.json`, and writes the cards;

    python tools/make_cards.py

only writes the cards: it fills the templates `tools/cards/*.md.j2` from these files and `results/`.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np

import summaries
from wbc_jax.evaluate import cell_types
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import tables
from wbc_jax.utils import atomic

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "wbc_jax" / "shipped"
RESULTS = ROOT / "results"
NAMES = ("segmenter", "classifier")
_FREQUENT = 20  # cells of a type, from which on its recall counts where a source was left out


def sha256(name: str) -> str:
    """Returns the digest of shipped weights."""
    return hashlib.sha256((SHIPPED / f"{name}.safetensors").read_bytes()).hexdigest()


def collect(run: pathlib.Path, name: str) -> None:
    """Summarizes an evaluation of shipped weights in `wbc_jax/shipped/<name>.json`.

    Raises:
        SystemExit: the run scored other weights.
    """
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
    summaries.write(SHIPPED / f"{name}.json", summaries.summarize(kept))


def by_label_source(per_image: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns results by data set and origin of the label, where a data set has several origins."""
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


def _cells(row: dict[str, Any], columns: summaries.Scores) -> list[str]:
    intervals = summaries.intervals(row)
    return [
        _cell(value(row), intervals.get(key), percent=key.startswith("nc_"))
        for key, value in columns.values()
    ]


def scores(results: dict[str, dict[str, Any]], task: str, label: str = "data set") -> str:
    """Returns a table of scores with 95 % bootstrap intervals, one row a data set."""
    columns = summaries.SCORES[task]
    rows = [[name, str(row["images"]), *_cells(row, columns)] for name, row in results.items()]
    return markdown([label, "images", *columns], rows)


def by_type(results: dict[str, dict[str, Any]], task: str) -> str:
    """Returns a table of scores with intervals, one row a data set and cell type."""
    columns = summaries.TYPE_SCORES[task]
    rows = [
        [dataset, kind, str(row["images"]), *_cells(row, columns)]
        for dataset, result in results.items()
        for kind, row in result.get("by_type", {}).items()
    ]
    return markdown(["data set", "type", "images", *columns], rows)


def frequent_recall(result: dict[str, Any]) -> tuple[float, list[str]]:
    """Returns the mean recall of the types with at least 20 cells, and their names."""
    kept = {k: v for k, v in result["by_type"].items() if v["images"] >= _FREQUENT}
    return float(np.mean([v["recall"] for v in kept.values()])), list(kept)


def load(name: str) -> dict[str, Any] | None:
    """Returns `results/<name>.json`; None if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def render(name: str) -> str:
    """Returns the text of a card.

    Raises:
        SystemExit: the scores are of other weights than those shipped.
    """
    found = json.loads((SHIPPED / f"{name}.json").read_text())
    if found["weights_sha256"] != sha256(name):
        raise SystemExit(
            f"error: {name}.json is of other weights than {name}.safetensors; evaluate these and "
            "collect again"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "tools" / "cards"),
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", type=pathlib.Path, help="--workdir of --mode=evaluate")
    parser.add_argument("--name", choices=NAMES, help="name of the weights it scored")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, options.name)
    for name in NAMES:
        if (SHIPPED / f"{name}.json").exists():
            atomic.write_text(SHIPPED / f"{name}.md", render(name))
            print(SHIPPED / f"{name}.md")


if __name__ == "__main__":
    main()
