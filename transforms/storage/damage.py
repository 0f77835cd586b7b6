"""What is raised for the content of a compressed stream. Imports no Beam: processes that decode images know it, too."""

from __future__ import annotations

import gzip
import zlib


class Damaged(EOFError):
    """Compressed data that is cut or damaged: nothing more can be read. All before it has been."""


# What reading a compressed stream raises for its content.
DAMAGED = (zlib.error, EOFError, gzip.BadGzipFile)
