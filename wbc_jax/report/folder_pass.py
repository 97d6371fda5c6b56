"""The first pass over a folder: its statistics, from a part of its images.

Types are decided by the folder's own statistics (`inference.folder_statistics`), which must be
known before the first table is written. So up to `IMAGES` images, spread evenly over the list, are
analyzed first. What is found in them is kept in the output folder, so that neither the second pass
nor a later call, after an interruption, analyzes them again.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from wbc_jax.fields import analyze as fields
from wbc_jax.fields.cells import Cell, Field
from wbc_jax.inference import folder_statistics
from wbc_jax.inference.abstention import Outputs
from wbc_jax.utils import atomic

IMAGES = 500
"""Largest number of images of the first pass."""
_FILE = "statistics.json"

Analyze = Callable[[Sequence[int]], Iterable[tuple[int, Field]]]
"""Analyzes the images at some places of the list; leaves out those that cannot be read."""


class FirstPass:
    """The first pass, and what it keeps.

    Args:
        folder: for what is kept; None: nothing is, and the second pass analyzes all images again.
        settings: names all that determines the results of an image.
        states: for each image of the list, whatever changes with its file.

    Attributes:
        places: of the images that are to be looked at.
        looked_at: number of those that could be.
    """

    def __init__(self, folder: epath.Path | None, settings: str, states: Sequence[str]):
        self._folder, self._settings, self._states = folder, settings, states
        self._outputs: dict[int, Outputs | None] = {}
        count = min(len(states), IMAGES)
        spread = np.linspace(0, len(states) - 1, count).round().astype(int)
        self.places: list[int] = sorted(set(spread.tolist()))
        self.looked_at = 0

    def estimate(self, models: fields.Models, analyze: Analyze) -> folder_statistics.Folder:
        """Returns the folder's statistics.

        Args:
            models: with a classifier, and a rule that holds the training's statistics.
            analyze: called for the images that are not kept yet.

        Raises:
            OSError: a file cannot be written.
        """
        seen = folder_statistics.known(models.rule)
        if seen is None or models.classifier is None:
            return folder_statistics.Folder()
        if (found := self._read_statistics()) is not None:
            return found
        for place in self.places:
            if (field := self.kept(place)) is not None:
                self._outputs[place] = field.outputs
        missing = [place for place in self.places if place not in self._outputs]
        for place, field in analyze(missing):
            self._outputs[place] = field.outputs
            self._keep(place, field)
        self.looked_at = len(self._outputs)
        outputs = [self._outputs[place] for place in sorted(self._outputs)]
        together = Outputs.joined([one for one in outputs if one is not None])
        found = folder_statistics.Folder()
        if together is not None:
            found = folder_statistics.estimate(seen, models.classifier.head_kernel, together)
        self._write_statistics(found)
        return found

    def kept(self, place: int) -> Field | None:
        """Returns what was found in an image, with types by the training's statistics."""
        if self._folder is None or place not in self.places:
            return None
        try:
            data = self._path(place).read_bytes()
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                about = json.loads(stored["about"].item())
                if about.pop("key") != self._key(place):
                    return None
                return _field(about, stored)
        except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None  # analyzed again

    def remove(self) -> None:
        """Deletes what is kept."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*"):
                path.unlink()
            self._folder.rmdir()

    def _path(self, place: int) -> epath.Path:
        return self._folder / f"{place:07}.npz"

    def _key(self, place: int | None = None) -> str:
        """Names all that determines what is kept of an image, or of all of them."""
        places = self.places if place is None else [place]
        named = [self._settings, [[i, self._states[i]] for i in places]]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def _keep(self, place: int, field: Field) -> None:
        if self._folder is None:
            return
        arrays = {"mask": field.mask, "labels": field.labels}
        if field.outputs is not None:
            arrays |= dataclasses.asdict(field.outputs)
        about = {
            "key": self._key(place),
            "um_per_px": field.um_per_px,
            "um_per_px_source": field.um_per_px_source,
            "one_cell": field.one_cell,
            "cells": [cell.row() for cell in field.cells],
        }
        given = {name: array for name, array in arrays.items() if array is not None}
        self._folder.mkdir(parents=True, exist_ok=True)
        data = _packed({"about": np.array(json.dumps(about)), **given})
        atomic.write_bytes(self._path(place), data)

    def _read_statistics(self) -> folder_statistics.Folder | None:
        if self._folder is None:
            return None
        try:
            stored = json.loads((self._folder / _FILE).read_bytes())
            if stored["key"] != self._key():
                return None
            shift = stored["shift"]
            if shift is not None:
                shift = np.frombuffer(base64.b64decode(shift), "<f4").astype(np.float32)
            self.looked_at = stored["images"]
            return folder_statistics.Folder(stored["cells"], shift)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _write_statistics(self, found: folder_statistics.Folder) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        shift = found.shift
        if shift is not None:
            shift = base64.b64encode(shift.astype("<f4").tobytes()).decode()
        about = {"cells": found.cells, "images": self.looked_at, "shift": shift}
        atomic.write_json(self._folder / _FILE, {"key": self._key(), **about})


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns what `np.savez_compressed` writes, compressed as fast as zlib can.

    The files live as long as the call. Masks are nearly as small so, in half of the time or less.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, array in arrays.items():
            with packed.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return out.getvalue()


def _field(about: dict[str, Any], stored: Any) -> Field:
    """Returns the field that a file holds."""
    mask, labels, logits, embeddings = (
        stored[name] if name in stored.files else None
        for name in ("mask", "labels", "logits", "embeddings")
    )
    outputs = None if logits is None else Outputs(logits, embeddings)
    cells = list(_cells(about.pop("cells"), mask, labels))
    return Field(cells=cells, mask=mask, labels=labels, outputs=outputs, **about)


def _cells(
    rows: Sequence[dict[str, Any]], mask: np.ndarray | None, labels: np.ndarray | None
) -> Iterator[Cell]:
    for row in rows:
        cell = Cell(**row)
        if mask is not None and labels is not None:
            place = np.s_[cell.top : cell.bottom, cell.left : cell.right]
            alone = np.where(labels[place] == cell.cell, mask[place], 0).astype(np.uint8)
            cell = dataclasses.replace(cell, mask=alone)
        yield cell


def summary(found: folder_statistics.Folder, images: int, choice: str) -> dict[str, Any]:
    """Returns what the results say about the statistics.

    Args:
        found: the folder's statistics.
        images: number of images, and regions of slides, that were looked at for them.
        choice: `folder_statistics.CHOICES`.
    """
    return {
        "statistics": found.used,
        "setting": choice,
        "cells": found.cells,
        "images": images if choice == "auto" else 0,
        "least_cells": folder_statistics.LEAST_CELLS,
        "shift": None if found.shift is None else found.shift.tolist(),
    }
