"""The commit of a shard against attempts that overlap, wake up late or die between any two of its steps."""

from __future__ import annotations

import threading

import google_crc32c
import numpy as np
import pytest

from tests import stores
from transforms.commit import receipts
from transforms.commit.claim import Claim, LostCommit
from transforms.commit.receipts import Layout
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, Failure, FeatureChunk, Shard
from transforms.sources.tfrecord import RecordFile
from transforms.storage import door

pytestmark = pytest.mark.xdist_group("stores")

SHARD = Shard(1, 3, RecordFile("in", 100, 5.0), "in")
LABEL = SHARD.label
STEPS = ("create_only", "read_if_there", "place", "exists", "delete", "match")
PATIENCE = 20  # seconds until a hanging test fails


@pytest.fixture(scope="module", params=["disk", "gs", "s3"])
def store(request, tmp_path_factory):
    if request.param == "disk":
        yield stores.disk(tmp_path_factory.mktemp("disk"))
    else:
        with {"gs": stores.gcs, "s3": stores.s3}[request.param]() as found:
            found.use()
            yield found


class Killed(BaseException):
    """What ends an attempt as SIGKILL would: nothing of ours catches it."""


class Attempt(threading.Thread):
    """One attempt at the shard that can be held before any step of its commit, and killed there."""

    def __init__(self, layout: Layout, value: int, images: int, failures: int, fingerprint=None):
        super().__init__(daemon=True)
        self.writer = ShardWriter(layout, SHARD, fingerprint or {})
        items = [Decoded(b"k%d" % i, i, i, 1, 1, "ab") for i in range(images)]
        items += [Failure(b"f%d" % i, images + i, "fetch", "not_found", f"{value}") for i in range(failures)]
        outputs = {"embedding": np.full((4, 2), value, np.float32)}
        self.writer.append(FeatureChunk(SHARD, 0, True, tuple(items), outputs, {}))
        self.steps = 0
        self.error: BaseException | None = None
        self._hold_at = 0
        self._held, self._go = threading.Event(), threading.Event()
        self._dies = False

    def run(self):
        try:
            self.receipt = self.writer.commit()
        except BaseException as error:
            self.error = error
        self._held.set()

    def run_until(self, step: int) -> None:
        """Runs the commit up to a step, the first being 1, and holds it before that one, or at its end."""
        self._hold_at = step
        self.start()
        assert self._held.wait(PATIENCE)

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
            self._held.set()
            assert self._go.wait(PATIENCE)
            if self._dies:
                raise Killed


@pytest.fixture
def steps(monkeypatch):
    """Makes each storage call of an attempt a step of it; returns the folders to watch after each step."""
    watched: dict[str, list] = {}

    def wrap(function):
        def call(*arguments):
            attempt = threading.current_thread()
            if not isinstance(attempt, Attempt):
                return function(*arguments)
            attempt.step()
            result = function(*arguments)
            for folder, seen in watched.items():
                seen.append(committed(Layout(folder)))
            return result

        return call

    plain = {name: getattr(door, name) for name in STEPS}

    def committed(layout: Layout):
        """The shard's files, once it has a receipt."""
        paths = (layout.receipt(LABEL), layout.features(LABEL), layout.failures(LABEL))
        found = tuple(plain["read_if_there"](path) for path in paths)
        return found if found[0] is not None else None

    for name in STEPS:
        monkeypatch.setattr(door, name, wrap(getattr(door, name)))
    return watched


def check(layout: Layout, seen: list) -> receipts.Receipt:
    """The shard is committed, agrees with its receipt, and never changed from its receipt on."""
    receipt = receipts.read_receipt(layout, LABEL)
    files = stores.contents(layout.folder)
    expected = {f"receipts/{LABEL}.json", *(file.name for file in receipt.files)}
    assert {name for name in files if not name.startswith(".tmp/")} == expected
    for file in receipt.files:
        data = files[file.name]
        assert (len(data), f"{google_crc32c.value(data):08x}") == (file.bytes, file.crc32c)
    after = [state for state in seen if state is not None]
    assert after
    assert len(set(after)) == 1
    return receipt


PLAIN, LEDGER = (1, 3, 0), (2, 2, 1)
CASES = [(kind, *pair) for kind in ("disk", "gs") for pair in ((PLAIN, LEDGER), (LEDGER, PLAIN))]
CASES += [("s3", LEDGER, PLAIN)]  # where each of Beam's requests takes long
COUNT = 7  # steps of an undisturbed commit


@pytest.mark.parametrize(("store", "first", "second"), CASES, indirect=["store"])
def test_an_attempt_that_wakes_up_late_changes_nothing(store, steps, first, second):
    for step in range(1, COUNT + 1):
        layout = Layout(store.folder())
        seen = steps.setdefault(layout.folder, [])
        slow, fast = Attempt(layout, *first), Attempt(layout, *second)
        slow.run_until(step)
        assert slow.steps == step
        fast.finish()
        won = check(layout, seen)
        slow.finish()
        assert check(layout, seen) == won == slow.receipt == fast.receipt
        assert not [name for name in stores.contents(layout.folder) if name.startswith(".tmp/")]
        del steps[layout.folder]


@pytest.mark.parametrize(("store", "first", "second"), CASES, indirect=["store"])
def test_what_an_attempt_left_that_died_is_completed_or_replaced(store, steps, first, second):
    winners = []
    for step in range(1, COUNT + 1):
        layout = Layout(store.folder())
        seen = steps.setdefault(layout.folder, [])
        dying, next_one = Attempt(layout, *first), Attempt(layout, *second)
        dying.run_until(step)
        dying.kill()
        next_one.finish()
        winners.append(check(layout, seen).features == first[1])
        del steps[layout.folder]
    # Before its claim a dead attempt leaves nothing; from its claim on the others complete its work.
    assert winners == [False] + [True] * (COUNT - 1)


def test_any_two_interleaved_attempts_give_one_of_them(tmp_path, steps):
    for number, (step, other) in enumerate((i, j) for i in range(1, COUNT + 1) for j in range(1, 14)):
        layout = Layout(str(tmp_path / str(number)))
        seen = steps.setdefault(layout.folder, [])
        one, two = Attempt(layout, 1, 3, 0), Attempt(layout, 2, 2, 1)
        one.run_until(step)
        two.run_until(other)
        one.finish()
        two.finish()
        assert check(layout, seen) == one.receipt == two.receipt
        del steps[layout.folder]


def test_an_undisturbed_commit_has_the_steps_that_the_tests_go_through(store, steps):
    layout = Layout(store.folder())
    alone = Attempt(layout, 1, 2, 1)
    alone.finish()
    assert alone.steps == COUNT


def test_a_ledger_that_belongs_to_no_receipt_goes(store, steps):
    layout = Layout(store.folder())
    seen = steps.setdefault(layout.folder, [])
    stores.upload(layout.folder, {f"failures-{LABEL}.jsonl": b"{}"})
    attempt = Attempt(layout, 1, 2, 0)
    attempt.finish()
    assert check(layout, seen) == attempt.receipt


def test_an_unfinished_commit_of_another_request_is_left_alone(store, steps):
    layout = Layout(store.folder())
    seen = steps.setdefault(layout.folder, [])
    old, new = Attempt(layout, 1, 3, 0), Attempt(layout, 2, 2, 1, {"precision": "float16"})
    old.run_until(3)
    with pytest.raises(LostCommit, match=r"claim-0\.json is of another request or input"):
        new.finish()
    old.finish()
    assert check(layout, seen) == old.receipt


def test_a_claim_without_its_files_is_passed_over(store, steps):
    layout = Layout(store.folder())
    seen = steps.setdefault(layout.folder, [])
    old, new = Attempt(layout, 1, 3, 0), Attempt(layout, 2, 2, 1)
    old.run_until(3)
    old.kill()
    left = [file.path for file in door.match(f"{layout.temporary}/*.tfrecord") if file.size_in_bytes]
    gone = [path for path in left if old.writer._attempt in path]
    assert len(gone) == 1
    door.delete(gone)
    new.finish()
    assert check(layout, seen).features == 2


def test_an_attempt_whose_files_somebody_removed_says_so(store, steps):
    layout = Layout(store.folder())
    attempt = Attempt(layout, 1, 3, 0)
    attempt.run_until(1)
    door.delete([file.path for file in door.match(f"{layout.temporary}/*")])
    with pytest.raises(LostCommit, match="nothing else may write or clean up there"):
        attempt.finish()
    assert receipts.read_receipt(layout, LABEL) is None


def test_two_requests_at_once_on_one_output_are_told_apart(store):
    layout = Layout(store.folder())
    Attempt(layout, 1, 3, 0).finish()
    with pytest.raises(LostCommit, match="two jobs write to one output"):
        Attempt(layout, 2, 3, 0, {"precision": "float16"}).finish()
    assert receipts.read_receipt(layout, LABEL).fingerprint == {}


def test_of_many_that_create_a_file_one_succeeds(store):
    path = f"{store.folder()}/one"
    barrier = threading.Barrier(8)
    won = []

    def create(data: bytes) -> None:
        barrier.wait()
        if door.create_only(path, data):
            won.append(data)

    threads = [threading.Thread(target=create, args=(b"%d" % i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [door.read_if_there(path)] == won
    assert door.read_many([path, path + "-not"]) == [won[0], None]
    assert len(stores.contents(path.rpartition("/")[0])) == 1


def test_a_claim_survives_its_file(tmp_path):
    layout = Layout(str(tmp_path))
    attempt = Attempt(layout, 1, 2, 1)
    attempt.finish()
    claim = Claim("attempt", attempt.receipt)
    assert Claim.from_json(claim.to_json()) == claim
