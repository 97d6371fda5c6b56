"""The page a run leaves behind: one HTML file that opens anywhere, without a network.

Everything is in the file: style, figures and images (PNG data URIs). There is no script, and a
content security policy in the page forbids any request, so that what a reader sees is what was
written. Text from data (ids, names, settings) is escaped by the template engine.
"""

import base64
import collections
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import jinja2
import markupsafe
import numpy as np
from etils import epath
from PIL import Image

from wbc_jax import files, vocabulary
from wbc_jax.report import figures, tables
from wbc_jax.report.figures import Example

TILE_PX = 192
"""Side of an example's pictures in the page."""
EXAMPLES_A_GROUP = 6
"""Best, median and worst examples shown, each; with `TILE_PX` it bounds the page's size."""


def write(
    path: epath.PathLike,
    *,
    title: str,
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    history: list[dict[str, Any]],
    examples: list[Example],
    config: dict[str, Any],
) -> None:
    """Writes the report of a run as one HTML file.

    The file is written whole or not at all: first under a temporary name in the same folder, then
    renamed over what was there. Folders that are missing are made.

    Args:
        path: where, `index.html` of the report's folder (`gs://` works).
        title: the page's heading, such as the run's name.
        summary: content of `report/metrics.json`; missing keys and None are shown as dashes or
            left out.
        rows: one dict an image, as `report/per_image.csv`.
        history: lines of `metrics.jsonl`.
        examples: images to choose from; the six best, six around the median and six worst by
            `score` are shown, each once.
        config: the run's settings, nested dicts.

    Raises:
        ValueError: an example's image and masks do not fit each other.
        OSError: the file cannot be written.
    """
    page = render(
        title=title, summary=summary, rows=rows, history=history, examples=examples, config=config
    )
    files.write_text(path, page)


def render(
    *,
    title: str,
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    history: list[dict[str, Any]],
    examples: list[Example],
    config: dict[str, Any],
) -> str:
    """The page's text; arguments and errors as of `write`."""
    environment = make_environment()
    environment.globals.update(interval=tables.interval, percent=tables.percent, dash=tables.DASH)
    environment.filters.update(
        decimal=tables.decimal,
        percent=tables.percent,
        count=tables.count,
        plural=plural,
        breakable=_breakable,
    )
    task = summary.get("task") or "segmentation"
    view, types = tables.VIEWS[task], task == "classification"
    results = summary.get("results") or {}
    external = summary.get("external") or {}
    baseline = summary.get("baseline") or {}
    split = summary.get("split") or "evaluated"
    below = summary.get("baseline_name") or "Otsu colour threshold"
    groups = [
        (f"Data sets of the run, {split} images", tables.result_rows(results, task)),
        ("Data sets the model never trained on", tables.result_rows(external, task)),
        (f"Baseline without training: {below}", tables.result_rows(baseline, task)),
    ]
    return environment.get_template("report.html.j2").render(
        title=title,
        task=task,
        model=summary.get("model") or "",
        lead=_LEADS[task](results, baseline, str(summary.get("model") or "the model"), str(split)),
        groups=[(name, _distinct(found)) for name, found in groups if found],
        skipped=summary.get("skipped") or {},
        type_groups=_type_groups(results, external, task),
        columns=view.columns,
        column_groups=_column_groups(view.columns),
        type_columns=view.type_columns,
        type_column_groups=_column_groups(view.type_columns),
        explained=_EXPLAINED[task],
        confusions=_confusions(results, external, task),
        classes=_CLASSES[task],
        curve=_both(figures.training_curve, history, task=task) if history else None,
        scatter=_both(figures.nc_scatter, rows) if rows and not types else None,
        calibration=_both(figures.reliability, rows) if rows and types else None,
        rows=len(rows),
        missed=sum(not row["right"] for row in rows) if types else 0,
        nc=[] if types else tables.result_rows(results)[-1:],
        flags=_flags(rows),
        mistakes=[_mistake(example) for example in examples] if types else [],
        example_groups=[] if types else _example_groups(examples),
        facts=_facts(summary),
        versions=summary.get("versions") or {},
        config=_settings(config),
    )


_CLASSES = {
    "segmentation": vocabulary.MASK_CLASSES,
    "classification": vocabulary.CELL_TYPES,
}
_EXPLAINED = {
    "segmentation": "BF: boundary F1 score (tolerance 0.75 % of the diagonal), mean over images of "
    "the mean over classes. N/C median error: relative error of the predicted nucleus to cytoplasm "
    "ratio, median over images.",
    "classification": "Accuracy: share of the cells whose type is right. One-vs-rest and balanced "
    "accuracy count the true negatives of each type too, so they lie above it.",
}


def make_environment() -> jinja2.Environment:
    """Returns the template engine of every page: it escapes text, and a misspelt name raises."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("wbc_jax.report", "templates"),
        # Always: the default decides by a file's ending and would not know `.html.j2`.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def plural(number: int, one: str, many: str = "") -> str:
    return f"{tables.count(number)} {one if number == 1 else many or one + 's'}"


def _lead(
    results: Mapping[str, Any], baseline: Mapping[str, Any], model: str, split: str
) -> list[str]:
    """The headline of a segmentation in up to three sentences."""
    if not results:
        return [_NOTHING]
    row = tables.result_rows(results)[-1]
    sets = [name for name in results if name != tables.ALL]
    lead = [
        f"{_scope(row, sets, split)}, {model} reaches a mean IoU of "
        f"{tables.decimal(row['mean_iou'])}{_within(row, 'mean_iou')}."
    ]
    if row["nc_error"] is not None:
        lead.append(
            f"Its N/C ratio is off by {tables.percent(row['nc_error'])} in the median"
            f"{_within(row, 'nc_error', tables.percent)}."
        )
    below = tables.result_rows(baseline)[-1:]
    # Only like with like: over all data sets, or the one there is.
    if (
        below
        and below[0]["mean_iou"] is not None
        and below[0]["dataset"] in (row["dataset"], *sets[:1])
    ):
        lead.append(
            "A colour threshold without training reaches "
            f"{tables.decimal(below[0]['mean_iou'])} on the same images."
        )
    return lead


def _type_lead(
    results: Mapping[str, Any], baseline: Mapping[str, Any], model: str, split: str
) -> list[str]:
    """The headline of a classification in up to two sentences."""
    if not results:
        return [_NOTHING]
    row = tables.result_rows(results, "classification")[-1]
    sets = [name for name in results if name != tables.ALL]
    lead = [
        f"{_scope(row, sets, split)}, {model} names the right type in "
        f"{tables.percent(row['accuracy'])}{_within(row, 'accuracy', tables.percent)}; the mean "
        f"recall of the types is {tables.percent(row['macro_recall'])}"
        f"{_within(row, 'macro_recall', tables.percent)}."
    ]
    for below in tables.result_rows(baseline, "classification")[-1:]:
        if below["accuracy"] is not None and below["dataset"] in (row["dataset"], *sets[:1]):
            lead.append(
                "Always naming the most frequent type of training would be right in "
                f"{tables.percent(below['accuracy'])}."
            )
    return lead


_LEADS = {"segmentation": _lead, "classification": _type_lead}
_NOTHING = "No data set was evaluated."


def _scope(row: Mapping[str, Any], sets: Sequence[str], split: str) -> str:
    where = f"data set {sets[0]}" if len(sets) == 1 else f"{len(sets)} data sets"
    amount = plural(row["images"], f"{split} image") if row["images"] else f"the {split} images"
    return f"On {amount} of {where}"


def _within(row: Mapping[str, Any], key: str, form: Callable[[Any], str] = tables.decimal) -> str:
    found = tables.interval(row[f"{key}_low"], row[f"{key}_high"], form)
    return f" (95 % interval {found[1:-1].replace(', ', ' to ')})" if found else ""


def _column_groups(columns: Sequence[tables.Column]) -> list[tuple[str, int]]:
    """Upper headings and the number of columns below each."""
    found: list[tuple[str, int]] = []
    for column in columns:
        if found and found[-1][0] == column.group:
            found[-1] = (column.group, found[-1][1] + 1)
        else:
            found.append((column.group, 1))
    return found


def _distinct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without `all` where it would only repeat the one data set there is."""
    repeats = len(rows) == 2 and rows[-1]["dataset"] == tables.ALL
    return rows[:1] if repeats else rows


def _sets(results: Mapping[str, Any]) -> list[str]:
    """Data sets worth a table of their own: `all` first, and without it where it is the same."""
    names = [name for name in results if name != tables.ALL]
    return [tables.ALL, *names] if tables.ALL in results and len(names) != 1 else names


def _type_groups(
    results: Mapping[str, Any], external: Mapping[str, Any], task: str
) -> list[tuple[str, list[dict[str, Any]]]]:
    found = [(_called(name), tables.type_rows(results, name, task)) for name in _sets(results)]
    found += [
        (f"{name} (never trained on)", tables.type_rows(external, name, task)) for name in external
    ]
    return [(name, rows) for name, rows in found if rows]


def _called(name: str) -> str:
    return "All data sets" if name == tables.ALL else name


def _confusions(
    results: Mapping[str, Any], external: Mapping[str, Any], task: str
) -> list[dict[str, Any]]:
    named = [(_called(name), results[name]) for name in _sets(results)]
    named += [(f"{name} (never trained on)", external[name]) for name in external]
    found = []
    for name, result in named:
        counts = (result or {}).get("confusion")
        if not counts:
            continue
        fractions = figures.row_fractions(counts)
        cells = [[(tables.number(f), c) for f, c in zip(*pair)] for pair in zip(fractions, counts)]
        found.append({"name": name, "rows": list(zip(_CLASSES[task], cells))})
    return found


def _flags(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Flags of the images and how often each occurs, the most frequent first."""
    return collections.Counter(str(row["flag"]) for row in rows if row.get("flag")).most_common()


def _breakable(name: str) -> markupsafe.Markup:
    """A name that a line may break after a slash, where a reader would."""
    return markupsafe.Markup("/<wbr>").join(name.split("/"))


def uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _both(draw, data, **options) -> dict[str, str]:
    """A figure for light and for dark pages, as data URIs."""
    return {
        "light": uri(figures.png(draw(data, **options))),
        "dark": uri(figures.png(draw(data, dark=True, **options))),
    }


def _tile(image: np.ndarray, mask: np.ndarray | None) -> str:
    """An example's picture, with outlines where a mask is given, as a data URI."""
    if mask is not None and mask.shape != image.shape[:2]:
        raise ValueError(f"mask {list(mask.shape)} does not fit its image {list(image.shape)}")
    scale = TILE_PX / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    tile = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if mask is not None:
        nearest = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        tile = figures.overlay(tile, nearest, width_px=2)
    # A palette of 256 colours is a third of the size and, on one stained cell, hard to see.
    picture = Image.fromarray(tile).quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return uri(buffer.getvalue())


def _example_groups(examples: Sequence[Example]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Up to six examples each of the best, around the median and the worst; none twice."""
    scored = [example for example in examples if tables.number(example.score) is not None]
    unscored = [example for example in examples if tables.number(example.score) is None]
    scored.sort(key=lambda example: -example.score)
    most = min(EXAMPLES_A_GROUP, math.ceil(len(scored) / 3))
    best, rest = scored[:most], scored[most:]
    worst = rest[max(0, len(rest) - most) :]
    rest = rest[: len(rest) - len(worst)]
    start = max(0, (len(rest) - EXAMPLES_A_GROUP) // 2)
    groups = [
        ("Best", best),
        ("Around the median", rest[start : start + EXAMPLES_A_GROUP]),
        ("Worst", worst[::-1]),
        ("Without truth", unscored[:EXAMPLES_A_GROUP]),
    ]
    return [(name, [_shown(example) for example in found]) for name, found in groups if found]


def _shown(example: Example) -> dict[str, Any]:
    kind = figures.type_name(example.label)
    name = f"{kind} {example.id}"
    pictures = [("image", _tile(example.image, None), f"Image of {name}")]
    if example.truth is not None:
        picture = _tile(example.image, example.truth)
        pictures.append(("truth", picture, f"{name} with the true outlines of cell and nucleus"))
    picture = _tile(example.image, example.prediction)
    pictures.append(
        ("prediction", picture, f"{name} with the predicted outlines of cell and nucleus")
    )
    return {
        "id": example.id,
        "dataset": example.dataset,
        "type": kind,
        "score": example.score,
        "pictures": pictures,
    }


def _mistake(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "dataset": example.dataset,
        "type": figures.type_name(example.label),
        "predicted": figures.type_name(example.predicted),
        "wrong": example.label != example.predicted,
        "score": example.score,
        "uri": _tile(example.image, None),
    }


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the model came to be, as names and values; only what is known."""
    size, seconds = summary.get("eval_size"), tables.number(summary.get("train_seconds"))
    found = [
        ("Task", summary.get("task")),
        ("Model", summary.get("model")),
        ("Parameters", summary.get("parameters") and tables.count(summary["parameters"])),
        ("Training step", tables.count(summary["step"]) if "step" in summary else None),
        ("Training time", None if seconds is None else _duration(seconds)),
        ("Evaluated split", summary.get("split")),
        (
            "Evaluated at",
            f"{size} × {size} px" if size and summary.get("task") != "classification" else None,
        ),
        ("Hardware", summary.get("hardware")),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def _duration(seconds: float) -> str:
    """`93784.0` → `26 h 3 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and JSON values, as the command line takes them."""
    found: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found += _settings(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found.append((f"{prefix}{key}", text))
    return found
