"""The pages of documentation and their fenced blocks, for the tests that hold them to what they say."""

from __future__ import annotations

import re
from pathlib import Path

from tests import helpers

PAGES = sorted(
    [*helpers.REPO.glob("*.md"), *helpers.REPO.glob("docs/*.md"), *helpers.REPO.glob("benchmarks/*.md")]
)


def fences(page: Path) -> list[tuple[str, str]]:
    """(label, text) of each fenced block."""
    return re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", page.read_text(), re.MULTILINE)


def blocks(page: Path, label: str) -> list[str]:
    """The text of each fenced block of one label."""
    return [text for its_label, text in fences(page) if its_label == label]
