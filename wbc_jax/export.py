"""A run's model as one file: `python -m wbc_jax.export RUN --out=FILE`.

The suffix chooses the form. `.safetensors` holds the weights, for `wbc_jax.load` anywhere.
`.stablehlo` holds the whole function from the pixels of an image of one cell to its mask or type.
With `--network_only`, `.stablehlo` and `.onnx` hold the network alone; the command prints what must
be done before and after it. `FILE.json` has the same for programs.
"""

import argparse
from collections.abc import Sequence

from etils import epath

from wbc_jax import cli
from wbc_jax.errors import ExportError

WEIGHTS, STABLEHLO, ONNX = ".safetensors", ".stablehlo", ".onnx"


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m wbc_jax.export", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", help="a run's --workdir, or weights")
    parser.add_argument(
        "--out", required=True, help=f"file to write: {WEIGHTS}, {STABLEHLO} or {ONNX}"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help=f"type of the weights in a {WEIGHTS} file",
    )
    cli.add_switch(
        parser,
        "network_only",
        False,
        f"leave out what comes before and after the network; needed for {ONNX}",
    )
    options = parser.parse_args(argv)
    out = epath.Path(options.out).expanduser()
    if out.suffix not in (WEIGHTS, STABLEHLO, ONNX):
        parser.error(f"--out={options.out} must end in {WEIGHTS}, {STABLEHLO} or {ONNX}")
    if out.suffix == WEIGHTS and options.network_only:
        parser.error(f"--network_only is for {STABLEHLO} and {ONNX}; leave it out")
    with cli.reported_errors():
        lines = _write(options.run, out, options.dtype, options.network_only)
        print(f"{options.out}: {out.stat().length / 2**20:.2f} MiB", *lines, sep="\n", flush=True)


def _write(run: str, out: epath.Path, dtype: str, network_only: bool) -> list[str]:
    """Writes the file, and returns what to say about it."""
    if out.suffix == ONNX and not network_only:
        raise ExportError(
            f"{ONNX} can hold the network alone, not what comes before it (resizing, and for some "
            f"classifiers cutting the image to its cell). Add --network_only to get it with notes "
            f"on the rest, or name a {STABLEHLO} file, which holds the whole function."
        )
    from wbc_jax import provenance
    from wbc_jax.inference import export_notes, exporting
    from wbc_jax.inference import model as inference
    from wbc_jax.utils import atomic

    export_notes.check_free(out)
    atomic.check_writable(out.parent)
    if out.suffix == WEIGHTS:
        provenance.write_weights(run, out, dtype)
        return []
    model = inference.load(run)
    notes = export_notes.describe(run, model, network_only)
    if out.suffix == ONNX:
        data = exporting.onnx(model, notes)
    else:
        data = exporting.stablehlo(model, network_only, notes)
    export_notes.write(out, data, notes)
    return export_notes.sentences(notes)


if __name__ == "__main__":
    main()
