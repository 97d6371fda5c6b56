"""Predicts cells, adapts the classifier to types from a CSV file, and predicts again.

    python examples/adapt_from_csv.py IMAGES labels.csv --out=my_lab

labels.csv has the columns file and type (such as monocyte, or one of your own) and, for images of
many cells, cell: its number in my_lab/before/cells.csv. Cells without a line are only predicted.
my_lab then holds before/, model.safetensors with its rule, and after/.
"""

import argparse
import collections

import pyarrow.parquet as pq
from etils import epath

from wbc_jax import adapt, predict
from wbc_jax.labels import CELL_TYPES, REVIEW


def counts(folder: epath.Path) -> collections.Counter:
    rows = pq.read_table(folder / "cells.parquet").to_pylist()
    return collections.Counter(row["type"] for row in rows if row["cell"])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a file, folder or glob")
    parser.add_argument("labels", help="CSV file")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--model", nargs="+", default=["segmenter", "classifier"], help="the classifier is the last"
    )
    given = parser.parse_args(argv)
    out = epath.Path(given.out)
    before, after, model = out / "before", out / "after", out / "model.safetensors"
    models = [f"--model={name}" for name in given.model]
    predict.main([given.images, f"--out={before}", *models])
    adapt.main([str(before), f"--labels={given.labels}", f"--out={model}", *models])
    predict.main([given.images, f"--out={after}", *models[:-1], f"--model={model}"])
    first, second = counts(before), counts(after)
    print(f"\n{'':12}{'before':>8}{'after':>8}")
    own = sorted({*first, *second} - {*CELL_TYPES, REVIEW})
    for name in (*CELL_TYPES, *own, REVIEW):
        print(f"{name:12}{first[name]:8}{second[name]:8}")


if __name__ == "__main__":
    main()
