"""The command `wbc_jax.review`: it ends cleanly, and says what is wrong with its flags."""

import shutil
import signal
import socket
import sys

import pytest

from helpers import reviewed
from wbc_jax import review


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    return reviewed.predicted(tmp_path_factory.mktemp("reviewed"))


def refused(capsys, *flags):
    with pytest.raises(SystemExit) as caught:
        review.main(list(flags))
    said = capsys.readouterr().err
    return caught.value.code if isinstance(caught.value.code, str) else said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_the_table_written(predicted, tmp_path, number, status):
    folder = shutil.copytree(predicted, tmp_path / "results")
    with reviewed.serving(folder) as (process, address):
        body = {"cells": [0], "type": "basophil", "since": 0}
        assert reviewed.ask(address, "types", body)[0] == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status and err == "stopped\n"
        assert out.endswith(f"corrections of 1 cell: {folder}/corrections/log.jsonl\n")
        assert "basophil" in (folder / "corrections.csv").read_text()


def test_flags(predicted, tmp_path, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(capsys, str(predicted), f"--port={port}", "--nobrowser")
    assert said.startswith(f"error: --port={port} is used by another program, perhaps another rev")
    assert "allowed is 0 to 65535" in refused(capsys, str(predicted), "--port=65536")
    said = refused(capsys, str(predicted), f"--images={tmp_path / 'gone'}")
    assert (
        said
        == f"error: --images={tmp_path / 'gone'} is no folder: name the one that the images lie in."
    )
    assert "has no cells.parquet" in refused(capsys, str(tmp_path))
    assert "is no name" in refused(capsys, str(predicted), "--reviewer=\n")


def test_without_the_server_it_says_what_to_install(predicted, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "wbc_jax.corrections.server", raising=False)
    monkeypatch.delattr("wbc_jax.corrections.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = refused(capsys, str(predicted), "--nobrowser")
    assert "the package uvicorn: pip install 'wbc_jax[review]'" in said
