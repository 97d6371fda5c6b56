"""Images that `wbc_jax.predict` has finished, kept until all are, so that the next call goes on."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from etils import epath

from wbc_jax.data import slide
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import abstention, weights
from wbc_jax.utils.json_lines import JsonLines


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """An image's results.

    Attributes:
        path: of the image.
        size, mtime_ns: of the image file when it was read.
        name: stem of the results.
        rows: its rows of `cells.csv`.
        thumbnails: one JPEG a row.
        coco: its part of `coco.json`; None without a mask.
        files: names of the files written.
        features: of a slide's region, its part of the slide's GeoJSON.
    """

    path: str
    size: int
    mtime_ns: int
    name: str
    rows: list[dict[str, Any]]
    thumbnails: list[bytes]
    coco: dict[str, Any] | None
    files: tuple[str, ...]
    features: str = ""

    @classmethod
    def of(
        cls,
        path: str,
        name: str,
        rows: list[dict[str, Any]],
        thumbnails: list[bytes],
        coco: dict[str, Any] | None,
        files: tuple[str, ...],
        features: str = "",
    ) -> Finished:
        """Returns the results of an image file as it is now; arguments as the attributes."""
        return cls(path, *state(path), name, rows, thumbnails, coco, files, features)

    def is_current(self) -> bool:
        """Returns whether the image file is still the one that was read."""
        return state(self.path) == (self.size, self.mtime_ns)


def state(path: str) -> tuple[int, int]:
    """Returns a file's size and time of change; (-1, -1) for one that is not on a local disk.

    Of a folder, as a Zarr is, they are those of its first file.
    """
    try:
        return slide.state(path)
    except OSError:
        return -1, -1


class Journal:
    """The file of finished images. It begins with the settings; results of others are dropped.

    Args:
        path: the file.
        settings: names all that determines the results.
    """

    def __init__(self, path: epath.PathLike, settings: str):
        self._lines, self._settings = JsonLines(path), settings
        self._begun = False

    def read(self) -> list[Finished]:
        """Returns the finished images; none if they are of other settings."""
        lines = self._lines.read()
        self._begun = bool(lines) and lines[0].get("settings") == self._settings
        if not self._begun:
            self._lines.remove()
            return []
        found = []
        for line in lines[1:]:
            thumbnails = [base64.b64decode(text) for text in line.pop("thumbnails")]
            found.append(Finished(**line, thumbnails=thumbnails))
        return found

    def append(self, finished: Sequence[Finished]) -> None:
        """Adds finished images.

        Raises:
            OSError: the file cannot be written.
        """
        if not self._begun:
            self._lines.append([{"settings": self._settings}])
            self._begun = True
        names = [field.name for field in dataclasses.fields(Finished)]
        self._lines.append(
            {name: getattr(one, name) for name in names}  # `asdict` would copy each polygon
            | {"thumbnails": [base64.b64encode(data).decode() for data in one.thumbnails]}
            for one in finished
        )

    def remove(self) -> None:
        """Deletes the file."""
        self._lines.remove()


def settings(models: fields.Models, **others: Any) -> str:
    """Returns a SHA-256 of all that determines the results of an image.

    Args:
        models: from `fields.load_models`.
        others: settings by name.
    """
    described: list[Any] = [metadata.version("wbc_jax"), sorted(others.items())]
    for model in (models.segmenter, models.classifier):
        if model is not None:
            described.append([weights.digest(model.weights), repr(model.config)])
    if models.rule is not None:
        described.append(abstention.as_json(models.rule))
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
