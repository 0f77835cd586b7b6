"""Files made to do harm, and random damage, end as pixels or as a documented code, in bounded memory, without a word.

HOSTILE_IMAGES=300000 in the environment makes so many damaged files; HOSTILE_SEED=2 makes others.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from tests import helpers
from tests.imaging.hostile_files import MAX_PIXELS

BYTES_A_PIXEL = 16  # at most, of the largest picture that is allowed; docs/images.md tells it
COUNT, SEED = os.environ.get("HOSTILE_IMAGES", "20000"), os.environ.get("HOSTILE_SEED", "1")


def run(*argv: str) -> list[dict]:
    """What tests.imaging.hostile_images tells; fails if it dies, or if it or a library writes anything to stderr."""
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
    told = run("cases")
    wrong = {case["name"]: case["found"] for case in told if case["found"] not in case["right"]}
    assert not wrong
    assert {case["found"] for case in told} <= {"pixels", *documented}
    bound = BYTES_A_PIXEL * MAX_PIXELS >> 20
    hungry = {case["name"]: case["mib"] for case in told if case["mib"] > bound}
    assert not hungry
    assert len(told) > 100


def test_random_damage_ends_as_pixels_or_a_code(documented):
    *_, last = told = run(COUNT, SEED)
    unexpected = [one for one in told[:-1] if one["found"] not in {"pixels", *documented}]
    assert not unexpected
    assert sum(last["counts"].values()) == int(COUNT)
    assert {"pixels", "corrupt", "truncated", "unsupported_format", "too_many_pixels"} <= set(last["counts"])
    assert last["mib"] <= BYTES_A_PIXEL * MAX_PIXELS >> 20
