"""The server of a review: a page on 127.0.0.1 that shows cells and takes down what is said.

`docs/review.md` says what it refuses. It is Starlette on uvicorn: the framework that checks hosts
itself, with a server that ends cleanly on a signal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from wbc_jax.corrections import answers, guard
from wbc_jax.corrections.cells import Box
from wbc_jax.corrections.pictures import Pictures
from wbc_jax.corrections.session import Session
from wbc_jax.errors import DataError, InputError, UserError
from wbc_jax.labels import CELL_COLOR, NUCLEUS_COLOR
from wbc_jax.report import html, overlays
from wbc_jax.utils import atomic

ADDRESS = "127.0.0.1"
SCRIPTS = (
    *("review.js", "review_api.js", "review_canvas.js", "review_count.js", "review_gallery.js"),
    "review_paint.js",
)
TABLE_SECONDS = 2.0
"""How often `corrections.csv` is written anew, at most."""
_KEEP = {"cache-control": "private, max-age=86400, immutable"}  # a token has one content


class Server:
    """Answers the requests of the page.

    Args:
        session: what the page shows and changes.
        pictures: of the same results.
        token: as in `guard.Guard`.
    """

    def __init__(self, session: Session, pictures: Pictures, token: str):
        self._session, self._pictures = session, pictures
        self._environment = html.make_environment()
        routes = [
            Route("/", self._page),
            Route("/scripts/{name}", self._script),
            Route("/cells", self._cells),
            Route("/state", self._state),
            Route("/thumbnail/{cell:int}", self._picture(pictures.thumbnail, "image/jpeg")),
            Route("/field/{cell:int}", self._picture(pictures.field, "image/jpeg")),
            Route("/about/{cell:int}", self._about),
            Route("/mask/{cell:int}", self._mask),
            Route("/window/{cell:int}", self._window),
            Route("/types", self._types, methods=["POST"]),
            Route("/mask/{cell:int}", self._painted, methods=["POST"]),
            Route("/reset/{cell:int}", self._reset, methods=["POST"]),
            Route("/undo", self._undo, methods=["POST"]),
        ]
        self.app = Starlette(
            routes=[Mount(f"/{token}", routes=routes)],
            middleware=[
                Middleware(guard.Guard, token=token),
                Middleware(TrustedHostMiddleware, allowed_hosts=guard.HOSTS, www_redirect=False),
            ],
            exception_handlers={UserError: _refused, OSError: _refused},
        )

    def _page(self, request: Request) -> Response:
        page = self._environment.get_template("review.html.j2").render(
            folder=atomic.utf8(os.path.abspath(self._session.results.path)),
            colors=html.css_colors(
                cell=CELL_COLOR, nucleus=NUCLEUS_COLOR, other=overlays.IGNORE_COLOR
            ),
            reviewer=self._session.reviewer,
            cells=len(self._session.results.cells),
        )
        return Response(page, media_type="text/html")

    def _script(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in SCRIPTS:
            raise HTTPException(404)
        with contextlib.suppress(jinja2.TemplateNotFound):
            text = self._environment.loader.get_source(self._environment, name)[0]
            return Response(text, media_type="text/javascript")
        raise HTTPException(404)

    def _cells(self, request: Request) -> Response:
        self._session.refresh()
        return JSONResponse(answers.everything(self._session))

    def _state(self, request: Request) -> Response:
        since = _whole(request.query_params.get("since", ""), "since")
        self._session.refresh()
        return self._news(since)

    def _news(self, since: int) -> Response:
        return JSONResponse(answers.news(self._session, since))

    def _picture(self, make: Callable[[int], bytes], kind: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            return Response(make(self._index(request)), media_type=kind, headers=_KEEP)

        return answer

    def _about(self, request: Request) -> Response:
        cell = self._session.results.cells[self._index(request)]
        return JSONResponse(answers.about(cell, self._pictures.image(cell).problem))

    def _mask(self, request: Request) -> Response:
        index = self._index(request)
        area, base, mask = self._session.mask(index)
        if problem := self._pictures.image(self._session.results.cells[index]).problem:
            raise DataError(f"The mask cannot be corrected: {problem}")
        about = {"x-area": ",".join(map(str, area)), "x-base": base}
        return Response(mask.tobytes(), media_type="application/octet-stream", headers=about)

    def _window(self, request: Request) -> Response:
        index = self._index(request)
        return Response(
            self._pictures.window(index, self._area(request)), media_type="image/png", headers=_KEEP
        )

    def _area(self, request: Request) -> Box:
        """Returns the part of the image that a request names."""
        parts = request.query_params.get("area", "").split(",")
        if len(parts) != 4:
            raise HTTPException(400, "area is missing or wrong")
        top, left, bottom, right = (_whole(part, "area") for part in parts)
        row = self._session.results.cells[self._index(request)].row
        if not (0 <= top < bottom <= row["height"] and 0 <= left < right <= row["width"]):
            raise HTTPException(400, "the area does not lie in the image")
        return top, left, bottom, right

    async def _painted(self, request: Request) -> Response:
        if request.headers.get("content-type") != "application/octet-stream":
            raise HTTPException(415, "the mask is not given as bytes")
        index, area = self._index(request), self._area(request)
        since = _whole(request.query_params.get("since", ""), "since")
        base = request.query_params.get("base", "")
        data = await request.body()
        size = area[2] - area[0], area[3] - area[1]
        if len(data) != size[0] * size[1]:
            raise HTTPException(400, "the mask has another size than its area")
        mask = np.frombuffer(data, np.uint8).reshape(size)

        def paint() -> Response:
            if problem := self._pictures.image(self._session.results.cells[index]).problem:
                raise DataError(f"The mask cannot be corrected: {problem}")
            self._session.paint(index, area, mask, base)
            return self._news(since)

        return await run_in_threadpool(paint)

    async def _reset(self, request: Request) -> Response:
        index, asked = self._index(request), await _json(request)
        base, since = asked.get("base"), asked.get("since")
        if not isinstance(base, str) or type(since) is not int or since < 0:
            raise HTTPException(400, "base or since is missing or wrong")
        return await run_in_threadpool(
            lambda: (self._session.forget_mask(index, base), self._news(since))[1]
        )

    def _index(self, request: Request) -> int:
        index = request.path_params["cell"]
        if index >= len(self._session.results.cells):
            raise HTTPException(404)
        return index

    async def _types(self, request: Request) -> Response:
        asked = await _json(request)
        cells, name, since = asked.get("cells"), asked.get("type"), asked.get("since")
        known = range(len(self._session.results.cells))
        fits = isinstance(cells, list) and all(type(i) is int and i in known for i in cells)
        if not fits or not isinstance(name, str | None) or type(since) is not int or since < 0:
            raise HTTPException(400, "cells, type or since is missing or wrong")
        return await run_in_threadpool(
            lambda: (self._session.set_types(cells, name), self._news(since))[1]
        )

    async def _undo(self, request: Request) -> Response:
        since = (await _json(request)).get("since")
        if type(since) is not int or since < 0:
            raise HTTPException(400, "since is missing or wrong")

        def undo() -> Response:
            undone = self._session.undo()
            return JSONResponse(answers.news(self._session, since) | {"undone": undone})

        return await run_in_threadpool(undo)


async def _json(request: Request) -> Mapping[str, Any]:
    # No form of another page can send this type without asking first.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "the request is no JSON")
    try:
        found = json.loads(await request.body())
    except ValueError:
        raise HTTPException(400, "the request is no JSON") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "the request is no JSON object")
    return found


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise HTTPException(400, f"{name} is {text[:40]!r}; it must be a whole number")
    return int(text)


def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409)


def bind(port: int) -> socket.socket:
    """Returns a socket that listens on this machine only.

    Args:
        port: 0: any that is free.

    Raises:
        InputError: another program has the port, or it is not allowed.
    """
    found = socket.socket()
    # Without it, a port could not be used again for a minute after a review ended.
    if os.name == "posix":
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((ADDRESS, port))
        found.listen(128)
    except (OSError, OverflowError) as error:
        found.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            why = "is used by another program, perhaps another review"
        else:
            why = f"cannot be used ({getattr(error, 'strerror', None) or error})"
        raise InputError(
            f"--port={port} {why}: name another one, or leave it out for one that is free."
        ) from error
    return found


def make(app: Starlette) -> uvicorn.Server:
    """Returns what answers requests; it prints nothing, as errors go to the page."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
    )


def run(server: Server, listening: socket.socket, session: Session) -> None:
    """Answers requests until a signal comes, then writes `corrections.csv`."""
    with _table_kept(session):
        make(server.app).run(sockets=[listening])


@contextlib.contextmanager
def _table_kept(session: Session) -> Iterator[None]:
    """Writes `corrections.csv` from time to time, and at the end."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(TABLE_SECONDS):
            session.write_table()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        session.write_table()
