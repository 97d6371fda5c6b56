"""A folder of results to review, and requests to a review's server."""

import contextlib
import http.client
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from PIL import Image

from helpers.drawn_fields import MODELS, plain_field
from wbc_jax.corrections import guard, pictures, server, session
from wbc_jax.report import cell_results

CELLS = [(100, 100, 40, 62), (100, 250, 16, 26), (250, 160, 16, 28)]
"""The cells of `field.png`: (y, x, radius of the nucleus, radius of the cell)."""


def predicted(folder: pathlib.Path) -> pathlib.Path:
    """Writes `images/field.png` and `images/crop.png`, predicts them, and returns the results.

    The results hold four cells: that of the crop, then those of the field. The first two are
    monocytes; the classifier leaves the others, perhaps lymphocytes, to a person.
    """
    (folder / "images").mkdir(parents=True)
    field, crop = plain_field(CELLS, 320, 400), plain_field([(100, 100, 26, 40)], 200, 200)
    paths = []
    for name, image in (("crop", crop), ("field", field)):
        paths.append(str(folder / "images" / f"{name}.png"))
        Image.fromarray(image).save(paths[-1])
    assert cell_results.predict_files(MODELS, paths, folder / "results") == []
    return folder / "results"


@contextlib.contextmanager
def answering(folder: pathlib.Path, reviewer: str = "Anna", images: Any = None) -> Iterator[str]:
    """Answers requests from a thread of this process; yields the address."""
    reviewing = session.Session(folder, reviewer)
    token = guard.new_token()
    shown = pictures.Pictures(reviewing.results, images)
    listening = server.bind(0)
    running = server.make(server.Server(reviewing, shown, token).app)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/"
    finally:
        running.should_exit = True
        thread.join()


@contextlib.contextmanager
def serving(
    folder: pathlib.Path, *flags: str, reviewer: str = "Anna"
) -> Iterator[tuple[subprocess.Popen, str]]:
    """Starts the command in a process of its own; yields it and the address that it prints."""
    command = [sys.executable, "-m", "wbc_jax.review", str(folder), "--nobrowser", *flags]
    process = subprocess.Popen(
        [*command, f"--reviewer={reviewer}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, process.communicate()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def ask(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """Sends a request as it is; returns the status and the body of the answer.

    Args:
        address: as printed; only its host and port are used if `path` begins with a slash.
        path: relative to the address, or a whole path.
        body: None: GET; bytes as they are; anything else as JSON.
        headers: more headers; `_` stands for a hyphen.
    """
    host, _, token = address.removeprefix("http://").partition("/")
    path = path if path.startswith("/") else f"/{token}{path}"
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.putrequest(
            "GET" if body is None else "POST", path,
            skip_host="host" in sent, skip_accept_encoding=True,
        )  # fmt: skip
        if body is not None:
            sent.setdefault("content-length", str(len(body)))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
