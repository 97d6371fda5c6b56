"""Whether a training that was run again gives the scores of the first (docs/experiments.md).

    python docs/again.py FIRST.json AGAIN.json

Both are files of docs/record.py, or the first is what a model card stands on
(wbc_jax/shipped/segmenter.json). For each data set it prints the scores of both on the test split,
and whether the second lies in the first's 95 % interval. The exit status is 1 if one does not.
"""

import json
import pathlib
import sys

from make_cards import MASK_KEYS, TYPE_KEYS


def main(first_file: str, again_file: str) -> int:
    """Prints the table; returns the exit status."""
    try:
        first, again = (json.loads(pathlib.Path(f).read_text()) for f in (first_file, again_file))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}; name two files of docs/record.py.")
    for what in ("task", "model", "eval_size", "flips"):
        if what in first and first[what] != again[what]:
            sys.exit(f"error: {what} differs: {first[what]!r} and {again[what]!r}.")
    if missing := set(first["results"]) - set(again["results"]):
        sys.exit(f"error: {again_file} has no scores of {', '.join(sorted(missing))}.")
    keys = MASK_KEYS if first["task"] == "segmentation" else TYPE_KEYS
    print(f"best step {first['step']}, again {again['step']}")
    outside = 0
    for source, scores in first["results"].items():
        for name, (interval, value) in keys.items():
            low, high = scores["intervals"][interval]
            one, two = value(scores), value(again["results"][source])
            inside = low <= two <= high
            outside += not inside
            print(
                f"{source:28}{name:18}{one:7.3f} [{low:.3f}, {high:.3f}]  again {two:.3f}"
                f"{'' if inside else '  OUTSIDE'}"
            )
    return int(outside > 0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
