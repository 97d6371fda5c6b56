"""The report of a run: `report/` with metrics, one row for each image, and the page."""

import math
from typing import Any

import numpy as np
from etils import epath

from wbc_jax.config import Config, flatten
from wbc_jax.data import pipeline
from wbc_jax.data.resize import resize_image
from wbc_jax.evaluate import TASKS
from wbc_jax.evaluate.scoring import Predict, Scores
from wbc_jax.report import run_page, tables
from wbc_jax.training import metric_writer
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder

FILES = METRICS, PER_IMAGE, EXTERNAL, PAGE = tuple(
    f"report/{name}" for name in ("metrics.json", "per_image.csv", "external.csv", "index.html")
)
"""Names of the report's files in the run's folder."""
SHOWN_MASKS, SHOWN_WORST = 48, 16
SHOWN_MISTAKES, SHOWN_UNSURE = 40, 10


def write(
    config: Config, workdir: epath.Path, scores: Scores, test: pipeline.Examples, predict: Predict
) -> None:
    """Writes `<workdir>/report` and prints its tables.

    Args:
        config: of the data and the scoring.
        workdir: the run's folder.
        scores: from `evaluate.scoring.score`.
        test: the test split.
        predict: images to masks, for the examples shown.
    """
    task, folder = TASKS[config.task], OutputFolder(workdir, "--workdir")
    folder.write_json(METRICS, scores.summary)
    folder.write_csv(PER_IMAGE, scores.rows, task.ROW_COLUMNS)
    folder.write_csv(EXTERNAL, scores.external_rows, task.ROW_COLUMNS)
    run_page.write(
        folder,
        PAGE,
        title=f"{config.model.name} on {', '.join(config.data.datasets)}",
        summary=atomic.finite(scores.summary),
        rows=scores.rows,
        history=metric_writer.read(workdir),
        examples=_shown(config, scores.rows, test, predict),
        config=flatten(config),
    )
    print(f"\n{tables.text(scores.summary)}")
    print(f"\nReport: {workdir / PAGE}", flush=True)


def _shown(
    config: Config,
    rows: list[dict[str, Any]],
    test: pipeline.Examples,
    predict: Predict,
) -> list[run_page.Example]:
    """Test images for the report: masks, the worst (and some of each better), or types."""
    if config.task == "classification":
        return _mistakes(config, rows, test)
    side, size = config.data.image_size, config.evaluate.size
    examples = test.resized(size, size)

    def error(i: int) -> tuple[bool, float, str]:
        # Whole cells, of which only the cell is scored, come last.
        whole = math.isnan(rows[i]["mean_iou"])
        return whole, rows[i]["iou_cell" if whole else "mean_iou"], rows[i]["id"]

    order = sorted(range(len(rows)), key=error)
    if most := config.evaluate.worst:
        of = {name: [i for i in order if rows[i]["dataset"] == name] for name in test.datasets}
        places = {i for found in of.values() for i in found[:most]}
        chosen = [i for i in order if i in places]
    else:
        chosen = [order[place] for place in spread_places(len(order))]
    shown = []
    for i in chosen:
        example = examples[i]
        small = resize_image(example["image"], side, side)
        shown.append(
            run_page.Example(
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
    config: Config, rows: list[dict[str, Any]], test: pipeline.Examples
) -> list[run_page.Example]:
    """The test images whose type was missed with the most confidence, then the least sure hits."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["probability"], rows[i]["id"]))
    missed = [i for i in reversed(order) if not rows[i]["right"]][:SHOWN_MISTAKES]
    unsure = [i for i in order if rows[i]["right"]][:SHOWN_UNSURE]
    examples = test.resized(config.evaluate.size, 0)
    return [
        run_page.Example(
            dataset=rows[i]["dataset"],
            id=rows[i]["id"],
            label=rows[i]["label"],
            image=examples[i]["image"],
            score=rows[i]["probability"],
            predicted=rows[i]["predicted"],
        )
        for i in missed + unsure
    ]
