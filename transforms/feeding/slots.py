"""Batches of pixels in memory that several processes share."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import weakref
from collections import deque

import numpy as np


def memory_file(name: str) -> int:
    """The descriptor of an empty file in memory, which no path leads to; the last process that has it frees it.

    (Not in /dev/shm, which in a container holds 64 MB by default.)
    """
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(PermissionError):  # a sandbox may not know it
            return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:  # as on macOS
        return os.dup(file.fileno())


class Slots:
    """Page-aligned float32 arrays of one shape, each used again once nothing refers to it any more. For one thread at a time.

    There are as many as were in use at once: their users limit how many they hold.

    Attributes:
      file: descriptor of the memory; slot `n` begins at byte `n * slot_bytes`.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self.file = memory_file("pixels")
        self.slot_bytes = slot_bytes(shape)
        self._free: deque[int] = deque()
        self._maps: list[mmap.mmap] = []

    def take(self) -> tuple[int, np.ndarray]:
        """The number of a slot and its array, with what its last user left in it.

        The slot is free again as soon as neither the array nor a view of it exists, for whatever reason: whoever lets
        a device read from it has to keep a reference meanwhile.
        """
        try:
            number = self._free.popleft()
        except IndexError:
            number = len(self._maps)
            os.ftruncate(self.file, (number + 1) * self.slot_bytes)
            self._maps.append(mmap.mmap(self.file, self.slot_bytes, offset=number * self.slot_bytes))
        # Views of the result refer to this array, not to each other.
        owner = np.frombuffer(self._maps[number], np.float32, int(np.prod(self._shape)))
        weakref.finalize(owner, self._free.append, number).atexit = False
        return number, owner.reshape(self._shape)

    def __len__(self) -> int:
        return len(self._maps)

    def close(self) -> None:
        """Drops the memory, once its arrays are gone, too."""
        os.close(self.file)
        self._maps.clear()


def slot_bytes(shape: tuple[int, ...]) -> int:
    """The size of a slot: whole pages."""
    return -(-4 * int(np.prod(shape)) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
