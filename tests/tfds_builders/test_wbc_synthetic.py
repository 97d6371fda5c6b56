"""The drawn data set: deterministic, of the right forms, and written without loss."""

import collections

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.wbc_synthetic import render, wbc_synthetic_dataset_builder

BASOPHIL, EOSINOPHIL, LYMPHOCYTE, MONOCYTE, NEUTROPHIL = range(5)


@pytest.fixture(scope="module")
def crops():
    return [render.render_cell(0, index) for index in range(150)]


@pytest.fixture(scope="module")
def lone(crops):
    """Crops without a second leukocyte: that one would reach over the edge."""
    found = []
    for crop in crops:
        inside = crop.mask > 0
        if not (inside[[0, -1]].any() or inside[:, [0, -1]].any()):
            found.append(crop)
    return found


def _nc(crop):
    return (crop.mask == 2).sum() / (crop.mask > 0).sum()


def _parts(nucleus):
    """Most parts (of over 10 pixels) that a nucleus falls into as its edge is worn off."""
    depth = ndimage.distance_transform_edt(nucleus)
    most = 0
    for level in range(8):
        _, areas = np.unique(measure.label(depth > level), return_counts=True)
        most = max(most, int((areas[1:] > 10).sum()))
    return most


def test_same_numbers_same_bytes_other_numbers_another_cell():
    one, same = render.render_cell(7, 12), render.render_cell(7, 12)
    assert one.image.tobytes() == same.image.tobytes()
    assert one.mask.tobytes() == same.mask.tobytes()
    assert (one.label, one.subtype, one.um_per_px) == (same.label, same.subtype, same.um_per_px)
    for other in (render.render_cell(7, 17), render.render_cell(8, 12)):
        assert np.mean(one.image != other.image) > 0.5
        assert np.any(one.mask != other.mask)


def test_a_crop_does_not_depend_on_crops_drawn_before():
    first = render.render_cell(0, 3).image
    render.render_cell(0, 4)
    np.random.default_rng(0).random()
    assert np.array_equal(render.render_cell(0, 3).image, first)


def test_more_pixels_show_the_same_cell():
    coarse, fine = render.render_cell(0, 8, 96), render.render_cell(0, 8, 192)
    assert (coarse.label, coarse.subtype) == (fine.label, fine.subtype)
    assert coarse.um_per_px == pytest.approx(2 * fine.um_per_px)
    area = [(c.mask > 0).sum() * c.um_per_px**2 for c in (coarse, fine)]
    assert area[0] == pytest.approx(area[1], rel=0.03)


def test_types_and_palettes_are_balanced(crops):
    assert np.bincount([crop.label for crop in crops]).tolist() == [30] * 5
    names = [crop.palette for crop in crops]
    assert set(names) == {palette.name for palette in render.PALETTES}
    assert min(map(names.count, names)) >= 0.08 * len(names)
    forms = {(crop.label, crop.subtype) for crop in crops}
    assert {(NEUTROPHIL, "band"), (NEUTROPHIL, "segmented")} <= forms
    assert {(MONOCYTE, "kidney"), (MONOCYTE, "horseshoe")} <= forms
    assert {(LYMPHOCYTE, "small"), (LYMPHOCYTE, "large")} <= forms


def test_shares_of_the_classes(crops):
    shares = np.mean([[(crop.mask == k).mean() for k in range(3)] for crop in crops], axis=0)
    assert shares.sum() == pytest.approx(1)  # no other value occurs
    assert 0.60 < shares[0] < 0.76
    assert 0.13 < shares[1] < 0.22
    assert 0.10 < shares[2] < 0.18


def test_the_cell_is_near_the_centre_and_45_to_75_percent_wide(lone):
    for crop in lone:
        inside = crop.mask > 0
        assert measure.label(inside).max() == 1
        assert np.abs(ndimage.center_of_mass(inside) - np.array([47.5, 47.5])).max() < 7
        diameter = 2 * np.sqrt(inside.sum() / np.pi) / 96
        assert 0.43 < diameter < 0.76
        um = diameter * 96 * crop.um_per_px
        assert 8 < um < 19  # real leukocytes on smears


def test_the_nucleus_lies_in_the_cell_within_a_seam_of_cytoplasm(crops):
    for crop in crops:
        # Beyond the image's edge the cell goes on, so pad with what is there.
        padded = np.pad(crop.mask, 1, mode="edge")
        near_nucleus = ndimage.binary_dilation(padded == 2, structure=np.ones((3, 3)))
        bare = near_nucleus & (padded == 0)
        # A thinner seam than a pixel may vanish in places, never along the whole edge.
        assert bare.sum() < 0.25 * (near_nucleus & (padded != 2)).sum()


def test_cells_are_without_holes(lone):
    for crop in lone:
        inside = crop.mask > 0
        assert np.array_equal(ndimage.binary_fill_holes(inside), inside)


def test_nuclei_have_the_forms_of_their_types(lone):
    parts, solidities = collections.defaultdict(list), collections.defaultdict(list)
    for crop in lone:
        nucleus = crop.mask == 2
        parts[crop.label, crop.subtype].append(_parts(nucleus))
        solidity = measure.regionprops(nucleus.astype(np.uint8))[0].solidity
        solidities[crop.label].append(solidity)
        if crop.label == LYMPHOCYTE:
            assert measure.label(nucleus).max() == 1
            assert solidity > 0.9
        if crop.subtype in ("band", "horseshoe", "kidney"):
            assert measure.label(nucleus).max() == 1
    assert np.mean(np.array(parts[NEUTROPHIL, "segmented"]) >= 2) > 0.9
    assert np.mean(np.array(parts[NEUTROPHIL, "segmented"]) >= 3) > 0.5
    assert np.mean(np.array(parts[EOSINOPHIL, "lobed"]) == 2) > 0.6
    median = [np.median(solidities[label]) for label in range(5)]
    assert median[LYMPHOCYTE] > median[MONOCYTE] > median[NEUTROPHIL]
    assert median[NEUTROPHIL] < 0.8


def test_nuclear_shares_are_ordered_as_in_blood(lone):
    median = [np.median([_nc(c) for c in lone if c.label == label]) for label in range(5)]
    assert median[LYMPHOCYTE] > 0.6 > median[MONOCYTE] > median[NEUTROPHIL] > 0.25
    assert median[MONOCYTE] > median[EOSINOPHIL]


def test_nuclei_are_darker_than_cytoplasm_than_background(crops):
    levels = [
        np.median(np.concatenate([c.image[c.mask == k].mean(axis=-1) for c in crops]))
        for k in range(3)
    ]
    assert levels[2] + 30 < levels[1] < levels[0] - 5
    # The nucleus stands out in every single crop, not only on average.
    for crop in crops:
        green = crop.image[..., 1]
        assert np.median(green[crop.mask == 2]) + 15 < np.median(green[crop.mask == 1])


def test_granules_have_the_colours_of_their_types(crops):
    def redness(label):
        pixels = [c.image[c.mask == 1].astype(float) for c in crops if c.label == label]
        return np.median([np.median(p[:, 0] - p[:, 2]) for p in pixels])

    def roughness(label):
        return np.median([c.image[c.mask == 1].std(0).mean() for c in crops if c.label == label])

    assert redness(EOSINOPHIL) > redness(NEUTROPHIL) + 5
    assert roughness(BASOPHIL) > roughness(NEUTROPHIL)


def test_a_field_holds_the_cells_it_names():
    field = render.render_field(5, 200, 320, 6)
    again = render.render_field(5, 200, 320, 6)
    assert field.image.tobytes() == again.image.tobytes()
    assert field.cells == again.cells
    assert field.image.shape == (200, 320, 3)
    assert len(field.cells) == 6
    covered = np.zeros(field.mask.shape, bool)
    for cell in field.cells:
        y0, x0, y1, x1 = cell.box
        covered[y0:y1, x0:x1] = True
        assert y0 <= cell.center[0] <= y1 and x0 <= cell.center[1] <= x1
        inside = field.mask[y0:y1, x0:x1] > 0
        assert inside.mean() > 0.6
        # The box is tight: its outermost rows and columns hold the cell, or half covered pixels.
        assert inside[:2].any() and inside[-2:].any()
        assert inside[:, :2].any() and inside[:, -2:].any()
    assert not field.mask[~covered].any()


def test_a_field_without_leukocytes_has_an_empty_mask():
    field = render.render_field(1, 64, 96, 0, palette="rose", um_per_px=0.3)
    assert (field.palette, field.um_per_px, field.cells) == ("rose", 0.3, ())
    assert not field.mask.any()
    assert field.image.std() > 3  # red cells, at least


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: render.render_cell(-1, 0), "seed"),
        (lambda: render.render_cell(0, -1), "index"),
        (lambda: render.render_cell(0, 0, 16), "size"),
        (lambda: render.render_field(0, 96, 16, 1), "width"),
        (lambda: render.render_field(0, 96, 96, 1, um_per_px=3.0), "um_per_px"),
        (lambda: render.render_field(0, 96, 96, 1, palette="green"), "yellow, white"),
        (lambda: render.render_field(0, 96, 96, 30), "do not fit"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_builder_writes_what_the_renderer_draws(tmp_path):
    builder = wbc_synthetic_dataset_builder.Builder(config="small", data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    source = builder.as_data_source(split="all")
    assert len(source) == 60
    seen = {}
    for record in source:
        seen[record["id"].decode()] = record
    assert sorted(seen) == [f"synthetic_{index:05d}" for index in range(60)]
    for index in range(60):
        record = seen[f"synthetic_{index:05d}"]
        cell = render.render_cell(0, index)
        assert np.array_equal(record["image"], cell.image)
        assert np.array_equal(record["mask"][..., 0], cell.mask)
        assert record["has_mask"]
        assert record["label"] == cell.label == index % len(CELL_TYPES)
        assert record["subtype"].decode() == cell.subtype
        assert record["group"] == record["id"]
        assert record["source"] == b"wbc_synthetic"
        assert record["um_per_px"] == np.float32(cell.um_per_px)
        assert (record["height"], record["width"]) == (96, 96)


def test_the_default_config_is_600_crops_of_96_pixels():
    configs = wbc_synthetic_dataset_builder.Builder.builder_configs
    default, small = configs["default"], configs["small"]
    assert (default.cells, default.size, default.seed) == (600, 96, 0)
    assert (small.cells, small.size, small.seed) == (60, 96, 0)
