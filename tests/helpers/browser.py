"""Drives a headless Chromium over its debugging pipe: keys, colors, sizes, requests, pictures.

The pipe (`--remote-debugging-pipe`) speaks the DevTools protocol as JSON messages that end in a
zero byte. So it needs no web-socket client and no open port.
"""

import base64
import collections
import contextlib
import io
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

PATH = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
TIMEOUT_SECONDS = 90
_KEYS = {
    "Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38,
    "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8, "Escape": 27, "PageUp": 33,
    "PageDown": 34,
}  # fmt: skip

# Chromium reads from file descriptor 3 and writes to 4. Our own ends may have these numbers.
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a headless Chromium.

    Attributes:
        requests: addresses that the page asked for, without those that its policy refused.
        refused: addresses that its policy refused.
        complaints: console messages, exceptions and violations of the page's policy.
        dialogs: the kinds of dialogs that the page opened; each is accepted.
    """

    def __init__(self, read: int, write: int):
        self._read, self._write = read, write
        self._buffer, self._last = b"", 0
        self._events: collections.deque[dict[str, Any]] = collections.deque()
        self.requests: list[str] = []
        self.refused: list[str] = []
        self._addresses: dict[str, str] = {}
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(
        self, page: pathlib.Path | str, width: int, dark: bool = False, height: int = 900
    ) -> None:
        """Shows a file, or an address, in a window of this size and waits until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self._events):
            self._next()

    def value(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def press(self, key: str, times: int = 1, shift: bool = False) -> None:
        """Presses a key: one of `_KEYS`, or one that writes a character."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = _KEYS[key] if key in _KEYS else ord(key.upper())
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key.strip() or "Space",
                    windowsVirtualKeyCode=code, text=text if kind == "keyDown" else "",
                    modifiers=8 if shift else 0,
                )  # fmt: skip

    def drag(self, *places: tuple[float, float]) -> None:
        """Presses the mouse at the first place (x, y) of the window, and lets go at the last."""
        steps = [("mousePressed", places[0]), *(("mouseMoved", place) for place in places[1:])]
        for kind, (x, y) in [*steps, ("mouseReleased", places[-1])]:
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1,
                buttons=int(kind != "mouseReleased"),
            )  # fmt: skip

    def middle(self, selector: str) -> tuple[float, float]:
        """Returns where an element has its middle, (x, y) in the window."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return tuple(self.value(f"(r => [r.left + r.width / 2, r.top + r.height / 2])({box})"))

    def drag_and_drop(self, held: str, target: str) -> None:
        """Drags one element, named by its CSS selector, to another."""
        (x, y), end = self.middle(held), self.middle(target)
        self.call("Input.setInterceptDrags", enabled=True)
        for kind, far in (("mousePressed", 0), ("mouseMoved", 5), ("mouseMoved", 20)):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=x + far, y=y + far, button="left",
                buttons=1, clickCount=1,
            )  # fmt: skip
        while not (taken := [e for e in self._events if e["method"] == "Input.dragIntercepted"]):
            self._next()
        data = taken[-1]["params"]["data"]
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=end[0], y=end[1], data=data)
        self.call("Input.setInterceptDrags", enabled=False)

    def picture(self, whole: bool = True) -> np.ndarray:
        """Returns a screenshot of the page, or of the visible part; uint8 `[H, W, 3]`."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        data = io.BytesIO(base64.b64decode(shot["data"]))
        return np.asarray(Image.open(data).convert("RGB"))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "scale": 1, **{k: size[k] for k in ("width", "height")}}}

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError(f"no answer from Chromium for {TIMEOUT_SECONDS} s")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("Chromium has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(message)
        self._note(found)
        return found

    def _note(self, found: dict[str, Any]) -> None:
        method, said = found.get("method"), found.get("params") or {}
        if method:
            self._events.append(found)
        if method == "Network.requestWillBeSent":
            self._addresses[said["requestId"]] = said["request"]["url"]
            self.requests.append(said["request"]["url"])
        elif method == "Network.loadingFailed" and said.get("blockedReason") == "csp":
            address = self._addresses[said["requestId"]]
            self.requests.remove(address)
            self.refused.append(address)
        elif method == "Page.javascriptDialogOpening":
            # Such as that a page is left before all is saved. The answer to this is not waited for.
            self.dialogs.append(said["type"])
            message = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            message |= {"sessionId": self._session}
            os.write(self._write, json.dumps(message).encode() + b"\0")
        elif method == "Log.entryAdded":
            self.complaints.append(said["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(said["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"]))


@contextlib.contextmanager
def started(folder: pathlib.Path) -> Iterator[Browser]:
    """Starts Chromium with its profile in `folder`, and ends it."""
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    command = [
        sys.executable, "-c", _START, str(from_us), str(to_us),
        PATH, "--headless", "--no-sandbox",
        "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(from_us)
    os.close(to_us)
    try:
        yield Browser(from_browser, to_browser)
    finally:
        os.close(to_browser)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(from_browser)
