"""The command `python -m wbc_jax.detect`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from helpers.drawn_fields import RED_PX, boxes_of, plain_field
from wbc_jax import detect


def test_command(tmp_path, capsys):
    cells = [(10, 240, 26, 40), (200, 200, 26, 40)]
    (tmp_path / "in").mkdir()
    Image.fromarray(plain_field(cells)).save(tmp_path / "in" / "a.png")
    Image.fromarray(plain_field([])).save(tmp_path / "in" / "none.png")
    out = tmp_path / "out"
    command = [str(tmp_path / "in"), f"--out={out}", f"--pictures={tmp_path / 'pictures'}"]
    detect.main(command)
    assert "2 cells in 2 images" in capsys.readouterr().out
    with open(out / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"][-5:], row["cell"], row["touches_frame"]) for row in rows] == [
        ("a.png", "0", "1"),
        ("a.png", "1", "0"),
        ("e.png", "", ""),
    ]
    assert float(rows[0]["um_per_px"]) == pytest.approx(7.5 / RED_PX, rel=0.1)
    assert rows[0]["um_per_px_reliable"] == "1"
    for row in rows[:2]:
        sides = np.array(
            [int(row["bottom"]) - int(row["top"]), int(row["right"]) - int(row["left"])]
        )
        assert Image.open(out / row["crop"]).size[0] >= 1.5 * sides.max()
    assert Image.open(tmp_path / "pictures" / "a.png").size == (480, 360)

    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="1 of 3 files could not be read"):
        detect.main(command)
    assert (out / "bad_files.csv").read_text().splitlines()[1].startswith(str(tmp_path))
    with pytest.raises(SystemExit, match="no such file or folder"):
        detect.main([str(tmp_path / "missing.png"), f"--out={out}"])


def test_command_says_what_is_missing(capsys):
    for argv in (["a.png"], ["--out=x"], ["a.png", "--out=x", "--margin=-1"]):
        with pytest.raises(SystemExit):
            detect.main(argv)
    assert "allowed is a number from 0 upwards" in capsys.readouterr().err


def test_score_command(tmp_path, capsys):
    """Scores one field in BCD's layout: one cell is found, one box marks nothing."""
    (tmp_path / "bcd" / "images").mkdir(parents=True)
    cells = [(128, 120, 26, 40)]
    image = plain_field(cells, 256, 256)
    Image.fromarray(image).save(tmp_path / "bcd" / "images" / "image-1.png")
    ((top, left, bottom, right),) = boxes_of(cells, 256, 256)
    lines = ["image_id,image,xmin,ymin,xmax,ymax,label"]
    for box, label in (
        ((left, top, right, bottom), "wbc"),
        ((0, 0, 30, 30), "wbc"),
        ((40, 0, 60, 20), "rbc"),
    ):
        lines.append(",".join(["1", "image-1.png", *(str(side / 256) for side in box), label]))
    (tmp_path / "bcd" / "annotations.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "score.json"
    pictures = tmp_path / "pictures"
    detect.main(
        [
            *("--score", "--dataset=bcd"),
            *(f"--manual_dir={tmp_path}", f"--out={out}", f"--pictures={pictures}"),
        ]
    )
    assert "1 images, 2 boxes, 1 found" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["recall"]["value"] == 0.5 and result["precision"]["value"] == 1
    assert sorted(path.name for path in pictures.iterdir()) == [".wbc_jax", "000_image-1.png"]
    with pytest.raises(SystemExit, match=r"holds no kaggle_blood_cells/dataset-master"):
        detect.main(["--score", f"--manual_dir={tmp_path}"])
    with pytest.raises(SystemExit, match="allowed are kaggle_blood_cells, bcd"):
        detect.main(["--score", f"--manual_dir={tmp_path}", "--dataset=pbc"])


def test_files_of_a_person_are_not_replaced(tmp_path):
    """A crop, a picture and a JSON file of the names that the results would have."""
    image, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(plain_field([(128, 120, 26, 40)], 256, 256)).save(image)
    for place, arguments in (
        (out / "crops" / "a_0.png", [str(image), f"--out={out}"]),
        (tmp_path / "p" / "a.png", [str(image), f"--out={out}", f"--pictures={tmp_path / 'p'}"]),
    ):
        place.parent.mkdir(parents=True)
        place.write_bytes(b"a person's")
        with pytest.raises(SystemExit) as caught:
            detect.main(arguments)
        assert str(caught.value).startswith(f"error: {place} was not written by an earlier call")
        assert place.read_bytes() == b"a person's" and not (out / "cells.csv").exists()
        place.unlink()
    (tmp_path / "bcd" / "images").mkdir(parents=True)
    (tmp_path / "bcd" / "annotations.csv").write_text("image,xmin,ymin,xmax,ymax,label\n")
    score = tmp_path / "score.json"
    score.write_text('{"of": "something else"}')
    with pytest.raises(SystemExit) as caught:
        detect.main(["--score", "--dataset=bcd", f"--manual_dir={tmp_path}", f"--out={score}"])
    assert f"{score} holds something else" in str(caught.value)
    # The crops of an earlier call are replaced.
    for _ in range(2):
        detect.main([str(image), f"--out={out}"])
    assert (out / "crops" / "a_0.png").stat().st_size > 100
