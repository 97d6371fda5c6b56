"""The server of a review: what it answers, and what it refuses."""

import http.client
import io
import json
import os
import pathlib
import shutil
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from helpers import reviewed
from helpers.reviewed import ask
from wbc_jax.corrections import server
from wbc_jax.data import crops
from wbc_jax.errors import InputError


@pytest.fixture
def address(folder):
    with reviewed.answering(folder) as found:
        yield found


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def log_of(folder):
    path = folder / "corrections" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_is_said_is_in_the_log_when_the_answer_comes(address, folder):
    status, data = ask(address, "types", {"cells": [1, 3], "type": "basophil", "since": 0})
    assert status == 200
    assert [(one["cell"], one["after"]) for one in log_of(folder)] == [
        (1, "basophil"), (3, "basophil")
    ]  # fmt: skip
    news = json.loads(data)
    assert news["said"] == {
        cell: {"type": "basophil", "mask": None, "nc": None} for cell in ("1", "3")
    }
    assert {row["type"]: row["cells"] for row in news["after"]}["basophil"] == 2
    assert news["revision"] == 2 and news["problems"] == []
    status, data = ask(address, "types", {"cells": [0], "type": "Blast", "since": 2})
    news = json.loads(data)
    assert news["said"].keys() == {"0"} and news["types"][-1] == "Blast"
    undone = json.loads(ask(address, "undo", {"since": 3})[1])
    assert undone["undone"] == [0] and undone["said"]["0"]["type"] is None
    assert json.loads(ask(address, "state?since=4")[1])["said"] == {}
    everything = json.loads(ask(address, "cells")[1])
    assert everything["cells"]["cell"] == [1, 1, 2, 3]
    assert everything["cells"]["name"] == ["crop.png", *["field.png"] * 3]
    assert everything["cells"]["predicted"] == [*["monocyte"] * 2, *["for review"] * 2]
    assert sorted(everything["order"][:2]) == [2, 3] and sorted(everything["order"]) == [0, 1, 2, 3]
    assert {row["type"]: row["cells"] for row in everything["before"]}["monocyte"] == 2
    assert everything["said"]["1"]["type"] == "basophil"


def test_another_process_is_heard(address, folder):
    with reviewed.answering(folder, "Anna") as other, reviewed.answering(folder, "Bert") as bert:
        ask(other, "types", {"cells": [0], "type": "eosinophil", "since": 0})
        ask(bert, "types", {"cells": [1], "type": "eosinophil", "since": 0})
        news = json.loads(ask(address, "state?since=0")[1])
        assert {cell: one["type"] for cell, one in news["said"].items()} == {"0": "eosinophil"}
        assert [(one["before"], one["reviewer"]) for one in log_of(folder)] == [
            (None, "Anna"), (None, "Bert")
        ]  # fmt: skip
        ask(address, "types", {"cells": [0], "type": "basophil", "since": 0})
        assert log_of(folder)[-1]["before"] == "eosinophil"


def test_pictures_show_the_cell_and_its_field(address, folder):
    field = np.asarray(Image.open(_image(folder, 1)))
    about = json.loads(ask(address, "about/1")[1])
    assert about["box"] == [38, 38, 163, 163] and about["problem"] == ""
    cut = crops.cut(field, tuple(about["box"]))
    small = np.asarray(Image.fromarray(cut).resize((144, 144), Image.Resampling.BOX)).astype(int)
    status, data = ask(address, "thumbnail/1")
    assert status == 200 and np.abs(picture(data) - small).mean() < 6
    whole = picture(ask(address, "field/1")[1])
    assert whole.shape == field.shape and np.abs(whole - field).mean() < 3
    assert ask(address, "thumbnail/4")[0] == ask(address, "about/99")[0] == 404


def _image(folder, index):
    with open(folder / "cells.csv") as file:
        return file.read().splitlines()[1 + index].split(",")[0]


def test_images_that_moved_or_changed(folder, tmp_path):
    path = pathlib.Path(_image(folder, 1))
    pixels = np.asarray(Image.open(path)).copy()
    moved = shutil.copytree(path.parent, tmp_path / "moved" / "images")
    kept = path.read_bytes()
    try:
        pixels[5, 5] ^= 1
        Image.fromarray(pixels).save(path)
        with reviewed.answering(folder) as address:
            problem = json.loads(ask(address, "about/1")[1])["problem"]
            assert f"{path} has changed since it was predicted" in problem
            assert json.loads(ask(address, "about/0")[1])["problem"] == ""
            # The overlay stands in, and types can be said all the same.
            overlay = np.asarray(Image.open(folder / "overlays" / "field.png"))
            assert np.abs(picture(ask(address, "field/1")[1]) - overlay).mean() < 3
            body = {"cells": [1], "type": "basophil", "since": 0}
            assert ask(address, "types", body)[0] == 200
            status, data = ask(address, "mask/1")
            assert status == 409 and "The mask cannot be corrected" in json.loads(data)["error"]
            status, data = ask(address, "mask/1?area=0,0,2,2&base=&since=0", b"1122", **BYTES)
            assert status == 409 and "The mask cannot be corrected" in json.loads(data)["error"]
        path.unlink()
        with reviewed.answering(folder) as address:
            assert (
                "name the folder that it lies in now by --images=FOLDER"
                in json.loads(ask(address, "about/1")[1])["problem"]
            )
        with reviewed.answering(folder, images=tmp_path) as address:
            assert (
                f"is not in --images={tmp_path} either"
                in json.loads(ask(address, "about/1")[1])["problem"]
            )
        for place in (moved, moved.parent):
            with reviewed.answering(folder, images=place) as address:
                assert json.loads(ask(address, "about/1")[1])["problem"] == ""
        (folder / "overlays" / "field.png").unlink()
        with reviewed.answering(folder) as address:
            assert (picture(ask(address, "field/1")[1]) == 128).all()
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(
    "path", ["/", "/cells", "/x/cells", "//cells", "/../cells", "/scripts/review.js"]
)
def test_no_token_no_answer(address, folder, path):
    status, data = ask(address, path)
    assert status == 403 and b"lacks the token" in data
    assert ask(address, path, {"cells": [0], "type": "basophil", "since": 0})[0] == 403
    assert log_of(folder) == []


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example:80"}, False),
        ({"host": "0.0.0.0"}, False),
        ({"host": ""}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "https://{host}"}, False),
        ({"origin": "http://{host}0"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"content_type": "text/plain"}, False),
        ({"content_type": "application/x-www-form-urlencoded"}, False),
        ({"content_length": "99999999999"}, False),
        ({"content_length": "-1"}, False),
        ({"origin": "http://{host}", "sec_fetch_site": "same-origin"}, True),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, True),
    ],
)
def test_other_hosts_and_other_pages_are_refused(address, folder, headers, allowed):
    host = address.removeprefix("http://").partition("/")[0]
    headers = {name: value.format(host=host) for name, value in headers.items()}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"cells": [0], "type": "basophil", "since": 0}
    if "content-length" in headers:
        # A refusal by the length alone closes the connection. A body that is still on its way then
        # resets it, and the answer is lost.
        body = b""
    status, _ = ask(address, "types", body, **headers)
    assert (status == 200) == allowed and 200 <= status < 500
    assert bool(log_of(folder)) == allowed
    if not allowed and not any(name.startswith("content") for name in headers):
        assert ask(address, "cells", **headers)[0] in (400, 403)


@pytest.mark.parametrize(
    "path",
    [
        "scripts/../cells.html.j2", "scripts/..%2fcells.html.j2", "scripts/%2e%2e/%2e%2e/cells.csv",
        "scripts/cells.html.j2", "scripts//etc/passwd", "scripts/%2fetc%2fpasswd", "../cells.csv",
        "..%2f..%2fcells.csv", "cells.csv", "corrections/log.jsonl", "thumbnail/-1",
        "thumbnail/..%2f1", "field/0/../../../cells.csv", "thumbnail/1e0", "%00",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(address, path):
    status, data = ask(address, path)
    assert status in (403, 404) and b"file,mask" not in data and b"root:" not in data


def painting(address, index):
    """Returns the path that a cell's mask is sent to, the mask as it is, and its area."""
    host, _, token = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    connection.request("GET", f"/{token}mask/{index}")
    answer = connection.getresponse()
    data, area, base = answer.read(), answer.headers["x-area"], answer.headers["x-base"]
    connection.close()
    top, left, bottom, right = map(int, area.split(","))
    mask = np.frombuffer(data, np.uint8).reshape(bottom - top, right - left).copy()
    return f"mask/{index}?area={area}&base={base}&since=0", mask, (top, left, bottom, right)


BYTES = {"content-type": "application/octet-stream"}


def test_a_mask_is_painted_and_comes_back(address, folder):
    path, mask, (top, left, bottom, right) = painting(address, 1)
    window = picture(ask(address, f"window/1?area={top},{left},{bottom},{right}")[1])
    field = np.asarray(Image.open(_image(folder, 1)))
    assert (window == field[top:bottom, left:right]).all()
    nucleus, cytoplasm = int((mask == 2).sum()), int((mask == 1).sum())
    mask[:3, :3] = 2
    status, data = ask(address, path, mask.tobytes(), **BYTES)
    said = json.loads(data)["said"]["1"]
    assert status == 200 and said["type"] is None
    assert said["nc"] == pytest.approx((nucleus + 9) / cytoplasm)
    after, again, _ = painting(address, 1)
    assert (again == mask).all() and f"base={said['mask']}" in after
    # On an old base it is refused, with a reset too.
    assert ask(address, path, mask.tobytes(), **BYTES)[0] == 409
    assert ask(address, "reset/1", {"base": "", "since": 0})[0] == 409
    assert ask(address, "reset/1", {"base": said["mask"], "since": 0})[0] == 200
    assert (painting(address, 1)[1] == 2).sum() == nucleus
    assert [bool(one["after"]) for one in log_of(folder)] == [True, False]


def test_wrong_masks_are_refused(address, folder):
    path, mask, _ = painting(address, 1)
    area = path.partition("area=")[2].partition("&")[0]
    wrong = [
        (path, mask.tobytes()[1:], BYTES, 400),
        (path, mask.tobytes(), {"content-type": "text/plain"}, 415),
        (path, bytes([9]) * mask.size, BYTES, 409),
        (path, bytes(mask.size), BYTES, 409),
        (path.replace(area, "0,0,9999,9999"), mask.tobytes(), BYTES, 400),
        (path.replace(area, "0,0,0,0"), b"", BYTES, 400),
        (path.replace(area, "0,0,1"), b"1", BYTES, 400),
        (path.replace(area, "-1,0,1,1"), b"12", BYTES, 400),
        (path.replace("mask/1", "mask/4"), mask.tobytes(), BYTES, 404),
        (path.replace("since=0", "since="), mask.tobytes(), BYTES, 400),
        ("window/1?area=0,0,9999,9", None, {}, 400),
        ("reset/1", {"base": 1, "since": 0}, {}, 400),
    ]
    for query, body, headers, status in wrong:
        assert ask(address, query, body, **headers)[0] == status, query
    assert log_of(folder) == [] and not (folder / "corrections" / "masks").exists()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("types", b"{", 400), ("types", [1], 400), ("types", {}, 400),
        ("types", {"cells": [4], "type": "basophil", "since": 0}, 400),
        ("types", {"cells": [-1], "type": "basophil", "since": 0}, 400),
        ("types", {"cells": [True], "type": "basophil", "since": 0}, 400),
        ("types", {"cells": "0", "type": "basophil", "since": 0}, 400),
        ("types", {"cells": [0], "type": 1, "since": 0}, 400),
        ("types", {"cells": [0], "type": "basophil", "since": -1}, 400),
        ("types", {"cells": [0], "type": "for review", "since": 0}, 409),
        ("undo", {}, 400),
        ("cells", {}, 405),
    ],
)  # fmt: skip
def test_wrong_requests(address, folder, path, body, status):
    headers = {"content-type": "application/json"}
    assert ask(address, path, body, **headers)[0] == status
    assert log_of(folder) == []
    assert ask(address, "state?since=x")[0] == ask(address, "state")[0] == 400


def test_the_page_may_load_only_its_own_parts(address):
    host, _, token = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    connection.request("GET", f"/{token}")
    answer = connection.getresponse()
    text = answer.read().decode()
    headers = dict(answer.getheaders())
    connection.close()
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers and "server" not in headers
    assert "Review of 4 cells" in text and "http://" not in text and "https://" not in text


def test_results_that_changed_meanwhile_refuse_and_lose_nothing(address, folder):
    ask(address, "types", {"cells": [0], "type": "basophil", "since": 0})
    (folder / "cells.parquet").touch()
    status, data = ask(address, "types", {"cells": [1], "type": "basophil", "since": 0})
    assert status == 409 and "has changed since this review began" in json.loads(data)["error"]
    assert len(log_of(folder)) == 1
    assert any("changed" in p for p in json.loads(ask(address, "state?since=0")[1])["problems"])


def test_a_full_disk_is_said(address, folder, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, data = ask(address, "types", {"cells": [0], "type": "basophil", "since": 0})
    assert status == 409 and "No space left" in json.loads(data)["error"]
    monkeypatch.undo()
    assert log_of(folder) == []
    assert ask(address, "types", {"cells": [0], "type": "basophil", "since": 0})[0] == 200


def test_a_busy_port():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--port={port} is used by another program"):
            server.bind(port)
    found = server.bind(port)
    assert found.getsockname() == ("127.0.0.1", port)
    found.close()


def test_requests_at_the_same_time(address, folder):
    """Answers that count all cells are made while others say types, some of them new."""
    failed = []

    def say(n):
        for i in range(10):
            body = {"cells": [n], "type": f"type {n} {i}", "since": 0}
            failed.append(ask(address, "types", body)[0] != 200)

    def look():
        for _ in range(15):
            failed.append(ask(address, "cells")[0] != 200)

    threads = [threading.Thread(target=say, args=(n,)) for n in range(4)]
    threads += [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 70 and not any(failed)
    said = json.loads(ask(address, "cells")[1])["said"]
    assert {cell: one["type"] for cell, one in said.items()} == {
        str(n): f"type {n} 9" for n in range(4)
    }
