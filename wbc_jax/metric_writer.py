"""`metrics.jsonl`, always, and TensorBoard events beside it."""

import json
from typing import Any

import tensorboardX
from etils import epath

from wbc_jax import files


class MetricWriter:
    """Appends one JSON object a line to `<workdir>/metrics.jsonl`.

    Args:
        workdir: the run's folder.
        start_step: lines of later steps are dropped: a run that goes on from a checkpoint writes
            them again, so that the file has no gap and no repeat.
    """

    def __init__(self, workdir: epath.Path, start_step: int = 0):
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read(workdir) if line["step"] <= start_step]
        files.write_text(self._path, "".join(_line(values) for values in kept))
        self._file = self._path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start_step + 1 if start_step else None
        )

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Writes one line: `kind` (`train`, `validation`), the step and the values."""
        self._file.write(_line({"kind": kind, "step": step, **values}))
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl`; [] if there is none. A last half line is left out."""
    path = epath.Path(workdir) / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _line(values: dict[str, Any]) -> str:
    return json.dumps(files.finite(values)) + "\n"
