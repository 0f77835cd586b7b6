"""Requests and replies come through as they were sent; what no working feeder sends is refused, whatever it is."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.elements import Decoded, Encoded, Failure, Fields, Record
from transforms.feeding import messages
from transforms.feeding.messages import HEAD, INBOX_START, ITEM, OUTCOME, REPLY, Garbled, Outcome, take_reply
from transforms.records import values

U32 = st.integers(0, 2**32 - 1)
IMAGES = st.builds(Encoded, st.binary(max_size=9), st.integers(0, 99), st.binary(max_size=99), st.just(b"p"))
KINDS = st.lists(st.tuples(st.text(), st.sampled_from(values.KINDS))).map(tuple)
FIELDS = st.builds(Fields, st.text(min_size=1), st.text(), st.lists(st.text()).map(tuple), KINDS)


def records(fields: Fields) -> st.SearchStrategy[Record]:
    crcs = st.just(b"") | st.binary(min_size=4, max_size=4).filter(any)
    of_file = st.just(fields), st.just("in"), st.integers(0, 99)
    return st.builds(
        Record, st.binary(max_size=9), st.integers(0, 99), st.binary(max_size=99), crcs, *of_file
    )


PIECES = FIELDS.flatmap(lambda fields: st.lists(IMAGES | records(fields), min_size=1, max_size=16))


@st.composite
def outcomes_for(draw, images) -> list[Outcome]:
    """What a working feeder may answer."""
    outcomes = []
    for image in images:
        status = draw(st.sampled_from(sorted(messages._STATUSES[isinstance(image, Record)])))
        texts = st.tuples(*[st.binary(max_size=50)] * 3)
        has_key, scalable = draw(st.booleans()), draw(st.booleans())
        sha256 = draw(st.binary(min_size=32, max_size=32))
        sizes = draw(U32), draw(U32)
        outcomes.append(Outcome(status, has_key, scalable, *sizes, sha256, draw(texts), draw(U32)))
    return outcomes


PIECES_AND_OUTCOMES = PIECES.flatmap(lambda images: st.tuples(st.just(images), outcomes_for(images)))
SECONDS = st.floats(0, 1e9)


# requests


@given(PIECES, U32, st.integers(0, 1), st.data())
def test_a_request_says_where_each_image_lies(images, slot, inbox, data):
    rows = data.draw(st.lists(U32, min_size=len(images), max_size=len(images)))
    request = messages.request(2**40, slot, inbox, rows, images)
    number, *places, count, fields_bytes = HEAD.unpack_from(request)
    assert (number, places, count) == (2**40, [slot, inbox], len(images))
    end = HEAD.size + count * ITEM.size
    lengths = [len(image.data) for image in images]
    offsets = [INBOX_START + before for before in itertools.accumulate(lengths[:-1], initial=0)]
    assert list(ITEM.iter_unpack(request[HEAD.size : end])) == [
        (row, offset, length, isinstance(image, Record), getattr(image, "crc", b"") or bytes(4))
        for row, offset, length, image in zip(rows, offsets, lengths, images, strict=True)
    ]
    assert len(request) == end + fields_bytes
    fields = {image.fields for image in images if isinstance(image, Record)}
    assert {messages.fields_of(request[end:])} == (fields or {Fields("")})


# replies


@given(PIECES_AND_OUTCOMES, SECONDS, st.binary(max_size=5), st.data())
def test_a_reply_comes_through_in_any_parts(piece, seconds, following, data):
    images, outcomes = piece
    reply = messages.reply(7, outcomes, seconds)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(reply)), max_size=4)))
    received = bytearray()
    for start, end in itertools.pairwise([0, *cuts, len(reply)]):
        received += reply[start:end]
        if end < len(reply):
            before = bytes(received)
            assert take_reply(received, 7, images) is None
            assert received == before
    received += following
    assert take_reply(received, 7, images) == (outcomes, seconds)
    assert received == following


@given(PIECES_AND_OUTCOMES, st.data())
def test_bytes_that_differ_are_refused_waited_for_or_read_as_other_results(piece, data):
    """Never anything else: no other exception, and what is read has a result for each image, in bounded memory."""
    images, outcomes = piece
    reply = bytearray(messages.reply(7, outcomes, 0.5))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(reply) - 1))
        reply[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check_any(reply, images)


@given(PIECES, st.binary(max_size=3000))
def test_garbage_is_refused_waited_for_or_read_as_other_results(images, garbage):
    check_any(bytearray(garbage), images)
    head = REPLY.pack(7, len(images), len(garbage), 0.5)
    check_any(bytearray(head + garbage), images)


def check_any(received: bytearray, images) -> None:
    length = len(received)
    try:
        reply = take_reply(received, 7, images)
    except Garbled:
        return
    if reply is None:  # so little is missing that memory stays bounded
        head = REPLY.size + len(images) * OUTCOME.size
        texts = sum(2 * (len(image.data) + messages.MESSAGE_BYTES) for image in images)
        assert length < head + texts
        return
    assert len(reply.outcomes) == len(images)
    for row, (image, outcome) in enumerate(zip(images, reply.outcomes, strict=True)):
        try:
            result = messages.result(image, row, outcome)
        except (MemoryError, RuntimeError):
            assert outcome.status in (messages.NO_MEMORY, messages.BROKEN)
        else:
            assert type(result) is (Decoded if outcome.status == messages.DECODED else Failure)
            assert result.position == image.position


IMAGE, RECORD = Encoded(b"key", 5, b"data"), Record(b"key", 5, b"data", b"", Fields("img"), "in", 100)
GOOD = Outcome(messages.DECODED, texts=(b"ab", b"c", b""))


def changed(offset: int, layout: str, value) -> bytes:
    reply = bytearray(messages.reply(7, [GOOD, GOOD], 0.5))
    struct.pack_into(layout, reply, offset, value)
    return bytes(reply)


LENGTHS = REPLY.size + OUTCOME.size - 12  # of the first outcome's texts


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(messages.reply(8, [GOOD, GOOD], 0.5), id="another number"),
        pytest.param(messages.reply(7, [GOOD], 0.5), id="too few"),
        pytest.param(messages.reply(7, [GOOD] * 3, 0.5), id="too many"),
        pytest.param(changed(8, "<H", 60_000), id="a count of which nothing comes"),
        pytest.param(changed(10, "<Q", 7), id="the texts are longer than their lengths"),
        pytest.param(changed(10, "<Q", 5), id="the texts are shorter than their lengths"),
        pytest.param(changed(10, "<Q", 2**60), id="more than memory holds"),
        pytest.param(changed(LENGTHS, "<I", 3), id="a longer key"),
        pytest.param(changed(LENGTHS + 8, "<I", 2**32 - 1), id="a text of gigabytes"),
        pytest.param(
            messages.reply(7, [GOOD, Outcome(0, texts=(b"", bytes(700_000), b""))], 0.5),
            id="more than such an image has",
        ),
        pytest.param(changed(REPLY.size, "<B", 5), id="no such status"),
        pytest.param(changed(REPLY.size, "<B", messages.UNUSABLE), id="what only a record can be"),
        pytest.param(changed(18, "<d", float("nan")), id="no time"),
        pytest.param(changed(18, "<d", float("inf")), id="for ever"),
        pytest.param(changed(18, "<d", -1.0), id="time that runs backwards"),
        pytest.param(b"\xff" * 100, id="ones"),
        pytest.param(bytes(100), id="zeros"),
    ],
)
def test_what_no_working_feeder_sends_is_refused_before_more_is_waited_for(garbage):
    with pytest.raises(Garbled):
        take_reply(bytearray(garbage), 7, [IMAGE, IMAGE])


def test_as_long_as_all_may_be_well_the_rest_is_waited_for():
    reply = messages.reply(7, [GOOD, GOOD], 0.5)
    for length in range(len(reply)):
        assert take_reply(bytearray(reply[:length]), 7, [IMAGE, IMAGE]) is None


# results


@pytest.mark.parametrize(
    ("image", "outcome", "expected"),
    [
        (
            Encoded(b"key", 5, b"data", b"passed"),
            Outcome(messages.DECODED, False, True, 4, 3, b"\xab" * 32),
            Decoded(b"key", 5, 2, 4, 3, "ab" * 32, b"passed"),
        ),
        (
            RECORD,
            Outcome(messages.DECODED, False, False, 4, 3, b"\xab" * 32, (b"ignored", b"passed", b"")),
            Decoded(b"key", 5, 2, 4, 3, "ab" * 32, b"passed"),
        ),
        (
            RECORD,
            Outcome(messages.DECODED, True, False, 4, 3, b"\xab" * 32, (b"its own", b"", b"")),
            Decoded(b"its own", 5, 2, 4, 3, "ab" * 32, b""),
        ),
        (
            IMAGE,
            Outcome(messages.NOT_DECODED, texts=(b"", b"corrupt", "why \u00e9".encode())),
            Failure(b"key", 5, "decode", "corrupt", "why \u00e9"),
        ),
        (
            RECORD,
            Outcome(messages.NOT_DECODED, True, texts=(b"", b"corrupt", b"no UTF-8: \xff")),
            Failure(b"", 5, "decode", "corrupt", "no UTF-8: \ufffd"),
        ),
        (
            RECORD,
            Outcome(messages.UNUSABLE, True, texts=(b"its own", b"missing_feature", b"why")),
            Failure(b"its own", 5, "read", "missing_feature", "why"),
        ),
        (
            RECORD,
            Outcome(messages.UNUSABLE, texts=(b"", b"damaged_record", b"wrong data checksum")),
            Failure(b"key", 5, "read", "damaged_record", "wrong data checksum: 20 bytes at offset 100 of in"),
        ),
    ],
)
def test_results(image, outcome, expected):
    assert messages.result(image, 2, outcome) == expected


def test_what_is_no_images_fault_is_raised():
    with pytest.raises(MemoryError):
        messages.result(IMAGE, 0, Outcome(messages.NO_MEMORY))
    broken = Outcome(messages.BROKEN, True, texts=(b"its own \xff", b"", b"a traceback"))
    with pytest.raises(
        RuntimeError, match=r"decoding its own \\xff failed, not for its content: a traceback"
    ):
        messages.result(RECORD, 0, broken)
