"""Describes the machine for the head of each table."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path


def describe() -> str:
    """One line: date, processor, cores, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        if cpuinfo.exists()
        else []
    )
    cpu = names[0] if names else platform.processor()
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("apache-beam", "tensorflow", "numpy")
    )
    return f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
