"""The commit of a shard over a committed one, for a retry of its failures.

Features, ledger and receipt keep their names, and several files cannot be replaced at once. So a replacement has five
steps, and whichever attempt or later run comes next carries out those that are left:

1. The attempt writes its files and two versions of the new receipt below OUTPUT/.tmp: the final one, and one marked as
   `replacing`.
2. It claims the replacement of exactly this receipt, by its digest, with an object that only one attempt can create. From
   then on every attempt carries out that claim. Until then the old state remains valid.
3. The marked receipt replaces the old one. From then on the new state is certain. The shard always has a receipt, so no
   late attempt of the first run takes it for unfinished.
4. The new files replace the old ones.
5. The final receipt replaces the marked one.

Each step moves a file out of .tmp, or copies it and deletes the source. So an attempt that sleeps before a step and wakes
up much later has nothing left to move.
"""

from __future__ import annotations

import dataclasses

from transforms.commit import receipts
from transforms.commit.claim import Claim, LostCommit, claims, files_gone, put_in_place, sweep
from transforms.commit.layout import Layout, stem_of
from transforms.commit.receipts import Receipt
from transforms.storage import door


def replace(layout: Layout, base: str, mine: Claim) -> Receipt:
    """Replaces the shard whose receipt has the digest `base` by the first claim, which may be `mine`.

    Returns the receipt now in place. Raises LostCommit if the attempt's files are gone.
    """
    label = mine.receipt.shard
    door.write_atomic(layout.final_receipt(mine.attempt), mine.receipt.to_json())
    marked = dataclasses.replace(mine.receipt, replacing=mine.attempt)
    door.write_atomic(layout.marked_receipt(mine.attempt), marked.to_json())
    for claim in claims(layout, mine):
        if claim and _receipt(layout, label).digest == base and _has_files(layout, claim):
            _move(layout.marked_receipt(claim.attempt), layout.receipt(label))
        current = _receipt(layout, label)
        if current.digest != base:
            settled = settle(layout, current)
            sweep(layout, mine.attempt)
            return settled
    raise files_gone(layout, label)


def settle(layout: Layout, current: Receipt) -> Receipt:
    """Completes a replacement that was begun; `current` is the receipt now in place. Returns the final one.

    Raises LostCommit if the replacement's files are gone.
    """
    while attempt := current.replacing:
        final = dataclasses.replace(current, replacing="")
        target = layout.receipt(final.shard)
        if put_in_place(layout, attempt, current, _move):
            moved = _move(layout.final_receipt(attempt), target)
            if not moved and _receipt(layout, final.shard) == current:
                # The file of the final receipt is lost, the data files are not.
                door.write_atomic(target, final.to_json())
            sweep(layout, attempt)
        latest = _receipt(layout, final.shard)
        if latest == current:
            raise LostCommit(
                f"shard {final.shard}: the files that {target} lists are neither in place nor in "
                f"{layout.temporary}: delete that receipt and run again to redo the shard"
            )
        current = latest
    return current


def can_settle(layout: Layout, current: Receipt) -> bool:
    """Whether the files of a replacement that was begun exist, by their sizes."""
    patterns = (layout.attempts(stem_of(current.replacing)), layout.data)
    sizes = {file.path: file.size_in_bytes for pattern in patterns for file in door.match(pattern)}
    return all(
        file.bytes
        in (
            sizes.get(layout.unfinished(current.replacing, file.name)),
            sizes.get(door.join(layout.folder, file.name)),
        )
        for file in current.files
    )


def _receipt(layout: Layout, label: str) -> Receipt:
    receipt = receipts.read_receipt(layout, label)
    if receipt is None:
        raise LostCommit(f"shard {label}: {layout.receipt(label)} was deleted while it was being replaced")
    return receipt


def _has_files(layout: Layout, claim: Claim) -> bool:
    """False for a claim of a killed run whose files are gone."""
    paths = [layout.unfinished(claim.attempt, file.name) for file in claim.receipt.files]
    return all(door.exists(path) for path in [*paths, layout.final_receipt(claim.attempt)])


def _move(source: str, target: str) -> bool:
    moved = door.place(source, target)
    if moved and not door.is_local(source):
        door.delete([source])
    return moved
