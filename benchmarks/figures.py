"""The figures that a benchmark hands over for the table of `python -m benchmarks`, beside what it prints for people.

They go to the file that an environment variable names, a line of JSON each time; without it nowhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

VARIABLE = "BENCHMARK_FIGURES"


def give(**figures: float) -> None:
    """Hands figures over by name. A later one of the same name takes the place of an earlier one."""
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(figures) + "\n")


def read(path: Path) -> dict[str, float]:
    """What was handed over to a file."""
    found: dict[str, float] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            found |= json.loads(line)
    return found
