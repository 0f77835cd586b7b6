"""Batches in shared memory: used again once nothing refers to them, and gone with their last user."""

import errno
import gc
import mmap
import os

import numpy as np
import pytest

from transforms.feeding.feeder import pixels_in
from transforms.feeding.slots import Slots, memory_file, slot_bytes

SHAPE = (3, 5, 5, 3)


@pytest.fixture
def slots():
    made = Slots(SHAPE)
    yield made
    made.close()


def test_an_array_is_float32_writable_and_begins_a_page(slots):
    number, pixels = slots.take()
    assert (number, pixels.shape, pixels.dtype) == (0, SHAPE, np.float32)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    for _ in range(3):
        _, another = slots.take()
        assert another.ctypes.data % 4096 == 0


def test_those_in_use_at_once_are_distinct_memory(slots):
    taken = [slots.take() for _ in range(5)]
    assert [number for number, _ in taken] == [0, 1, 2, 3, 4]
    assert len(slots) == 5
    for number, pixels in taken:
        pixels[:] = number
    for number, pixels in taken:
        assert (pixels == number).all()
    assert os.fstat(slots.file).st_size == 5 * slots.slot_bytes


def test_one_is_free_when_neither_it_nor_a_view_of_it_exists(slots):
    first, pixels = slots.take()
    view = pixels[1, 2:4].reshape(-1)[::2]
    view[:] = 7
    del pixels
    gc.collect()
    second, other = slots.take()
    assert second != first
    other[:] = 9
    assert (view == 7).all()
    del view
    gc.collect()
    assert slots.take()[0] == first
    assert len(slots) == 2


@pytest.mark.parametrize(
    "of",
    [
        lambda pixels: memoryview(pixels).cast("B")[:4],
        lambda pixels: np.asarray(pixels.data),
        lambda pixels: pixels.T,
        np.from_dlpack,  # as a device that reads it
    ],
)
def test_whatever_reads_its_memory_keeps_it(slots, of):
    number, pixels = slots.take()
    kept = of(pixels)
    del pixels
    gc.collect()
    meanwhile = slots.take()
    assert meanwhile[0] == number + 1
    del kept
    gc.collect()
    assert slots.take()[0] == number
    del meanwhile


def test_another_process_sees_the_same_memory(slots):
    """Here by the same function as a feeder, in this process."""
    batches = pixels_in(slots.file, SHAPE, slots.slot_bytes)
    taken = [slots.take() for _ in range(3)]
    for number, pixels in taken:
        batches(number)[:] = number + 1
        assert (pixels == number + 1).all()
    assert batches(1) is batches(1)


def test_many_rounds_need_no_more_memory(slots):
    for _ in range(100):
        pair = slots.take(), slots.take()
        del pair
    gc.collect()
    assert len(slots) == 2


def test_arrays_outlive_the_slots():
    slots = Slots(SHAPE)
    _, pixels = slots.take()
    slots.close()
    pixels[:] = 3
    assert (pixels == 3).all()


@pytest.mark.parametrize(
    ("shape", "pages"),
    [((1, 1, 1, 3), 1), ((1, 1, 1024, 1), 1), ((1, 1, 1025, 1), 2), ((128, 224, 224, 3), 18816)],
)
def test_a_slot_is_of_whole_pages(shape, pages):
    assert mmap.ALLOCATIONGRANULARITY == 4096
    assert slot_bytes(shape) == 4096 * pages


@pytest.mark.parametrize("where", ["Linux", "macOS", "a sandbox"])
def test_a_file_in_memory_has_no_path_and_goes_with_its_descriptors(monkeypatch, tmp_path, where):
    def refused(name):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if where != "Linux":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(os, "memfd_create", refused)
    if where == "macOS":
        monkeypatch.delattr(os, "memfd_create")
    file = memory_file("test")
    os.pwrite(file, b"text", 4096)
    assert os.pread(file, 9, 4094) == b"\0\0text"
    assert os.fstat(file).st_nlink == 0
    assert not list(tmp_path.iterdir())
    assert not os.get_inheritable(file)
    os.close(file)
