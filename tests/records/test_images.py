"""The image in a tf.Example record, its key and what is passed through, or the failure of that input."""

import pytest

from tests import helpers
from transforms.elements import Encoded, Failure, Fields, Record
from transforms.records import examples, images, tfrecord

EXAMPLE = helpers.example({"img": b"bytes", "id": b"one", "number": -7, "label": [1, 2], "other": b"x"})
CRC = tfrecord.frame(EXAMPLE)[-4:]
WRONG = b"\1\2\3\4"


def record(data: bytes = EXAMPLE, crc: bytes = CRC, **fields) -> Record:
    return Record(b"default", 3, memoryview(data), crc, Fields("img", **fields), "in.tfrecord", 100)


def test_the_image_its_key_and_what_is_passed_through():
    image = images.find(EXAMPLE, CRC, Fields("img", "id", ("label", "absent")))
    assert (image.data, image.key) == (b"bytes", b"one")
    assert image.passed == examples.from_columns({"label": [1, 2]})
    assert images.find(EXAMPLE, b"", Fields("img")) == (b"bytes", None, b"", 0)
    assert images.find(EXAMPLE, CRC, Fields("img", "number")).key == b"-7"


@pytest.mark.parametrize(
    ("data", "crc", "fields", "key", "code", "message"),
    [
        (EXAMPLE, WRONG, Fields("img", "id"), None, "damaged_record", "wrong data checksum"),
        (b"\xff\xff", WRONG, Fields("img"), None, "damaged_record", "wrong data checksum"),
        (b"\xff\xff", b"", Fields("img"), None, "bad_example", "the record is not a tf.Example ("),
        (
            EXAMPLE,
            CRC,
            Fields("jpg", "id"),
            b"one",
            "missing_feature",
            "no feature 'jpg'; the record has id, ",
        ),
        (EXAMPLE, CRC, Fields("label"), None, "missing_feature", "feature 'label' holds 0 bytes values (int"),
        (EXAMPLE, CRC, Fields("img", "label"), None, "missing_feature", "feature 'label' holds 0 bytes"),
        (EXAMPLE, CRC, Fields("img", "absent"), None, "missing_feature", "no feature 'absent'"),
    ],
)
def test_what_is_unusable(data, crc, fields, key, code, message):
    with pytest.raises(images.Unusable) as raised:
        images.find(data, crc, fields)
    assert (raised.value.key, raised.value.code) == (key, code)
    assert str(raised.value).startswith(message)


def test_the_image_of_a_record_is_encoded_with_the_records_place():
    passed = examples.from_columns({"label": [1, 2]})
    assert images.encoded(record(passed=("label",))) == Encoded(b"default", 3, b"bytes", passed)
    assert images.encoded(record(key="id")) == Encoded(b"one", 3, b"bytes")
    assert images.encoded(record(crc=b"")) == Encoded(b"default", 3, b"bytes")


def test_a_damaged_record_says_where_it_lies_as_the_reader_of_the_file_does():
    content = bytearray(tfrecord.frame(EXAMPLE) * 3)
    content[len(content) // 2] ^= 1
    at = len(content) // 3
    damaged = record(bytes(content[at + 12 : 2 * at - 4]))._replace(offset=at)
    message = f"wrong data checksum: {at} bytes at offset {at} of in.tfrecord"
    assert images.encoded(damaged) == Failure(b"default", 3, "read", "damaged_record", message)
    assert images.damaged("wrong data checksum", at, at, "in.tfrecord") == message


def test_an_unusable_record_keeps_the_key_that_it_has():
    data = helpers.example({"id": b"mine"})
    failure = images.encoded(record(data, b"", key="id"))
    assert (failure.key, failure.position, failure.stage, failure.code) == (
        b"mine", 3, "read", "missing_feature",
    )  # fmt: skip
    assert images.encoded(record(helpers.example({"jpg": b""}), b"", key="id")).key == b"default"
    assert images.encoded(record(helpers.example({"id": b""}), b"", key="id")).key == b""


def test_what_is_no_record_is_left_alone():
    for item in (Encoded(b"k", 1, b"data"), Failure(b"k", 1, "read", "code", "why")):
        assert images.encoded(item) is item
