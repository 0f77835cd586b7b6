"""What the end of a feeder says about the image that it was decoding."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

from transforms.elements import Failure, Record
from transforms.feeding import forker, messages
from transforms.feeding.batches import Image, Piece
from transforms.feeding.forking import python
from transforms.feeding.handle import Handle


def suspects(handle: Handle) -> list[Piece]:
    """Takes from a feeder that ended the images that may be the cause, each as a piece of its own."""
    rows = handle.suspects()
    if not rows:
        return []
    piece = handle.pieces.popleft()
    others = [row for row in piece.rows if row not in rows]
    if others:
        handle.pieces.appendleft(Piece(piece.batch, others))
    deaths = piece.deaths + 1 if len(rows) == 1 else 0
    return [Piece(piece.batch, [row], deaths) for row in rows]


def tries(status: int) -> int:
    """How many feeders an image may end in this way before it is taken for the cause."""
    # SIGKILL has other likely causes, such as a system out of memory. SIGALRM comes after any pause of the whole job, too.
    return 3 if _signal_of(status) == signal.SIGKILL else 2


def failure(piece: Piece, status: int, is_garbled: bool, timeout_seconds: float) -> Failure:
    """The failure of the image of a piece, which has ended its feeders."""
    (image,) = piece.images
    key = _key(image, timeout_seconds)
    if is_timeout(status) and not is_garbled:
        code = "decode_timeout"
        message = f"decoding did not end within {timeout_seconds:g} s; if the picture is genuine, raise --decode_timeout"
    else:
        code = "decoder_crash"
        why = "it answered with garbage, or only in part" if is_garbled else how(status)
        message = f"the decoder's process died of it ({why}); keep the file for a report, or convert it"
    return messages.failure(image, key, code, message)


def _key(image: Image, seconds: float) -> bytes:
    """Its key. One that is in the record is read by another process: parsing may be what kills, or takes for ever."""
    if not isinstance(image, Record) or not image.fields.key:
        return image.key
    program = "from transforms.records import images; images.print_key(*sys.argv[1:])"
    command = [*python(program), image.fields.key, image.crc.hex()]
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        done = subprocess.run(
            command, input=bytes(image.data), capture_output=True, timeout=seconds, check=True
        )
        return done.stdout[1:] if done.stdout else image.key
    return image.key


def is_timeout(status: int | None) -> bool:
    """Whether the time limit has ended it."""
    return status is not None and _signal_of(status) == signal.SIGALRM


def _signal_of(status: int) -> int:
    return -os.waitstatus_to_exitcode(status)


def how(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "for no known reason"
    if status == forker.NOT_FORKED:
        return "the system started no process"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
