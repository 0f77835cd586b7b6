"""What a feeder is sent and what it answers, as fixed fields: a feeder whose memory is corrupted may send anything.

A request is HEAD, an ITEM for each image, and the fields of records as JSON. The encoded images themselves are in an inbox,
a file in memory. A reply is REPLY, an OUTCOME for each image, and the texts whose lengths the outcomes hold.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

from transforms.elements import Decoded, Encoded, Failure, Fields, Record
from transforms.records import images

HEAD = struct.Struct("<QIHHH")  # number of the piece, slot, inbox, count of items, bytes of the fields
ITEM = struct.Struct("<IQI?4s")  # row, offset in the inbox, size in bytes, whether a record, its checksum
REPLY = struct.Struct("<QHQd")  # number of the piece, count of outcomes, bytes of the texts, busy seconds
OUTCOME = struct.Struct("<B??II32sIIII")  # as Outcome, with the lengths of the texts
NOTE = struct.Struct(
    "<QI"
)  # number of the piece, index of the item being decoded: the start of the first inbox
INBOX_START = 64  # offset of the first image in an inbox

# Statuses.
DECODED, NOT_DECODED, UNUSABLE, NO_MEMORY, BROKEN = range(5)
_STATUSES = {True: range(5), False: (DECODED, NOT_DECODED, NO_MEMORY, BROKEN)}  # of a record, of an image
MESSAGE_BYTES = 1 << 16  # of the text of an error, at most, if it quotes nothing of the image
_NO_CHECKSUM = bytes(4)
_NO_TEXTS = b"", b"", b""


class Garbled(ValueError):
    """What no working feeder sends."""


class Outcome(NamedTuple):
    """What became of an image. `texts`: its key and passed-through features, or its key and an error's code and message."""

    status: int
    has_key: bool = False  # whether the record holds the key
    scalable: bool = False  # whether `scaled_decoding` would decode it at reduced size
    width: int = 0
    height: int = 0
    sha256: bytes = bytes(32)
    texts: tuple[bytes, ...] = _NO_TEXTS
    unfit: int = 0  # how many values that are passed through did not fit their column


def request(
    number: int, slot: int, inbox: int, rows: Sequence[int], encoded: Sequence[Encoded | Record]
) -> bytes:
    """The request for a piece, whose images lie one after the other in the inbox."""
    parts, fields, offset = [b""], b"", INBOX_START
    for row, item in zip(rows, encoded, strict=True):
        size = len(item.data)
        if isinstance(item, Record):
            parts.append(ITEM.pack(row, offset, size, True, item.crc or _NO_CHECKSUM))
            fields = fields or _fields_text(item.fields)
        else:
            parts.append(ITEM.pack(row, offset, size, False, _NO_CHECKSUM))
        offset += size
    parts[0] = HEAD.pack(number, slot, inbox, len(rows), len(fields))
    return b"".join((*parts, fields))


@functools.cache
def _fields_text(fields: Fields) -> bytes:
    return json.dumps(asdict(fields)).encode()


@functools.cache
def fields_of(text: bytes) -> Fields:
    """The fields in a request; if it has none, those of no record."""
    values = json.loads(text or b'{"image": "", "passed": []}')
    kinds = tuple((name, kind) for name, kind in values.get("kinds", ()))
    return Fields(values["image"], values.get("key", ""), tuple(values["passed"]), kinds)


def reply(number: int, outcomes: Sequence[Outcome], seconds: float) -> bytes:
    """The reply for a piece that took so long."""
    packed = [OUTCOME.pack(*outcome[:-2], outcome.unfit, *map(len, outcome.texts)) for outcome in outcomes]
    tail = b"".join(text for outcome in outcomes for text in outcome.texts)
    return b"".join((REPLY.pack(number, len(outcomes), len(tail), seconds), *packed, tail))


class Reply(NamedTuple):
    """A feeder's answer to a request."""

    outcomes: list[Outcome]
    seconds: float


def take_reply(received: bytearray, number: int, images: Sequence[Encoded | Record]) -> Reply | None:
    """Removes the reply to the request `number` for these images from what was received; None if it is not complete.

    Raises Garbled for anything else, and as early as that is known: whoever sends garbage may not send the rest of it.
    """
    if len(received) < REPLY.size:
        return None
    its_number, count, texts_bytes, seconds = REPLY.unpack_from(received)
    if (its_number, count) != (number, len(images)) or not 0 <= seconds < math.inf:
        raise Garbled
    if texts_bytes and texts_bytes > sum(map(_longest_texts, images)):
        raise Garbled
    start = REPLY.size + OUTCOME.size * count
    if len(received) < start:
        return None
    is_complete = len(received) >= start + texts_bytes
    texts = bytes(received[start : start + texts_bytes]) if is_complete else b""
    outcomes, at = [], 0
    table = OUTCOME.iter_unpack(received[REPLY.size : start])
    for image, (*values, unfit, key, first, second) in zip(images, table, strict=True):
        if values[0] and values[0] not in _STATUSES[isinstance(image, Record)]:
            raise Garbled
        given = _NO_TEXTS
        if size := key + first + second:
            if size > _longest_texts(image):
                raise Garbled
            middle, last, end = at + key, at + key + first, at + size
            given, at = (texts[at:middle], texts[middle:last], texts[last:end]), end
        outcomes.append(Outcome._make((*values, given, unfit)))
    if texts_bytes != at:
        raise Garbled
    if not is_complete:
        return None
    del received[: start + texts_bytes]
    return Reply(outcomes, seconds)


def _longest_texts(image: Encoded | Record) -> int:
    """What a key, features that are passed through, or a message cannot exceed: they come from the image's own record.

    Numbers may be passed through as text, which takes up to seven times as long.
    """
    return 8 * (len(image.data) + MESSAGE_BYTES)


def result(item: Encoded | Record, row: int, outcome: Outcome) -> Decoded | Failure:
    """The element that an image becomes. Raises MemoryError or RuntimeError for what is not the image's fault."""
    status, has_key, _, width, height, sha256, (key, first, second), unfit = outcome
    key = key if has_key else item.key
    if status == DECODED:
        copied = (first, unfit) if isinstance(item, Record) else (item.passed, item.unfit, item.address)
        return Decoded(key, item.position, row, width, height, sha256.hex(), *copied)
    if status == NO_MEMORY:
        raise MemoryError("out of memory in a process that decodes images")
    code, message = first.decode("utf-8", "replace"), second.decode("utf-8", "replace")
    if status == BROKEN:
        raise RuntimeError(
            f"decoding {key.decode('utf-8', 'backslashreplace')} failed, not for its content: {message}"
        )
    if status == UNUSABLE:
        assert isinstance(item, Record)
        return images.failure(item, key, code, message)
    return failure(item, key, code, message)


def failure(item: Encoded | Record, key: bytes, code: str, message: str) -> Failure:
    """The failure of an image that cannot be decoded. It says where the image was fetched from, if the key does not."""
    failed = Failure(key, item.position, "decode", code, message)
    return failed if isinstance(item, Record) else failed.of_image(item.address)
