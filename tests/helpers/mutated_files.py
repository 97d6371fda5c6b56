"""Writes randomly damaged image files and reads them; run by tests/test_fuzz.py.

`python tests/helpers/mutated_files.py FOLDER COUNT` writes COUNT of them to FOLDER, one after the
other, reads each with `wbc_jax.read_image` and `images.read_with_metadata`, and prints the outcomes
as JSON. Files that were neither read nor refused as they should be stay in FOLDER. File i is the
same in every run.
"""

import contextlib
import io
import json
import pathlib
import resource
import sys
import time
import warnings

import cv2
import numpy as np
import tifffile
from PIL import Image

HUGE = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 20_000, 60_000)
"""Sizes, counts and offsets that a header may claim."""


def seeds() -> list[tuple[str, bytes]]:
    """Returns (extension, file) of sound images, in all formats that users have."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(24), np.arange(20))[..., None] * (2, 3, 5)
    color = (smooth + rng.integers(0, 20, (24, 20, 3))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    made = Image.fromarray(color)
    wide = Image.fromarray(color[..., 0].astype(np.uint16) * 200)
    found = []
    names = {".jpg": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000"}
    for ending, image, options in (
        (".png", made, {}),
        (".png", made.convert("P"), {}),
        (".png", made.convert("RGBA"), {"exif": exif}),
        (".png", made.convert("1"), {}),
        (".png", wide, {}),
        (".jpg", made, {}),
        (".jpg", made, {"progressive": True, "exif": exif}),
        (".jpg", made.convert("L"), {}),
        (".jpg", made.convert("CMYK"), {}),
        (".bmp", made, {}),
        (".bmp", made.convert("P"), {}),
        (".tif", made, {}),
        (".tif", made, {"compression": "tiff_lzw", "exif": exif}),
        (".tif", made, {"compression": "tiff_adobe_deflate"}),
        (".tif", made, {"compression": "jpeg"}),
        (".tif", wide, {}),
        (".webp", made, {}),
        (".jp2", made, {}),
    ):
        file = io.BytesIO()
        image.save(file, names.get(ending, ending[1:].upper()), **options)
        found.append((ending, file.getvalue()))
    twelve = color.astype(np.uint16) << 4
    found += [(end, cv2.imencode(end, twelve)[1].tobytes()) for end in (".png", ".tif", ".ppm")]
    text = '<OME><Image><Pixels PhysicalSizeX="0.1" SignificantBits="8"/></Image></OME>'
    for options in (
        {"description": text, "metadata": None},
        {"imagej": True, "resolution": (10, 10)},
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, color, photometric="rgb", **options)
        found.append((".tif", file.getvalue()))
    return found


def mutated(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """Returns the file with one kind of damage, at random places."""
    damaged = bytearray(data)
    kind = rng.integers(0, 7)
    if kind == 0:  # bytes changed anywhere
        for place in rng.integers(0, len(data), rng.integers(1, 20)):
            damaged[place] = rng.integers(0, 256)
    elif kind == 1:  # one bit of the header
        damaged[rng.integers(0, min(64, len(data)))] ^= 1 << rng.integers(0, 8)
    elif kind == 2:  # truncated
        del damaged[rng.integers(0, len(data)) :]
    elif kind == 3:  # the header of another format
        other, length = others[rng.integers(0, len(others))], rng.integers(2, 64)
        damaged[:length] = other[:length]
    elif kind == 4:  # one number replaced, in either byte order
        width = int(rng.choice((2, 4)))
        number = int(rng.choice(HUGE)) & (256**width - 1)
        start = rng.integers(0, min(256, len(data) - width))
        order = "big" if rng.integers(0, 2) else "little"
        damaged[start : start + width] = number.to_bytes(width, order)
    elif kind == 5:  # a piece left out or repeated
        start, length = rng.integers(0, len(data)), rng.integers(1, 200)
        piece = damaged[start : start + length]
        damaged[start : start + length] = b"" if rng.integers(0, 2) else piece * 2
    else:  # noise at the end
        start = rng.integers(0, len(data))
        damaged[start:] = rng.bytes(len(data) - start)
    return bytes(damaged)


def write(folder: pathlib.Path, count: int, first: int = 0) -> list[pathlib.Path]:
    """Writes files `first` to `first + count - 1`; one in eight with a wrong extension."""
    sound, paths = seeds(), []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        ending, data = sound[number % len(sound)]
        if rng.integers(0, 8) == 0:
            ending = str(rng.choice((".png", ".jpg", ".bmp", ".tif", ".JPEG")))
        paths.append(folder / f"{number:05}{ending}")
        paths[-1].write_bytes(mutated(data, rng, [other for _, other in sound]))
    return paths


def main(folder: str, count: str) -> None:
    import wbc_jax
    from wbc_jax.data.images import read_with_metadata
    from wbc_jax.errors import DataError

    read = wbc_jax.read_image  # imports JAX, which takes seconds
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"read": 0, "refused": 0, "wrong": [], "seconds": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning that leaks counts as wrong
        for number in range(int(count)):
            (path,) = write(pathlib.Path(folder), 1, number)
            began = time.monotonic()
            try:
                image = read(path)
                good, which = image.dtype == np.uint8 and image.shape[2:] == (3,), "read"
                why = f"{image.dtype} {image.shape}"
                with contextlib.suppress(DataError):  # gray
                    if not np.array_equal(read_with_metadata(path).pixels, image):
                        good, why = False, "read_with_metadata gives other pixels"
            except DataError as error:
                good, which, why = str(path) in str(error), "refused", str(error)
            except BaseException as error:
                good, which, why = False, "wrong", repr(error)
            found["seconds"] = max(found["seconds"], time.monotonic() - began)
            if good:
                found[which] += 1
                path.unlink()
            else:
                found["wrong"].append(f"{path.name}: {why}")
    found["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
