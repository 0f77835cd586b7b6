"""The pass over an input: what it finds, in little memory."""

import tracemalloc

import numpy as np

from pipeline.finetune import examples
from pipeline.finetune.examples import Input, key_hash
from transforms.elements import Encoded, Shard

SHARDS, ROWS = 20, 5_000


class Rows(Input):
    """Shards of rows without pictures, as of a list of URIs."""

    def read(self, shard, due=None, fetch=True):
        assert not fetch
        for position in range(ROWS):
            yield Encoded(f"{shard.name}#{position}".encode(), position, b"", b"passed")


def test_an_example_takes_few_bytes():
    source = Rows("input", tuple(Shard(n, SHARDS, None, f"{n}") for n in range(SHARDS)), *[None] * 7)
    ticks = []
    tracemalloc.start()
    try:
        found = examples.scan(source, lambda item: item.position % 7, lambda *counts: ticks.append(counts))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    count = SHARDS * ROWS
    assert peak < 40 * count, f"{peak / count:.0f} bytes per example"
    assert ticks[-1] == (SHARDS, count)
    assert found.labels == list(range(7))
    assert np.array_equal(found.examples.shards, np.repeat(np.arange(SHARDS), ROWS))
    assert np.array_equal(found.examples.positions, np.tile(np.arange(ROWS), SHARDS))
    assert np.array_equal(found.examples.classes, found.examples.positions % 7)
    assert found.examples.held_out[ROWS + 3] == key_hash(b"1#3")
    lowest = np.sort(found.examples.held_out)[:256]
    assert sorted(key_hash(item.key) for _, item in found.sample) == lowest.tolist()


def test_places_are_read_in_blocks_and_in_order(monkeypatch):
    """As with one block."""
    from pipeline.finetune import loading

    source = Rows("input", tuple(Shard(n, SHARDS, None, f"{n}") for n in range(SHARDS)), *[None] * 7)
    found = examples.scan(source, lambda item: 0, lambda *_: None).examples
    monkeypatch.setattr(Rows, "read", lambda self, shard, due: (Encoded(b"", n, b"") for n in sorted(due)))
    wanted = np.flatnonzero(found.positions % 50 == 1)[::-1].reshape(SHARDS, -1)[:, ::-1].T.ravel()
    monkeypatch.setattr(loading, "_BLOCK", 64)
    got = [example for example, _ in loading.Reader(source, found).read(wanted)]
    assert got == wanted.tolist()
    assert len(got) == SHARDS * ROWS // 50
