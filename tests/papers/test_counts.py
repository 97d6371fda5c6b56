import pytest

from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import counts

SPLITS = ("train", "validation", "test")


def rows():
    return {row["class"]: row for row in counts.table_3()}


def test_table_3_is_as_printed():
    keys = ("train", "validation", "test", "total", "independent")
    assert {name: tuple(row[key] for key in keys) for name, row in rows().items()} == {
        "basophil": (816, 204, 438, 1458, 53),
        "eosinophil": (2306, 576, 1220, 4102, 72),
        "lymphocyte": (3199, 800, 1713, 5712, 71),
        "monocyte": (1284, 321, 688, 2293, 52),
        "neutrophil": (8204, 2051, 4308, 14563, 75),
        "total": (15809, 3952, 8367, 28128, 323),
    }
    assert tuple(rows()) == (*CELL_TYPES, "total")


def test_rows_and_columns_sum_to_what_is_printed():
    found = rows()
    for row in found.values():
        assert sum(row[split] for split in SPLITS) == row["total"]
    for key in (*SPLITS, "total", "independent"):
        assert sum(found[name][key] for name in CELL_TYPES) == found["total"][key]


def test_the_contradiction_is_noted_in_both_its_rows():
    found = rows()
    assert found["neutrophil"]["total"] == counts.TEXT_TOTAL == 14_563
    assert found["total"]["total"] == 28_128
    # The numbers in the text agree with each other: segmentation leaves the basophils out.
    assert counts.TEXT_TOTAL - found["basophil"]["total"] == 13_105
    assert [name for name, row in found.items() if row["note"]] == ["neutrophil", "total"]
    assert "14,563" in found["neutrophil"]["note"]
    assert "28,128" in found["total"]["note"]


def test_by_type_counts_labels():
    assert counts.by_type({"train": [0, 4, 4], "test": [2]}) == {
        "basophil": {"train": 1, "test": 0},
        "eosinophil": {"train": 0, "test": 0},
        "lymphocyte": {"train": 0, "test": 1},
        "monocyte": {"train": 0, "test": 0},
        "neutrophil": {"train": 2, "test": 0},
    }
    assert counts.by_type({"train": [-1, 0]})["unknown"] == {"train": 1}


def numbers(text):
    """Returns {cell type: the table cells of its row, joined by blanks}."""
    lines = [" ".join(line.split()) for line in text.splitlines()[3:-2]]
    return dict(line.split(" ", 1) for line in lines)


def test_compare_sets_ours_beside_the_papers():
    text = counts.compare(
        {
            "basophil": {"train": 1000, "validation": 20, "test": 3},
            "neutrophil": {"train": 5, "validation": 0, "test": 7, "independent": 2},
            "unknown": {"train": 4},
        }
    )
    lines = text.splitlines()
    assert len({len(line) for line in lines[1:-2]}) == 1
    assert numbers(text) == {
        "basophil": "1,000 816 20 204 3 438 1,023 1,458 – 53",
        "eosinophil": "– 2,306 – 576 – 1,220 – 4,102 – 72",
        "lymphocyte": "– 3,199 – 800 – 1,713 – 5,712 – 71",
        "monocyte": "– 1,284 – 321 – 688 – 2,293 – 52",
        "neutrophil": "5 8,204 0 2,051 7 4,308 12 14,563 2 75",
        "unknown": "4 – – – – – 4 – – –",
        "total": "1,009 15,809 20 3,952 10 8,367 1,039 28,128 2 323",
    }


def test_compare_says_what_to_make_of_it():
    parts, contradiction = counts.compare({}).splitlines()[-2:]
    assert "parts of the full ones" in parts
    assert "neutrophil row (14,563) equals the total in its text (14,563)" in contradiction
    assert "total column sums to 28,128" in contradiction
    assert "unknown" not in numbers(counts.compare({}))


@pytest.mark.parametrize("strange", [{"blast": {"train": 1}}, {"basophil": {"val": 1}}])
def test_compare_refuses_other_names(strange):
    with pytest.raises(
        ValueError, match=r"no cell type or split '(blast|val)'; there are basophil"
    ):
        counts.compare(strange)
