"""Compares the test scores of a training with those of the same training run again.

    python tools/compare_trainings.py FIRST.json AGAIN.json

Both files are summaries (of `tools/summarize_run.py`, or `wbc_jax/shipped/segmenter.json`). Prints
both scores of each data set and marks a second score outside the 95 % interval of the first; the
exit status is then 1. docs/experiments.md has the results.
"""

import json
import pathlib
import sys

import summaries


def main(first_file: str, again_file: str) -> int:
    """Prints the table; returns the exit status.

    Raises:
        SystemExit: a file cannot be read, or the two are not of the same training.
    """
    try:
        first, again = (json.loads(pathlib.Path(f).read_text()) for f in (first_file, again_file))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}; name two summaries made by tools/summarize_run.py.")
    for key in ("task", "model", "eval_size", "flips"):
        if key in first and first[key] != again[key]:
            sys.exit(f"error: {key} differs: {first[key]!r} and {again[key]!r}.")
    if missing := set(first["results"]) - set(again["results"]):
        sys.exit(f"error: {again_file} has no scores of {', '.join(sorted(missing))}.")
    print(f"best step {first['step']}, again {again['step']}")
    outside = 0
    for dataset, row in first["results"].items():
        for name, (interval, value) in summaries.SCORES[first["task"]].items():
            low, high = summaries.intervals(row)[interval]
            one, two = value(row), value(again["results"][dataset])
            inside = low <= two <= high
            outside += not inside
            print(
                f"{dataset:28}{name:18}{one:7.3f} [{low:.3f}, {high:.3f}]  again {two:.3f}"
                f"{'' if inside else '  OUTSIDE'}"
            )
    return int(outside > 0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
