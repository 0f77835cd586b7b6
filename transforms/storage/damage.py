"""What reading compressed data raises for its content. No Beam: what checks records in other processes imports this."""

from __future__ import annotations

import gzip
import zlib


class Damaged(EOFError):
    """Compressed data that is cut or damaged: nothing more can be read. All before it has been."""


class BeyondLimit(Damaged):
    """Compressed data that takes more memory to unpack than there is for it. The message says what to do."""


DAMAGED = (zlib.error, EOFError, gzip.BadGzipFile)


def explained(error: BaseException) -> str:
    """What one of DAMAGED says, with what to do about it."""
    if isinstance(error, BeyondLimit):
        return str(error)
    return f"{error}; it is damaged or was cut short: make or copy it again"
