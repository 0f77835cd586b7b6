"""One output has one set of weights: features of different arrays are never mixed, wherever a process got its weights from.

A loaded model reports a digest of its arrays (`bit.digests.OfArrays`), which receipts keep. The first process that writes
leaves it as a note in the temporary folder, and every other one compares. Receipts of earlier versions have no digest, and
agree with any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.storage import door

KEY = "arrays"  # in the identity of a loaded model


class OtherWeights(RuntimeError):
    """Two processes, or two runs, have loaded different weights for the same model."""


def agree(layout: Layout, model: Mapping[str, str]) -> None:
    """Leaves a note of the weights of a loaded model. Raises OtherWeights if there is one of others."""
    digest = model.get(KEY, "")
    while digest and not door.create_only(layout.arrays, digest.encode()):
        noted = door.read_if_there(layout.arrays)
        if noted is None:  # a run that ended has deleted it
            continue
        if noted.decode(errors="replace") != digest:
            raise OtherWeights(
                _text(layout, "other processes or runs", noted.decode(errors="replace"), digest)
            )
        return


def enter(layout: Layout, done: Iterable[Receipt]) -> None:
    """Leaves the note of a run that continues these shards; deletes that of a run of which no shard is left.

    Raises OtherWeights if their weights differ.
    """
    if digest := check(layout, done):
        door.write_atomic(layout.arrays, digest.encode())
    else:
        door.delete([layout.arrays])


def check(layout: Layout, done: Iterable[Receipt]) -> str:
    """The digest that these receipts have in common; '' if none has one. Raises OtherWeights if they differ."""
    digest = ""
    for receipt in agreeing(layout, done):
        digest = digest or receipt.model.get(KEY, "")
    return digest


def agreeing(layout: Layout, done: Iterable[Receipt]) -> Iterator[Receipt]:
    """Passes receipts on. Raises OtherWeights at one whose digest is not that of those before."""
    first: Receipt | None = None
    for receipt in done:
        if digest := receipt.model.get(KEY, ""):
            first = first or receipt
            if digest != first.model[KEY]:
                raise OtherWeights(
                    f"shard {receipt.shard}: "
                    + _text(layout, f"shard {first.shard}", first.model[KEY], digest)
                )
        yield receipt


def _text(layout: Layout, who: str, before: str, now: str) -> str:
    return (
        f"model.{KEY} = {now!r} is the digest of the weights here, but {who} of --output={layout.folder} had {before!r}: two "
        "sources gave different weights for one model, and their features must not be mixed. Compare `python -m bit.download` "
        "on both machines and delete the wrong file; then delete the receipts of its shards and run again, or use --overwrite"
    )
