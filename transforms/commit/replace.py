"""The commit of a shard over a committed one, as a retry of its failures does it.

Features, ledger and receipt keep their names, and a file cannot be exchanged together with another one. So a replacement
goes through five steps, of which whoever comes next, another attempt or a later run, takes those that are left:

1. The attempt writes its files, and the new receipt twice, below OUTPUT/.tmp: as it will stand in the end, and marked as
   `replacing`.
2. It claims the replacement of exactly this receipt, by its digest, with an object that only one attempt can create. From
   here on everybody carries out that claim. Until here the old state stands.
3. The marked receipt takes the place of the old one. From here on the new state is certain; the shard never is without a
   receipt, so no attempt of the first run that wakes up late takes it for unfinished.
4. The files take the places of the old ones.
5. The final receipt takes the place of the marked one.

Each step moves a file away from .tmp, or copies it and drops the source. So what sleeps before one of them and wakes up
generations later has nothing to move any more.
"""

from __future__ import annotations

import dataclasses
import itertools
import uuid

from transforms.commit import receipts
from transforms.commit.claim import Claim, LostCommit, is_whole, temporary
from transforms.commit.receipts import Layout, Receipt
from transforms.storage import door


def attempt_name(label: str, base: str) -> str:
    """The name of a new attempt at replacing the receipt of digest `base`."""
    return f"retry-{label}-{base}-{uuid.uuid4().hex}"


def replace(layout: Layout, base: str, mine: Claim) -> Receipt:
    """Replaces the shard whose receipt has the digest `base`, by `mine` or the claim that came first.

    Returns the receipt that now stands. Raises LostCommit if the attempt's files have gone.
    """
    label = mine.receipt.shard
    door.write_atomic(_final(layout, mine.attempt), mine.receipt.to_json())
    marked = dataclasses.replace(mine.receipt, replacing=mine.attempt)
    door.write_atomic(_marked(layout, mine.attempt), marked.to_json())
    for number in itertools.count():
        claim = _claim(layout, base, mine, number)
        if claim and _stands(layout, label, base) and _has_files(layout, claim):
            _move(_marked(layout, claim.attempt), layout.receipt(label))
        standing = _receipt(layout, label)
        if standing.digest != base:
            settled = settle(layout, standing)
            _sweep(layout, mine.attempt)
            return settled
        if claim and claim.attempt == mine.attempt:
            break
    raise LostCommit(
        f"shard {label}: the temporary files of this attempt are gone from {layout.temporary}: "
        "nothing else may write or clean up there while the job runs"
    )


def settle(layout: Layout, standing: Receipt) -> Receipt:
    """Carries a replacement that was begun to its end; `standing` is the receipt that was found."""
    while standing.replacing:
        done = dataclasses.replace(standing, replacing="")
        if _put_in_place(layout, standing):
            target = layout.receipt(done.shard)
            moved = _move(_final(layout, standing.replacing), target)
            if (
                not moved and _receipt(layout, done.shard) == standing
            ):  # the source was lost, the files were not
                door.write_atomic(target, done.to_json())
            _sweep(layout, standing.replacing)
        now = _receipt(layout, done.shard)
        if now == standing:
            raise LostCommit(
                f"shard {done.shard}: the files that {layout.receipt(done.shard)} tells of are neither in place nor in "
                f"{layout.temporary}: delete that receipt, and the shard is done anew"
            )
        standing = now
    return standing


def can_settle(layout: Layout, standing: Receipt) -> bool:
    """Whether the files of a replacement that was begun are there, by their sizes."""
    sizes = {file.path: file.size_in_bytes for file in door.match(door.join(layout.temporary, "retry-*"))}
    sizes |= {file.path: file.size_in_bytes for file in door.match(door.join(layout.folder, "f*"))}
    return all(
        file.bytes
        in (
            sizes.get(temporary(layout, standing.replacing, file.name)),
            sizes.get(door.join(layout.folder, file.name)),
        )
        for file in standing.files
    )


def _receipt(layout: Layout, label: str) -> Receipt:
    found = receipts.read_receipt(layout, label)
    if found is None:
        raise LostCommit(f"shard {label}: somebody has removed {layout.receipt(label)} while it was replaced")
    return found


def _stands(layout: Layout, label: str, base: str) -> bool:
    return _receipt(layout, label).digest == base


def _claim(layout: Layout, base: str, mine: Claim, number: int) -> Claim | None:
    """The claim of this number: mine if I was first. None if it was given away in this moment."""
    path = door.join(layout.temporary, f"retry-{mine.receipt.shard}-{base}-claim-{number}.json")
    if door.create_only(path, mine.to_json()):
        return mine
    data = door.read_if_there(path)
    return None if data is None else Claim.from_json(data)


def _has_files(layout: Layout, claim: Claim) -> bool:
    """A claim without its files was left by a run that nobody can go on with."""
    names = [temporary(layout, claim.attempt, file.name) for file in claim.receipt.files]
    return all(door.exists(path) for path in [*names, _final(layout, claim.attempt)])


def _put_in_place(layout: Layout, standing: Receipt) -> bool:
    """Puts the new files under their names. False if one is neither here nor there any more."""
    for file in standing.files:
        target = door.join(layout.folder, file.name)
        source = temporary(layout, standing.replacing, file.name)
        if not _move(source, target) and not is_whole(target, file):
            return False
    ledger = layout.failures(standing.shard)
    if not standing.failures and door.exists(ledger):
        door.delete([ledger])
    return True


def _move(source: str, target: str) -> bool:
    moved = door.place(source, target)
    if moved and not door.is_local(source):
        door.delete([source])
    return moved


def _final(layout: Layout, attempt: str) -> str:
    return door.join(layout.temporary, f"{attempt}.receipt")


def _marked(layout: Layout, attempt: str) -> str:
    return door.join(layout.temporary, f"{attempt}.replacing")


def _sweep(layout: Layout, attempt: str) -> None:
    """Drops what attempts at this replacement left behind; those of later ones have other names."""
    prefix = attempt.rpartition("-")[0]
    door.delete([file.path for file in door.match(door.join(layout.temporary, f"{prefix}-*"))])
