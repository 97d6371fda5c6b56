"""The log of a run: `metrics.jsonl` and TensorBoard events."""

import json
import os
from typing import Any

from etils import epath

from wbc_jax.utils import atomic


class MetricWriter:
    """Appends lines, one JSON object each, to `<workdir>/metrics.jsonl`, and TensorBoard events.

    Args:
        workdir: the run's folder.
        start_step: lines of later steps are dropped, because a run that resumes from a checkpoint
            writes them again.
    """

    def __init__(self, workdir: epath.Path, start_step: int = 0):
        # Imports PyTorch where it is installed: that takes seconds, which reading the log need not.
        import tensorboardX

        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read(workdir) if line["step"] <= start_step]
        self._text = "".join(map(_line, kept))
        atomic.write_text(self._path, self._text)
        # Object stores cannot append: the whole file is written with each line.
        self._file = None if atomic.is_remote(self._path) else self._path.open("a")
        self._board = tensorboardX.SummaryWriter(
            os.fspath(workdir / "tensorboard"), purge_step=start_step + 1 if start_step else None
        )

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Writes one line: `kind` (`train`, `validation`), the step and the values."""
        line = _line({"kind": kind, "step": step, **values})
        if self._file is None:
            self._text += line
            atomic.write_text(self._path, self._text)
        else:
            self._file.write(line)
            self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        self._board.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._board.close()


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl`, [] if there is none; leaves out an unfinished line."""
    path = epath.Path(workdir) / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _line(values: dict[str, Any]) -> str:
    return json.dumps(atomic.finite(values)) + "\n"
