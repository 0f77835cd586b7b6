"""Malicious files, and random damage, end as pixels or a documented code, in bounded memory, without output on stderr.

HOSTILE_IMAGES=300000 in the environment sets the number of damaged files; HOSTILE_SEED=2 generates others.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from tests import helpers
from tests.imaging.hostile_files import MAX_PIXELS

BYTES_PER_PIXEL = 16  # at most, of the largest allowed picture; stated in docs/images.md
COUNT, SEED = os.environ.get("HOSTILE_IMAGES", "20000"), os.environ.get("HOSTILE_SEED", "1")


def run(*argv: str) -> list[dict]:
    """The output of tests.imaging.hostile_images; fails if it dies, or if it or a library writes anything to stderr."""
    command = [sys.executable, "-m", "tests.imaging.hostile_images", *argv]
    done = subprocess.run(command, cwd=helpers.REPO, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.returncode} after {lines[-1:]}: {done.stderr}"
    assert done.stderr == ""
    return lines


@pytest.fixture(scope="module")
def documented():
    _, codes = (helpers.REPO / "docs/images.md").read_text().split("## Codes")
    return set(re.findall(r"^\| `(\w+)` \|", codes, re.MULTILINE))


def test_files_made_to_do_harm_end_as_they_should(documented):
    results = run("cases")
    wrong = {case["name"]: case["outcome"] for case in results if case["outcome"] not in case["expected"]}
    assert not wrong
    assert {case["outcome"] for case in results} <= {"pixels", *documented}
    bound = BYTES_PER_PIXEL * MAX_PIXELS >> 20
    excessive = {case["name"]: case["mib"] for case in results if case["mib"] > bound}
    assert not excessive
    assert len(results) > 100


def test_random_damage_ends_as_pixels_or_a_code(documented):
    *_, last = results = run(COUNT, SEED)
    unexpected = [case for case in results[:-1] if case["outcome"] not in {"pixels", *documented}]
    assert not unexpected
    assert sum(last["counts"].values()) == int(COUNT)
    assert {"pixels", "corrupt", "truncated", "unsupported_format", "too_many_pixels"} <= set(last["counts"])
    assert last["mib"] <= BYTES_PER_PIXEL * MAX_PIXELS >> 20
