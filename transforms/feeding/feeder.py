"""A feeder's work: it decodes the images of one piece after the other into shared memory. No Beam, no TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence

import numpy as np

from transforms.elements import Fields
from transforms.errors import ItemError
from transforms.feeding import messages
from transforms.feeding.messages import HEAD, ITEM, NOTE, Outcome
from transforms.imaging import preprocess
from transforms.imaging.preprocess import Preprocessing
from transforms.records import images


def serve(
    connection: socket.socket,
    inboxes: Sequence[int],
    pixels_of: Callable[[int], np.ndarray],
    preprocessing: Preprocessing,
    limit: Callable[[bool], None],
) -> None:
    """Decodes the pieces that are requested, until the connection is closed.

    Args:
      inboxes: descriptors of the files with the encoded images.
      pixels_of: number of a slot -> its batch, float32 (batch_size, side, side, 3); a row that fails is set to zero.
      limit: called with True when the time for an image or the answer begins, with False when the answer is sent.
    """
    while head := _received(connection, HEAD.size):
        number, slot, inbox, count, fields_bytes = HEAD.unpack(head)
        began = time.monotonic()
        table = _received(connection, count * ITEM.size)
        fields = messages.fields_of(_received(connection, fields_bytes))
        pixels = pixels_of(slot)
        outcomes = []
        for index, (row, offset, size, is_record, crc) in enumerate(ITEM.iter_unpack(table)):
            os.pwrite(inboxes[0], NOTE.pack(number, index), 0)
            limit(True)
            read = functools.partial(os.pread, inboxes[inbox], size, offset)
            outcomes.append(_decode(read, fields if is_record else None, crc, preprocessing, pixels[row]))
        reply = messages.reply(number, outcomes, time.monotonic() - began)
        limit(True)  # answering is bounded as decoding is: what an image has damaged may show only now
        connection.sendall(reply)
        limit(False)


def _decode(
    read: Callable[[], bytes],
    fields: Fields | None,
    crc: bytes,
    preprocessing: Preprocessing,
    out: np.ndarray,
) -> Outcome:
    """Decodes the image that `read` returns, or the image in that record if there are fields."""
    key, passed, unfit = None, b"", 0
    try:
        data = read()
        if fields:
            data, key, passed, unfit = images.find(data, crc if any(crc) else b"", fields)
        width, height = preprocess.decode(data, preprocessing, out)
        scalable = preprocess.can_scale(data, width, height, preprocessing.image_size)
        digest = hashlib.sha256(data).digest()
        texts = key or b"", passed, b""
        return Outcome(messages.DECODED, key is not None, scalable, width, height, digest, texts, unfit)
    except images.Unusable as error:
        key, status, what = error.key, messages.UNUSABLE, (error.code, str(error))
    except ItemError as error:
        status, what = messages.NOT_DECODED, (error.code, str(error))
    except MemoryError:
        status, what = messages.NO_MEMORY, ("", "")
    except Exception:
        status, what = messages.BROKEN, ("", traceback.format_exc()[-messages.MESSAGE_BYTES // 4 :])
    out[:] = 0
    code, message = (text.encode("utf-8", "backslashreplace") for text in what)
    return Outcome(status, key is not None, texts=(key or b"", code, message))


def _received(connection: socket.socket, count: int) -> bytes:
    """So many bytes; b"" if the connection is closed before."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            return b""
        data += part
    return data


def pixels_in(file: int, shape: tuple[int, ...], slot_bytes: int) -> Callable[[int], np.ndarray]:
    """Number of a slot in a file of shared memory -> its batch."""
    batches: dict[int, np.ndarray] = {}

    def batch(slot: int) -> np.ndarray:
        if slot not in batches:
            memory = mmap.mmap(file, slot_bytes, offset=slot * slot_bytes)
            batches[slot] = np.frombuffer(memory, np.float32, int(np.prod(shape))).reshape(shape)
        return batches[slot]

    return batch
