"""The image in a tf.Example record: its bytes, its key and what is passed through, or the failure of that input."""

from __future__ import annotations

import sys
from typing import NamedTuple

from transforms.elements import Encoded, Failure, Fields, Record
from transforms.errors import ItemError
from transforms.records import examples, framing, tfrecord

_DAMAGED = "damaged_record"


class Image(NamedTuple):
    """What a record holds. `key` is None for the default key."""

    data: bytes
    key: bytes | None
    passed: bytes  # a serialized Features body
    unfit: int  # how many of its values did not fit their column


class Unusable(ItemError):
    """A record without a usable image; `key` is the key it has nevertheless, or None for the default key."""

    def __init__(self, code: str, message: str, key: bytes | None):
        super().__init__(code, message)
        self.key = key


def find(data: bytes, crc: bytes, fields: Fields) -> Image:
    """The image in the record `data`, whose stored checksum is `crc` (b"" if it was compared). Raises Unusable."""
    key = None
    try:
        if crc and not framing.is_sum_of(crc, data):
            raise ItemError(_DAMAGED, tfrecord.WRONG_CHECKSUM)
        example = examples.parse(data)
        if fields.key:
            key = examples.key_of(example, fields.key)
        image = examples.one_bytes(example, fields.image)
        return Image(image, key, *examples.select(example, fields.passed, dict(fields.kinds)))
    except ItemError as error:
        raise Unusable(error.code, str(error), key) from None


def failure(record: Record, key: bytes | None, code: str, message: str) -> Failure:
    """The failure of a record that is unusable; that of a damaged one says where it lies."""
    if code == _DAMAGED:
        size = framing.HEADER_BYTES + len(record.data) + framing.FOOTER_BYTES
        message = damaged(message, size, record.offset, record.uri)
    return Failure(record.key if key is None else key, record.position, "read", code, message)


def damaged(reason: str, length: int, offset: int, uri: str) -> str:
    """The message of damage in a TFRecord file."""
    return f"{reason}: {length} bytes at offset {offset} of {uri}"


def print_key(name: str, crc: str) -> None:
    """Writes to stdout what the record on stdin has as its key feature `name`; after a "="; nothing if it has none.

    `crc` is the record's checksum in hexadecimal."""
    fields = Fields(image="", key=name, passed=())
    try:
        key = find(sys.stdin.buffer.read(), bytes.fromhex(crc), fields).key
    except Unusable as error:
        key = error.key
    if key is not None:
        sys.stdout.buffer.write(b"=" + key)


def encoded(item: Encoded | Record | Failure) -> Encoded | Failure:
    """The image in a record, or the record's failure; other items unchanged."""
    if not isinstance(item, Record):
        return item
    try:
        image = find(bytes(item.data), item.crc, item.fields)
    except Unusable as error:
        return failure(item, error.key, error.code, str(error))
    key = item.key if image.key is None else image.key
    return Encoded(key, item.position, image.data, image.passed, image.unfit)
