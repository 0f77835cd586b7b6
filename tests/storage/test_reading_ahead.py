"""Blocks of a file in a store are requested in parallel, and read as one after the other."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from transforms.storage import retrying
from transforms.storage.errors import Changed, StorageFailed
from transforms.storage.reading import Buffered, Reader
from transforms.storage.retrying import Limits

BLOCK, AHEAD = 1000, 3
DATA = np.random.RandomState(0).bytes(20 * BLOCK + 17)
PATIENCE = 20  # seconds until a hanging test fails


class File:
    """An opened file that records requests, and answers them once it may."""

    version = "1"

    def __init__(self, size: int = len(DATA)):
        self.size = size
        self.requests: list[tuple[int, int]] = []
        self.faults: dict[int, list] = {}  # by offset: what the next requests there raise or return
        self.answers = threading.Event()
        self.answers.set()
        self._lock = threading.Lock()

    def read_at(self, offset: int, count: int) -> bytes:
        with self._lock:
            self.requests.append((offset, count))
            fault = self.faults[offset].pop(0) if self.faults.get(offset) else None
        assert self.answers.wait(PATIENCE)
        if isinstance(fault, Exception):
            raise fault
        return DATA[offset : offset + count] if fault is None else fault

    def close(self) -> None:
        """Nothing to release."""

    def blocks(self) -> list[int]:
        """The numbers of the blocks that were requested, in their order in the file."""
        return sorted(offset // BLOCK for offset, _ in self.requests)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(PATIENCE, 0.001, 0.01))


def opened(file: File, ahead: int = AHEAD) -> Reader:
    return Reader("gs://bucket/file", lambda: file, BLOCK, ahead)


def whole(reader: Reader) -> bytes:
    return b"".join(iter(reader.read_block, b""))


def settled(file: File, count: int) -> list[int]:
    """The blocks requested once there are `count` of them, and no more come."""
    deadline = time.monotonic() + PATIENCE
    while len(file.requests) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    return file.blocks()


def test_blocks_are_requested_before_the_first_one_is_there():
    file = File()
    file.answers.clear()
    reader = opened(file)
    blocks: list[bytes] = []
    thread = threading.Thread(target=lambda: blocks.append(reader.read_block()), daemon=True)
    thread.start()
    assert settled(file, AHEAD + 1) == [0, 1, 2, 3]
    file.answers.set()
    thread.join(PATIENCE)
    blocks.append(reader.read_block())
    assert settled(file, AHEAD + 2) == [0, 1, 2, 3, 4]
    assert b"".join((*blocks, whole(reader))) == DATA
    assert file.blocks() == list(range(21))


def test_a_disk_is_read_block_by_block():
    file = File()
    reader = opened(file, ahead=0)
    assert reader.read_block() == DATA[:BLOCK]
    assert file.blocks() == [0]
    assert whole(reader) == DATA[BLOCK:]


def test_a_first_small_read_requests_one_block_and_a_second_one_those_ahead():
    file = File()
    stream = Buffered(opened(file), 100)
    assert stream.read(300) == DATA[:300]
    assert file.blocks() == [0]
    assert stream.read(BLOCK) == DATA[300 : BLOCK + 300]
    assert settled(file, 5) == [0, 1, 2, 3, 4]
    assert stream.read() == DATA[BLOCK + 300 :]


def test_a_reader_that_jumps_gets_what_it_asks_for():
    file = File()
    stream = Buffered(opened(file), 100)
    stream.seek(20 * BLOCK)
    assert stream.read(17) == DATA[-17:]
    stream.seek(2 * BLOCK + 5)
    assert stream.read(150) == DATA[2 * BLOCK + 5 : 2 * BLOCK + 155]
    assert stream.read(100) == DATA[2 * BLOCK + 155 : 2 * BLOCK + 255]
    assert settled(file, 3) == [2, 2, 20]
    file.requests.clear()
    stream.seek(5 * BLOCK)
    assert stream.read(4 * BLOCK) == DATA[5 * BLOCK : 9 * BLOCK]  # a long one in parallel
    assert settled(file, 4) == [5, 6, 7, 8]


def test_skipping_ahead_reads_the_blocks_on_the_way():
    """As a walk from header to header does: one request for each would take longer."""
    file = File()
    stream = Buffered(opened(file), 64)
    for at in range(0, len(DATA), 130):
        stream.seek(at)
        assert stream.read(12) == DATA[at : at + 12]
    assert len(file.requests) < 30
    file.requests.clear()
    stream = Buffered(opened(file, ahead=0), 64)
    for at in range(0, len(DATA), 130):
        stream.seek(at)
        assert stream.read(12) == DATA[at : at + 12]
    assert len(file.requests) > 100
    assert sum(count for _, count in file.requests[1:]) < len(DATA)


def test_of_a_file_that_is_only_looked_into_little_is_requested():
    file = File(64 << 20)
    stream = Buffered(Reader("gs://bucket/file", lambda: file, 16 << 20, AHEAD), 100)
    assert stream.read(300) == DATA[:300]
    assert settled(file, 1) == [0]
    assert file.requests == [(0, 1 << 20)]


def test_nothing_is_requested_ahead_beyond_the_range_that_is_read():
    file = File()
    reader = opened(file)
    reader.until = 2 * BLOCK + 1
    reader.seek(BLOCK)
    assert reader.read_block() == DATA[BLOCK : 2 * BLOCK]
    assert settled(file, 2) == [1, 2]
    assert (2 * BLOCK, 1) in file.requests
    assert reader.read_block() == DATA[2 * BLOCK : 2 * BLOCK + 1]
    assert reader.read_block() == DATA[2 * BLOCK + 1 : 3 * BLOCK + 1]  # asked for all the same
    assert settled(file, 3) == [1, 2, 2]


@pytest.mark.parametrize("block", [0, 1, 4, 20])
@pytest.mark.parametrize(
    "fault",
    [ConnectionResetError("reset"), TimeoutError("late"), b"", "shorter"],
    ids=["reset", "timeout", "empty", "shorter"],
)
def test_a_request_that_fails_is_made_again(block, fault):
    file = File()
    at = block * BLOCK
    file.faults[at] = [DATA[at : at + 7] if fault == "shorter" else fault]
    assert whole(opened(file)) == DATA
    assert not file.faults[at]


def test_a_file_that_was_replaced_ends_the_reading():
    file = File()
    file.faults[5 * BLOCK] = [Changed("it was replaced while it was read")]
    with pytest.raises(StorageFailed, match="reading gs://bucket/file failed: it was replaced"):
        whole(opened(file))


def test_requests_of_no_more_use_are_left_to_themselves():
    file = File()
    reader = opened(file)
    reader.read_block()
    assert settled(file, 1 + AHEAD) == [0, 1, 2, 3]
    file.answers.clear()
    reader.read_block()  # was answered before
    reader.close()
    file.answers.set()
    reader = opened(file)
    reader.read_block()
    reader.seek(10 * BLOCK)
    assert reader.read_block() == DATA[10 * BLOCK : 11 * BLOCK]
    reader.seek(0)
    assert whole(reader) == DATA


@pytest.mark.parametrize("ahead", [0, 1, AHEAD])
def test_whatever_is_asked_for_in_whatever_order_is_that_of_the_file(ahead):
    random = np.random.RandomState(ahead)
    for _ in range(40):
        file = File()
        for block in random.randint(0, 21, 3):
            offset = int(block) * BLOCK
            file.faults[offset] = [
                DATA[offset : offset + int(random.randint(BLOCK))]
            ]  # short, or none at all
        reader = opened(file, ahead)
        reader.until = int(random.randint(1, len(DATA) + 1))
        at = 0
        for _ in range(30):
            if random.rand() < 0.3:
                at = int(random.randint(len(DATA) + 50))
                reader.seek(at)
            wanted = int(random.randint(-3 * BLOCK, 3 * BLOCK))
            got = reader.read(wanted) if wanted > 0 else reader.read_block()
            assert got == DATA[at : at + len(got)]
            assert got or at >= len(DATA)
            at += len(got)


def test_after_an_error_there_are_no_bytes_of_before():
    file = File()
    reader = opened(file, 0)
    assert reader.read_block() == DATA[:BLOCK]
    file.faults[BLOCK] = [PermissionError(13, "no")]
    with pytest.raises(StorageFailed):
        reader.read_block()
    assert reader.read_block() == DATA[BLOCK : 2 * BLOCK]
