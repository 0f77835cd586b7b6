"""The commit of a shard: which attempt's files become the shard's, whatever other attempts do meanwhile.

Several attempts at one shard can run at once: engines start another where a worker fell silent, and the silent one may
wake up. For fetched images their bytes may differ. So before an attempt touches a final name, it claims the shard, by
creating an object that only one can create. A claim holds the whole receipt to be and names the files it speaks of.
From then on everybody, the claimant, a second attempt or a later run, carries out that same claim: puts its
files in place and then creates the receipt. All of them write the same bytes, so it does not matter who is
last or where one dies. A claim is deleted only after the receipt is there, and an attempt looks for the receipt
only after it claimed, so one that comes late finds the receipt and leaves everything as it is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from transforms.commit import receipts
from transforms.commit.files import is_complete
from transforms.commit.layout import Layout, stem_of
from transforms.commit.receipts import Receipt
from transforms.elements import Shard
from transforms.storage import door


class LostCommit(RuntimeError):
    """An attempt cannot be committed, and nobody else has committed the shard as it was asked for."""


@dataclass(frozen=True)
class Claim:
    """What a shard is to become: the receipt, and the attempt whose temporary files it tells of."""

    attempt: str
    receipt: Receipt

    def to_json(self) -> bytes:
        """The claim as its file holds it."""
        return json.dumps({"attempt": self.attempt, "receipt": asdict(self.receipt)}).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Claim:
        """The claim of a file."""
        values = json.loads(data)
        return cls(values["attempt"], Receipt.from_json(json.dumps(values["receipt"]).encode()))


class IsFirstAttempt:
    """Whether no attempt at a shard has begun before this call, in any process. (A class: see `retry.Due`.)

    It leaves a note, which goes when the shard is committed. Where an earlier attempt died without a word, all that
    is left is this note.
    """

    def __init__(self, layout: Layout):
        self._layout = layout

    def __call__(self, shard: Shard) -> bool:
        return door.create_only(self._layout.begun(shard.label), b"")


def commit(layout: Layout, mine: Claim) -> Receipt:
    """Commits the shard, by `mine` or by the claim that came first; returns the receipt that now stands.

    Raises LostCommit if the attempt's files have gone, or another request has committed the shard meanwhile.
    """
    label = mine.receipt.shard
    done = _carry_out_first(layout, mine)
    sweep(layout, mine.attempt)
    if not _same_request(done, mine.receipt):
        raise LostCommit(
            f"shard {label}: {layout.receipt(label)} is of another request than this job's: two jobs write to "
            "one output; stop one of them, then run the other with --overwrite"
        )
    return done


def _carry_out_first(layout: Layout, mine: Claim) -> Receipt:
    label = mine.receipt.shard
    for number, claim in enumerate(claims(layout, mine)):
        done = receipts.read_receipt(layout, label)
        if done is not None:
            return done
        if claim and not _same_request(claim.receipt, mine.receipt):
            # Its claimant may be alive, and then the files of two would mix.
            path = layout.claim(stem_of(mine.attempt), number)
            raise LostCommit(
                f"shard {label}: {path} is of another request or input than this job's: two "
                "jobs write to one output; stop one of them, then run the other with --overwrite. If no other job "
                "runs, the input changed after one was killed: delete that file and run the same command again"
            )
        # A claim without its files was left by a run that nobody can go on with.
        if claim and put_in_place(layout, claim.attempt, claim.receipt, door.place):
            if door.create_only(layout.receipt(label), claim.receipt.to_json()):
                return claim.receipt
            return receipts.read_receipt(layout, label) or claim.receipt
    raise files_gone(layout, label)


def _same_request(one: Receipt, other: Receipt) -> bool:
    """Whether two receipts are answers to the same request on the same input."""
    same_input = one.name == other.name and receipts.same_bytes(one.input, other.input)
    return same_input and receipts.same_making(one.fingerprint, other.fingerprint)


def claims(layout: Layout, mine: Claim) -> Iterator[Claim | None]:
    """The claims to one commit by their numbers. Where there is none, `mine` is made, and is the last.

    None stands for a claim that was deleted at this moment.
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
    """Gives an attempt's files their final names, by `put`. False if one is neither here nor there any more."""
    for file in receipt.files:
        target = door.join(layout.folder, file.name)
        if not put(layout.unfinished(attempt, file.name), target) and not is_complete(target, file):
            return False
    ledger = layout.failures(receipt.shard)
    if not receipt.failures and door.exists(ledger):
        door.delete([ledger])  # of an older state of the shard
    return True


def files_gone(layout: Layout, label: str) -> LostCommit:
    """The error of an attempt that could not even carry out its own claim."""
    return LostCommit(
        f"shard {label}: the temporary files of this attempt are gone from {layout.temporary}: "
        "nothing else may write or clean up there while the job runs"
    )


def sweep(layout: Layout, attempt: str) -> None:
    """Drops what attempts at the same commit left behind; those at a later one have other names."""
    door.delete([file.path for file in door.match(layout.attempts(stem_of(attempt)))])


def sweep_all(layout: Layout) -> None:
    """Drops what killed runs left behind in an output whose shards are all committed."""
    left = door.match(door.join(layout.temporary, "*"))
    for folder in (layout.folder, layout.receipts):
        if door.leaves_temporaries(folder):  # small files are written beside their place and renamed
            left += [f for f in door.match(door.join(folder, "*.tmp")) if door.is_temporary(f.path)]
    door.delete([file.path for file in left])
    door.remove_folder_if_empty(layout.temporary)
