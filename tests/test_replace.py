"""The replacement of a committed shard against attempts that overlap, wake up late or die between any two steps."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable

import numpy as np
import pytest

from tests import stores
from tests.test_commit import Attempt, check
from transforms.commit import receipts, replace, retry
from transforms.commit.receipts import Layout
from transforms.commit.retry import ChangedMeanwhile
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, Failure, FeatureChunk, Shard
from transforms.sources.tfrecord import RecordFile
from transforms.storage import door

SHARD = Shard(1, 3, RecordFile("in", 100, 5.0), "in")
LABEL = SHARD.label
STEPS = ("create_only", "read_if_there", "place", "exists", "delete", "match", "write_atomic")
COUNT = 31  # more steps than there are

pytestmark = pytest.mark.xdist_group("stores")


@dataclasses.dataclass(frozen=True)
class Folders:
    """Makes new output folders on a disk or a store; says which steps to stop at there."""

    make: Callable[[], str]
    steps: range = range(1, COUNT)

    def __call__(self):
        return self.make()


@pytest.fixture(params=["disk", "gs", "s3"])
def folder(request, tmp_path):
    if request.param == "disk":
        yield Folders(stores.disk(tmp_path).folder)
    else:
        with {"gs": stores.gcs, "s3": stores.s3}[request.param]() as found:
            found.use()
            # moto answers slowly; REPLACE_STEPS=1 stops at every step there too.
            every = int(os.environ.get("REPLACE_STEPS", 5 if request.param == "s3" else 2))
            yield Folders(found.folder, range(1, COUNT, every))


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """Makes each storage call of an attempt a step of it, and sees to it that no receipt is missing after one."""

    def wrap(function):
        def call(*arguments):
            attempt = threading.current_thread()
            if not isinstance(attempt, Attempt):
                return function(*arguments)
            attempt.step()
            result = function(*arguments)
            attempt.seen.append(plain(attempt.layout.receipt(LABEL)))
            return result

        return call

    plain = door.exists
    for name in STEPS:
        monkeypatch.setattr(door, name, wrap(getattr(door, name)))


class Retried(Attempt):
    """An attempt at the failures of the shard, of which it mends those at `mended`."""

    def __init__(self, layout: Layout, value: int, mended: tuple[int, ...]):
        threading.Thread.__init__(self, daemon=True)
        self.layout, self.seen = layout, []
        found = receipts.read_receipt(layout, LABEL)
        self.writer = ShardWriter(layout, dataclasses.replace(SHARD, retry=retry.of_receipt(found)), {})
        items = [
            Decoded(b"k%d" % p, p, row, 1, 1, "ab")
            if p in mended
            else Failure(b"", p, "fetch", "dns", f"{value}")
            for row, p in enumerate(
                retry.Due(layout)(dataclasses.replace(SHARD, retry=retry.of_receipt(found)))
            )
        ]
        items.sort(key=lambda item: item.position)
        outputs = {"embedding": np.full((4, 2), value, np.float32)}
        try:
            self.writer.append(FeatureChunk(SHARD, 0, True, tuple(items), outputs, {}))
        except ChangedMeanwhile:
            self.writer.abort()
            raise
        self.steps = 0
        self.error = None
        self._hold_at = 0
        self._held, self._go = threading.Event(), threading.Event()
        self._dies = False


def first(layout: Layout) -> None:
    """A shard of three features and two failures."""
    one = Attempt(layout, 1, 3, 2)
    one.layout, one.seen = layout, []
    one.finish()


def settled(layout: Layout):
    """The state of the shard, whole, after what was begun has been carried to its end."""
    receipt = replace.settle(layout, receipts.read_receipt(layout, LABEL))
    return check(layout, [receipt.digest])


def ended(attempt: Attempt) -> bool:
    """Ends an attempt, which may find that another one has won: its files swept, or the old ones replaced."""
    try:
        attempt.finish()
    except (replace.LostCommit, ChangedMeanwhile):
        return False
    return True


@pytest.mark.parametrize(("one", "other"), [((3, 4), (3,)), ((3,), (3, 4)), ((), (4,))])
def test_what_dies_anywhere_leaves_the_old_state_or_is_completed(folder, one, other):
    kept = []
    for step in folder.steps:
        layout = Layout(folder())
        first(layout)
        old = stores.contents(layout.folder)
        dying = Retried(layout, 2, one)
        dying.run_until(step)
        if not dying.is_alive():
            break
        dying.kill()
        assert all(dying.seen)
        before = settled(layout)
        if before.digest == receipts.Receipt.from_json(old[f"receipts/{LABEL}.json"]).digest:
            visible = {
                name: data for name, data in stores.contents(layout.folder).items() if ".tmp" not in name
            }
            assert visible == old
            next_one = Retried(layout, 3, other)
            next_one.finish()
            kept.append(settled(layout).features)
        else:
            kept.append(before.features)
    assert dying.steps < COUNT - 1
    # Before its claim a dead attempt leaves nothing; from its claim on the others complete its work.
    switch = kept.index(3 + len(one))
    assert set(kept[:switch]) == {3 + len(other)}
    assert set(kept[switch:]) == {3 + len(one)}


@pytest.mark.parametrize(("one", "other"), [((3, 4), (3,)), ((3,), (3, 4))])
def test_an_attempt_that_wakes_up_late_changes_nothing(folder, one, other):
    for step in folder.steps:
        layout = Layout(folder())
        first(layout)
        slow, fast = Retried(layout, 2, one), Retried(layout, 3, other)
        slow.run_until(step)
        if not slow.is_alive():
            break
        went = ended(fast)
        won = settled(layout)
        assert ended(slow) or went
        assert settled(layout) == won
        assert not went or won == fast.receipt
        assert all(slow.seen + fast.seen)
    assert slow.steps < COUNT - 1


def test_an_attempt_that_wakes_up_a_generation_later_changes_nothing(folder):
    for step in folder.steps:
        layout = Layout(folder())
        first(layout)
        slow = Retried(layout, 2, (3,))
        slow.run_until(step)
        if not slow.is_alive():
            break
        settled(layout)  # as a run does that starts
        Retried(layout, 3, (3,)).finish()
        later = Retried(layout, 4, (4,))
        later.finish()
        won = settled(layout)
        assert won.failures == 0
        files = {name: data for name, data in stores.contents(layout.folder).items() if ".tmp" not in name}
        ended(slow)
        assert settled(layout) == won
        assert files == {n: data for n, data in stores.contents(layout.folder).items() if ".tmp" not in n}


def test_any_two_interleaved_attempts_give_one_of_them(tmp_path):
    for number, (step, other) in enumerate((i, j) for i in range(1, 24, 4) for j in range(1, 24, 2)):
        layout = Layout(str(tmp_path / str(number)))
        first(layout)
        one, two = Retried(layout, 2, (3, 4)), Retried(layout, 3, (3,))
        one.run_until(step)
        two.run_until(other)
        went = [ended(one), ended(two)]
        assert any(went)
        won = settled(layout)
        assert won.features in (4, 5)
        assert all(one.seen + two.seen)


def test_an_attempt_of_the_first_run_that_wakes_up_late_changes_nothing(folder):
    for step in range(1, 8):
        layout = Layout(folder())
        zombie = Attempt(layout, 5, 3, 2)
        zombie.layout, zombie.seen = layout, []
        zombie.run_until(step)
        first(layout)
        for hold in (3, 8, 12):  # while the replacement is under way, too
            again = Retried(layout, 2, (3, 4)) if receipts.read_receipt(layout, LABEL).failures else None
            if again:
                again.run_until(hold)
                if hold == 8:
                    ended(zombie)
                again.finish()
        ended(zombie) if zombie.is_alive() else None
        assert settled(layout).features == 5


def test_a_shard_that_was_replaced_meanwhile_is_left_alone(tmp_path):
    layout = Layout(str(tmp_path))
    first(layout)
    shard = dataclasses.replace(SHARD, retry=retry.of_receipt(receipts.read_receipt(layout, LABEL)))
    assert set(retry.Due(layout)(shard)) == {3, 4}
    Retried(layout, 2, (3,)).finish()
    assert retry.Due(layout)(shard) is None
    with pytest.raises(ChangedMeanwhile, match="meanwhile"):
        ShardWriter(layout, shard, {})


def test_old_features_that_do_not_agree_with_their_receipt_are_not_merged(tmp_path):
    layout = Layout(str(tmp_path))
    first(layout)
    path = tmp_path / f"features-{LABEL}.tfrecord"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChangedMeanwhile, match="wrong data checksum"):
        Retried(layout, 2, (3, 4)).finish()
    assert receipts.read_receipt(layout, LABEL).features == 3


def test_files_that_somebody_removed_are_told_of(tmp_path):
    layout = Layout(str(tmp_path))
    first(layout)
    attempt = Retried(layout, 2, (3, 4))
    attempt.run_until(3)
    for path in (tmp_path / ".tmp").glob("*.tfrecord"):
        path.unlink()
    with pytest.raises(replace.LostCommit, match="nothing else may write or clean up there"):
        attempt.finish()
    assert settled(layout).features == 3
