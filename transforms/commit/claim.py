"""The commit of a shard: which attempt's files become the shard's, whatever other attempts do meanwhile.

Several attempts at one shard can run at once: engines start another where a worker fell silent, and the silent one may
wake up. For fetched images their bytes may differ. So before an attempt touches a final name, it claims the shard, by
creating an object that only one can create. A claim holds the whole receipt to be and names the files it speaks of.
From then on everybody, the claimant, a second attempt or a later run, carries out that same claim: puts its
files in place and then creates the receipt. All of them write the same bytes, so it does not matter who is
last or where one dies. A claim is given away only after the receipt is there, and an attempt looks for the receipt
only after it claimed, so one that comes late finds the receipt and leaves everything as it is.
"""

from __future__ import annotations

import itertools
import json
import posixpath
from dataclasses import asdict, dataclass

import google_crc32c

from transforms.commit import receipts
from transforms.commit.receipts import FileSummary, Layout, Receipt
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
        return json.dumps({"attempt": self.attempt, "receipt": asdict(self.receipt)}).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Claim:
        values = json.loads(data)
        return cls(values["attempt"], Receipt.from_json(json.dumps(values["receipt"]).encode()))


def temporary(layout: Layout, attempt: str, name: str) -> str:
    """Where an attempt writes the file that will be called `name`."""
    return door.join(layout.temporary, attempt + posixpath.splitext(name)[1])


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
    sweep(layout, label)
    if not _same_request(done, mine.receipt):
        raise LostCommit(
            f"shard {label}: {layout.receipt(label)} is of another request than this job's: two jobs write to "
            "one output; stop one of them, then run the other with --overwrite"
        )
    return done


def sweep(layout: Layout, label: str) -> None:
    """Drops what attempts at a committed shard left behind."""
    found = door.match(door.join(layout.temporary, f"{label}-*"))
    door.delete([file.path for file in found])


def sweep_all(layout: Layout) -> None:
    """Drops what killed runs left behind in an output whose shards are all committed."""
    left = door.match(door.join(layout.temporary, "*"))
    for folder in (layout.folder, door.join(layout.folder, "receipts")):
        if door.leaves_temporaries(folder):  # small files are written beside their place and renamed
            left += [f for f in door.match(door.join(folder, "*.tmp")) if door.is_temporary(f.path)]
    door.delete([found.path for found in left])
    door.remove_folder_if_empty(layout.temporary)


def _carry_out_first(layout: Layout, mine: Claim) -> Receipt:
    label = mine.receipt.shard
    for number in itertools.count():
        claim = _claim(layout, mine, number)
        done = receipts.read_receipt(layout, label)
        if done is not None:
            return done
        if claim and not _same_request(claim.receipt, mine.receipt):
            # Its claimant may be alive, and then the files of two would mix.
            raise LostCommit(
                f"shard {label}: {layout.claim(label, number)} is of another request or input than this job's: two "
                "jobs write to one output; stop one of them, then run the other with --overwrite. If no other job "
                "runs, the input changed after one was killed: delete that file and run the same command again"
            )
        # A claim without its files was left by a run that nobody can go on with.
        if claim and _put_in_place(layout, claim):
            if door.create_only(layout.receipt(label), claim.receipt.to_json()):
                return claim.receipt
            return receipts.read_receipt(layout, label) or claim.receipt
        if claim and claim.attempt == mine.attempt:
            break
    raise LostCommit(
        f"shard {label}: the temporary files of this attempt are gone from {layout.temporary}: "
        "nothing else may write or clean up there while the job runs"
    )


def _claim(layout: Layout, mine: Claim, number: int) -> Claim | None:
    """The claim of this number: mine if I was first. None if it was given away in this moment."""
    path = layout.claim(mine.receipt.shard, number)
    if door.create_only(path, mine.to_json()):
        return mine
    data = door.read_if_there(path)
    return None if data is None else Claim.from_json(data)


def _same_request(one: Receipt, other: Receipt) -> bool:
    """Whether two receipts are answers to the same request on the same input."""
    same_input = one.name == other.name and receipts.same_bytes(one.input, other.input)
    return same_input and receipts.same_making(one.fingerprint, other.fingerprint)


def _put_in_place(layout: Layout, claim: Claim) -> bool:
    """Puts the files of a claim under their final names. False if one is neither here nor there any more."""
    for file in claim.receipt.files:
        target = door.join(layout.folder, file.name)
        if not door.place(temporary(layout, claim.attempt, file.name), target) and not is_whole(target, file):
            return False
    ledger = layout.failures(claim.receipt.shard)
    if not claim.receipt.failures and door.exists(ledger):
        door.delete([ledger])  # of a shard whose receipt was lost
    return True


def is_whole(path: str, file: FileSummary) -> bool:
    """Whether a file is there with the size and checksum that it must have."""
    if not door.exists(path):
        return False
    size = crc = 0
    with door.open_binary(path) as stream:
        while block := stream.read(1 << 20):
            size += len(block)
            crc = google_crc32c.extend(crc, block)
    return (size, f"{crc:08x}") == (file.bytes, file.crc32c)
