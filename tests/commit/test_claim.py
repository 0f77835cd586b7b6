"""The commit of a shard against attempts that overlap, wake up late or die between any two of its steps."""

from __future__ import annotations

import threading

import pytest

from tests import stores
from tests.commit.attempts import LABEL, Attempt, check, make_steps
from transforms.commit import receipts
from transforms.commit.claim import Claim, LostCommit
from transforms.commit.layout import Layout
from transforms.storage import door

pytestmark = pytest.mark.xdist_group("stores")

STEPS = ("create_only", "read_if_there", "place", "exists", "delete", "match")


@pytest.fixture(scope="module", params=["disk", "gs", "s3"])
def store(request, tmp_path_factory):
    if request.param == "disk":
        yield stores.disk(tmp_path_factory.mktemp("disk"))
    else:
        with {"gs": stores.gcs, "s3": stores.s3}[request.param]() as emulated:
            emulated.use()
            yield emulated


@pytest.fixture
def steps(monkeypatch):
    """Makes each storage call of an attempt a step of it; returns the folders to watch after each step."""
    watched: dict[str, list] = {}

    plain = door.read_if_there

    def committed(layout: Layout):
        """The shard's files, once it has a receipt."""
        paths = (layout.receipt(LABEL), layout.features(LABEL), layout.failures(LABEL))
        files = tuple(plain(path) for path in paths)
        return files if files[0] is not None else None

    def watch(attempt) -> None:
        for folder, states in watched.items():
            states.append(committed(Layout(folder)))

    make_steps(monkeypatch, STEPS, watch)
    return watched


PLAIN, LEDGER = (1, 3, 0), (2, 2, 1)
CASES = [(kind, *pair) for kind in ("disk", "gs") for pair in ((PLAIN, LEDGER), (LEDGER, PLAIN))]
CASES += [("s3", LEDGER, PLAIN)]  # where each of Beam's requests takes long
COUNT = 7  # steps of an undisturbed commit


@pytest.mark.parametrize(("store", "first", "second"), CASES, indirect=["store"])
def test_an_attempt_that_wakes_up_late_changes_nothing(store, steps, first, second):
    for step in range(1, COUNT + 1):
        layout = Layout(store.folder())
        states = steps.setdefault(layout.folder, [])
        slow, fast = Attempt(layout, *first), Attempt(layout, *second)
        slow.run_until(step)
        assert slow.steps == step
        fast.finish()
        won = check(layout, states)
        slow.finish()
        assert check(layout, states) == won == slow.receipt == fast.receipt
        assert not [name for name in stores.contents(layout.folder) if name.startswith(".tmp/")]
        del steps[layout.folder]


@pytest.mark.parametrize(("store", "first", "second"), CASES, indirect=["store"])
def test_what_an_attempt_left_that_died_is_completed_or_replaced(store, steps, first, second):
    winners = []
    for step in range(1, COUNT + 1):
        layout = Layout(store.folder())
        states = steps.setdefault(layout.folder, [])
        dying, next_one = Attempt(layout, *first), Attempt(layout, *second)
        dying.run_until(step)
        dying.kill()
        next_one.finish()
        winners.append(check(layout, states).features == first[1])
        del steps[layout.folder]
    # Before its claim a dead attempt leaves nothing; from its claim on the others complete its work.
    assert winners == [False] + [True] * (COUNT - 1)


def test_any_two_interleaved_attempts_give_one_of_them(tmp_path, steps):
    for number, (step, other) in enumerate((i, j) for i in range(1, COUNT + 1) for j in range(1, 14)):
        layout = Layout(str(tmp_path / str(number)))
        states = steps.setdefault(layout.folder, [])
        one, two = Attempt(layout, 1, 3, 0), Attempt(layout, 2, 2, 1)
        one.run_until(step)
        two.run_until(other)
        one.finish()
        two.finish()
        assert check(layout, states) == one.receipt == two.receipt
        del steps[layout.folder]


def test_an_undisturbed_commit_has_the_steps_that_the_tests_go_through(store, steps):
    layout = Layout(store.folder())
    alone = Attempt(layout, 1, 2, 1)
    alone.finish()
    assert alone.steps == COUNT


def test_a_ledger_that_belongs_to_no_receipt_goes(store, steps):
    layout = Layout(store.folder())
    states = steps.setdefault(layout.folder, [])
    stores.upload(layout.folder, {f"failures-{LABEL}.jsonl": b"{}"})
    attempt = Attempt(layout, 1, 2, 0)
    attempt.finish()
    assert check(layout, states) == attempt.receipt


def test_an_unfinished_commit_of_another_request_is_left_alone(store, steps):
    layout = Layout(store.folder())
    states = steps.setdefault(layout.folder, [])
    old, new = Attempt(layout, 1, 3, 0), Attempt(layout, 2, 2, 1, {"precision": "float16"})
    old.run_until(3)
    with pytest.raises(LostCommit, match=r"claim-0\.json belongs to another request or input"):
        new.finish()
    old.finish()
    assert check(layout, states) == old.receipt


def test_a_claim_without_its_files_is_passed_over(store, steps):
    layout = Layout(store.folder())
    states = steps.setdefault(layout.folder, [])
    old, new = Attempt(layout, 1, 3, 0), Attempt(layout, 2, 2, 1)
    old.run_until(3)
    old.kill()
    left = [file.path for file in door.match(f"{layout.temporary}/*.tfrecord") if file.size_in_bytes]
    gone = [path for path in left if old.writer._attempt in path]
    assert len(gone) == 1
    door.delete(gone)
    new.finish()
    assert check(layout, states).features == 2


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
