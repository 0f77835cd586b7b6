"""The commit of a shard: which attempt's files become the shard's, whatever other attempts do meanwhile.

Several attempts at one shard can run at once: an engine starts another when a worker falls silent, and the silent one
may wake up. For fetched images their bytes may differ. So before an attempt touches a final name, it claims the shard by
creating an object that only one attempt can create. A claim holds the complete future receipt, which names its files.
From then on every attempt, whether the claimant, a second one or a later run, carries out that same claim: it puts the
claim's files in place and then creates the receipt. All write the same bytes, so it does not matter which is last or
where one dies. A claim is deleted only once the receipt exists, and an attempt looks for the receipt only after it has
claimed. So a late attempt finds the receipt and changes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from transforms.commit import receipts
from transforms.commit.files import is_complete
from transforms.commit.layout import Layout, stem_of
from transforms.commit.receipts import Receipt
from transforms.storage import door, retrying
from transforms.storage.errors import StorageFailed


class LostCommit(RuntimeError):
    """An attempt cannot be committed, and no other attempt has committed the shard for the same request."""


@dataclass(frozen=True)
class Claim:
    """The future state of a shard: its receipt, and the attempt whose temporary files the receipt describes."""

    attempt: str
    receipt: Receipt

    def to_json(self) -> bytes:
        """The content of the claim's file."""
        return json.dumps({"attempt": self.attempt, "receipt": asdict(self.receipt)}).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Claim:
        """The inverse of `to_json`."""
        values = json.loads(data)
        return cls(values["attempt"], Receipt.from_json(json.dumps(values["receipt"]).encode()))


def commit(layout: Layout, mine: Claim) -> Receipt:
    """Commits the shard by the first claim, which may be `mine`; returns the receipt now in place.

    Raises LostCommit if the attempt's files are gone, or another request has committed the shard meanwhile.
    """
    label = mine.receipt.shard
    receipt = _carry_out_first(layout, mine)
    sweep(layout, mine.attempt)
    if not _same_request(receipt, mine.receipt):
        raise LostCommit(
            f"shard {label}: {layout.receipt(label)} belongs to another request than this job's: two jobs write to "
            "one output; stop one of them, then run the other with --overwrite"
        )
    return receipt


def _carry_out_first(layout: Layout, mine: Claim) -> Receipt:
    label = mine.receipt.shard
    for number, claim in enumerate(claims(layout, mine)):
        receipt = receipts.read_receipt(layout, label)
        if receipt is not None:
            return receipt
        if claim and not _same_request(claim.receipt, mine.receipt):
            # The claimant may be alive, and then the files of two requests would mix.
            path = layout.claim(stem_of(mine.attempt), number)
            raise LostCommit(
                f"shard {label}: {path} belongs to another request or input than this job's: two "
                "jobs write to one output; stop one of them, then run the other with --overwrite. If no other job "
                "runs, the input changed after one was killed: delete that file and run the same command again"
            )
        # A claim whose files are gone, left by a killed run, is passed over.
        if claim and put_in_place(layout, claim.attempt, claim.receipt, door.place):
            if door.create_only(layout.receipt(label), claim.receipt.to_json()):
                return claim.receipt
            return receipts.read_receipt(layout, label) or claim.receipt
    raise files_gone(layout, label)


def _same_request(first: Receipt, second: Receipt) -> bool:
    """Whether two receipts belong to the same request on the same input."""
    same_input = first.name == second.name and receipts.same_bytes(first.input, second.input)
    return same_input and receipts.same_fingerprint(first.fingerprint, second.fingerprint)


def claims(layout: Layout, mine: Claim) -> Iterator[Claim | None]:
    """The existing claims to one commit, in the order of their numbers; then `mine`, which is created as the last.

    None stands for a claim that was deleted while it was read.
    """
    for number in itertools.count():
        path = layout.claim(stem_of(mine.attempt), number)
        if door.create_only(path, mine.to_json()):
            claim: Claim | None = mine
        else:
            data = door.read_if_there(path)
            claim = None if data is None else Claim.from_json(data)
        yield claim
        if claim and claim.attempt == mine.attempt:
            return


def put_in_place(layout: Layout, attempt: str, receipt: Receipt, put: Callable[[str, str], bool]) -> bool:
    """Gives an attempt's files their final names by `put(source, target)`; False if a file is at neither of them."""
    for file in receipt.files:
        target = door.join(layout.folder, file.name)
        if not put(layout.unfinished(attempt, file.name), target) and not is_complete(target, file):
            return False
    ledger = layout.failures(receipt.shard)
    if not receipt.failures and door.exists(ledger):
        door.delete([ledger])  # left by an older state of the shard
    return True


def files_gone(layout: Layout, label: str) -> LostCommit:
    """The error for an attempt that could not carry out its own claim."""
    return LostCommit(
        f"shard {label}: the temporary files of this attempt are gone from {layout.temporary}: "
        "nothing else may write or clean up there while the job runs"
    )


def withdraw(layout: Layout, attempt: str) -> None:
    """Deletes the files of an attempt whose commit failed, if nobody needs them: a full disk has no room to claim a shard.

    Only on disks: elsewhere a claim may still arrive that its writer was told has failed.
    """
    if not door.is_local(layout.folder):
        return

    def drop() -> None:
        claims = door.match(layout.claim(stem_of(attempt), "*"))
        contents = [door.read_if_there(file.path) for file in claims]
        if not any(data and Claim.from_json(data).attempt == attempt for data in contents):
            door.delete([file.path for file in door.match(layout.files_of(attempt))])

    with contextlib.suppress(StorageFailed):
        retrying.once("deleting", layout.temporary, drop, retrying.AFTER_A_FAILURE_SECONDS)


def sweep(layout: Layout, attempt: str) -> None:
    """Deletes the temporary files of all attempts at the same commit; those at a later commit have other names."""
    door.delete([file.path for file in door.match(layout.attempts(stem_of(attempt)))])


def sweep_all(layout: Layout) -> None:
    """Deletes what killed runs left in an output whose shards are all committed."""
    leftovers = door.match(door.join(layout.temporary, "*"))
    for folder in (layout.folder, layout.receipts):
        if door.leaves_temporaries(folder):  # small files are written beside their target and renamed
            leftovers += [f for f in door.match(door.join(folder, "*.tmp")) if door.is_temporary(f.path)]
    door.delete([file.path for file in leftovers])
    door.remove_folder_if_empty(layout.temporary)
