"""Image files and slides → analyzed in batches → the files of their cells (`cell_files`)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from wbc_jax.data.images import ImageFile, read_with_metadata
from wbc_jax.errors import DataError, Interrupted
from wbc_jax.fields import analyze as fields
from wbc_jax.fields.cells import Field
from wbc_jax.fields.windows import PixelSize
from wbc_jax.inference import folder_statistics as statistics
from wbc_jax.report import folder_pass, html, slide_regions
from wbc_jax.report.cell_files import Input, Results, result_names
from wbc_jax.report.finished import Journal, state
from wbc_jax.report.slide_regions import FIRST, SlideRun
from wbc_jax.utils import atomic, outputs, stopping
from wbc_jax.utils.ahead import ahead
from wbc_jax.utils.output_folder import STATE, OutputFolder
from wbc_jax.utils.progress import Progress

BATCH = 16
"""Largest number of images that are analyzed together."""
BATCH_PIXELS = 2**24
"""Largest number of pixels that are analyzed together; a larger image is analyzed alone."""


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

    said = html.plural(len(first.places), "image")
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


def _pixel_size(file: ImageFile) -> PixelSize | None:
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
