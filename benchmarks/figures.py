"""The figures that a benchmark reports for the table of `python -m benchmarks`, besides what it prints.

They go to the file that an environment variable names, as one line of JSON per call; without it they are dropped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

VARIABLE = "BENCHMARK_FIGURES"


def report(**figures: float) -> None:
    """Reports figures by name. A later one replaces an earlier one of the same name."""
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(figures) + "\n")


def read(path: Path) -> dict[str, float]:
    """The figures reported to a file; none if it does not exist."""
    figures: dict[str, float] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            figures |= json.loads(line)
    return figures
