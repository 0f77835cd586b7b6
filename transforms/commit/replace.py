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

from transforms.commit import receipts
from transforms.commit.claim import Claim, LostCommit, claims, files_gone, put_in_place, sweep
from transforms.commit.layout import Layout, stem_of
from transforms.commit.receipts import Receipt
from transforms.storage import door


def replace(layout: Layout, base: str, mine: Claim) -> Receipt:
    """Replaces the shard whose receipt has the digest `base`, by `mine` or the claim that came first.

    Returns the receipt that now stands. Raises LostCommit if the attempt's files have gone.
    """
    label = mine.receipt.shard
    door.write_atomic(layout.final_receipt(mine.attempt), mine.receipt.to_json())
    marked = dataclasses.replace(mine.receipt, replacing=mine.attempt)
    door.write_atomic(layout.marked_receipt(mine.attempt), marked.to_json())
    for claim in claims(layout, mine):
        if claim and _receipt(layout, label).digest == base and _has_files(layout, claim):
            _move(layout.marked_receipt(claim.attempt), layout.receipt(label))
        standing = _receipt(layout, label)
        if standing.digest != base:
            settled = settle(layout, standing)
            sweep(layout, mine.attempt)
            return settled
    raise files_gone(layout, label)


def settle(layout: Layout, standing: Receipt) -> Receipt:
    """Carries a replacement that was begun to its end; `standing` is the receipt that is in place now."""
    while attempt := standing.replacing:
        done = dataclasses.replace(standing, replacing="")
        target = layout.receipt(done.shard)
        if put_in_place(layout, attempt, standing, _move):
            moved = _move(layout.final_receipt(attempt), target)
            if not moved and _receipt(layout, done.shard) == standing:
                door.write_atomic(target, done.to_json())  # its source was lost, the files were not
            sweep(layout, attempt)
        now = _receipt(layout, done.shard)
        if now == standing:
            raise LostCommit(
                f"shard {done.shard}: the files that {target} tells of are neither in place nor in "
                f"{layout.temporary}: delete that receipt, and the shard is done anew"
            )
        standing = now
    return standing


def can_settle(layout: Layout, standing: Receipt) -> bool:
    """Whether the files of a replacement that was begun are there, by their sizes."""
    patterns = (layout.attempts(stem_of(standing.replacing)), layout.data)
    sizes = {file.path: file.size_in_bytes for pattern in patterns for file in door.match(pattern)}
    return all(
        file.bytes
        in (
            sizes.get(layout.unfinished(standing.replacing, file.name)),
            sizes.get(door.join(layout.folder, file.name)),
        )
        for file in standing.files
    )


def _receipt(layout: Layout, label: str) -> Receipt:
    receipt = receipts.read_receipt(layout, label)
    if receipt is None:
        raise LostCommit(f"shard {label}: somebody has removed {layout.receipt(label)} while it was replaced")
    return receipt


def _has_files(layout: Layout, claim: Claim) -> bool:
    """A claim without its files was left by a run that nobody can go on with."""
    paths = [layout.unfinished(claim.attempt, file.name) for file in claim.receipt.files]
    return all(door.exists(path) for path in [*paths, layout.final_receipt(claim.attempt)])


def _move(source: str, target: str) -> bool:
    moved = door.place(source, target)
    if moved and not door.is_local(source):
        door.delete([source])
    return moved
