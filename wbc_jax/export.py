"""A run's model as one file: `python -m wbc_jax.export RUN --out=FILE`.

The suffix chooses the form: `.safetensors` holds the weights, for `wbc_jax.load` anywhere;
`.stablehlo` and `.onnx` hold the whole computation (`wbc_jax.inference.exporting`).
"""

import argparse
from collections.abc import Sequence

from etils import epath

from wbc_jax import cli

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
    options = parser.parse_args(argv)
    out = epath.Path(options.out).expanduser()
    if out.suffix not in (WEIGHTS, STABLEHLO, ONNX):
        parser.error(f"--out={options.out} must end in {WEIGHTS}, {STABLEHLO} or {ONNX}")
    with cli.reported_errors():
        _write(options.run, out, options.dtype)
        print(f"{options.out}: {out.stat().length / 2**20:.2f} MiB", flush=True)


def _write(run: str, out: epath.Path, dtype: str) -> None:
    from wbc_jax import provenance
    from wbc_jax.inference import exporting
    from wbc_jax.inference import model as inference
    from wbc_jax.utils import atomic

    if out.suffix == WEIGHTS:
        provenance.write_weights(run, out, dtype)
    else:
        convert = {STABLEHLO: exporting.stablehlo, ONNX: exporting.onnx}[out.suffix]
        atomic.write_bytes(out, convert(inference.load(run)))


if __name__ == "__main__":
    main()
