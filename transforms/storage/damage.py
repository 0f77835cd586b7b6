"""What reading compressed data raises for its content. No Beam: what checks records in other processes imports this."""

from __future__ import annotations

import gzip
import zlib


class Damaged(EOFError):
    """Compressed data that is cut or damaged: nothing more can be read. All before it has been."""


DAMAGED = (zlib.error, EOFError, gzip.BadGzipFile)
