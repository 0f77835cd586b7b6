"""The order of examples: a function of seed and step, complete in each epoch, and within the buffer."""

import numpy as np
import pytest

from pipeline.finetune.order import Order, crops_and_flips


def order(sizes, batch=4, seed=1, window=10_000):
    shards = np.repeat(np.arange(len(sizes)), sizes)
    return Order(shards, np.concatenate([np.arange(size) for size in sizes]), batch, seed, window)


@pytest.mark.parametrize("window", [10_000, 6])
def test_each_epoch_has_each_example_once_and_another_order(window):
    plan = order([7, 0, 5, 9, 1], window=window)
    assert plan.updates_per_epoch == 6
    epochs = [[plan.update(step) for step in range(start, start + 6)] for start in (0, 6)]
    for updates in epochs:
        assert [len(update) for update in updates] == [4, 4, 4, 4, 4, 2]  # the last one is short
        assert sorted(np.concatenate(updates)) == list(range(22))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    again = order([7, 0, 5, 9, 1], window=window)
    assert np.array_equal(again.update(8), plan.update(8))
    assert not np.array_equal(order([7, 0, 5, 9, 1], seed=2, window=window).update(0), plan.update(0))


def test_shards_are_read_in_their_own_order_and_several_at_once():
    plan = order([50] * 20)
    read, _ = plan.epoch(3)
    for shard in range(20):
        positions = plan.positions[read[plan.shards[read] == shard]]
        assert list(positions) == list(range(50))
    assert len(set(plan.shards[read[:8]])) == 8
    assert sorted(read) == list(range(1000))


def test_no_more_than_the_window_is_held():
    plan = order([100] * 10, window=64)
    read, seen = plan.epoch(0)
    read_at = np.argsort(read)
    held, done = 0, 0
    for place, example in enumerate(seen):
        done = max(done, read_at[example] + 1)
        held = max(held, done - place)
    assert 16 < held <= 64 + 1
    assert np.abs(read_at[seen] - np.arange(1000)).max() > 16  # and it is shuffled


def test_few_examples_are_drawn_with_replacement():
    plan = order([3, 2], batch=16)
    assert plan.repeats
    updates = [plan.update(step) for step in range(20)]
    assert all(len(update) == 16 for update in updates)
    assert set(np.concatenate(updates)) == set(range(5))
    assert not np.array_equal(updates[0], updates[1])


def test_crops_take_every_corner_and_half_are_mirrored():
    corners, flips = crops_and_flips(1, 2, 4000, 36, 32)
    assert {tuple(corner) for corner in corners} == {(row, column) for row in range(5) for column in range(5)}
    assert 0.45 < flips.mean() < 0.55
    assert np.array_equal(crops_and_flips(1, 2, 4000, 36, 32)[0], corners)
    assert not np.array_equal(crops_and_flips(1, 3, 4000, 36, 32)[0], corners)
