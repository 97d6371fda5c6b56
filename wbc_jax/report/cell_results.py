"""Image files → the files that `wbc_jax.predict` writes about their cells.

| file | content |
|---|---|
| `cells.csv`, `cells.parquet` | a row per cell (`results.COLUMNS`), one per image without cells |
| `differential.csv` | percentages by type with 95 % intervals |
| `index.html` | all cells, to sort and filter, offline |
| `masks/NAME.png` | 8-bit: 0 background, 1 cytoplasm, 2 nucleus |
| `labels/NAME.png` | 16-bit: the number of the cell that a pixel belongs to |
| `overlays/NAME.png` | outlines, numbers and types |
| `geojson/NAME.geojson`, `coco.json` | the masks as polygons (`wbc_jax.fields.polygons`) |
| `folder_statistics.json` | whether types were decided by the folder's own statistics |
| `bad_files.csv`, `passed_over.csv` | files that could not be read, and files that are no images |

A classifier without a segmenter gives only the tables and the page.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from wbc_jax.data import crops
from wbc_jax.data.images import ImageFile, encode_png, read_with_metadata
from wbc_jax.errors import DataError, Interrupted
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import polygons, results
from wbc_jax.fields.cells import Field
from wbc_jax.fields.smear import Region
from wbc_jax.inference import folder_statistics as statistics
from wbc_jax.report import cell_page, folder_pass, html, overlays, slide_cells, slide_regions
from wbc_jax.report.finished import Finished, Journal, state
from wbc_jax.report.slide_regions import FIRST, SlideRun
from wbc_jax.utils import atomic, outputs, stopping
from wbc_jax.utils.ahead import ahead
from wbc_jax.utils.output_folder import STATE, OutputFolder
from wbc_jax.utils.progress import Progress

BATCH = 16
"""Largest number of images that are analyzed together."""
BATCH_PIXELS = 2**24
"""Largest number of pixels that are analyzed together; a larger image is analyzed alone."""
# How often tables are rewritten: at most in this time, and taking at most this share of all time.
_TABLES_EVERY_SECONDS, _TABLES_SHARE = 10.0, 0.05
_FILES = ("masks/{}.png", "labels/{}.png", "overlays/{}.png", "geojson/{}.geojson")


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """An image to analyze.

    Attributes:
        index: place in the list of paths.
        path: of the file.
        name: stem of its results.
        file: its pixels, and what it says of them.
        part: the region of a slide that the image is; None: a file of its own.
    """

    index: int
    path: str
    name: str
    file: ImageFile
    part: slide_regions.Part | None = None


class Results:
    """Writes the files of each image at once, and the tables from time to time and at the end.

    Args:
        folder: the folder of the results.
        models: the models that give them.
        journal: keeps what is finished for the next call; None: nothing is kept.
        about: what `folder_statistics.json` is to say; None: the classifier knows no statistics.
    """

    def __init__(
        self,
        folder: OutputFolder,
        models: fields.Models,
        journal: Journal | None = None,
        about: dict[str, Any] | None = None,
    ):
        self._folder, self._models, self._journal = folder, models, journal
        self._about = about
        self._finished: dict[int, Finished] = {}
        self._regions: dict[str, Finished] = {}
        self._slides: list[SlideRun] = []
        self._tables_seconds, self._tables_written = 0.0, time.monotonic()

    def resume(self, paths: Sequence[str], names: Sequence[str]) -> set[int]:
        """Takes over the images that an earlier, interrupted call finished.

        Returns:
            Their places in the list.
        """
        if self._journal is None:
            return set()
        places = {path: i for i, path in enumerate(paths)}
        for found in self._journal.read():
            i = places.get(found.path)
            there = (epath.Path(self._folder.path / file).exists() for file in found.files)
            if not (found.is_current() and all(there)):
                continue
            if i is None:
                self._regions[found.name] = found
            elif names[i] == found.name:
                self._finished[i] = found
        return set(self._finished)

    def begin(self, run: SlideRun) -> None:
        """Adds a slide, whose regions follow."""
        self._slides.append(run)

    def resume_region(self, run: SlideRun, region: Region, index: int) -> bool:
        """Takes over a region that an earlier call finished; returns whether there is one."""
        found = self._regions.get(run.stem(region))
        if found is None:
            return False
        run.restore(region, found.rows, found.features)
        self._finished[index] = found
        return True

    def end(self, run: SlideRun, index: int) -> None:
        """Writes a slide's own files; if nothing was found, the slide has a row all the same.

        A slide of which nothing could be looked at has none: nobody knows whether it has cells.
        """
        if run.looked_at() and not run.cells:
            nothing = Field([], None, None, run.um_per_px, run.source, False)
            rows = results.field_rows(nothing, **run.row())
            self._finished[index] = Finished.of(
                run.path, run.name, rows, [run.thumbnail()], None, ()
            )
        self._folder.write(run.files())
        run.release()

    def __len__(self) -> int:
        """Returns the number of images that are finished."""
        return len(self._finished)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows with `results.COLUMNS` as keys, in the order of the images."""
        return [row for i in sorted(self._finished) for row in self._finished[i].rows]

    def add(self, images: Sequence[Input], found: Sequence[Field]) -> None:
        """Writes the pictures and polygons of some images, and keeps their rows.

        Args:
            images: the images.
            found: the same images, analyzed.

        Raises:
            OSError: a file cannot be written.
        """
        chosen = [
            (image, one)
            for image, field in zip(images, found)
            for one in [image.part.run.accept(image.part.region, field) if image.part else field]
            if one is not None
        ]
        images, found = [image for image, _ in chosen], [field for _, field in chosen]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            finished = list(pool.map(_finish, images, found))
        for image, (one, _) in zip(images, finished):
            if image.part:
                image.part.run.keep(one.features)
        self._folder.write({file: data for _, files in finished for file, data in files.items()})
        self._finished |= {image.index: one for image, (one, _) in zip(images, finished)}
        if self._journal is not None:
            self._journal.append([one for one, _ in finished])
        # Tables are rewritten as a whole.
        waited = time.monotonic() - self._tables_written
        if waited > max(_TABLES_EVERY_SECONDS, self._tables_seconds / _TABLES_SHARE):
            self.write_tables()

    def write_tables(self) -> None:
        """Writes the tables of the images that are finished.

        Raises:
            OSError: a file cannot be written.
        """
        start = time.monotonic()
        results.write(self._folder, self.rows, self._differential())
        self._tables_written = time.monotonic()
        self._tables_seconds = self._tables_written - start

    def close(self) -> None:
        """Writes the tables, the polygons of all images and the page.

        Raises:
            OSError: a file cannot be written.
        """
        self.write_tables()
        finished = [self._finished[i] for i in sorted(self._finished)]
        for run in self._slides:
            if not run.released:
                self._folder.write(run.files())
        if self._slides:
            about = [run.about() for run in self._slides]
            self._folder.write_csv("slides.csv", about, slide_regions.COLUMNS)
        images = any(one.coco is not None for one in finished) or not self._slides
        if self._models.segmenter is not None and images:
            content = polygons.coco(one.coco for one in finished if one.coco is not None)
            self._folder.write_text("coco.json", json.dumps(content))
        if self._about is not None:
            self._folder.write_text("folder_statistics.json", atomic.json_text(self._about))
        page = cell_page.render(
            self.rows,
            [thumbnail for one in finished for thumbnail in one.thumbnails],
            self._differential(),
            judged=self._models.rule is not None,
            statistics=self._about,
            folder=atomic.utf8(os.fspath(self._folder.path)),
            slides=[(run.about(), run.map()) for run in self._slides],
        )
        self._folder.write_text("index.html", page)

    def _differential(self) -> list[dict[str, Any]]:
        model = self._models.classifier
        return [] if model is None else results.differential(self.rows, model.types)

    def summary(self) -> str:
        """Returns the results in one line: number of cells, median N/C ratio, cells for review."""
        cells = [row for row in self.rows if row["cell"]]
        ratios = [r["nc_ratio"] for r in cells if math.isfinite(r["nc_ratio"] or math.nan)]
        files, whole = {one.path for one in self._finished.values()}, "image"
        if self._slides and files <= {run.path for run in self._slides}:
            files, whole = self._slides, "slide"
        parts = [f"{html.plural(len(cells), 'cell')} in {html.plural(len(files), whole)}"]
        if ratios:
            parts.append(f"median N/C {np.median(ratios):.3f}")
        if review := sum(bool(row["review"]) for row in cells):
            parts.append(f"{review} left to a person")
        if self._about and self._about["statistics"] == statistics.FOLDER:
            parts.append(f"types by the folder's statistics ({self._about['cells']} cells)")
        return f"{', '.join(parts)}: {self._folder.path / 'cells.csv'} and index.html"


def _finish(image: Input, field: Field) -> tuple[Finished, dict[str, bytes]]:
    """Returns an image's results, and the contents of its files by name."""
    if image.part is not None:
        return _finish_region(image, image.part, field)
    pixels, name = image.file.pixels, image.name
    height, width = pixels.shape[:2]
    about: dict[str, Any] = {"file": atomic.utf8(image.path), "width": width, "height": height}
    drawn, files, coco = pixels, {}, None
    if field.mask is not None and field.labels is not None:
        about |= {"mask": f"masks/{name}.png", "overlay": f"overlays/{name}.png"}
        drawn = overlays.field_overlay(pixels, field)
        collection = polygons.geojson(field.cells, polygons.identity(name, pixels))
        coco = polygons.coco_part(about["file"], (height, width), field.cells)
        files = {
            about["mask"]: encode_png(field.mask),
            f"labels/{name}.png": encode_labels(field.labels),
            about["overlay"]: encode_png(overlays.annotate(drawn, field)),
            f"geojson/{name}.geojson": json.dumps(collection).encode(),
        }
    if field.one_cell or not field.cells:
        thumbnails = [cell_page.thumbnail(drawn)]
    else:
        thumbnails = [cell_page.thumbnail(crops.cut(drawn, cell.box)) for cell in field.cells]
    rows = results.field_rows(field, **about)
    for row in rows:
        row["flag"] = ";".join(filter(None, (row["flag"], *image.file.flags)))
    return Finished.of(image.path, name, rows, thumbnails, coco, tuple(files)), files


def _finish_region(
    image: Input, part: slide_regions.Part, field: Field
) -> tuple[Finished, dict[str, bytes]]:
    """As `_finish`, of a slide's region; one without cells has neither rows nor files."""
    run, region, name = part.run, part.region, image.name
    rows, thumbnails, files = [], [], {}
    if field.cells:
        about, drawn = run.row() | run.place(region), image.file.pixels
        if field.mask is not None and field.labels is not None:
            about |= {"mask": f"masks/{name}.png", "overlay": f"overlays/{name}.jpg"}
            drawn = overlays.field_overlay(drawn, field)
            files = {
                about["mask"]: encode_png(field.mask),
                f"labels/{name}.png": encode_labels(field.labels),
                about["overlay"]: overlays.jpeg(overlays.annotate(drawn, field), quality=90),
            }
        thumbnails = [cell_page.thumbnail(crops.cut(drawn, cell.box)) for cell in field.cells]
        rows = [slide_cells.shifted_row(r, region) for r in results.field_rows(field, **about)]
    features = run.features(region, field) if files else ""
    found = Finished.of(image.path, name, rows, thumbnails, None, tuple(files), features)
    return found, files


def result_names(names: Sequence[str]) -> list[str]:
    """Returns the paths of all files that the results of images may consist of.

    Args:
        names: stems of the images' results.
    """
    found = [*results.TABLES, "index.html", "coco.json", "bad_files.csv", "passed_over.csv"]
    found.append("folder_statistics.json")
    return found + [pattern.format(name) for name in names for pattern in _FILES]


def encode_labels(labels: np.ndarray) -> bytes:
    """Encodes uint16 `[H, W]` as a 16-bit PNG."""
    return cv2.imencode(".png", labels)[1].tobytes()


def predict_files(
    models: fields.Models,
    paths: Sequence[str],
    out: epath.PathLike,
    find: str = "auto",
    um_per_px: float | None = None,
    settings: str = "",
    passed_over: Sequence[tuple[str, str]] = (),
    folder_statistics: str = "auto",
    slides: Sequence[SlideRun] = (),
) -> list[tuple[str, str]]:
    """Analyzes image files and slides, and writes all results under `out`.

    Bad files are skipped, listed in `bad_files.csv`, and returned. An interrupted call leaves the
    tables of what it finished; the next call with the same `settings` goes on from there.

    Args:
        models: from `fields.load_models`.
        paths: image files.
        out: folder, made if missing.
        find, um_per_px: as in `fields.analyze`.
        settings: names all that determines the results; empty: an interrupted call is not resumed.
        passed_over: (path, reason) of files that are no inputs, for `passed_over.csv`.
        folder_statistics: `auto` or `off`, as in `fields.analyze`; the folder is all of `paths`
            and `slides`.
        slides: slides to analyze after the images.

    Returns:
        (path, reason) of each file that could not be predicted.

    Raises:
        InputError: another process writes to `out`, or it holds a file of a person that would be
            replaced.
        Interrupted: Ctrl-C, or a signal that `stopping.stopped_by_signals` turns into it.
        OSError: `out` cannot be written.
    """
    names = outputs.output_names(paths)
    with OutputFolder(out) as folder:
        folder.refuse_foreign(result_names(names))
        for run in slides:
            folder.refuse_foreign(slide_regions.result_names(folder.path, run))
        local = settings and not atomic.is_remote(folder.path)
        first = folder_pass.FirstPass(
            folder.path / STATE / "first_pass" if local else None,
            settings,
            [f"{path} {state(path)}" for path in paths]
            + [f"{run.path} {state(run.path)} {k}" for run in slides for k in range(FIRST)],
        )
        models, about = _with_statistics(
            models, first, paths, slides, find, um_per_px, folder_statistics
        )
        settings += models.folder.digest()
        journal = Journal(folder.path / STATE / "finished.jsonl", settings) if local else None
        written, bad = Results(folder, models, journal, about), []
        finished = written.resume(paths, names)
        if finished:
            print(f"{len(finished)} of {len(paths)} images were finished before", flush=True)
        progress = Progress("image", len(paths), done=len(finished))
        done = len(finished)
        try:
            # Files are read and written beside the analysis, a batch ahead and a batch behind.
            with concurrent.futures.ThreadPoolExecutor(1) as writer:
                writing = None
                for batch, unread in ahead(_batches(paths, names, finished)):
                    bad += unread
                    if batch:
                        show = functools.partial(_show_part, progress, done, len(batch))
                        found = _analyze(batch, models, first, find, um_per_px, show)
                        if writing is not None:
                            writing.result()
                        writing = writer.submit(written.add, batch, found)
                    done += len(batch) + len(unread)
                    progress.update(done, len(batch))
                if writing is not None:
                    writing.result()
            progress.close()
            for number, run in enumerate(slides):
                _predict_slide(run, number, len(paths), written, models, first, bad)
            written.close()
            folder.list_bad(bad)
            folder.list_passed_over(passed_over)
        except (KeyboardInterrupt, OSError) as error:
            progress.close()
            with contextlib.suppress(OSError):
                written.close()
                folder.list_bad(bad)
            done = f"{len(written) + len(bad)} of {len(paths)} images"
            if slides:
                done = f"{done} and regions of slides" if paths else f"{len(written)} regions"
            goes_on = f"{done} are done"
            if journal is not None:
                goes_on += "; the same command goes on with the others"
            if isinstance(error, OSError):
                text = f"{error.strerror or error}; {goes_on}"
                raise OSError(error.errno, text, error.filename) from error
            number = getattr(error, "signal_number", signal.SIGINT)
            raise Interrupted(f"stopped: {goes_on}: {folder.path}", number) from error
        if journal is not None:
            journal.remove()
        first.remove()
    print(written.summary(), flush=True)
    return bad


def _with_statistics(
    models: fields.Models,
    first: folder_pass.FirstPass,
    paths: Sequence[str],
    slides: Sequence[SlideRun],
    find: str,
    um_per_px: float | None,
    choice: str,
) -> tuple[fields.Models, dict[str, Any] | None]:
    """Returns the models with the folder's statistics, and what the results say about these.

    Raises:
        ValueError: `choice` is not allowed.
        Interrupted, OSError: as in `predict_files`.
    """
    untouched = dataclasses.replace(models, folder=statistics.Folder())
    wanted = statistics.check(choice) == "auto"
    if models.classifier is None:
        return untouched, None
    if statistics.known(models.rule) is None:
        # An adapted classifier knows its laboratory without them.
        if wanted and models.rule is not None and not models.classifier.adapted:
            print(
                "note: the classifier's rule holds no statistics of its training: types are "
                "decided without the folder's own",
                file=sys.stderr,
                flush=True,
            )
        return untouched, None
    if not wanted:
        return untouched, folder_pass.summary(untouched.folder, 0, choice)
    what = "image" if paths else "region"
    progress = Progress(what, len(first.places), f"{what}s")

    def analyze(places: Sequence[int]) -> Iterator[tuple[int, Field]]:
        done = len(first.places) - len(places)
        some = [paths[i] for i in places if i < len(paths)]
        # The second pass lists the bad ones.
        for batch, _ in ahead(_batches(some, some, set(), say=False)):
            show = functools.partial(_show_part, progress, done, len(batch))
            found = _analyze(batch, untouched, None, find, um_per_px, show)
            yield from zip((places[image.index] for image in batch), found)
            done += len(batch)
            progress.update(done, len(batch))
        for number, run in enumerate(slides):
            start = len(paths) + number * FIRST
            slots = [i for i in places if start <= i < start + FIRST]
            kept = (i for i in first.places if start <= i < start + FIRST and i not in slots)
            run.count_first([field for i in kept if (field := first.kept(i)) is not None])
            for parts in run.first_batches(start, slots):
                batch = [Input(p.slot, run.path, run.stem(p.region), f, p) for _, p, f in parts]
                found = _analyze(batch, untouched, None, "yes", None, lambda part: None)
                run.count_first(found)
                yield from zip((image.index for image in batch), found)
                reached = slots.index(batch[-1].part.slot) + 1
                progress.update(done + reached, len(batch))
            done += len(slots)
            if len(slides) > 1:
                run.rest()

    said = f"{len(first.places)} images"
    if slides:  # a slide may have fewer regions, or enough cells in fewer
        both = "images and regions of slides" if paths else "regions of slides"
        said = f"up to {len(first.places)} {both}"
    print(f"looking at {said} for the folder's statistics", flush=True)
    try:
        found = first.estimate(untouched, analyze)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", signal.SIGINT)
        text = "stopped while looking for the folder's statistics; the same command goes on"
        raise Interrupted(text, number) from error
    except OSError as error:  # such as a slide that is gone
        text = f"{error.strerror or error}, while looking for the folder's statistics"
        text += "; the same command goes on"
        raise OSError(error.errno, text, error.filename) from error
    finally:
        progress.close()
    about = folder_pass.summary(found, first.looked_at, choice)
    return dataclasses.replace(models, folder=found), about


def _analyze(
    batch: Sequence[Input],
    models: fields.Models,
    first: folder_pass.FirstPass | None,
    find: str,
    um_per_px: float | None,
    show: Callable[[float], None],
) -> list[Field]:
    """Analyzes images; those that the first pass kept are only typed again.

    Raises:
        stopping.Stopped: a signal came and its exception was lost.
    """
    places = {i.index: i.part.slot if i.part else i.index for i in batch}
    found = {index: first and first.kept(place) for index, place in places.items()}
    found = {i: fields.retype(field, models) for i, field in found.items() if field is not None}
    others = [image for image in batch if image.index not in found]
    if others:
        pixels = [image.file.pixels for image in others]
        sizes = [_pixel_size(image.file) for image in others]
        analyzed = fields.analyze(pixels, models, find, um_per_px, sizes, show)
        analyzed = [
            image.part.run.own(image.part.region, field) if image.part else field
            for image, field in zip(others, analyzed)
        ]
        found |= {image.index: field for image, field in zip(others, analyzed)}
    stopping.raise_if_stopped()  # before the wait for files that may never come
    return [found[image.index] for image in batch]


def _predict_slide(
    run: SlideRun,
    number: int,
    images: int,
    written: Results,
    models: fields.Models,
    first: folder_pass.FirstPass,
    bad: list[tuple[str, str]],
) -> None:
    """Analyzes the regions of a slide until as many cells are found as are wanted.

    Args:
        run: the work on the slide.
        number: of the slide.
        images: number of images before the slides.
        written: takes the results.
        models, first: as in `_analyze`.
        bad: the slide, or its damaged parts, are added.

    Raises:
        OSError: the slide is gone, or the results cannot be written.
    """
    try:
        run.open()
    except (DataError, OSError) as error:
        bad.append((run.path, str(error)))
        run.rest()
        return
    for note in run.notes:
        print(f"note: {atomic.utf8(note)}", file=sys.stderr, flush=True)
    written.begin(run)
    progress = Progress("region", len(run.order), "regions")
    before = images + number * 2**20  # places of the slide's regions begin here
    known = sum(written.resume_region(run, r, before + k) for k, r in enumerate(run.order))
    if known:
        print(f"{known} regions of {run.path} were finished before", flush=True)
    try:
        for parts in run.batches(images + number * FIRST, bad):
            batch = [Input(before + k, run.path, run.stem(p.region), f, p) for k, p, f in parts]
            written.add(batch, _analyze(batch, models, first, "yes", None, lambda part: None))
            progress.update(run.visited, len(batch), run.progress())
    finally:
        progress.close()
    written.end(run, before + len(run.order))
    if reason := run.nothing_seen():
        bad.append((run.path, reason))
    elif said := run.outcome():
        print(f"note: {atomic.utf8(said)}", file=sys.stderr, flush=True)


def _show_part(progress: Progress, done: int, count: int, part: float) -> None:
    """Shows that a part of the `count` images after the first `done` is analyzed."""
    progress.update(done, 0, part=part * count)


def _pixel_size(file: ImageFile) -> fields.PixelSize | None:
    return None if file.um_per_px is None else (file.um_per_px, file.um_per_px_source)


def _batches(
    paths: Sequence[str], names: Sequence[str], finished: set[int], say: bool = True
) -> Iterator[tuple[list[Input], list[tuple[str, str]]]]:
    """Reads image files, up to `BATCH` images and `BATCH_PIXELS` pixels at a time.

    Args:
        paths: image files.
        names: stems of their results.
        finished: places of those that need not be read.
        say: print the notes of each file.

    Yields:
        A batch, and (path, reason) of each bad file since the batch before.
    """
    good: list[Input] = []
    bad: list[tuple[str, str]] = []
    for index, (path, name) in enumerate(zip(paths, names)):
        if index in finished:
            continue
        try:
            file = read_with_metadata(path)
        except DataError as error:
            bad.append((path, str(error)))
            continue
        for note in file.notes if say else ():
            print(f"note: {atomic.utf8(note)}", file=sys.stderr, flush=True)
        size = file.pixels.size
        if good and sum(image.file.pixels.size for image in good) + size > 3 * BATCH_PIXELS:
            yield good, bad
            good, bad = [], []
        good.append(Input(index, path, name, file))
        if len(good) == BATCH:
            yield good, bad
            good, bad = [], []
    if good or bad:
        yield good, bad
