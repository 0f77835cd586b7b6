"""The replacement of a committed shard against attempts that overlap, wake up late or die between any two steps."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable

import numpy as np
import pytest

from tests import stores
from tests.commit.attempts import LABEL, SHARD, Attempt, HeldCommit, check, make_steps
from transforms.commit import receipts, replace, retry_failures
from transforms.commit.layout import Layout
from transforms.commit.retry_failures import ChangedMeanwhile
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, Failure, FeatureChunk
from transforms.storage import door

STEPS = ("create_only", "read_if_there", "place", "exists", "delete", "match", "write_atomic")
COUNT = 31  # more steps than there are

pytestmark = pytest.mark.xdist_group("stores")


@dataclasses.dataclass(frozen=True)
class Folders:
    """Creates new output folders on a disk or a store, with the steps to pause at there."""

    make: Callable[[], str]
    steps: range = range(1, COUNT)

    def __call__(self):
        return self.make()


@pytest.fixture(scope="module", params=["disk", "gs", "s3"])
def folder(request, tmp_path_factory):
    if request.param == "disk":
        numbers = itertools.count()
        disk = tmp_path_factory.mktemp("disk")
        yield Folders(lambda: f"{disk}/{next(numbers)}")
    else:
        with {"gs": stores.gcs, "s3": stores.s3}[request.param]() as emulated:
            emulated.use()
            # moto answers slowly; REPLACE_STEPS=1 stops at every step there too.
            every = int(os.environ.get("REPLACE_STEPS", 5 if request.param == "s3" else 2))
            yield Folders(emulated.folder, range(1, COUNT, every))


# What two attempts repair; all on a disk, one pair in each store.
PAIRS = (((3, 4), (3,)), ((3,), (3, 4)), ((), (4,)))
CASES = [*(("disk", *pair) for pair in PAIRS), ("gs", *PAIRS[0]), ("s3", *PAIRS[1])]


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """Makes each storage call of an attempt a step of it, and records whether the receipt exists after it."""

    plain = door.exists
    make_steps(
        monkeypatch, STEPS, lambda attempt: attempt.has_receipt.append(plain(attempt.layout.receipt(LABEL)))
    )


class Retried(HeldCommit):
    """An attempt at the failures of the shard, of which those at `repaired` succeed."""

    def __init__(self, layout: Layout, value: int, repaired: tuple[int, ...]):
        shard = dataclasses.replace(
            SHARD, retry=retry_failures.of_receipt(receipts.read_receipt(layout, LABEL))
        )
        super().__init__(layout, ShardWriter(layout, shard, {}))
        self.has_receipt: list[bool] = []
        items = [
            Decoded(b"k%d" % p, p, row, 1, 1, "ab")
            if p in repaired
            else Failure(b"", p, "fetch", "dns", f"{value}")
            for row, p in enumerate(retry_failures.Due(layout)(shard))
        ]
        items.sort(key=lambda item: item.position)
        outputs = {"embedding": np.full((4, 2), value, np.float32)}
        try:
            self.writer.append(FeatureChunk(SHARD, 0, True, tuple(items), outputs, {}))
        except ChangedMeanwhile:
            self.writer.abort()
            raise


def attempt_of_the_first_run(layout: Layout, value: int) -> Attempt:
    """An attempt at a shard of three features and two failures."""
    one = Attempt(layout, value, 3, 2)
    one.has_receipt = []
    return one


def first(layout: Layout) -> None:
    attempt_of_the_first_run(layout, 1).finish()


def settled(layout: Layout):
    """The complete state of the shard after any replacement that was begun has been completed."""
    receipt = replace.settle(layout, receipts.read_receipt(layout, LABEL))
    return check(layout, [receipt.digest])


def ended(attempt: HeldCommit) -> bool:
    """Finishes an attempt, which may have lost to another one: its files deleted, or the old ones replaced."""
    try:
        attempt.finish()
    except (replace.LostCommit, ChangedMeanwhile):
        return False
    return True


@pytest.mark.parametrize(("folder", "one", "other"), CASES, indirect=["folder"])
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
        assert all(dying.has_receipt)
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


@pytest.mark.parametrize(("folder", "one", "other"), [case for case in CASES if case[1]], indirect=["folder"])
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
        assert all(slow.has_receipt + fast.has_receipt)
    assert slow.steps < COUNT - 1


def test_an_attempt_that_wakes_up_a_generation_later_changes_nothing(folder):
    for step in folder.steps:
        layout = Layout(folder())
        first(layout)
        slow = Retried(layout, 2, (3,))
        slow.run_until(step)
        if not slow.is_alive():
            break
        settled(layout)  # as at the start of a run
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
        assert all(one.has_receipt + two.has_receipt)


def test_an_attempt_of_the_first_run_that_wakes_up_late_changes_nothing(folder):
    for step in range(1, 8):
        layout = Layout(folder())
        zombie = attempt_of_the_first_run(layout, 5)
        zombie.run_until(step)
        first(layout)
        for hold in (3, 8, 12):  # also during the replacement
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
    shard = dataclasses.replace(SHARD, retry=retry_failures.of_receipt(receipts.read_receipt(layout, LABEL)))
    assert set(retry_failures.Due(layout)(shard)) == {3, 4}
    Retried(layout, 2, (3,)).finish()
    assert retry_failures.Due(layout)(shard) is None
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
