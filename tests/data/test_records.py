"""wbc_jax.data.records: the features, one example, its serialization."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from wbc_jax.data import records
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.errors import DataError


def noise(height=9, width=7):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_example_without_mask_is_all_ignore():
    record = records.example(image=noise(), id="a", source="s")
    assert record.keys() == records.features().keys()
    assert np.array_equal(decode_mask(record["mask"]), np.full((9, 7), 255))
    assert np.array_equal(decode_image(record["image"]), noise())
    assert np.isnan(record["um_per_px"])
    rest = {k: v for k, v in record.items() if k not in ("image", "mask", "um_per_px")}
    assert rest == {
        "has_mask": False,
        "label": -1,
        "id": "a",
        "group": "a",
        "source": "s",
        "subtype": "",
        "label_source": "",
        "height": 9,
        "width": 7,
    }


MASK = np.zeros((9, 7), np.uint8)
BAD_EXAMPLES = {
    "size": ({"mask": MASK.T}, "the mask is 9 x 7 pixels .* and the image 7 x 9 pixels"),
    "values": ({"mask": MASK + 3}, r"3 \(63 pixels\)"),
    "mask dtype": ({"mask": MASK.astype(int)}, "allowed is uint8"),
    "label": ({"label": 5}, "0 to 4"),
    "label type": ({"label": "neutrophil"}, "an integer"),
    "id": ({"id": ""}, "non-empty"),
    "group": ({"group": ""}, "non-empty"),
    "pixel size": ({"um_per_px": 0.0}, "above zero"),
    "image bytes": ({"image": b"GIF89a"}, "neither PNG nor JPEG"),
    "image shape": ({"image": noise()[..., 0]}, r"allowed is uint8 \[H, W, 3\]"),
}


@pytest.mark.parametrize("kind", BAD_EXAMPLES)
def test_example_refuses(kind):
    change, reason = BAD_EXAMPLES[kind]
    with pytest.raises(DataError, match=reason):
        records.example(**{"image": noise(), "id": "a", "source": "s"} | change)


def test_features_hold_a_record():
    record = records.example(
        image=noise(), mask=MASK + 2, label=3, id="a", group="g", source="s", um_per_px=0.5
    )
    features = records.features()
    encoded = features.encode_example(record)
    assert encoded["image"] == record["image"]
    read = features.deserialize_example_np(features.serialize_example(encoded))
    assert np.array_equal(read["image"], noise())
    assert np.array_equal(read["mask"], MASK[..., None] + 2)
    assert (read["label"], read["um_per_px"], read["group"]) == (3, 0.5, b"g")


def test_parse_gives_what_tfds_gives():
    record = records.example(
        image=noise(), mask=MASK + 2, label=-1, id="ä", group="g", source="s", um_per_px=0.5
    )
    features = records.features()
    with records.fixed_order():
        serialized = example_serializer.ExampleSerializer(
            features.get_serialized_info()
        ).serialize_example(features.encode_example(record))
    skip = tfds.decode.SkipDecoding()
    theirs = features.deserialize_example_np(serialized, decoders={"image": skip, "mask": skip})
    assert records.parse(serialized) == theirs
    assert records.parse(serialized)["id"] == "ä".encode()
