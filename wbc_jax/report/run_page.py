"""The page of a run, `report/index.html`: its results, charts, overlays or mistakes, and settings.

It is one offline HTML file (see `html`). Its only script moves the overlays' sliders; without
scripts all overlays are shown.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.labels import (
    ALL,
    CELL_COLOR,
    CELL_TYPES,
    MASK_CLASSES,
    NUCLEUS_COLOR,
    UNKNOWN_TYPE,
    type_name,
)
from wbc_jax.report import figures, html, nc_figures, overlays, tables
from wbc_jax.utils.output_folder import OutputFolder
from wbc_jax.utils.progress import duration

TILE_PX = 192
"""Longer side of the picture of a mistaken type."""
PHOTO_PX, LAYER_PX = 320, 480
"""Longer side of a segmented cell's picture (at most) and of the outlines drawn over it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """An image of the evaluated split, shown on the page."""

    dataset: str
    """Name of its data set."""
    id: str
    """Its id, unique in the data set."""
    label: int
    """Index in `labels.CELL_TYPES`; -1 unknown."""
    image: np.ndarray
    """uint8 `[S, S, 3]`."""
    score: float
    """Mean IoU of the image, NaN where there is no truth; or the predicted type's probability."""
    truth: np.ndarray | None = None
    """uint8 `[S, S]`, 0 background, 1 cytoplasm, 2 nucleus, 255 ignore; None: not known."""
    prediction: np.ndarray | None = None
    """uint8 `[S, S]`, as `truth`; None: the model gives a type, no mask."""
    predicted: int | None = None
    """The type that the model gives, as `label`; None: it gives a mask."""


def write(
    folder: OutputFolder,
    name: str,
    *,
    title: str,
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    history: list[dict[str, Any]],
    examples: list[Example],
    config: dict[str, Any],
) -> None:
    """Writes the report of a run as one HTML file, whole or not at all.

    Args:
        folder: the run's folder.
        name: of the page's file.
        title: the page's heading, such as the run's name.
        summary: content of `report/metrics.json`; missing keys and None are shown as dashes or
            left out.
        rows: one dict an image, as in `report/per_image.csv`.
        history: lines of `metrics.jsonl`.
        examples: the images shown; a segmentation's are shown by `score`, the lowest first.
        config: the run's settings, nested dicts.

    Raises:
        ValueError: an example's image and masks do not fit each other.
        OSError: the file cannot be written.
    """
    page = render(
        title=title, summary=summary, rows=rows, history=history, examples=examples, config=config
    )
    folder.write_text(name, page)


def render(
    *,
    title: str,
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    history: list[dict[str, Any]],
    examples: list[Example],
    config: dict[str, Any],
) -> str:
    """Returns the page; arguments and errors as in `write`."""
    environment = html.make_environment()
    environment.globals.update(
        interval=tables.interval, percent=tables.percent, dash=tables.DASH, percent_sign="\u00a0%"
    )
    task = summary.get("task") or "segmentation"
    view, types = tables.VIEWS[task], task == "classification"
    results = summary.get("results") or {}
    external = summary.get("external") or {}
    baseline = summary.get("baseline") or {}
    split = summary.get("split") or "evaluated"
    name = summary.get("baseline_name") or "Otsu colour threshold"
    groups = [
        (f"Data sets of the run, {split} images", tables.result_rows(results, task)),
        ("Data sets the model never trained on", tables.result_rows(external, task)),
        (f"Baseline without training: {name}", tables.result_rows(baseline, task)),
    ]
    type_groups = _type_groups(results, external, task)
    columns = tables.shown(view.columns, [row for _, found in groups for row in found])
    type_columns = tables.shown(
        view.type_columns, [row for _, found in type_groups for row in found]
    )
    whole_cells = tables.WHOLE_CELLS_EXPLAINED if "iou_cell" in {c.key for c in columns} else ""
    return environment.get_template("report.html.j2").render(
        title=title,
        task=task,
        model=summary.get("model") or "",
        lead=_LEADS[task](results, baseline, str(summary.get("model") or "the model"), str(split)),
        groups=[(name, _distinct(found)) for name, found in groups if found],
        skipped=summary.get("skipped") or {},
        type_groups=type_groups,
        columns=columns,
        column_groups=_column_groups(columns),
        type_columns=type_columns,
        type_column_groups=_column_groups(type_columns),
        explained=_EXPLAINED[task] + whole_cells,
        confusions=_confusions(results, external, task),
        classes=_CLASSES[task],
        curve=html.chart(figures.training_curve, history, task=task) if history else None,
        scatter=html.chart(nc_figures.nc_scatter, rows) if rows and not types else None,
        agreement=html.chart(nc_figures.nc_agreement, rows) if rows and not types else None,
        agreement_groups=[] if types else _agreement_groups(rows),
        agreement_columns=tables.AGREEMENT_COLUMNS,
        agreement_column_groups=_column_groups(tables.AGREEMENT_COLUMNS),
        calibration=_calibration(summary, rows),
        calibration_errors=_calibration_errors(summary),
        calibration_images=_calibration_images(summary),
        rows=len(rows),
        missed=sum(not row["right"] for row in rows) if types else 0,
        nc=[] if types else tables.result_rows(results)[-1:],
        flags=_flags(rows),
        mistakes=[_mistake(example) for example in examples] if types else [],
        overlays=[] if types else _overlays(examples, rows),
        colors=html.css_colors(
            cell=CELL_COLOR,
            nucleus=NUCLEUS_COLOR,
            error=overlays.ERROR_COLOR,
        ),
        **html.script(environment, "viewer.js"),
        facts=_facts(summary),
        versions=summary.get("versions") or {},
        config=_settings(config),
    )


_CLASSES = {
    "segmentation": MASK_CLASSES,
    "classification": CELL_TYPES,
}
_EXPLAINED = {
    "segmentation": tables.MASKS_EXPLAINED,
    "classification": "Accuracy: share of the cells whose type is right. One-vs-rest and balanced "
    "accuracy also count the true negatives of each type, so they are higher. A type that is never "
    "predicted has a precision of 0 in the mean.",
}


def _lead(
    results: Mapping[str, Any], baseline: Mapping[str, Any], model: str, split: str
) -> list[str]:
    """Returns the headline of a segmentation, up to three sentences."""
    if not results:
        return [_NOTHING]
    row = tables.result_rows(results)[-1]
    sets = [name for name in results if name != ALL]
    of, key = ("mean IoU", "mean_iou")
    if row["mean_iou"] is None and row["cell_only_images"]:
        of, key = ("IoU of the whole cell", "iou_cell")
    lead = [
        f"{_scope(row, sets, split)}, {model} reaches {'an' if key == 'iou_cell' else 'a'} {of} of "
        f"{tables.decimal(row[key])}{_within(row, key)}."
    ]
    if row["nc_error"] is not None:
        lead.append(
            f"Its N/C ratio is off by {tables.percent(row['nc_error'])} in the median"
            f"{_within(row, 'nc_error', tables.percent)}."
        )
    below = tables.result_rows(baseline)[-1:]
    # Both scores must be over the same images: of all data sets, or of the only one.
    if below and below[0][key] is not None and below[0]["dataset"] in (row["dataset"], *sets[:1]):
        lead.append(
            "A colour threshold without training reaches "
            f"{tables.decimal(below[0][key])} on the same images."
        )
    return lead


def _type_lead(
    results: Mapping[str, Any], baseline: Mapping[str, Any], model: str, split: str
) -> list[str]:
    """Returns the headline of a classification, up to two sentences."""
    if not results:
        return [_NOTHING]
    row = tables.result_rows(results, "classification")[-1]
    sets = [name for name in results if name != ALL]
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
    number = row["images"]
    amount = html.plural(number, f"{split} image") if number else f"the {split} images"
    return f"On {amount} of {where}"


def _within(row: Mapping[str, Any], key: str, form: Callable[[Any], str] = tables.decimal) -> str:
    found = tables.interval(row[f"{key}_low"], row[f"{key}_high"], form)
    if not found:
        return ""
    # A no-break space keeps the percent sign on the line of its number.
    return f" (95 % interval {found[1:-1].replace(', ', ' to ')})".replace(" %", "\u00a0%")


def _column_groups(columns: Sequence[tables.Column]) -> list[tuple[str, int]]:
    """Returns the upper headings and the number of columns below each."""
    found: list[tuple[str, int]] = []
    for column in columns:
        if found and found[-1][0] == column.group:
            found[-1] = (column.group, found[-1][1] + 1)
        else:
            found.append((column.group, 1))
    return found


def _distinct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drops the row `all` where it would only repeat the only data set."""
    repeats = len(rows) == 2 and rows[-1]["dataset"] == ALL
    return rows[:1] if repeats else rows


def _sets(results: Mapping[str, Any]) -> list[str]:
    """Names the data sets that get a table: `all` first, unless there is only one data set."""
    names = [name for name in results if name != ALL]
    return [ALL, *names] if ALL in results and len(names) != 1 else names


def _type_groups(
    results: Mapping[str, Any], external: Mapping[str, Any], task: str
) -> list[tuple[str, list[dict[str, Any]]]]:
    found = [(_called(name), tables.type_rows(results, name, task)) for name in _sets(results)]
    found += [
        (f"{name} (never trained on)", tables.type_rows(external, name, task)) for name in external
    ]
    return [(name, rows) for name, rows in found if rows]


def _called(name: str) -> str:
    return "All data sets" if name == ALL else name


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
        fractions = tables.row_fractions(counts)
        cells = [[(tables.number(f), c) for f, c in zip(*pair)] for pair in zip(fractions, counts)]
        found.append({"name": name, "rows": list(zip(_CLASSES[task], cells))})
    return found


def _agreement_groups(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Returns the N/C ratio's limits of agreement: all images, by data set and by cell type."""

    def by(name_of: Callable[[Mapping[str, Any]], str]) -> dict[str, list[Mapping[str, Any]]]:
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            found.setdefault(name_of(row), []).append(row)
        return found

    sets = by(lambda row: str(row.get("dataset") or tables.DASH))
    types = by(lambda row: type_name(row.get("label")))
    types = {n: types[n] for n in (*CELL_TYPES, UNKNOWN_TYPE) if n in types}
    groups = [("By data set", sets if len(sets) > 1 else {}), ("By cell type", types)]
    found = [("", [{"name": "all images", **tables.agreement_row(rows)}])] if rows else []
    found += [
        (title, [{"name": name, **tables.agreement_row(part)} for name, part in parts.items()])
        for title, parts in groups
    ]
    return [(title, lines) for title, lines in found if lines]


def _calibration(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, str] | None:
    """Draws the reliability diagram of the types, or of the pixels where they were counted."""
    if summary.get("task") == "classification":
        return html.chart(figures.reliability, rows) if rows else None
    found = summary.get("calibration") or {}
    whole = found.get(ALL) or next(iter(found.values()), None)
    return html.chart(figures.pixel_reliability, whole) if whole else None


def _calibration_errors(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns each data set's name, expected calibration error and its interval."""
    if summary.get("task") == "classification":
        return []
    found = summary.get("calibration") or {}
    return [
        (
            _called(name),
            tables.percent(found[name].get("expected_calibration_error"), 2),
            tables.interval(
                *(found[name].get("interval") or (None, None)), lambda x: tables.percent(x, 2)
            ),
        )
        for name in _sets(found)
    ]


def _calibration_images(summary: Mapping[str, Any]) -> int:
    """Returns the number of images whose pixels were counted."""
    found = summary.get("calibration") or {}
    return sum(found[name].get("images") or 0 for name in found if name != ALL)


def _flags(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Counts the images' flags, the most frequent first."""
    return collections.Counter(str(row["flag"]) for row in rows if row.get("flag")).most_common()


def _overlays(
    examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns what the viewer shows, the lowest score first, images without a score last."""
    found = {(row.get("dataset"), row.get("id")): row for row in rows}
    scores = [s for row in rows if (s := tables.number(row.get("mean_iou"))) is not None]
    # Those without a score keep their order.
    order = sorted(
        examples, key=lambda e: (1,) if tables.number(e.score) is None else (0, e.score, e.id)
    )
    shown = []
    for example in order:
        kind = type_name(example.label)
        name = f"{kind} {example.id}"
        row = found.get((example.dataset, example.id), {})
        size, layers = _layers(example)
        shown.append(
            {
                "id": example.id,
                "dataset": example.dataset,
                "type": kind,
                "name": name,
                "score": example.score,
                "place": _place(example.score, scores) if row else "",
                "alt": f"{name} with the predicted outlines of cell and nucleus"
                if example.truth is None
                else f"{name} with the true and the predicted outlines of cell and nucleus",
                "width": size[0],
                "height": size[1],
                "facts": _mask_facts(row) if row else [],
                **layers,
            }
        )
    return shown


def _place(score: float, scores: Sequence[float]) -> str:
    """Returns `3 of 62 from the worst`: one more than the images with a lower score."""
    if tables.number(score) is None:
        return ""
    return f"{1 + sum(other < score for other in scores)} of {len(scores)} from the worst"


def _mask_facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the scores of an image's mask as names and values."""
    truth, found = (tables.number(row.get(key)) for key in ("truth_nc_ratio", "nc_ratio"))
    mean, cell = (tables.number(row.get(key)) for key in ("mean_iou", "iou_cell"))
    if mean is None and cell is not None:  # the truth is a whole cell alone
        facts = [
            ("IoU of the cell", tables.decimal(row.get("iou_cell"))),
            ("Dice of the cell", tables.decimal(row.get("dice_cell"))),
            ("Predicted N/C", tables.decimal(found)),
        ]
        return facts + [("Flag", str(row["flag"]))] * bool(row.get("flag"))
    facts = [
        ("Mean IoU", tables.decimal(row.get("mean_iou"))),
        ("IoU of the cytoplasm", tables.decimal(row.get("iou_cytoplasm"))),
        ("IoU of the nucleus", tables.decimal(row.get("iou_nucleus"))),
        ("BF score", tables.decimal(row.get("bf_score_absent_as_zero"))),
        ("MATLAB's BF score", tables.decimal(row.get("bf_score"))),
        ("True N/C", tables.decimal(truth)),
        ("Predicted N/C", tables.decimal(found)),
    ]
    if truth and found and math.isfinite(truth) and math.isfinite(found):
        facts.append(("Difference", tables.signed_percent(found / truth - 1)))
    return facts + [("Flag", str(row["flag"]))] * bool(row.get("flag"))


def _layers(example: Example) -> tuple[tuple[int, int], dict[str, str]]:
    """Returns an example's width and height in the viewer, and its pictures as data URIs."""
    masks = {"truth": example.truth, "predicted": example.prediction}
    for mask in masks.values():
        if mask is not None and mask.shape != example.image.shape[:2]:
            raise ValueError(
                f"{example.dataset} {example.id}: mask {list(mask.shape)} does not fit its image "
                f"{list(example.image.shape)}"
            )
    sharp = {
        name: overlays.resize_mask(mask, LAYER_PX)
        for name, mask in masks.items()
        if mask is not None
    }
    photo = overlays.resize(example.image, min(PHOTO_PX, max(example.image.shape[:2])))
    pictures = {"truth": "", "predicted": "", "errors": ""}
    pictures |= {name: html.uri(overlays.outline_layer(mask, 3)) for name, mask in sharp.items()}
    if len(sharp) == 2:
        pictures["errors"] = html.uri(overlays.error_layer(sharp["truth"], sharp["predicted"]))
    pictures["image"] = html.uri(overlays.jpeg(photo, quality=88), "jpeg")
    return overlays.scaled_size(example.image, LAYER_PX), pictures


def _mistake(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "dataset": example.dataset,
        "type": type_name(example.label),
        "predicted": type_name(example.predicted),
        "wrong": example.label != example.predicted,
        "score": example.score,
        "uri": html.uri(overlays.palette_png(overlays.resize(example.image, TILE_PX))),
    }


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the known facts of the model and its training as names and values."""
    size, seconds = summary.get("eval_size"), tables.number(summary.get("train_seconds"))
    found = [
        ("Task", summary.get("task")),
        ("Model", summary.get("model")),
        ("Parameters", summary.get("parameters") and tables.count(summary["parameters"])),
        ("Training step", tables.count(summary["step"]) if "step" in summary else None),
        ("Training time", None if seconds is None else duration(seconds)),
        ("Evaluated split", summary.get("split")),
        (
            "Evaluated at",
            f"{size} × {size} px" if size and summary.get("task") != "classification" else None,
        ),
        ("Hardware", summary.get("hardware")),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def _settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flattens settings to dotted names and JSON values, as the command line takes them."""
    found: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found += _settings(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found.append((f"{prefix}{key}", text))
    return found
