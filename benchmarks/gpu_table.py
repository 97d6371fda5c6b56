"""Puts the results of `gpu.sh` together: `results.json` and `table.md`.

python benchmarks/gpu_table.py DIR
python benchmarks/gpu_table.py --describe DIR [--tiny]
python benchmarks/gpu_table.py --check

With `--describe` it writes `environment.json`, and fails without a GPU unless `--tiny` is given.
Parts that failed, or did not start, are named in both files. With `--check` it fails if a library
is missing that one of the parts imports. Without `--describe` it imports nothing but the standard
library.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

LIBRARIES = ("wbc_jax", "jax", "flax", "numpy", "scipy", "torch", "monai", "torchmetrics")
"""What the parts import."""


def missing(names: Iterable[str]) -> list[str]:
    """Returns those of some modules that this interpreter lacks; imports none of them."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def check() -> None:
    """Exits with a message if a library is missing."""
    if absent := missing(LIBRARIES):
        raise SystemExit(
            f"error: {sys.executable} lacks {', '.join(absent)}; benchmarks/gpu.sh needs "
            f"{', '.join(LIBRARIES)}. Install them there: pip install -e '.[bench,cuda13]', or let "
            "PYTHON name another interpreter. Nothing was started."
        )


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns how each part of a folder ended, and its results; None without any."""
    found: dict[str, Any] = {"parts": {}}
    listed = folder / "parts.tsv"
    for line in listed.read_text().splitlines() if listed.exists() else ():
        name, status, seconds = line.split("\t")
        path = folder / f"{name}.json"
        try:
            result = json.loads(path.read_text())
        except (OSError, ValueError):
            result = None
        found["parts"][name] = {"status": status, "seconds": int(seconds), "result": result}
    return found


def table(found: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    parts = found["parts"]
    about = (parts.get("environment") or {}).get("result") or {}
    lines = [f"Device: {about.get('device', 'not known')}"]
    if about.get("tiny"):
        lines.append("Tiny sizes: the times say nothing.")
    lines += ["", "| part | end | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {one['status']} | {one['seconds']} |" for name, one in parts.items()]
    for title, make in (
        ("Training step beside PyTorch", lambda: _compared(parts, "train-")),
        ("Prediction beside PyTorch", lambda: _compared(parts, "predict-")),
        ("Batch sizes", lambda: _sizes(parts)),
        ("Metrics", lambda: _metrics(parts)),
    ):
        rows = list(make())
        if len(rows) > 1:
            rule = "|" + "---|" * len(rows[0])
            texts = ["| " + " | ".join(row) + " |" for row in rows]
            lines += ["", f"**{title}**", "", texts[0], rule, *texts[1:]]
    job = parts.get("job")
    if job and job["status"] == "done":
        lines += ["", f"Main job (`configs/unet.py`), end to end: {job['seconds']} s"]
    return "\n".join(lines) + "\n"


def _results(parts: dict[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    for name, part in parts.items():
        if name.startswith(prefix) and part["result"]:
            yield from part["result"].get("rows", ())


def _compared(parts: dict[str, Any], prefix: str) -> Iterator[tuple[str, ...]]:
    yield "case", "ours", "PyTorch", "compiled PyTorch", "ratio to the faster", "of the peak"
    for row in _results(parts, prefix):
        seconds = row["seconds"]
        times = (seconds.get(name) for name in ("ours", "PyTorch", "PyTorch compiled"))
        yield row["case"], *map(_ms, times), f"{row['ratio']:.2f}", _percent(row.get("mfu"))


def _sizes(parts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "", "step", "images/s", "of the peak", "device busy", "longest pause"
    for row in _results(parts, "step"):
        if "error" in row:
            yield f"{row['mode']}, {row['batch']}", row["error"][:60], "", "", "", ""
            continue
        seen = row["trace"]
        yield (
            f"{row['mode']}, {row['case']}",
            _ms(row["seconds"]),
            f"{row['images_a_second']:.0f}",
            _percent(row["mfu"]),
            _percent(seen["busy_share"]),
            f"{seen['longest_pause_us']:.0f} µs",
        )


def _metrics(parts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "metric", "reference", "ours", "reference", "times as fast"
    for row in _results(parts, "metrics"):
        times = (f"{row['ours_ms']:.1f} ms", f"{row['reference_ms']:.1f} ms")
        yield row["metric"], row["reference"], *times, f"{row['ratio']:.1f}"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:.2f} ms"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def describe(folder: pathlib.Path, tiny: bool) -> None:
    """Writes `environment.json`; fails without a GPU unless `tiny`."""
    import jax

    import cases

    backend, kind = jax.default_backend(), jax.devices()[0].device_kind
    if backend != "gpu" and not tiny:
        raise SystemExit(f"error: JAX finds no GPU, but {backend} ({kind})")
    about = {"device": kind, "backend": backend, "tiny": tiny, **cases.hardware()}
    (folder / "environment.json").write_text(json.dumps(about, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, nargs="?")
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        check()
        return
    if options.folder is None:
        parser.error("DIR is missing")
    if options.describe:
        describe(options.folder, options.tiny)
        return
    found = read(options.folder)
    (options.folder / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    text = table(found)
    (options.folder / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
