import base64
import copy
import hashlib
import io
import itertools
import math
import re
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.html_pages import Page
from helpers.report_pages import EVIL, arguments, example, result, typed_arguments
from wbc_jax.report import overlays
from wbc_jax.report import run_page as report
from wbc_jax.utils.output_folder import OutputFolder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "index.html"
    failed = []

    def work():
        try:
            report.write(OutputFolder(path.parent), path.name, **arguments())
        except BaseException as error:
            failed.append(error)

    # A run writes its report beside other work.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed, failed
    return path


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


def test_page_is_one_file_that_asks_for_nothing(written, page):
    assert {path.name for path in written.parent.iterdir()} == {".wbc_jax", "index.html"}
    assert written.stat().st_size < 3e6
    for _, attrs in page.tags:
        for key in ("src", "srcset", "href", "action", "data"):
            if key in attrs:
                assert attrs[key].startswith(("data:", "#"))
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|@font-face|\bon[a-z]+=", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    ]


def test_text_from_data_is_escaped(written, page):
    text = written.read_text(encoding="utf-8")
    assert text.count("<script") == 1 and "<name>" not in text
    # Data set, reason, flag, caption and setting each show it as it is.
    assert page.text.count(EVIL) >= 5
    assert f"unknown {EVIL} with the true and the predicted outlines of cell and nucleus" in [
        attrs["alt"] for attrs in page.all("img")
    ]


def test_headline_and_tables_hold_the_numbers(page):
    assert (
        "On 60 test images of 2 data sets, unet reaches a mean IoU of 0.876 "
        "(95 % interval 0.880 to 0.915)." in page.text
    )
    assert "off by 5.6 % in the median (95 % interval 4.1 to 7.9 %)" in page.text
    assert "A colour threshold without training reaches 0.654 on the same images." in page.text
    assert "jtsc 40 0.988 0.951 0.900 [0.880, 0.915] – 0.990" in page.text
    assert (
        "0.897 0.947 0.654 [0.630, 0.680] 0.735 [0.710, 0.760] 3 5.6 % [4.1, 7.9 %] 0.954 37 2"
        in page.text
    )
    assert "counts as 0. MATLAB's bfscore leaves such a class out of its mean" in page.text
    assert "Missed (no ratio predicted) 2 Flagged 3" in page.text
    assert "Data sets the model never trained on raabin 114" in page.text
    assert "Baseline without training: Otsu colour threshold jtsc 40" in page.text
    assert "Not evaluated: lisc (not found" in page.text
    assert "eosinophil 8 0.988" in page.text


def test_confusion_is_by_row_with_counts(page):
    assert "background 90.0 % 9,000 10.0 % 1,000 0.0 % 0" in page.text
    assert "cytoplasm 25.0 % 25 75.0 % 75 0.0 % 0" in page.text
    assert "nucleus – 0 – 0 – 0" in page.text


def test_agreement_of_the_ratio_is_told_with_its_definition():
    given = arguments()
    given["rows"] = [
        {"dataset": name, "label": label, "truth_nc_ratio": 1.0, "nc_ratio": found}
        for name, label, found in (("a", 4, 1.0), ("a", 4, 1.21), ("a", 0, 1.1), ("b", 4, 0.5))
    ]
    text = Page(report.render(**given)).text
    # Of a: ln 1.1 · (0, 1, 2), whose mean is ln 1.1; of neutrophils (0, 2 ln 1.1, −ln 2) / 3.
    assert re.search(r"By data set a 3 \+10\.0 % \[.*?\] −8\.7 % \[.*?\] \+32\.6 %", text)
    assert "b 1 −50.0 % – –" in text
    assert "By cell type basophil 1 +10.0 % – – neutrophil 3 −15.4 %" in text
    assert "Difference: predicted / true − 1." in text and "ln(predicted / true)" in text


def test_settings_versions_and_purpose(page):
    for words in (
        "Parameters 1,234,567",
        "Training time 12 min 34 s",
        "Evaluated at 256 × 256 px",
        "Hardware 8 CPU cores",
        "jax 0.10.1",
        'data.datasets ["jtsc"]',
        "seed 7",
        "empty {}",
        "All 4 settings",
        "For research use only.",
    ):
        assert words in page.text


def test_page_can_be_read_without_seeing_it(page):
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert all(attrs.get("scope") for attrs in page.all("th"))
    # Outlines lie over their image, which says what is drawn.
    layers = [a for a in page.all("img") if a.get("class", "").startswith("layer")]
    assert len(layers) == 3 * 30 and {a["alt"] for a in layers} == {""}
    assert all(a["alt"] for a in page.all("img") if a not in layers)
    labels = [attrs.get("for") for attrs in page.all("label")]
    assert {a["id"] for a in page.all("input") if a["type"] == "range"} <= set(labels)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    assert page.all("html")[0]["lang"] == "en"
    wide = [attrs for attrs in page.all("div") if attrs.get("class") == "scroll"]
    assert wide and all(attrs["tabindex"] == "0" for attrs in wide)
    assert len(page.all("source")) == 3


def test_tables_have_the_same_number_of_cells_in_each_row(written):
    text = written.read_text(encoding="utf-8")
    for table in re.findall(r'<table class="results">.*?</table>', text, re.S):
        for line in re.findall(r"<tr.*?</tr>", table.split("</thead>")[1], re.S):
            cells = len(re.findall(r"<t[hd]", line))
            assert cells == 18 or (cells == 1 and 'colspan="18"' in line)


def shown(page):
    """What the viewer holds: what its slider says, what is on each picture."""
    places = [a["data-place"] for a in page.all("figure") if a.get("class") == "frame"]
    names = [a["data-name"] for a in page.all("figure") if a.get("class") == "frame"]
    return places, names


def test_overlays_are_sorted_by_error(page):
    _, names = shown(page)
    scores = [float(name.rsplit(" ", 1)[1]) for name in names]
    assert scores == [*(k / 100 for k in range(61, 90)), 0.99]
    assert names[0].startswith("neutrophil cell-29, ") and names[-1].startswith("unknown " + EVIL)


def test_overlays_tell_their_place_and_numbers():
    given = arguments()
    given["examples"] = [example(1, 0.5), example(2, math.nan, truth=False), example(3, 0.7)]
    given["rows"] = [
        {"dataset": "jtsc", "id": f"cell-{k}", "label": k - 1, "mean_iou": score, "flag": flag}
        | {"iou_nucleus": 0.8, "truth_nc_ratio": 0.5, "nc_ratio": 0.4}
        for k, score, flag in ((1, 0.5, ""), (2, None, "no_cytoplasm"), (3, 0.7, ""), (9, 0.6, ""))
    ]
    found = Page(report.render(**given))
    assert shown(found) == (
        ["1 of 3 from the worst", "3 of 3 from the worst", ""],
        ["basophil cell-1, IoU 0.500", "lymphocyte cell-3, IoU 0.700", "eosinophil cell-2, IoU –"],
    )
    assert "3 images of 4, by mean IoU" in found.text
    assert "Mean IoU 0.500 IoU of the cytoplasm – IoU of the nucleus 0.800" in found.text
    assert "True N/C 0.500 Predicted N/C 0.400 Difference −20.0 % " in found.text
    assert found.text.count("Flag no_cytoplasm") == 1
    # Image, truth, prediction and errors; without a truth there is nothing to compare with.
    assert len([a for a in found.all("img") if a["src"].startswith("data:image/jpeg")]) == 3
    classes = [a["class"] for a in found.all("img") if "class" in a]
    assert classes == ["layer truth", "layer predicted", "layer errors"] * 2 + ["layer predicted"]
    stacks = [a["class"] for a in found.all("div") if a.get("class", "").startswith("stack")]
    assert stacks == ["stack", "stack", "stack untrue"]


def test_layers_hold_what_they_say():
    found = example(3, 0.5)
    size, layers = report._layers(found)
    assert size == (480, 480)
    pixels = {}
    for name in ("truth", "predicted", "errors"):
        data = base64.b64decode(layers[name].removeprefix("data:image/png;base64,"))
        pixels[name] = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        assert pixels[name].shape == (480, 480, 4)
        assert set(np.unique(pixels[name][..., 3])) == {0, 255}
    large = cv2.resize(found.truth, (480, 480), interpolation=cv2.INTER_NEAREST_EXACT)
    gray = np.full((480, 480, 3), 128, np.uint8)
    drawn = overlays.overlay(gray, large, 3)
    seen = np.where(pixels["truth"][..., 3:] > 0, pixels["truth"][..., :3], gray)
    assert np.array_equal(seen, drawn)
    wrong = found.truth != found.prediction
    wrong = (
        cv2.resize(wrong.astype(np.uint8), (480, 480), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    )
    assert np.array_equal(pixels["errors"][..., 3] > 0, wrong) and wrong.any()
    assert {tuple(c) for c in pixels["errors"][wrong][:, :3]} == {overlays.ERROR_COLOR}


def test_a_run_with_nothing_to_show_has_a_page():
    nothing = {"rows": [], "history": [], "examples": [], "config": {}}
    found = Page(report.render(title="t", summary={}, **nothing))
    assert "No data set was evaluated." in found.text and not found.all("img")
    assert not found.all("script") and "script-src" not in str(found.all("meta"))
    found = Page(report.render(title="t", summary={"results": {"a": None}}, **nothing))
    assert "a mean IoU of –." in found.text


def test_one_data_set_is_not_repeated_as_all():
    given = arguments()
    given["summary"]["results"] = {"jtsc": result(), "all": result()}
    given["summary"]["baseline"] = {}
    found = Page(report.render(**given))
    assert "On 40 test images of data set jtsc, unet" in found.text
    assert found.text.count("jtsc 40 0.988") == 1 and " all 40 " not in found.text
    assert "colour threshold" not in found.text


def test_a_page_that_cannot_be_drawn_leaves_the_old_one(tmp_path):
    path = tmp_path / "report" / "index.html"
    path.parent.mkdir()
    path.write_text("old")
    given = arguments()
    given["examples"] = [copy.copy(given["examples"][0])]
    object.__setattr__(given["examples"][0], "truth", np.zeros((9, 9), np.uint8))
    with pytest.raises(ValueError, match=r"mask \[9, 9\] does not fit"):
        report.write(OutputFolder(path.parent), path.name, **given)
    assert path.read_text() == "old"
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]


def test_a_page_that_cannot_be_put_in_place_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "render", lambda **_: "page")
    (tmp_path / "index.html").mkdir()
    with pytest.raises(OSError):
        report.write(OutputFolder(tmp_path), "index.html", **arguments())
    assert {found.name for found in tmp_path.iterdir()} == {".wbc_jax", "index.html"}
    report.write(OutputFolder(tmp_path / "new"), "page.html", **arguments())
    assert (tmp_path / "new" / "page.html").read_text() == "page"


def test_calibration_of_pixels():
    given = arguments()
    without = Page(report.render(**given)).text
    assert "The probabilities of the pixels were not recorded with this run" in without
    bins = {"pixels": [0, 4, 100], "right": [0, 3, 90], "confidence": [None, 0.5, 0.97]}
    given["summary"]["calibration"] = {
        "jtsc": bins
        | {"images": 40, "expected_calibration_error": 0.0123, "interval": [0.01, 0.015]},
        "b": bins | {"images": 2, "expected_calibration_error": 0.02},
        "all": bins | {"images": 42, "expected_calibration_error": None},
    }
    page = Page(report.render(**given))
    assert "Calibration of the pixels" in page.text and "not recorded" not in page.text
    assert "Counted on 42 images, evenly spaced" in page.text
    assert "All data sets – jtsc 1.23 % [1.00, 1.50 %] b 2.00 %" in page.text
    assert len(page.all("source")) == 4
    assert "#calibration" in {a["href"] for a in page.all("a")}


def test_the_page_of_a_classification():
    page = Page(report.render(**typed_arguments()))
    assert "White-blood-cell classification" in page.text
    assert "names the right type in 92.5 % (95 % interval 85.0 to 97.5 %)" in page.text
    assert "most frequent type of training would be right in 20.0 %" in page.text
    assert "Confusion of cell types" in page.text and "N/C ratio" not in page.text
    assert "monocyte taken for lymphocyte" in page.text and "97.0 %" in page.text
    assert "1 cell of 2 has another type" in page.text
    assert "eosinophil taken" not in page.text  # that one is right
    assert EVIL in page.text
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [attrs["href"] for attrs in page.all("a")]
    assert {"#calibration", "#mistakes"} <= set(links)
    assert all(link[1:] in ids for link in links)
    assert any(th.get("colspan") == "5" for th in page.all("th"))


def test_whole_cells_are_shown_with_the_score_of_the_cell():
    given = arguments()
    scores = {"images": 3, "cell_only_images": 3, "iou_cell": 0.8125, "dice_cell": 0.8966}
    given["summary"] |= {
        "results": {"krd_wbc": {**scores, "intervals": {"iou_cell": [0.79, 0.83]}}},
        "baseline": {"krd_wbc": scores | {"iou_cell": 0.5123}},
    }
    example = copy.copy(given["examples"][0])
    object.__setattr__(example, "score", math.nan)
    nan = dict.fromkeys(("mean_iou", "truth_nc_ratio"), math.nan)
    row = {"dataset": example.dataset, "id": example.id, "iou_cell": 0.7777, "dice_cell": 0.875}
    given |= {"examples": [example], "rows": [{**nan, **row, "nc_ratio": 1.5, "flag": ""}]}
    text = Page(report.render(**given)).text
    assert "reaches an IoU of the whole cell of 0.812 (95 % interval 0.790 to 0.830)" in text
    assert "A colour threshold without training reaches 0.512 on the same images." in text
    assert "whole cells" in text and "Whole cells: number of images" in text
    assert "IoU of the cell 0.778 Dice of the cell 0.875 Predicted N/C 1.500" in text
    assert "True N/C" not in text
    plain = Page(report.render(**arguments())).text
    assert "hole cells" not in plain
