"""Attempts at a shard that can be paused before any step of their commit, and killed there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np

from tests import stores
from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, Failure, FeatureChunk, Shard
from transforms.sources.tfrecord import RecordFile
from transforms.storage import door

SHARD = Shard(1, 3, RecordFile("in", 100, 5.0), "in")
LABEL = SHARD.label
PATIENCE = 20  # seconds until a hanging test fails


class Killed(BaseException):
    """Ends an attempt like SIGKILL: no code of the project catches it."""


class HeldCommit(threading.Thread):
    """The commit of a writer, on a thread of its own."""

    def __init__(self, layout: Layout, writer: ShardWriter):
        super().__init__(daemon=True)
        self.layout = layout
        self.writer = writer
        self.steps = 0
        self.error: BaseException | None = None
        self._hold_at = 0
        self._stopped, self._go = threading.Event(), threading.Event()
        self._dies = False

    def run(self):
        try:
            self.receipt = self.writer.commit()
        except BaseException as error:
            self.error = error
        self._stopped.set()

    def run_until(self, step: int) -> None:
        """Runs the commit up to a step, the first being 1, and pauses before it, or at the end."""
        self._hold_at = step
        self.start()
        assert self._stopped.wait(PATIENCE)

    def finish(self) -> None:
        self._go.set()
        if not self.ident:
            self.start()
        self.join(PATIENCE)
        assert not self.is_alive()
        if self.error and not isinstance(self.error, Killed):
            raise self.error

    def kill(self) -> None:
        self._dies = True
        self.finish()

    def step(self) -> None:
        self.steps += 1
        if self.steps == self._hold_at:
            self._stopped.set()
            assert self._go.wait(PATIENCE)
            if self._dies:
                raise Killed


class Attempt(HeldCommit):
    """An attempt at SHARD, with its images before its failures; `value` distinguishes attempts."""

    def __init__(self, layout: Layout, value: int, images: int, failures: int, fingerprint=None):
        super().__init__(layout, ShardWriter(layout, SHARD, fingerprint or {}))
        items = [Decoded(b"k%d" % i, i, i, 1, 1, "ab") for i in range(images)]
        items += [Failure(b"f%d" % i, images + i, "fetch", "not_found", f"{value}") for i in range(failures)]
        outputs = {"embedding": np.full((4, 2), value, np.float32)}
        self.writer.append(FeatureChunk(SHARD, 0, True, tuple(items), outputs, {}))


def make_steps(monkeypatch, names: Sequence[str], after: Callable[[HeldCommit], None]) -> None:
    """Makes each call of these storage functions a step of the calling attempt; `after(attempt)` follows each step."""

    def wrap(function):
        def call(*arguments):
            attempt = threading.current_thread()
            if not isinstance(attempt, HeldCommit):
                return function(*arguments)
            attempt.step()
            result = function(*arguments)
            after(attempt)
            return result

        return call

    for name in names:
        monkeypatch.setattr(door, name, wrap(getattr(door, name)))


def check(layout: Layout, states: list) -> receipts.Receipt:
    """Checks that the shard is committed, matches its receipt, and has not changed since its receipt was written."""
    receipt = receipts.read_receipt(layout, LABEL)
    files = stores.contents(layout.folder)
    expected = {f"receipts/{LABEL}.json", *(file.name for file in receipt.files)}
    assert {name for name in files if not name.startswith(".tmp/")} == expected
    for file in receipt.files:
        data = files[file.name]
        assert (len(data), f"{google_crc32c.value(data):08x}") == (file.bytes, file.crc32c)
    after = [state for state in states if state is not None]
    assert after
    assert len(set(after)) == 1
    return receipt
