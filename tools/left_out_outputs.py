"""Writes the outputs of a classifier for the sources that it was trained on and those left out.

    python tools/left_out_outputs.py RUN --out=FOLDER

RUN is the `--workdir` of a training with `--config.data.protocol=independent`. Each data set of
`data.independent` gets a file, which `benchmarks/left_out.py` and `python -m wbc_jax.abstain
--left_out=FOLDER` read (`wbc_jax/inference/left_out.py`). That protocol has no test split of the
other sources: every second cell of their validation split, which has chosen the checkpoint, is
written as `test`. Networks that `wbc_jax.adapt` can adapt also get their `features`. Cells of no
type are PBC's erythroblasts, immature granulocytes and platelets, and ALL-IDB2's blasts, as far as
they are there.
"""

import argparse
import io
import pathlib

import jax
import numpy as np
from etils import epath

from wbc_jax import models
from wbc_jax.data import images, pipeline, sources
from wbc_jax.errors import DataError
from wbc_jax.evaluate import abstention as evaluation
from wbc_jax.inference import abstention_fitting, cell_masks
from wbc_jax.inference import model as inference
from wbc_jax.inference.abstention import Outputs
from wbc_jax.training import steps
from wbc_jax.utils import atomic

_BATCH = 32


def outputs_of(model: inference.Model, examples: pipeline.Examples) -> Outputs:
    """Returns a classifier's outputs for examples that are cut to their cell; embeddings are
    followed by features, if the network has them."""
    has = models.adapts(model.config.model.name)
    flips = model.config.evaluate.flips
    call = jax.jit(steps.make_logits(model.network, flips, embedding=True, features=has))
    logits, embeddings = [], []
    for batch in pipeline.eval_batches(examples, _BATCH):
        kept = batch["index"] >= 0
        found = call(model.weights, batch["image"])
        for into, array in zip((logits, embeddings), found):
            into.append(np.asarray(array)[kept])
    return Outputs(np.concatenate(logits), np.concatenate(embeddings))


def foreign(model: inference.Model) -> tuple[Outputs | None, list[str]]:
    """Returns the outputs for cells of no type, and the source of each."""
    data = abstention_fitting.data_settings(model, None)
    found, names = [], []
    try:
        kinds = evaluation.other_paths(sources.manual_dir(data) or "")
    except DataError as error:
        print(f"without PBC's: {error}")
    else:
        found += [images.read_image(path) for paths in kinds.values() for path in paths]
        names += ["pbc, other"] * len(found)
    try:
        all_idb = sources.load("all_idb/white_cells", data)
    except DataError as error:
        print(f"without ALL-IDB2: {error}")
    else:
        blasts = [i for i, kind in enumerate(all_idb.subtypes) if kind == "blast"]
        found += [all_idb.image(i) for i in blasts]
        names += ["all_idb, blasts"] * len(blasts)
    if models.adapts(model.config.model.name):
        model = model.with_features()
    outputs = abstention_fitting.outputs_of(model, found, len(found)) if found else None
    return outputs, names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the training's --workdir")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    model = inference.load(args.run)
    config = model.config
    if config.data.protocol != "independent" or not model.embedding_size:
        raise SystemExit(
            f"error: {args.run} was trained with data.protocol={config.data.protocol!r} and the "
            f"network {config.model.name!r}: allowed are 'independent' and a network with an "
            "embedding."
        )
    masks = cell_masks.prepare(config.data)
    splits = pipeline.load_splits(config.data, config.evaluate.size, config.task, masks)
    parts = []
    for split in ("train", "validation", "test"):
        print(f"{split}: {len(splits[split])} cells", flush=True)
        outputs = outputs_of(model, splits[split])
        parts.append((outputs, splits[split].labels, splits[split].datasets, split))
    others, names = foreign(model)
    if others is not None:
        parts.append((others, np.full(len(names), -1), names, "test"))
    wide, size = np.concatenate([p[0].embeddings for p in parts]), model.embedding_size
    arrays = {
        "embedding": wide[:, :size],
        **({"features": wide[:, size:]} if wide.shape[1] > size else {}),
        "logits": np.concatenate([p[0].logits for p in parts]),
        "label": np.concatenate([p[1] for p in parts]),
        "source": np.concatenate([np.asarray(p[2], str) for p in parts]),
        "split": np.concatenate([np.full(len(p[1]), p[3]) for p in parts]),
    }
    validation = np.flatnonzero(arrays["split"] == "validation")
    arrays["split"][validation[1::2]] = "test"
    args.out.mkdir(parents=True, exist_ok=True)
    for name in config.data.independent:
        rest = set(config.data.independent) - {name}
        kept = ~np.isin(arrays["source"], sorted(rest))
        out = io.BytesIO()
        np.savez_compressed(out, left_out=name, **{k: v[kept] for k, v in arrays.items()})
        path = epath.Path(args.out / f"{name.replace('/', '_')}.npz")
        atomic.write_bytes(path, out.getvalue())
        print(f"{path}: {kept.sum()} cells")


if __name__ == "__main__":
    main()
