"""The page a run leaves behind: one HTML file that opens anywhere, without a network.

Everything is in the file: style, figures and images (data URIs). A content security policy in the
page forbids any request and any script but the one that moves the overlays' sliders, which it names
by its hash; without scripts all overlays are shown. So what a reader sees is what was written. Text
from data (ids, names, settings) is escaped by the template engine.
"""

import base64
import collections
import hashlib
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

from wbc_jax.labels import CELL_TYPES, MASK_CLASSES
from wbc_jax.report import figures, tables
from wbc_jax.report.figures import Example
from wbc_jax.utils import atomic

TILE_PX = 192
"""Longer side of the picture of a mistaken type."""
PHOTO_PX, LAYER_PX = 320, 480
"""Longer side of a segmented cell's picture (at most) and of the outlines drawn over it."""


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
        examples: the images shown; of a segmentation sorted by `score`, the lowest first.
        config: the run's settings, nested dicts.

    Raises:
        ValueError: an example's image and masks do not fit each other.
        OSError: the file cannot be written.
    """
    page = render(
        title=title, summary=summary, rows=rows, history=history, examples=examples, config=config
    )
    atomic.write_text(path, page)


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
    environment.globals.update(
        interval=tables.interval, percent=tables.percent, dash=tables.DASH, percent_sign="\u00a0%"
    )
    environment.filters.update(
        decimal=tables.decimal,
        percent=tables.percent,
        count=tables.count,
        p_value=tables.p_value,
        plural=plural,
        breakable=breakable,
    )
    script = environment.loader.get_source(environment, "viewer.js")[0]
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
        curve=both(figures.training_curve, history, task=task) if history else None,
        scatter=both(figures.nc_scatter, rows) if rows and not types else None,
        agreement=both(figures.nc_agreement, rows) if rows and not types else None,
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
        script=markupsafe.Markup(script),
        script_hash=policy_hash(script),
        facts=_facts(summary),
        versions=summary.get("versions") or {},
        config=_settings(config),
    )


_CLASSES = {
    "segmentation": MASK_CLASSES,
    "classification": CELL_TYPES,
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


def policy_hash(script: str) -> str:
    """What a content security policy names an inline script by: SHA-256 of its UTF-8 bytes."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


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
    if not found:
        return ""
    # A line may not break before the sign of per cent.
    return f" (95 % interval {found[1:-1].replace(', ', ' to ')})".replace(" %", "\u00a0%")


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


def _agreement_groups(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The N/C ratio's limits of agreement: of all images, by data set and by cell type."""

    def by(name_of: Callable[[Mapping[str, Any]], str]) -> dict[str, list[Mapping[str, Any]]]:
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            found.setdefault(name_of(row), []).append(row)
        return found

    sets = by(lambda row: str(row.get("dataset") or tables.DASH))
    types = by(lambda row: figures.type_name(row.get("label")))
    types = {n: types[n] for n in (*CELL_TYPES, "unknown") if n in types}
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
    """The reliability diagram of the types, or of all pixels where they were counted."""
    if summary.get("task") == "classification":
        return both(figures.reliability, rows) if rows else None
    found = summary.get("calibration") or {}
    whole = found.get(tables.ALL) or next(iter(found.values()), None)
    return both(figures.pixel_reliability, whole) if whole else None


def _calibration_errors(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Data set, expected calibration error and its interval."""
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
    """Of how many images the pixels were counted."""
    found = summary.get("calibration") or {}
    return sum(found[name].get("images") or 0 for name in found if name != tables.ALL)


def _flags(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Flags of the images and how often each occurs, the most frequent first."""
    return collections.Counter(str(row["flag"]) for row in rows if row.get("flag")).most_common()


def breakable(name: str) -> markupsafe.Markup:
    """A name that a line may break after a slash, where a reader would."""
    return markupsafe.Markup("/<wbr>").join(name.split("/"))


def uri(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


def both(draw, data, **options) -> dict[str, str]:
    """A figure for light and for dark pages, as data URIs."""
    return {
        "light": uri(figures.png(draw(data, **options))),
        "dark": uri(figures.png(draw(data, dark=True, **options))),
    }


def _tile(image: np.ndarray) -> str:
    """An image `TILE_PX` large, as a data URI."""
    size = _scaled(image, TILE_PX)
    shrinks = size[0] < image.shape[1]
    tile = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    # A palette of 256 colours is a third of the size and, on one stained cell, hard to see.
    picture = Image.fromarray(tile).quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return uri(buffer.getvalue())


def _overlays(
    examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The examples that have a mask, the worst first and those without a score last."""
    found = {(row.get("dataset"), row.get("id")): row for row in rows}
    scores = [s for row in rows if (s := tables.number(row.get("mean_iou"))) is not None]
    order = sorted(examples, key=lambda e: (tables.number(e.score) is None, e.score, e.id))
    shown = []
    for example in order:
        kind = figures.type_name(example.label)
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
    """`3 of 62 from the worst`, the images with a lower score counted."""
    if tables.number(score) is None:
        return ""
    return f"{1 + sum(other < score for other in scores)} of {len(scores)} from the worst"


def _mask_facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of one image's mask, as names and values."""
    truth, found = (tables.number(row.get(key)) for key in ("truth_nc_ratio", "nc_ratio"))
    facts = [
        ("Mean IoU", tables.decimal(row.get("mean_iou"))),
        ("IoU of the cytoplasm", tables.decimal(row.get("iou_cytoplasm"))),
        ("IoU of the nucleus", tables.decimal(row.get("iou_nucleus"))),
        ("BF score", tables.decimal(row.get("bf_score"))),
        ("True N/C", tables.decimal(truth)),
        ("Predicted N/C", tables.decimal(found)),
    ]
    if truth and found and math.isfinite(truth) and math.isfinite(found):
        facts.append(("Difference", tables.signed_percent(found / truth - 1)))
    return facts + [("Flag", str(row["flag"]))] * bool(row.get("flag"))


def _layers(example: Example) -> tuple[tuple[int, int], dict[str, str]]:
    """Width and height of an example in the viewer, and its pictures as data URIs."""
    masks = {"truth": example.truth, "predicted": example.prediction}
    for mask in masks.values():
        if mask is not None and mask.shape != example.image.shape[:2]:
            raise ValueError(
                f"{example.dataset} {example.id}: mask {list(mask.shape)} does not fit its image "
                f"{list(example.image.shape)}"
            )
    known = {name: mask for name, mask in masks.items() if mask is not None}
    size = _scaled(example.image, LAYER_PX)
    sharp = {
        name: cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        for name, mask in known.items()
    }
    small = _scaled(example.image, min(PHOTO_PX, max(example.image.shape[:2])))
    photo = Image.fromarray(cv2.resize(example.image, small, interpolation=cv2.INTER_AREA))
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=88)
    pictures = {"truth": "", "predicted": "", "errors": ""}
    pictures |= {name: uri(figures.outline_layer(mask, 3)) for name, mask in sharp.items()}
    if len(known) == 2:
        pictures["errors"] = uri(figures.error_layer(sharp["truth"], sharp["predicted"]))
    return size, {"image": uri(buffer.getvalue(), "jpeg"), **pictures}


def _scaled(image: np.ndarray, longest: int) -> tuple[int, int]:
    """Width and height at which the longer side has this many pixels."""
    scale = longest / max(image.shape[:2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))


def _mistake(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "dataset": example.dataset,
        "type": figures.type_name(example.label),
        "predicted": figures.type_name(example.predicted),
        "wrong": example.label != example.predicted,
        "score": example.score,
        "uri": _tile(example.image),
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
