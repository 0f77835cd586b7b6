"""Commands of which stdout is the result end quietly once nobody reads it."""

import os
import subprocess
import sys

import pytest

from tests import helpers

COMMANDS = {
    "bit.models": [],
    "samples.show": [str(helpers.REPO / "tests/golden/output/outputs/photos")],
    "benchmarks": ["--help"],
    "bit.download": ["--help"],
}


def run(module, *arguments, **streams):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=helpers.REPO, stderr=subprocess.PIPE, text=True, timeout=120, **streams
    )


@pytest.mark.parametrize("module", COMMANDS)
def test_a_reader_that_has_gone_is_no_error(module):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(module, *COMMANDS[module], stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", COMMANDS)
def test_with_a_reader_the_result_is_there(module):
    done = run(module, *COMMANDS[module], stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 3


def test_other_codes_and_errors_come_through():
    program = "import sys; from bit.command import exit_with; exit_with(lambda: {})"
    for body, code in (("3", 3), ("None", 0), ("sys.exit(2)", 2), ("[][1]", 1)):
        done = subprocess.run([sys.executable, "-c", program.format(body)], cwd=helpers.REPO, stderr=-3)
        assert done.returncode == code
    broken = "exit_with(lambda: (_ for _ in ()).throw(BrokenPipeError('of a socket')))"
    program = f"from bit.command import exit_with; {broken}"
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 1
    assert "of a socket" in done.stderr
